"""Batch normalisation in training: batchnorm.c and its derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.kernels.layout import call

__all__ = ["batch_norm"]


def batch_norm(
    x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x - mean) / sqrt(var + eps) weight + bias, with mean and variance of each channel.

    Args:
        x: (N, C, H, W) float32.
        weight, bias: (C,) float32.
        eps: added to the variance.

    Returns:
        The result, the mean (C,) and the biased variance (C,). No gradient goes through
        the last two.
    """
    y, mean, var = _normalise(x, weight, bias, eps)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x, weight, bias, eps):
    mean, var = call("jaxnet_batch_moments", [x], [weight.shape, weight.shape])
    # XLA scales and shifts: it costs nothing within the activation that usually follows.
    scale = weight * lax.rsqrt(var + eps)
    columns = (1, -1, 1, 1)
    y = (x - mean.reshape(columns)) * scale.reshape(columns) + bias.reshape(columns)
    return y, mean, var


def _forward(x, weight, bias, eps):
    y, mean, var = _normalise(x, weight, bias, eps)
    return (y, mean, var), (x, weight, mean, var)


def _backward(eps, saved, slopes):
    x, weight, mean, var = saved
    return _gradient(x, slopes[0], weight, mean, var, eps)


_normalise.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _gradient(x, dy, weight, mean, var, eps):
    """(dx, dweight, dbias)."""
    shapes = [x.shape, weight.shape, weight.shape]
    arrays = [x, dy, weight, mean, var]
    return tuple(call("jaxnet_batch_norm_gradient", arrays, shapes, eps=np.float32(eps)))


def _gradient_forward(x, dy, weight, mean, var, eps):
    return _gradient(x, dy, weight, mean, var, eps), (x, dy, weight)


def _gradient_backward(eps, saved, slopes):
    # Second derivatives are rare, so XLA finds them; through mean and variance as well.
    def plain(x, dy, weight):
        axes = (0, 2, 3)
        columns = (1, -1, 1, 1)
        centred = x - x.mean(axes, keepdims=True)
        inverse = lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + eps)
        unit = centred * inverse
        dweight = (dy * unit).sum(axes)
        dbias = dy.sum(axes)
        count = x.size // weight.size
        even, along = ((v / count).reshape(columns) for v in (dbias, dweight))
        dx = (dy - even - unit * along) * (inverse * weight.reshape(columns))
        return dx, dweight, dbias

    found = jax.vjp(plain, *saved)[1](slopes)
    weight = saved[2]
    return *found, jnp.zeros_like(weight), jnp.zeros_like(weight)


_gradient.defvjp(_gradient_forward, _gradient_backward)
