"""Two-dimensional max pooling, by pool2d.c."""

from typing import Any

import jax
import numpy as np

from jaxnet._kernels.layout import call

# The attributes that the kernel reads, in the order of `Sizes`.
_NAMES = ("kh", "kw", "down", "right", "top", "left", "step_down", "step_right")
Sizes = tuple[int, ...]
"""The height and width of window, stride, padding and dilation: eight numbers."""


def max_pool2d_pick(
    x: jax.Array, values: jax.Array, counts: tuple[int, int], sizes: Sizes
) -> jax.Array:
    """Returns the numbers of `values` at the positions where x is largest in its window.

    The position is that of the first of the largest numbers, or of the last nan.

    Args:
        x: The images, (N, C, H, W), float32.
        values: An array like x; x itself for max pooling.
        counts: The numbers of windows along both axes. Each window must cover a part of x.
        sizes: The sizes of the windows.

    Returns:
        The numbers, (N, C, *counts).
    """
    return _pooled("jaxnet_max_pool2d_pick", x, values, (*x.shape[:2], *counts), sizes)


def max_pool2d_spread(x: jax.Array, dy: jax.Array, sizes: Sizes) -> jax.Array:
    """The transpose of `max_pool2d_pick` with respect to `values`.

    Args:
        x: The images, (N, C, H, W), float32.
        dy: The numbers to add where x is largest in its window, (N, C, *counts).
        sizes: The sizes of the windows.

    Returns:
        An array like x.
    """
    return _pooled("jaxnet_max_pool2d_spread", x, dy, x.shape, sizes)


def _pooled(
    name: str, x: jax.Array, other: jax.Array, shape: tuple[int, ...], sizes: Sizes
) -> jax.Array:
    numbers: dict[str, Any] = {
        key: np.int64(value) for key, value in zip(_NAMES, sizes, strict=True)
    }
    return call(name, [x, other], [shape], **numbers)[0]
