"""Batch normalisation in training: batchnorm.c."""

import jax
import numpy as np
from jax import lax

from jaxnet._kernels.layout import call


def batch_norm(
    x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x - mean) / sqrt(var + eps) weight + bias, with mean and variance of each channel.

    Args:
        x: (N, C, H, W) float32.
        weight, bias: (C,) float32.
        eps: added to the variance.

    Returns:
        The result, the mean (C,) and the biased variance (C,).
    """
    mean, var = call("jaxnet_batch_moments", [x], [weight.shape, weight.shape])
    # XLA scales and shifts: it costs nothing within the activation that usually follows.
    scale = weight * lax.rsqrt(var + eps)
    columns = (1, -1, 1, 1)
    y = (x - mean.reshape(columns)) * scale.reshape(columns) + bias.reshape(columns)
    return y, mean, var


def batch_norm_gradient(
    x: jax.Array, dy: jax.Array, weight: jax.Array, mean: jax.Array, var: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The slopes of x, weight and bias from the slope of the result, like x."""
    shapes = [x.shape, weight.shape, weight.shape]
    arrays = [x, dy, weight, mean, var]
    dx, dweight, dbias = call("jaxnet_batch_norm_gradient", arrays, shapes, eps=np.float32(eps))
    return dx, dweight, dbias
