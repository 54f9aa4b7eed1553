"""Two-dimensional correlation: conv2d.c and winograd.c."""

from typing import Any

import jax
import numpy as np

from jaxnet._kernels.layout import call

Pads = tuple[tuple[int, int], ...]


def correlate2d(x: jax.Array, w: jax.Array, pads: Pads) -> jax.Array:
    """y[n, o, h, w] = sum of x[n, c, h + i - top, w + j - left] w[o, c, i, j].

    The sum is over c, i and j.

    Args:
        x: (N, C, H, W) float32.
        w: (O, C, kh, kw) float32.
        pads: zeros (top, bottom) and (left, right); negative ones cut off.

    Returns:
        (N, O, H', W').
    """
    sizes = [n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[2:], pads, w.shape[2:], strict=True)]
    shape = (x.shape[0], w.shape[0], *sizes)
    name = _kernel(w.shape[0], w.shape[1], w.shape[2:])
    return call(name, [x, w], [shape], (1, *_plain(x)), **_facts(x, pads))[0]


def correlate2d_gradient(
    x: jax.Array, dy: jax.Array, window: tuple[int, ...], pads: Pads
) -> tuple[jax.Array, jax.Array]:
    """The slopes of the weight, and of a bias that is added to y, from the slope of y.

    Args:
        x: (N, C, H, W) float32.
        dy: (N, O, H', W') float32.
        window: (kh, kw).
        pads: as in `correlate2d`.

    Returns:
        dw (O, C, kh, kw) and db (O,).
    """
    outputs, channels = dy.shape[1], x.shape[1]
    name = _kernel(outputs, channels, window) + "_gradient"
    shapes = [(outputs, channels, *window), (outputs,)]
    dw, db = call(name, [x, dy], shapes, (2, *_plain(x)), **_facts(x, pads))
    return dw, db


def _kernel(outputs: int, channels: int, window: tuple[int, ...]) -> str:
    """Which of the two computes it."""
    # Winograd's algorithm saves 20 of 36 multiplications for each pair of channels, and
    # pays with about 80 operations for each channel.
    pays = outputs * channels > 4 * (outputs + channels)
    return "jaxnet_winograd" if tuple(window) == (3, 3) and pays else "jaxnet_correlate2d"


def _plain(x: jax.Array) -> tuple[int, ...]:
    # So few channels are the data's own, which lie image after image: the kernel turns
    # them while it reads them, where XLA would write out a copy.
    return (0,) if x.shape[1] <= 4 else ()


def _facts(x: jax.Array, pads: Pads) -> dict[str, Any]:
    values = {"top": pads[0][0], "left": pads[1][0], "plain": len(_plain(x))}
    return {name: np.int64(value) for name, value in values.items()}
