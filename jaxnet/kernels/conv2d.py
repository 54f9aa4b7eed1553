"""Two-dimensional correlation: conv2d.c and winograd.c, and their derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.kernels.layout import call

__all__ = ["correlate2d"]

Pads = tuple[tuple[int, int], ...]


def correlate2d(x: jax.Array, w: jax.Array, bias: jax.Array | None, pads: Pads) -> jax.Array:
    """y[n, o, h, w] = bias[o] + sum of x[n, c, h + i - top, w + j - left] w[o, c, i, j].

    The sum is over c, i and j.

    Args:
        x: (N, C, H, W) float32.
        w: (O, C, kh, kw) float32.
        bias: (O,) float32, or None.
        pads: zeros (top, bottom) and (left, right); negative ones cut off.

    Returns:
        (N, O, H', W').
    """
    return _correlate(x, w, bias, pads)


def _kernel(outputs: int, channels: int, window: tuple[int, ...]) -> str:
    """Which of the two computes it."""
    # Winograd's algorithm saves 20 of 36 multiplications for each pair of channels, and
    # pays with about 80 operations for each channel.
    pays = outputs * channels > 4 * (outputs + channels)
    return "jaxnet_winograd" if tuple(window) == (3, 3) and pays else "jaxnet_correlate2d"


# The two functions are each other's derivatives.


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _correlate(x, w, bias, pads):
    sizes = [n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[2:], pads, w.shape[2:], strict=True)]
    shape = (x.shape[0], w.shape[0], *sizes)
    name = _kernel(*w.shape[:2], w.shape[2:])
    y = call(name, [x, w], [shape], (1, *_plain(x)), **_facts(x, pads))[0]
    # XLA adds the bias: it costs nothing within the activation that usually follows.
    return y if bias is None else y + jnp.broadcast_to(bias[:, None, None], shape)


def _forward(x, w, bias, pads):
    return _correlate(x, w, bias, pads), (x, w, bias)


def _backward(pads, saved, dy):
    x, w, bias = saved
    dw, db = _gradient(x, dy, w.shape[2:], pads)
    return _back(dy, w, pads), dw, None if bias is None else db


_correlate.defvjp(_forward, _backward)


def _back(dy, w, pads):
    """What dy, under the flipped window, gives each place of x."""
    flipped = jnp.swapaxes(jnp.flip(w, (2, 3)), 0, 1)
    around = tuple((k - 1 - a, k - 1 - b) for (a, b), k in zip(pads, w.shape[2:], strict=True))
    return correlate2d(dy, flipped, None, around)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gradient(x, dy, window, pads):
    """dw (O, C, *window) and db (O,) of y."""
    outputs, channels = dy.shape[1], x.shape[1]
    name = _kernel(outputs, channels, window) + "_gradient"
    shapes = [(outputs, channels, *window), (outputs,)]
    return tuple(call(name, [x, dy], shapes, (2, *_plain(x)), **_facts(x, pads)))


def _gradient_forward(x, dy, window, pads):
    return _gradient(x, dy, window, pads), (x, dy)


def _gradient_backward(window, pads, saved, slopes):
    x, dy = saved
    dw, db = slopes
    return _back(dy, dw, pads), correlate2d(x, dw, db, pads)


_gradient.defvjp(_gradient_forward, _gradient_backward)


def _plain(x: jax.Array) -> tuple[int, ...]:
    # So few channels are the data's own, which lie image after image: the kernel turns
    # them while it reads them, where XLA would write out a copy.
    return (0,) if x.shape[1] <= 4 else ()


def _facts(x: jax.Array, pads: Pads) -> dict[str, np.int64]:
    values = {"top": pads[0][0], "left": pads[1][0], "plain": len(_plain(x))}
    return {name: np.int64(value) for name, value in values.items()}
