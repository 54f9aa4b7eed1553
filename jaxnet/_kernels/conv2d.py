"""Two-dimensional correlation, by conv2d.c and winograd.c."""

from typing import Any

import jax
import numpy as np

from jaxnet._kernels.layout import call

Pads = tuple[tuple[int, int], ...]


def correlate2d(x: jax.Array, w: jax.Array, pads: Pads) -> jax.Array:
    """Computes y[n, o, h, w] = sum of x[n, c, h + i - top, w + j - left] w[o, c, i, j].

    The sum is over c, i and j.

    Args:
        x: The images, (N, C, H, W), float32.
        w: The weight, (O, C, kh, kw), float32.
        pads: The numbers of zeros (top, bottom) and (left, right). A negative number cuts off
            rows or columns.

    Returns:
        The correlation y, (N, O, H', W').
    """
    sizes = [n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[2:], pads, w.shape[2:], strict=True)]
    shape = (x.shape[0], w.shape[0], *sizes)
    name = _kernel(w.shape[0], w.shape[1], w.shape[2:])
    return call(name, [x, w], [shape], (1, *_plain(x)), **_facts(x, pads))[0]


def correlate2d_gradient(
    x: jax.Array, dy: jax.Array, window: tuple[int, ...], pads: Pads
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of the weight, and of a bias that is added to y.

    Args:
        x: The images, (N, C, H, W), float32.
        dy: The gradient of y, (N, O, H', W'), float32.
        window: The pair (kh, kw).
        pads: The numbers of zeros, as in `correlate2d`.

    Returns:
        The gradient of the weight, (O, C, kh, kw), and that of the bias, (O,).
    """
    outputs, channels = dy.shape[1], x.shape[1]
    name = _kernel(outputs, channels, window) + "_gradient"
    shapes = [(outputs, channels, *window), (outputs,)]
    dw, db = call(name, [x, dy], shapes, (2, *_plain(x)), **_facts(x, pads))
    return dw, db


def _kernel(outputs: int, channels: int, window: tuple[int, ...]) -> str:
    """The name of the faster of the two kernels for this weight."""
    # Winograd's algorithm saves 20 of 36 multiplications for each pair of channels, and costs
    # about 80 additional operations for each channel.
    pays = outputs * channels > 4 * (outputs + channels)
    return "jaxnet_winograd" if tuple(window) == (3, 3) and pays else "jaxnet_correlate2d"


def _plain(x: jax.Array) -> tuple[int, ...]:
    """The row-by-row arrays of the call: (0,) if x is stored image after image, else ()."""
    # Images with so few channels come from the data set, which stores image after image. The
    # kernel transposes them while it reads them; XLA would write a transposed copy to memory.
    return (0,) if x.shape[1] <= 4 else ()


def _facts(x: jax.Array, pads: Pads) -> dict[str, Any]:
    """The kernel's attributes: the zeros at the top and left, and whether x is row by row."""
    values = {"top": pads[0][0], "left": pads[1][0], "plain": len(_plain(x))}
    return {name: np.int64(value) for name, value in values.items()}
