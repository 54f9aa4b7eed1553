"""Batch normalisation in training mode, by batchnorm.c."""

import jax
import numpy as np
from jax import lax

from jaxnet._kernels.layout import call


def batch_norm(
    x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes (x - mean) / sqrt(var + eps) weight + bias, with each channel's mean and variance.

    Args:
        x: The images, (N, C, H, W), float32.
        weight: A factor for each channel, (C,), float32.
        bias: A summand for each channel, (C,), float32.
        eps: A small number that is added to the variance.

    Returns:
        The normalised images, the mean (C,) and the biased variance (C,).
    """
    mean, var = call("jaxnet_batch_moments", [x], [weight.shape, weight.shape])
    # XLA scales and shifts, which is free when it is fused into the activation that follows.
    scale = weight * lax.rsqrt(var + eps)
    columns = (1, -1, 1, 1)
    y = (x - mean.reshape(columns)) * scale.reshape(columns) + bias.reshape(columns)
    return y, mean, var


def batch_norm_gradient(
    x: jax.Array, dy: jax.Array, weight: jax.Array, mean: jax.Array, var: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gradients of x, weight and bias.

    Args:
        x: The images, (N, C, H, W), float32.
        dy: The gradient of the result, like x.
        weight: A factor for each channel, (C,), float32.
        mean: The mean that `batch_norm` returned, (C,).
        var: The biased variance that `batch_norm` returned, (C,).
        eps: The small number that was added to the variance.

    Returns:
        The gradients of x, weight and bias, each with the shape of its array.
    """
    shapes = [x.shape, weight.shape, weight.shape]
    arrays = [x, dy, weight, mean, var]
    dx, dweight, dbias = call("jaxnet_batch_norm_gradient", arrays, shapes, eps=np.float32(eps))
    return dx, dweight, dbias
