"""The layers of the Transformer encoder and decoder ("Attention Is All You Need")."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxnet._checks import check_choice
from jaxnet.nn._activation import gelu, relu
from jaxnet.nn._attention import MultiheadAttention
from jaxnet.nn._dropout import Dropout
from jaxnet.nn._linear import Linear
from jaxnet.nn._module import Module
from jaxnet.nn._norm import LayerNorm
from jaxnet.nn.init import Rngs

Activation = str | Callable[[jax.Array], jax.Array]
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": relu, "gelu": gelu}


def _activation(given: Activation) -> Callable[[jax.Array], jax.Array]:
    if not isinstance(given, str):
        return given
    check_choice("activation", given, _ACTIVATIONS, also="functions of one array")
    return _ACTIVATIONS[given]


class _Layer(Module):
    """The check of the input, the attention and the feed-forward block of both layers."""

    self_attn: MultiheadAttention
    linear1: Linear
    linear2: Linear
    dropout: Dropout
    activation: Callable[[jax.Array], jax.Array]

    def _check(self, name: str, x: jax.Array) -> None:
        size = self.self_attn.embed_dim
        if x.ndim not in (2, 3) or x.shape[-1] != size:
            batched = f"(N, L, {size})" if self.self_attn.batch_first else f"(L, N, {size})"
            raise ValueError(
                f"{type(self).__name__} expects {name} of shape {batched} or (L, {size}); "
                f"it got {x.shape}"
            )

    def _attended(
        self,
        attention: MultiheadAttention,
        x: jax.Array,
        memory: Float[Array, "*SN d_model"],
        mask: Shaped[Array, "..."] | None,
        padding: jax.Array | None,
        is_causal: bool,
    ) -> jax.Array:
        return attention(x, memory, memory, padding, False, mask, is_causal=is_causal)[0]

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then two affine layers: torch.nn.TransformerEncoderLayer.

    The layer computes y = norm1(x + dropout1(self_attn(x))), then
    norm2(y + dropout2(linear2(dropout(activation(linear1(y)))))). With norm_first each norm is
    applied to the input of its block instead.

    Args:
        d_model: The number of features of a position.
        nhead: The number of heads of the attention.
        dim_feedforward: The number of outputs of linear1.
        dropout: The probability of the three dropouts and of zeroing an attention weight, in
            training mode. The random numbers come from the open `nn.keys` context.
        activation: The string "relu" or "gelu", or a function of an array.
        layer_norm_eps: The eps of both norms.
        batch_first: Whether a batch is laid out as (N, L, d_model) instead of (L, N, d_model).
        norm_first: Whether the norms come before the blocks.
        bias: Whether the affine layers and the norms have biases.
        rngs: The source of the initial weights.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: The activation is unknown, or nhead does not divide d_model.

    >>> from jaxnet.random import Generator
    >>> layer = TransformerEncoderLayer(4, 2, 8, batch_first=True, rngs=Generator(0)).eval()
    >>> layer(jnp.ones((5, 3, 4))).shape
    (5, 3, 4)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, rngs=rngs, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, rngs=rngs, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rngs=rngs, dtype=dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = _activation(activation)

    def __call__(
        self,
        src: Float[Array, "*LN d_model"],
        src_mask: Shaped[Array, "..."] | None = None,
        src_key_padding_mask: Shaped[Array, "..."] | None = None,
        is_causal: bool = False,
    ) -> Float[Array, "*LN d_model"]:
        """Computes the layer's output, which has the shape of src.

        Args:
            src: The sequences, (L, N, d_model), or (N, L, d_model) with batch_first, or a
                single sequence (L, d_model).
            src_mask: The attn_mask of `MultiheadAttention`.
            src_key_padding_mask: The key_padding_mask of `MultiheadAttention`.
            is_causal: A hint that src_mask, which must be given too, is the causal mask.

        Returns:
            An array with the shape of src.

        Raises:
            ValueError: A shape does not fit, or is_causal is given without src_mask.
        """
        self._check("src", src)

        def attended(x: jax.Array) -> jax.Array:
            masks = (src_mask, src_key_padding_mask, is_causal)
            return self.dropout1(self._attended(self.self_attn, x, x, *masks))

        def fed(x: jax.Array) -> jax.Array:
            return self.dropout2(self._feed_forward(x))

        if self.norm_first:
            src = src + attended(self.norm1(src))
            return src + fed(self.norm2(src))
        src = self.norm1(src + attended(src))
        return self.norm2(src + fed(src))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to a memory, two affine layers: torch.nn.TransformerDecoderLayer.

    The layer is a `TransformerEncoderLayer` with a further block, `multihead_attn`, between
    its two blocks. The queries of this block come from the sequence, and its keys and values
    from the memory. The arguments are those of `TransformerEncoderLayer`.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, rngs=rngs, dtype=dtype
        )
        self.multihead_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, rngs=rngs, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, rngs=rngs, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rngs=rngs, dtype=dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)
        self.norm3 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation = _activation(activation)

    def __call__(
        self,
        tgt: Float[Array, "*LN d_model"],
        memory: Float[Array, "*SN d_model"],
        tgt_mask: Shaped[Array, "..."] | None = None,
        memory_mask: Shaped[Array, "..."] | None = None,
        tgt_key_padding_mask: Shaped[Array, "..."] | None = None,
        memory_key_padding_mask: Shaped[Array, "..."] | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Float[Array, "*LN d_model"]:
        """Computes the layer's output, which has the shape of tgt.

        Args:
            tgt: The sequences, (L, N, d_model), or (N, L, d_model) with batch_first, or a
                single sequence (L, d_model).
            memory: The memory, (S, N, d_model), (N, S, d_model) or (S, d_model), laid out like
                tgt.
            tgt_mask: The attn_mask of the self-attention, as in `MultiheadAttention`.
            memory_mask: The attn_mask of the attention to the memory.
            tgt_key_padding_mask: The key_padding_mask of the self-attention.
            memory_key_padding_mask: The key_padding_mask of the attention to the memory.
            tgt_is_causal: A hint that tgt_mask is the causal mask.
            memory_is_causal: A hint that memory_mask is the causal mask.

        Returns:
            An array with the shape of tgt.

        Raises:
            ValueError: A shape does not fit, or a hint is given without its mask.
        """
        self._check("tgt", tgt)
        self._check("memory", memory)

        def attended(x: jax.Array) -> jax.Array:
            masks = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
            return self.dropout1(self._attended(self.self_attn, x, x, *masks))

        def recalled(x: jax.Array) -> jax.Array:
            masks = (memory_mask, memory_key_padding_mask, memory_is_causal)
            return self.dropout2(self._attended(self.multihead_attn, x, memory, *masks))

        def fed(x: jax.Array) -> jax.Array:
            return self.dropout3(self._feed_forward(x))

        if self.norm_first:
            tgt = tgt + attended(self.norm1(tgt))
            tgt = tgt + recalled(self.norm2(tgt))
            return tgt + fed(self.norm3(tgt))
        tgt = self.norm1(tgt + attended(tgt))
        tgt = self.norm2(tgt + recalled(tgt))
        return self.norm3(tgt + fed(tgt))
