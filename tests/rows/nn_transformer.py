"""Transformer layers."""

import jax.numpy as jnp
import numpy as np

from jaxnet import nn
from tests.table import Case


def causal(module, x, **call):
    """Calls either library's module with the causal mask as attn_mask."""
    mask = np.triu(np.full((x.shape[0],) * 2, -np.inf), 1)
    if isinstance(module, nn.Module):
        return module(x, jnp.asarray(mask, x.dtype), **call)
    import torch

    return module(x, torch.tensor(mask), **call)


def padded(module, x, padding):
    return module(x, src_key_padding_mask=padding)


def remembering(module, tgt, memory, padding):
    return module(tgt, memory, memory_key_padding_mask=padding)


def translating(module, src, tgt, padding):
    return module(src, tgt, src_key_padding_mask=padding, memory_key_padding_mask=padding)


def subsequent(module, src, tgt):
    """Calls either library's module with its own causal mask, in the dtype of tgt."""
    mask = module.generate_square_subsequent_mask(tgt.shape[0], dtype=tgt.dtype)
    return module(src, tgt, tgt_mask=mask, tgt_is_causal=True)


LAST = np.array([[False, False, False], [False, False, True]])

CASES = [
    Case(
        "TransformerEncoderLayer", (4, 2, 6, 0.0), {"batch_first": True},
        inputs=[(2, 3, 4), lambda rng: LAST], apply=padded,
    ),
    Case(
        "TransformerEncoderLayer", (4, 1, 5, 0.0, "gelu", 1e-3),
        {"norm_first": True, "bias": False},
        inputs=[(3, 2, 4)], apply=causal, call={"is_causal": True},
    ),
    Case(
        "TransformerDecoderLayer", (4, 2, 6), {"batch_first": True}, train=False,
        inputs=[(2, 4, 4), (2, 3, 4), lambda rng: LAST], apply=remembering,
    ),
    Case(
        "Transformer", (4, 2, 1, 1, 6, 0.0), {"batch_first": True},
        inputs=[(2, 3, 4), (2, 2, 4), lambda rng: LAST], apply=translating,
    ),
    Case(
        "Transformer", (4, 1, 1, 1, 5, 0.0, "gelu"), {"norm_first": True, "bias": False},
        inputs=[(3, 4), (2, 4)], apply=subsequent,
    ),
]  # fmt: skip
