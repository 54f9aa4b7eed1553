"""When image batches go to the kernels of `jaxnet.kernels`.

The surface is torch's (N, C, H, W). The kernels keep it in memory with the batch innermost,
and XLA leaves it so in whatever lies between two of them. So every layer on images has to
choose alike, which is why the choice is made here.
"""

from contextvars import ContextVar

import jax
import jax.numpy as jnp

from jaxnet import kernels

__all__ = ["chosen_form", "current_form", "prefers_kernel"]

chosen_form: ContextVar[str | None] = ContextVar("convolution_form", default=None)
"""The form that `correlation.convolution_form` asks for; None leaves it to the backend."""

# A vector register holds the same pixel of up to 16 images; with few of them it is idle.
_LEAST_BATCH = 8


def current_form() -> str:
    """The form that was asked for, else the backend's: "kernel" on a CPU, or "native"."""
    return chosen_form.get() or ("kernel" if jax.default_backend() == "cpu" else "native")


def prefers_kernel(x: jax.Array) -> bool:
    """Whether images (N, C, H, W) are worked on with the batch innermost."""
    return (
        current_form() == "kernel"
        and x.ndim == 4
        and x.dtype == jnp.float32
        and x.shape[0] >= _LEAST_BATCH
        and kernels.available()
    )
