"""Two-dimensional max pooling: pool2d.c."""

from typing import Any

import jax
import numpy as np

from jaxnet._kernels.layout import call

_NAMES = ("kh", "kw", "down", "right", "top", "left", "step_down", "step_right")
Sizes = tuple[int, ...]
"""Height and width of window, stride, padding and dilation: eight numbers."""


def max_pool2d_pick(
    x: jax.Array, values: jax.Array, counts: tuple[int, int], sizes: Sizes
) -> jax.Array:
    """What stands in `values` where x is largest in each window: the first, or the last nan.

    Args:
        x: (N, C, H, W) float32.
        values: like x; x itself for max pooling.
        counts: how many windows fit each axis; each has to see something of x.
        sizes: of the windows.

    Returns:
        (N, C, *counts).
    """
    return _pooled("jaxnet_max_pool2d_pick", x, values, (*x.shape[:2], *counts), sizes)


def max_pool2d_spread(x: jax.Array, dy: jax.Array, sizes: Sizes) -> jax.Array:
    """The transpose: dy (N, C, *counts) at the places where x is largest, like x."""
    return _pooled("jaxnet_max_pool2d_spread", x, dy, x.shape, sizes)


def _pooled(
    name: str, x: jax.Array, other: jax.Array, shape: tuple[int, ...], sizes: Sizes
) -> jax.Array:
    numbers: dict[str, Any] = {
        key: np.int64(value) for key, value in zip(_NAMES, sizes, strict=True)
    }
    return call(name, [x, other], [shape], **numbers)[0]
