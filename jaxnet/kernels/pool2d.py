"""Two-dimensional max pooling: pool2d.c and its derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.kernels.layout import call

__all__ = ["max_pool2d"]

_NAMES = ("kh", "kw", "down", "right", "top", "left", "step_down", "step_right")


def max_pool2d(
    x: jax.Array,
    counts: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> jax.Array:
    """The largest number of each window; the gradient goes to the first, or to the last nan.

    Args:
        x: (N, C, H, W) float32.
        counts: how many windows fit each axis; each has to see something of x.
        window, stride, padding, dilation: height and width.

    Returns:
        (N, C, *counts).
    """
    return _largest(x, counts, (*window, *stride, *padding, *dilation))


def _pooled(name, x, other, shape, sizes):
    numbers = {key: np.int64(value) for key, value in zip(_NAMES, sizes, strict=True)}
    return call(name, [x, other], [shape], **numbers)[0]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _largest(x, counts, sizes):
    return _pooled("jaxnet_max_pool2d_pick", x, x, (*x.shape[:2], *counts), sizes)


def _largest_backward(counts, sizes, x, dy):
    return (_spread(x, dy, sizes),)


_largest.defvjp(lambda x, counts, sizes: (_largest(x, counts, sizes), x), _largest_backward)


# Both are linear in their second argument, and each other's transpose there. x only says
# which places they take, and has no slope.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _pick(x, v, counts, sizes):
    """What stands in v where x is largest."""
    return _pooled("jaxnet_max_pool2d_pick", x, v, (*x.shape[:2], *counts), sizes)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spread(x, dy, sizes):
    """dy at the places where x is largest."""
    return _pooled("jaxnet_max_pool2d_spread", x, dy, x.shape, sizes)


_pick.defvjp(
    lambda x, v, counts, sizes: (_pick(x, v, counts, sizes), x),
    lambda counts, sizes, x, dy: (jnp.zeros_like(x), _spread(x, dy, sizes)),
)
_spread.defvjp(
    lambda x, dy, sizes: (_spread(x, dy, sizes), (x, dy.shape[2:])),
    lambda sizes, saved, dx: (jnp.zeros_like(dx), _pick(saved[0], dx, saved[1], sizes)),
)
