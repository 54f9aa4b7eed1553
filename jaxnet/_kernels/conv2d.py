"""Two-dimensional correlation and its transpose, by conv2d.c and winograd.c."""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet._kernels.layout import call

MOST_STRIDE = 4  # as in conv2d.c
MOST_SPAN = 64
"""The largest distance between two numbers of a window that the kernel is given, of rows that it
has to hold."""

Pads = tuple[tuple[int, int], ...]


class Steps(NamedTuple):
    """The steps of a correlation.

    Attributes:
        stride: From one window to the next, along both axes.
        dilation: Inside a window.
        groups: The number of groups of channels.
    """

    stride: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1


def correlate2d(x: jax.Array, w: jax.Array, pads: Pads, steps: Steps) -> jax.Array:
    """Computes y[n, o, h, w] = sum of x[n, c, h + i - top, w + j - left] w[o, c, i, j].

    The sum is over c, i and j. With stride and dilation h + i is h * stride + i * dilation.

    Args:
        x: The images, (N, groups * C, H, W), float32.
        w: The weight, (O, C, kh, kw), float32.
        pads: The numbers of zeros (top, bottom) and (left, right). A negative number cuts off
            rows or columns.
        steps: Stride, dilation and groups.

    Returns:
        The correlation y, (N, O, H', W').
    """
    axes = zip(x.shape[2:], pads, w.shape[2:], steps.stride, steps.dilation, strict=True)
    sizes = [(n + sum(pad) - (k - 1) * d - 1) // s + 1 for n, pad, k, s, d in axes]
    shape = (x.shape[0], w.shape[0], *sizes)
    if _by_winograd(w.shape, steps):
        name, numbers = "jaxnet_winograd", _zeros(pads, x)
    else:
        name, numbers = "jaxnet_correlate2d", _zeros(pads, x) | _numbers(steps)
    return call(name, [x, w], [shape], (1, *_plain(x)), **numbers)[0]


def spread2d(
    y: jax.Array, w: jax.Array, sizes: tuple[int, ...], pads: Pads, steps: Steps
) -> jax.Array:
    """The transpose of `correlate2d` with respect to x.

    Args:
        y: The images, (N, O, H', W'), float32.
        w: The weight, (O, C, kh, kw), float32.
        sizes: The pair (H, W).
        pads: The numbers of zeros, as in `correlate2d`.
        steps: Stride, dilation and groups, as in `correlate2d`.

    Returns:
        The images x, (N, groups * C, H, W).
    """
    shape = (y.shape[0], steps.groups * w.shape[1], *sizes)
    numbers = _zeros(pads, y) | _numbers(steps)
    return call("jaxnet_spread2d", [y, w], [shape], (1, *_plain(y)), **numbers)[0]


def correlate2d_gradient(
    x: jax.Array, dy: jax.Array, window: tuple[int, ...], pads: Pads, steps: Steps
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of the weight, and of a bias that is added to y.

    Args:
        x: The images, (N, groups * C, H, W), float32.
        dy: The gradient of y, (N, O, H', W'), float32.
        window: The pair (kh, kw).
        pads: The numbers of zeros, as in `correlate2d`.
        steps: Stride, dilation and groups, as in `correlate2d`.

    Returns:
        The gradient of the weight, (O, C, kh, kw), and that of the bias, (O,).
    """
    weight = (dy.shape[1], x.shape[1] // steps.groups, *window)
    if _by_winograd(weight, steps):
        name, numbers = "jaxnet_winograd_gradient", _zeros(pads, x)
    else:
        name, numbers = "jaxnet_correlate2d_gradient", _zeros(pads, x) | _numbers(steps)
    dw, db = call(name, [x, dy], [weight, weight[:1]], (2, *_plain(x)), **numbers)
    return dw, db


def _by_winograd(weight: tuple[int, ...], steps: Steps) -> bool:
    """Whether Winograd's algorithm computes this weight, and faster."""
    # It saves 20 of 36 multiplications for each pair of channels, and costs about 80 additional
    # operations for each channel.
    outputs, channels, *window = weight
    pays = outputs * channels > 4 * (outputs + channels)
    return window == [3, 3] and steps == Steps() and pays


def _plain(x: jax.Array) -> tuple[int, ...]:
    """The row-by-row arrays of the call: (0,) if x is stored image after image, else ()."""
    # Images with so few channels come from the data set, which stores image after image. The
    # kernel transposes them while it reads them; XLA would write a transposed copy to memory.
    return (0,) if x.shape[1] <= 4 else ()


def _zeros(pads: Pads, x: jax.Array) -> dict[str, Any]:
    """The kernels' attributes of the zeros at the top and left, and whether x is row by row."""
    values = {"top": pads[0][0], "left": pads[1][0], "plain": len(_plain(x))}
    return {name: np.int64(value) for name, value in values.items()}


def _numbers(steps: Steps) -> dict[str, Any]:
    """The attributes of the kernels in conv2d.c beside those of the zeros."""
    (down, right), (step_down, step_right), groups = steps
    values = {"down": down, "right": right, "step_down": step_down, "step_right": step_right}
    return {name: np.int64(value) for name, value in (values | {"groups": groups}).items()}
