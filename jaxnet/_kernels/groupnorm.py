"""Group normalisation of images, by groupnorm.c."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet._kernels.layout import call


def group_norm(
    x: jax.Array, weight: jax.Array, bias: jax.Array, groups: int, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes (x - mean) / sqrt(var + eps) weight + bias, with the moments of each group.

    Args:
        x: The images, (N, C, H, W), float32.
        weight: A factor for each channel, (C,), float32.
        bias: A summand for each channel, (C,), float32.
        groups: The number of groups of neighbouring channels.
        eps: A small number that is added to the variance.

    Returns:
        The normalised images, and mean and biased variance of each group, (N, groups).
    """
    shape = (x.shape[0], groups)
    mean, rest, var = call("jaxnet_group_moments", [x], [shape] * 3)
    # XLA scales and shifts, which is free when it is fused into the activation that follows.
    of_channels = x.shape[1] // groups
    at, off, scale = (
        jnp.repeat(each, of_channels, axis=1)[:, :, None, None]
        for each in (mean, rest, lax.rsqrt(var + eps))
    )
    columns = (1, -1, 1, 1)
    y = (x - at - off) * (scale * weight.reshape(columns)) + bias.reshape(columns)
    return y, mean + rest, var


def group_norm_gradient(
    x: jax.Array, dy: jax.Array, weight: jax.Array, mean: jax.Array, var: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the gradients of x, weight and bias.

    Args:
        x: The images, (N, C, H, W), float32.
        dy: The gradient of the result, like x.
        weight: A factor for each channel, (C,), float32.
        mean: The mean that `group_norm` returned, (N, groups).
        var: The biased variance that `group_norm` returned, (N, groups).
        eps: The small number that was added to the variance.

    Returns:
        The gradients of x, weight and bias, each with the shape of its array.
    """
    shapes = [x.shape, weight.shape, weight.shape]
    arrays = [x, dy, weight, mean, var]
    dx, dweight, dbias = call("jaxnet_group_norm_gradient", arrays, shapes, eps=np.float32(eps))
    return dx, dweight, dbias
