"""Group normalisation of images as a differentiable operation.

Its backward pass is the kernel's or `_backward`; all other derivatives (forward mode, derivatives
of a gradient) are those of `_normalise`. The moments that it returns carry no gradient.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet import _kernels as kernels
from jaxnet.backend import Operation, tangents_along
from jaxnet.nn._moments import moments


def normalised_images(
    x: jax.Array,
    groups: int,
    weight: jax.Array | None,
    bias: jax.Array | None,
    eps: float,
) -> jax.Array:
    """Normalises the groups of channels of images (N, C, H, W), with C > 0."""
    channels = x.shape[1]
    factors = jnp.ones(channels, x.dtype) if weight is None else weight.astype(x.dtype)
    summands = jnp.zeros(channels, x.dtype) if bias is None else bias.astype(x.dtype)
    return _NORMALISE(x, factors, summands, groups=groups, eps=float(eps))[0]


def _normalise(x, weight, bias, groups, eps):
    grouped = x.reshape(x.shape[0], groups, -1)  # (N, G, C/G * H * W)
    mean, centred, var = moments(grouped, (2,))
    y = (centred * lax.rsqrt(var + eps)).reshape(x.shape)
    column = (1, -1, 1, 1)
    return [y * weight.reshape(column) + bias.reshape(column), mean[:, :, 0], var[:, :, 0]]


def _normalise_jvp(arguments, tangents, groups, eps):
    results = _NORMALISE(*arguments, groups=groups, eps=eps)
    moved = _TANGENTS(arguments, tuple(results[1:]), tuple(tangents), groups=groups, eps=eps)
    return results, [*moved, None, None]


def _only_y(x, weight, bias, groups, eps):
    return _normalise(x, weight, bias, groups, eps)[:1]


def _tangents(inputs, moments, direction, groups, eps):
    return tangents_along(partial(_only_y, groups=groups, eps=eps), inputs, direction)


def _tangents_transpose(arguments, slopes, groups, eps):
    inputs, moments, direction = arguments
    found = _BACKWARD(inputs, moments, slopes[0], groups=groups, eps=eps)
    wanted = zip(found, direction, strict=True)
    return None, None, tuple(None if moves is None else slope for slope, moves in wanted)


def _backward(inputs, moments, dy, groups, eps):
    """The gradients of x, weight and bias, from the moments that are known.

    With u = (x - mean) / sqrt(var + eps), s = dy weight and averages over a group,
    dx = (s - mean(s) - u mean(s u)) / sqrt(var + eps).
    """
    (x, weight, _), (mean, var) = inputs, moments
    rows = (x.shape[0], groups, -1)
    inverse = lax.rsqrt(var + eps)[:, :, None]
    unit = (x.reshape(rows) - mean[:, :, None]) * inverse
    slopes = (dy * weight.reshape(1, -1, 1, 1)).reshape(rows)
    even, along = slopes.mean(2, keepdims=True), (slopes * unit).mean(2, keepdims=True)
    dx = ((slopes - even - unit * along) * inverse).reshape(x.shape)
    return [dx, (dy * unit.reshape(x.shape)).sum((0, 2, 3)), dy.sum((0, 2, 3))]


def _whole_backward(inputs, moments, dy, groups, eps):
    """The gradients of `_backward` by JAX's own differentiation, for higher derivatives."""
    return jax.vjp(partial(_only_y, groups=groups, eps=eps), *inputs)[1]([dy])


def _backward_in_c(inputs, moments, dy, groups, eps):
    x, weight, _ = inputs
    return kernels.group_norm_gradient(x, dy, weight, *moments, eps)


def _shapes(x, weight, bias, groups, eps):
    return [x.shape, (x.shape[0], groups), (x.shape[0], groups)]


_NORMALISE = Operation(
    "group_norm",
    native=_normalise,
    kernel=kernels.group_norm,
    rows=lambda x, weight, bias, groups, eps: ((0, None, None), (0, 0, 0)),
    shapes=_shapes,
    jvp=_normalise_jvp,
)
_TANGENTS = Operation(
    "group_norm_tangents",
    native=_tangents,
    shapes=lambda inputs, moments, direction, groups, eps: [inputs[0].shape],
    transpose=_tangents_transpose,
)
_BACKWARD = Operation(
    "group_norm_gradient",
    native=_backward,
    kernel=_backward_in_c,
    shapes=lambda inputs, moments, dy, groups, eps: [part.shape for part in inputs],
    derivative=_whole_backward,
)
