"""The ResNet-18, the GPT and the BERT of `flax_models` in flax.linen, with the same mistakes."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tests.parity.flax_models import HEADS, LENGTH, WIDTH, WORDS, mistakes


class BatchNorm(nn.BatchNorm):
    """flax's BatchNorm, but that the running variance takes the unbiased one, as torch's does."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        known = self.has_variable("batch_stats", "var")
        before = self.get_variable("batch_stats", "var") if known else None
        y = super().__call__(x, use_running_average=not train)
        if train and known and not self.is_initializing():
            rows = x.size // x.shape[-1]
            share = (self.get_variable("batch_stats", "var") - before * self.momentum) * rows
            self.put_variable("batch_stats", "var", before * self.momentum + share / (rows - 1))
        return y


class Biased(nn.BatchNorm):
    """flax's own."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return super().__call__(x, use_running_average=not train)


class ResNet18(nn.Module):
    """ResNet-18 for images (N, H, W, 3)."""

    width: int = 4
    momentum: float = 0.9
    epsilon: float = 1e-5
    biased: bool = False
    same: bool = False
    pool: Any = jnp.mean
    leaky: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        cls = Biased if self.biased else BatchNorm

        def norm(x: jax.Array) -> jax.Array:
            return cls(momentum=self.momentum, epsilon=self.epsilon)(x, train)

        def conv(x: jax.Array, features: int, size: int, stride: int = 1, pad: Any = 1) -> Any:
            return nn.Conv(features, (size, size), stride, padding=pad, use_bias=False)(x)

        x = norm(conv(x, self.width, 3))
        x = nn.leaky_relu(x) if self.leaky else nn.relu(x)
        for i in range(8):
            features, stride = self.width << i // 2, 2 if i in (2, 4, 6) else 1
            pad = "SAME" if self.same and i == 2 else 1
            out = nn.relu(norm(conv(x, features, 3, stride, pad)))
            out = norm(conv(out, features, 3))
            short = norm(conv(x, features, 1, stride, 0)) if stride == 2 else x
            x = nn.relu(out + short)
        return nn.Dense(4)(self.pool(x, axis=(1, 2)))


class Attention(nn.Module):
    """Causal attention with one projection to query, key and value, as GPT-2 has it."""

    scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, length, _ = x.shape
        qkv = nn.Dense(3 * WIDTH)(x).reshape(n, length, 3 * HEADS, -1)
        q, k, v = jnp.split(qkv, 3, axis=2)
        mask = nn.make_causal_mask(x[..., 0])
        heads = jax.nn.dot_product_attention(q * self.scale, k, v, mask=mask > 0)
        return nn.Dense(WIDTH)(heads.reshape(n, length, -1))


class GPT(nn.Module):
    """A language model with GPT-2's blocks, whose last layer is the embedding."""

    epsilon: float = 1e-5
    exact: bool = False
    scale: float = 1.0
    offset: int = 0

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embed = nn.Embed(WORDS, WIDTH, name="tokens")
        positions = nn.Embed(LENGTH + 1, WIDTH, name="positions")
        x = embed(tokens) + positions(jnp.arange(tokens.shape[1]) + self.offset)
        for _ in range(2):
            x = x + Attention(self.scale)(nn.LayerNorm(self.epsilon)(x))
            hidden = nn.Dense(4 * WIDTH)(nn.LayerNorm(self.epsilon)(x))
            x = x + nn.Dense(WIDTH)(nn.gelu(hidden, approximate=not self.exact))
        return embed.attend(nn.LayerNorm(self.epsilon)(x))


class BERT(nn.Module):
    """An encoder with flax's attention, norms after the sums, and a class from the first token."""

    epsilon: float = 1e-12
    approximate: bool = False
    rate: float = 0.1
    masked: bool = True
    tanh: bool = True

    def setup(self) -> None:
        self.word, self.position = nn.Embed(WORDS, WIDTH), nn.Embed(LENGTH, WIDTH)
        self.norm, self.drop = nn.LayerNorm(self.epsilon), nn.Dropout(self.rate)
        self.layers = [Layer(self.epsilon, self.approximate) for _ in range(2)]
        self.pooler, self.classifier = nn.Dense(WIDTH), nn.Dense(4)

    def __call__(self, tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        x = self.word(tokens) + self.position(jnp.arange(tokens.shape[1]))
        x = self.drop(self.norm(x), deterministic=deterministic)
        mask = (tokens != 0)[:, None, None, :] if self.masked else None
        for layer in self.layers:
            x = layer(x, mask)
        squash = jnp.tanh if self.tanh else nn.relu
        return self.classifier(squash(self.pooler(x[:, 0])))


class Layer(nn.Module):
    """One layer of the encoder."""

    epsilon: float
    approximate: bool

    def setup(self) -> None:
        self.attention = nn.MultiHeadDotProductAttention(HEADS, deterministic=True)
        self.norm1, self.norm2 = nn.LayerNorm(self.epsilon), nn.LayerNorm(self.epsilon)
        self.wide, self.narrow = nn.Dense(2 * WIDTH), nn.Dense(WIDTH)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        x = self.norm1(x + self.attention(x, mask=mask))
        return self.norm2(x + self.narrow(nn.gelu(self.wide(x), approximate=self.approximate)))


def made(cls: Callable[..., Any], *inputs: Any) -> Callable[..., Any]:
    """A function of mistakes that gives a module and its variables."""

    def make(**mistakes: Any) -> Any:
        module = cls(**mistakes)
        init = jax.jit(lambda key: module.init(key, *inputs))
        return module, init(jax.random.key(0))

    return make


_TOKENS = jnp.ones((1, LENGTH), int)
MODELS = {
    "ResNet-18": made(lambda **k: ResNet18(**k), jnp.ones((1, 16, 16, 3)), False),
    "GPT": made(GPT, _TOKENS),
    "BERT": made(BERT, _TOKENS),
}
MISTAKES = mistakes("linen", "linen model", MODELS)
