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
]  # fmt: skip
