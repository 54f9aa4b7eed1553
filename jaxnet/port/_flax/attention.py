"""Attention and the layers of transformers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.port._flax.functions import dropout
from jaxnet.port._flax.layers import Dropout, Linear, uniform
from jaxnet.port._flax.norms import LayerNorm


def scaled_dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    rngs: Any = None,
) -> jax.Array:
    """Attention of (..., L, E); of a mask of booleans True is what may be seen."""
    if enable_gqa:
        key = jnp.repeat(key, query.shape[-3] // key.shape[-3], axis=-3)
        value = jnp.repeat(value, query.shape[-3] // value.shape[-3], axis=-3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.swapaxes(-2, -1)
    if is_causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    if attn_mask is not None:
        seen = attn_mask.dtype == bool
        scores = jnp.where(attn_mask, scores, -jnp.inf) if seen else scores + attn_mask
    weights = jax.nn.softmax(scores, axis=-1)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p, rngs=rngs)
    return weights @ value


class MultiheadAttention(nnx.MultiHeadAttention):
    """nnx.MultiHeadAttention with the arguments and the results of torch.nn.MultiheadAttention."""

    torch_layout = True  # of the data outside, which jaxnet.parity is told so

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if kdim != vdim:
            raise NotImplementedError("kdim and vdim that differ are not written here")
        same = kdim in (None, embed_dim)
        width = embed_dim if kdim is None else kdim
        bound = math.sqrt(6 / (4 * embed_dim if same else embed_dim + width))
        super().__init__(
            num_heads,
            embed_dim,
            in_kv_features=width,
            dropout_rate=dropout,
            use_bias=bias,
            kernel_init=uniform(bound),
            out_kernel_init=uniform(1 / math.sqrt(embed_dim)),
            deterministic=False,
            decode=False,
            rngs=rngs,
        )
        if not same:
            init = uniform(math.sqrt(3 / embed_dim))
            self.query.kernel[...] = init(rngs.params(), self.query.kernel.shape)
        self.embed_dim, self.batch_first = embed_dim, batch_first
        self.drop = nnx.Dropout(dropout, rngs=rngs)

    @property
    def dropout(self) -> float:
        return self.drop.rate

    @dropout.setter
    def dropout(self, p: float) -> None:
        self.drop.rate = p

    def __call__(  # type: ignore[override]
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[jax.Array, Any]:
        """Attention; of a mask of booleans True is what may not be seen."""
        single = query.ndim == 2
        if single:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.swapaxes(0, 1) for x in (query, key, value))
        q, k, v = self.query(query), self.key(key), self.value(value)  # (N, L, heads, E / heads)
        scores = jnp.einsum("nqhd,nkhd->nhqk", q / math.sqrt(self.head_dim), k)
        if attn_mask is not None:
            if attn_mask.ndim == 3:
                attn_mask = attn_mask.reshape(-1, self.num_heads, *attn_mask.shape[1:])
            hidden = attn_mask.dtype == bool
            scores = jnp.where(attn_mask, -jnp.inf, scores) if hidden else scores + attn_mask
        if key_padding_mask is not None:
            mask = key_padding_mask[:, None, None, :]
            hidden = mask.dtype == bool
            scores = jnp.where(mask, -jnp.inf, scores) if hidden else scores + mask
        weights = self.drop(jax.nn.softmax(scores, axis=-1))
        y = self.out(jnp.einsum("nhqk,nkhd->nqhd", weights, v))
        weights = weights.mean(1) if average_attn_weights else weights
        if single:
            y, weights = y[0], weights[0]
        elif not self.batch_first:
            y = y.swapaxes(0, 1)
        return y, weights if need_weights else None


def activation_of(activation: Any) -> Callable[..., jax.Array]:
    """The activation of a layer of a transformer."""
    if activation == "relu":
        return jax.nn.relu
    return exact_gelu if activation == "gelu" else activation


def exact_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


class TransformerEncoderLayer(nnx.Module):
    """Self-attention and two linear layers, as torch.nn.TransformerEncoderLayer."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Any = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.norm_first, self.activation = norm_first, activation_of(activation)
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, rngs=rngs
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, rngs=rngs)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rngs=rngs)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1, self.dropout2 = Dropout(dropout, rngs=rngs), Dropout(dropout, rngs=rngs)

    def __call__(
        self, src: jax.Array, src_mask: Any = None, src_key_padding_mask: Any = None,
        is_causal: bool = False,
    ) -> jax.Array:  # fmt: skip
        def attention(x: jax.Array) -> jax.Array:
            y, _ = self.self_attn(x, x, x, src_key_padding_mask, False, src_mask)
            return self.dropout1(y)

        def feedforward(x: jax.Array) -> jax.Array:
            return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        if self.norm_first:
            x = src + attention(self.norm1(src))
            return x + feedforward(self.norm2(x))
        x = self.norm1(src + attention(src))
        return self.norm2(x + feedforward(x))


class TransformerEncoder(nnx.Module):
    """Copies of a layer one after the other, as torch.nn.TransformerEncoder."""

    def __init__(
        self, encoder_layer: Any, num_layers: int, norm: Any = None,
        enable_nested_tensor: bool = True,
        *, rngs: nnx.Rngs | None = None,
    ) -> None:  # fmt: skip
        self.layers = nnx.List([own_draws(nnx.clone(encoder_layer), i) for i in range(num_layers)])
        self.norm = nnx.data(norm)

    def __call__(
        self, src: jax.Array, mask: Any = None, src_key_padding_mask: Any = None,
        is_causal: Any = None,
    ) -> jax.Array:  # fmt: skip
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask)
        return src if self.norm is None else self.norm(src)


def own_draws(module: Any, number: int) -> Any:
    """A copy of a module, which draws other random numbers than the other copies."""
    for _, part in nnx.iter_graph(module):
        if isinstance(part, nnx.RngStream):
            part.key[...] = jax.random.fold_in(part.key[...], number)
    return module
