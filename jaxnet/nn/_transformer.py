"""Stacks of Transformer layers, and the whole Transformer ("Attention Is All You Need")."""

import copy
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxnet.nn._activation import relu
from jaxnet.nn._container import ModuleList
from jaxnet.nn._module import Module
from jaxnet.nn._norm import LayerNorm
from jaxnet.nn._transformer_layer import (
    Activation,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)
from jaxnet.nn.init import Rngs, xavier_uniform_


class TransformerEncoder(Module):
    """A stack of encoder layers: torch.nn.TransformerEncoder.

    In evaluation mode without gradients torch may take a shortcut that sets padded positions of
    the output to 0. Here padded positions have the same values as in training mode.

    Args:
        encoder_layer: The layer, which is copied num_layers times. As in torch all copies have
            parameters of their own, with the same initial values.
        num_layers: The number of copies.
        norm: A module for the output, such as `LayerNorm`.
        enable_nested_tensor: An argument of torch that has no effect, as there are no nested
            tensors here.
        mask_check: An argument of torch that has no effect, as there are no nested tensors
            here.
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
        src: Float[Array, "*LN d_model"],
        mask: Shaped[Array, "..."] | None = None,
        src_key_padding_mask: Shaped[Array, "..."] | None = None,
        is_causal: bool | None = None,
    ) -> Float[Array, "*LN d_model"]:
        """Runs through the layers and the norm.

        If is_causal is None, torch compares the mask with the causal one, which changes its
        speed but not its result. Here None means False. The arguments are those of
        `TransformerEncoderLayer`.
        """
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """A stack of decoder layers: torch.nn.TransformerDecoder.

    Args:
        decoder_layer: The layer, which is copied num_layers times as in `TransformerEncoder`.
        num_layers: The number of copies.
        norm: A module for the output, such as `LayerNorm`.
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
        tgt: Float[Array, "*LN d_model"],
        memory: Float[Array, "*SN d_model"],
        tgt_mask: Shaped[Array, "..."] | None = None,
        memory_mask: Shaped[Array, "..."] | None = None,
        tgt_key_padding_mask: Shaped[Array, "..."] | None = None,
        memory_key_padding_mask: Shaped[Array, "..."] | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Float[Array, "*LN d_model"]:
        """Runs through the layers and the norm.

        The arguments are those of `TransformerDecoderLayer`.
        """
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask,
                memory_key_padding_mask, bool(tgt_is_causal), memory_is_causal,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """An encoder, and a decoder that attends to its output: torch.nn.Transformer.

    As in torch all matrices are drawn anew, Xavier uniform, after the layers were built.

    Args:
        d_model: The number of features of a position.
        nhead: The number of heads of every attention.
        num_encoder_layers: The number of layers of the encoder.
        num_decoder_layers: The number of layers of the decoder.
        dim_feedforward: As in `TransformerEncoderLayer`, and so are dropout, activation,
            layer_norm_eps, batch_first, norm_first and bias.
        custom_encoder: A module that takes the place of the `TransformerEncoder`, called with
            src and the keywords mask, src_key_padding_mask and is_causal.
        custom_decoder: A module that takes the place of the `TransformerDecoder`, called with
            tgt, memory and the decoder's keywords.
        rngs: The source of the initial weights.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: The activation is unknown, or nhead does not divide d_model.

    >>> from jaxnet.random import Generator
    >>> model = Transformer(4, 2, 1, 1, 8, batch_first=True, rngs=Generator(0)).eval()
    >>> mask = Transformer.generate_square_subsequent_mask(3)
    >>> model(jnp.ones((2, 5, 4)), jnp.ones((2, 3, 4)), tgt_mask=mask).shape
    (2, 3, 4)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = relu,
        custom_encoder: Callable[..., jax.Array] | None = None,
        custom_decoder: Callable[..., jax.Array] | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        layer = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias,
        )  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, eps=layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*layer, rngs=rngs, dtype=dtype), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*layer, rngs=rngs, dtype=dtype), num_decoder_layers, norm()
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                xavier_uniform_(parameter, generator=rngs)
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def __call__(
        self,
        src: Float[Array, "*SN d_model"],
        tgt: Float[Array, "*TN d_model"],
        src_mask: Shaped[Array, "..."] | None = None,
        tgt_mask: Shaped[Array, "..."] | None = None,
        memory_mask: Shaped[Array, "..."] | None = None,
        src_key_padding_mask: Shaped[Array, "..."] | None = None,
        tgt_key_padding_mask: Shaped[Array, "..."] | None = None,
        memory_key_padding_mask: Shaped[Array, "..."] | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Float[Array, "*TN d_model"]:
        """Computes the decoder's output, which has the shape of tgt.

        Args:
            src: The sequences for the encoder, (S, N, d_model), or (N, S, d_model) with
                batch_first, or a single sequence (S, d_model).
            tgt: The sequences for the decoder, (T, N, d_model), (N, T, d_model) or (T, d_model).
            src_mask: The attn_mask of the encoder, as in `MultiheadAttention`.
            tgt_mask: The attn_mask of the decoder's self-attention.
            memory_mask: The attn_mask of the decoder's attention to the encoder's output.
            src_key_padding_mask: The padding of src, (N, S) or (S,).
            tgt_key_padding_mask: The padding of tgt, (N, T) or (T,).
            memory_key_padding_mask: The padding of the encoder's output, (N, S) or (S,).
            src_is_causal: A hint that src_mask is the causal mask.
            tgt_is_causal: A hint that tgt_mask is the causal mask.
            memory_is_causal: A hint that memory_mask is the causal mask.

        Returns:
            An array with the shape of tgt.

        Raises:
            ValueError: A shape does not fit, or a hint is given without its mask.
        """
        batch = 0 if self.batch_first else 1
        one_batch = src.ndim < 3 or tgt.ndim < 3 or src.shape[batch] == tgt.shape[batch]
        if src.ndim != tgt.ndim or src.ndim not in (2, 3) or not one_batch:
            raise ValueError(
                f"Transformer: src {src.shape} and tgt {tgt.shape}; accepted are "
                f"{'(N, S, E) and (N, T, E)' if self.batch_first else '(S, N, E) and (T, N, E)'}, "
                "or (S, E) and (T, E)"
            )
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise ValueError(
                f"Transformer: src {src.shape} and tgt {tgt.shape}; the last axis of both is "
                f"d_model, {self.d_model}"
            )
        memory = self.encoder(
            src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal
        )
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(
        sz: int, dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "sz sz"]:
        """Makes the causal mask: minus infinity above the diagonal, and 0 elsewhere.

        Args:
            sz: The length of the sequence.
            dtype: The dtype of the mask.
        """
        return jnp.triu(jnp.full((sz, sz), -jnp.inf, dtype), 1)
