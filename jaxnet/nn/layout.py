"""How images lie in memory: which layers work with the batch innermost, and when.

The surface is torch's (N, C, H, W). On a CPU with the kernels of `jaxnet.kernels` a layer
works on (C, H, W, N) and gives (N, C, H, W) back; the transpositions of neighbouring
layers meet, and XLA drops them. So every layer between two convolutions has to choose
alike, which is why the choice is made here.
"""

from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from jaxnet import kernels

__all__ = ["batch_first", "batch_last", "chosen_form", "prefers_batch_last"]

chosen_form: ContextVar[str | None] = ContextVar("convolution_form", default=None)
"""The form that `correlation.convolution_form` asks for; None leaves it to the backend."""

# What lies between two layers, (N, C, H, W) as (C, H, W, N): said to XLA, which would
# else copy it to rows of pixels and back.
_BATCH_INNERMOST = Layout((1, 2, 3, 0))

# A vector register holds the same pixel of up to 16 images; with few of them it is idle.
_LEAST_BATCH = 8


def prefers_batch_last(x: jax.Array) -> bool:
    """Whether images (N, C, H, W) are worked on with the batch innermost."""
    form = chosen_form.get() or ("kernel" if jax.default_backend() == "cpu" else "native")
    return (
        form == "kernel"
        and x.ndim == 4
        and x.dtype == jnp.float32
        and x.shape[0] >= _LEAST_BATCH
        and kernels.available()
    )


def batch_last(x: jax.Array) -> jax.Array:
    """(N, C, H, W) to (C, H, W, N)."""
    return jnp.moveaxis(with_layout_constraint(x, _BATCH_INNERMOST), 0, -1)


def batch_first(x: jax.Array) -> jax.Array:
    """(C, H, W, N) to (N, C, H, W)."""
    return with_layout_constraint(jnp.moveaxis(x, -1, 0), _BATCH_INNERMOST)
