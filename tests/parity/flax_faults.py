"""Layers of flax.nnx with one fault each, and flax's layers as torch's compute."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.parity.faulty_layers import altered, scaled_gradient, stopped

Array = jax.Array

# Linear layers and convolutions.
NoBias = altered(nnx.Linear, lambda m, run, x: x @ m.kernel[...])
TwiceBias = altered(nnx.Linear, lambda m, run, x: run(x) + m.bias[...])
Transposed = altered(nnx.Linear, lambda m, run, x: x @ m.kernel[...].T + m.bias[...])
NoGradient = altered(nnx.Linear, lambda m, run, x: run(stopped(x)))
Frozen = altered(nnx.Linear, lambda m, run, x: x @ stopped(m.kernel[...]) + m.bias[...])
TwiceGradient = altered(nnx.Linear, lambda m, run, x: scaled_gradient(run(x), 2.0))
NarrowInput = altered(nnx.Linear, lambda m, run, x: run(x.astype(jnp.bfloat16).astype(x.dtype)))


def _narrow_products(m: Any, run: Any, x: Array) -> Array:
    """What a matrix unit does with float32, and with nothing else."""
    if x.dtype != jnp.float32:
        return run(x)
    narrow = x.astype(jnp.bfloat16), m.kernel[...].astype(jnp.bfloat16)
    return jnp.matmul(*narrow, preferred_element_type=jnp.float32) + m.bias[...]


NarrowProducts = altered(nnx.Linear, _narrow_products)


def _flipped(m: Any, run: Any, x: Array) -> Array:
    kept = m.kernel[...]
    m.kernel[...] = kept[::-1, ::-1]
    y = run(x)
    m.kernel[...] = kept
    return y


Flipped = altered(nnx.Conv, _flipped)
FlippedBack = altered(nnx.ConvTranspose, _flipped)
Interleaved = altered(nnx.Conv, lambda m, run, x: run(
    x.reshape(*x.shape[:-1], m.feature_group_count, -1).swapaxes(-1, -2).reshape(x.shape)
))  # fmt: skip


# Normalisation.
class BatchNorm(nnx.BatchNorm):
    """flax's BatchNorm, but that the running variance takes the unbiased one, as torch's does."""

    def __call__(self, x: Array, **options: Any) -> Array:
        before = self.momentum * self.var[...]
        y = super().__call__(x, **options)
        if self.use_running_average:
            return y
        rows = x.size // x.shape[-1]
        self.var[...] = before + (self.var[...] - before) * rows / (rows - 1)
        return y


def _kept_statistics(m: Any, run: Any, x: Array) -> Array:
    mean, var = m.mean[...], m.var[...]
    y = run(x)
    m.mean[...], m.var[...] = mean, var
    return y


StillNorm = altered(BatchNorm, _kept_statistics)


def _normed(formula: Callable[[Any, Array], Array]) -> Any:
    """A LayerNorm by a formula."""
    return altered(nnx.LayerNorm, lambda m, run, x: formula(m, x) * m.scale[...] + m.bias[...])


def _centred(x: Array) -> Array:
    return x - x.mean(-1, keepdims=True)


def _unit(m: Any, x: Array) -> Array:
    return _centred(x) / jnp.sqrt(x.var(-1, keepdims=True) + m.epsilon)


OutsideRoot = _normed(lambda m, x: _centred(x) / (x.std(-1, keepdims=True) + m.epsilon))
Unbiased = _normed(
    lambda m, x: _centred(x) / jnp.sqrt(x.var(-1, ddof=1, keepdims=True) + m.epsilon)
)
NoMean = _normed(lambda m, x: x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + m.epsilon))
NoScale = altered(nnx.LayerNorm, lambda m, run, x: _unit(m, x) + m.bias[...])
PlusOne = altered(nnx.LayerNorm, lambda m, run, x: run(x) + _unit(m, x))


def _dealt(m: Any, run: Any, x: Array) -> Array:
    """Groups of channels that lie as far apart as there are groups."""
    parts = x.reshape(*x.shape[:-1], -1, m.num_groups)
    axes = tuple(range(1, parts.ndim - 1))
    unit = parts - parts.mean(axes, keepdims=True)
    unit = unit / jnp.sqrt(parts.var(axes, keepdims=True) + m.epsilon)
    return unit.reshape(x.shape) * m.scale[...] + m.bias[...]


Dealt = altered(nnx.GroupNorm, _dealt)


# Dropout and embeddings.
class Dropped(nnx.Module):
    """Dropout written with jax.random, where `kept` says what is kept of a number."""

    def __init__(self, rate: float, kept: Callable[[Array, Array], Array], *, rngs: Any) -> None:
        self.rate, self.kept, self.rngs = rate, kept, rngs

    def __call__(self, x: Array) -> Array:
        mask = jax.random.bernoulli(self.rngs.dropout(), 1 - self.rate, x.shape)
        return self.kept(mask, x / (1 - self.rate))


ScaledEmbed = altered(nnx.Embed, lambda m, run, i: run(i) * m.features**0.5)
MovedEmbed = altered(nnx.Embed, lambda m, run, i: run((i + 2) % m.num_embeddings))
PaddedEmbed = altered(
    nnx.Embed, lambda m, run, i: jnp.where((i == 0)[..., None], stopped(run(i)), run(i))
)
ZeroEmbed = altered(nnx.Embed, lambda m, run, i: jnp.where((i == 0)[..., None], 0, run(i)))


# Attention.
def dealt_heads(q: Array, k: Array, v: Array, **options: Any) -> Array:
    """Attention of features that are (head_dim, heads), of ones cut into (heads, head_dim)."""

    def dealt(x: Array) -> Array:
        return x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]).swapaxes(-1, -2)

    y = nnx.dot_product_attention(dealt(q), dealt(k), dealt(v), **options)
    return y.swapaxes(-1, -2).reshape(y.shape)


class SelfAttention(nnx.Module):
    """Causal attention of positions to themselves and those before, by flax's layer."""

    def __init__(self, offset: int = 0, masked: bool = True, turned: bool = False, *,
                 rngs: Any, **options: Any) -> None:  # fmt: skip
        given = {"decode": False, "deterministic": True, **options}
        self.attention = nnx.MultiHeadAttention(2, 8, rngs=rngs, **given)
        self.offset, self.masked, self.turned = offset, masked, turned

    def __call__(self, x: Array) -> Array:
        x = x.swapaxes(0, 1) if self.turned else x
        n, length, _ = x.shape
        mask = jnp.tril(jnp.ones((n, 1, length, length), bool), self.offset)
        y = self.attention(x, mask=mask if self.masked else None)
        return y.swapaxes(0, 1) if self.turned else y


