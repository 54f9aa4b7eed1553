"""The layers of "Attention Is All You Need": encoder, decoder, and stacks of them."""

import copy
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxnet._checks import check_choice
from jaxnet.nn._activation import gelu, relu
from jaxnet.nn._attention import MultiheadAttention
from jaxnet.nn._container import ModuleList
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
    """What both layers do alike."""

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
        memory: jax.Array,
        mask: jax.Array | None,
        padding: jax.Array | None,
        is_causal: bool,
    ) -> jax.Array:
        return attention(x, memory, memory, padding, False, mask, is_causal=is_causal)[0]

    def _feed_forward(self, x: jax.Array) -> jax.Array:
        return self.linear2(self.dropout(self.activation(self.linear1(x))))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then two affine layers: torch.nn.TransformerEncoderLayer.

    y = norm1(x + dropout1(self_attn(x))), then
    norm2(y + dropout2(linear2(dropout(activation(linear1(y)))))); with norm_first each
    norm acts on what enters its block instead.

    Args:
        d_model: length of a position's features.
        nhead: heads of the attention.
        dim_feedforward: outputs of linear1.
        dropout: probability for the three dropouts and for the attention weights, in
            training; the random numbers come from the open `nn.keys` context.
        activation: "relu", "gelu", or a function of an array.
        layer_norm_eps: of both norms.
        batch_first: whether a batch is (N, L, d_model) and not (L, N, d_model).
        norm_first: whether the norms come before the blocks.
        bias: whether the affine layers and the norms have biases.
        rngs: source of the initial weights.
        dtype: of the parameters.

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
        src: jax.Array,
        src_mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        is_causal: bool = False,
    ) -> jax.Array:
        """src (L, N, d_model), or (N, L, d_model), or (L, d_model), to the same shape.

        Args:
            src: the sequences.
            src_mask: attn_mask of `MultiheadAttention`.
            src_key_padding_mask: key_padding_mask of `MultiheadAttention`.
            is_causal: says that src_mask, which must be given, is the causal mask.
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

    As `TransformerEncoderLayer`, with `multihead_attn` between the two blocks: its
    queries come from the sequence, its keys and values from the memory.

    Arguments as for `TransformerEncoderLayer`.
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
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """tgt (L, N, d_model), or (N, L, d_model), or (L, d_model), to the same shape.

        Args:
            tgt: the sequences.
            memory: (S, N, d_model), laid out like tgt.
            tgt_mask, tgt_key_padding_mask, tgt_is_causal: masks of the self-attention,
                as for `MultiheadAttention`.
            memory_mask, memory_key_padding_mask, memory_is_causal: masks of the
                attention to the memory.
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


class TransformerEncoder(Module):
    """Encoder layers one after the other: torch.nn.TransformerEncoder.

    Args:
        encoder_layer: copied num_layers times, so that all copies start with the same
            weights, as in torch; each has its own.
        num_layers: how many copies.
        norm: a module for the output, such as `LayerNorm`.
        enable_nested_tensor, mask_check: torch's arguments; there are no nested tensors
            here and they have no effect.

    In evaluation without gradients torch may take a shortcut that sets padded positions
    of the output to 0; here they hold what they hold in training.
    """

    def __init__(
        self,
        encoder_layer: TransformerEncoderLayer,
        num_layers: int,
        norm: Callable[[jax.Array], jax.Array] | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        self.layers = ModuleList(copy.deepcopy(encoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check

    def __call__(
        self,
        src: jax.Array,
        mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        is_causal: bool | None = None,
    ) -> jax.Array:
        """Runs through the layers and the norm; arguments as for `TransformerEncoderLayer`.

        torch compares the mask with the causal one where is_causal is None, which changes
        its speed but not its result; here None means False.
        """
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """Decoder layers one after the other: torch.nn.TransformerDecoder.

    Args:
        decoder_layer: copied num_layers times, as in `TransformerEncoder`.
        num_layers: how many copies.
        norm: a module for the output.
    """

    def __init__(
        self,
        decoder_layer: TransformerDecoderLayer,
        num_layers: int,
        norm: Callable[[jax.Array], jax.Array] | None = None,
    ) -> None:
        self.layers = ModuleList(copy.deepcopy(decoder_layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.norm = norm

    def __call__(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """Runs through the layers and the norm; arguments as for `TransformerDecoderLayer`."""
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask,
                memory_key_padding_mask, bool(tgt_is_causal), memory_is_causal,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)