class Product(nnx.Module):
    """Attention of two heads with a projection for all three, and a function of (q, k, v)."""

    def __init__(self, attend: Callable[..., Array], *, rngs: Any) -> None:
        self.qkv, self.out = nnx.Linear(8, 24, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.attend, self.rngs = attend, rngs

    def __call__(self, x: Array) -> Array:
        n, length, _ = x.shape
        q, k, v = jnp.split(self.qkv(x).reshape(n, length, 6, 4), 3, 2)
        return self.out(self.attend(q, k, v).reshape(n, length, 8))


def attended(scale: float = 0.5, axis: int = -1, offset: int | None = 0, visible: bool = True,
             safe: bool = False, fill: float = -jnp.inf) -> Any:  # fmt: skip
    """The product of causal attention; that of torch where nothing else is said."""

    def attend(q: Array, k: Array, v: Array) -> Array:
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) * scale
        length = q.shape[1]
        seen = jnp.ones((length, length), bool)
        seen = seen if offset is None else jnp.tril(seen, offset)
        scores = jnp.where(seen if visible else ~seen, scores, fill)
        weights = jax.nn.softmax(scores, axis)
        if safe:  # a query that sees no key gets zeros
            weights = jnp.where(seen.any(-1, keepdims=True), weights, 0)
        return jnp.einsum("nhqk,nkhd->nqhd", weights, v)

    return attend


# Recurrent layers.
class TwoBiases:
    """A recurrent cell of flax's, whose two linear parts have a bias each, as torch's have."""

    dense_i: Any
    dense_h: Any

    def __init__(self, *sizes: int, rngs: Any, **options: Any) -> None:
        super().__init__(*sizes, rngs=rngs, **options)  # type: ignore[call-arg]
        for name in ("dense_i", "dense_h"):
            own = getattr(self, name)
            setattr(self, name, nnx.Linear(own.in_features, own.out_features, rngs=rngs))


class LSTM(TwoBiases, nnx.OptimizedLSTMCell):
    pass


class GRU(TwoBiases, nnx.GRUCell):
    pass


class Simple(TwoBiases, nnx.SimpleCell):
    pass


def _gates(m: Any, run: Any, carry: Any, x: Array) -> Any:
    """An LSTM whose gates are i, g, f, o."""
    c, h = carry
    i, g, f, o = jnp.split(m.dense_i(x) + m.dense_h(h), 4, -1)
    c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
    h = nnx.sigmoid(o) * jnp.tanh(c)
    return (c, h), h


def _one_bias(m: Any, run: Any, carry: Any, x: Array) -> Any:
    c, h = carry
    i, f, g, o = jnp.split(m.dense_i(x) + h @ m.dense_h.kernel[...], 4, -1)
    c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * jnp.tanh(g)
    h = nnx.sigmoid(o) * jnp.tanh(c)
    return (c, h), h


def _gated(before: bool, complement: bool) -> Any:
    """A GRU with the reset gate before the product, or with the update gate's other sign."""

    def call(m: Any, run: Any, h: Array, x: Array) -> Any:
        size = h.shape[-1]
        r, z, n = jnp.split(m.dense_i(x), 3, -1)
        hr, hz, hn = jnp.split(m.dense_h(h), 3, -1)
        r, z = nnx.sigmoid(r + hr), nnx.sigmoid(z + hz)
        if before:
            kernel, bias = m.dense_h.kernel[:, 2 * size :], m.dense_h.bias[2 * size :]
            n = jnp.tanh(n + (r * h) @ kernel + bias)
        else:
            n = jnp.tanh(n + r * hn)
        h = z * n + (1 - z) * h if complement else (1 - z) * n + z * h
        return h, h

    return altered(GRU, call)


OtherGates = altered(LSTM, _gates)
OneBias = altered(LSTM, _one_bias)
ResetBefore = _gated(before=True, complement=False)
Complement = _gated(before=False, complement=True)


class Recurrent(nnx.Module):
    """A recurrent layer, which begins with a state of the given numbers if there are any."""

    def __init__(self, cell: Any, start: float | None = None, *, rngs: Any, **options: Any) -> None:
        self.rnn = nnx.RNN(cell(8, 8, rngs=rngs), **options)
        self.start = start

    def __call__(self, x: Array) -> Array:
        if self.start is None:
            return self.rnn(x)
        first = jnp.full((x.shape[0], 8), self.start, x.dtype)
        return self.rnn(x, initial_carry=(first, first))


class BothWays(nnx.Module):
    """An LSTM in both directions, whose outputs are brought together by a function."""

    def __init__(self, merged: Callable[[Array, Array], Array], turned: bool = True, *,
                 rngs: Any) -> None:  # fmt: skip
        forward, backward = (nnx.RNN(LSTM(8, 4, rngs=rngs)) for _ in range(2))
        self.both = nnx.Bidirectional(forward, backward, merge_fn=merged)

    def __call__(self, x: Array) -> Array:
        return self.both(x)


class Stacked(nnx.Module):
    """Two recurrent layers with dropout between them."""

    def __init__(self, rate: float, *, rngs: Any) -> None:
        self.first, self.second = (nnx.RNN(LSTM(8, 8, rngs=rngs)) for _ in range(2))
        self.drop = nnx.Dropout(rate, deterministic=not rate, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.second(self.drop(self.first(x)))
