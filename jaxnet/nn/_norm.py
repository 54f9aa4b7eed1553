"""Normalisation of each example by itself: layer, group, RMS, local response.

Variances are mean squared distances from a mean that is corrected once, which keeps
float32 right for numbers far from 0. Half precision is computed in float32. The
output has the input's dtype.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet.nn._module import Module, Parameter, wrong_shape
from jaxnet.precision import promoted


def working(name: str, input: jax.Array) -> jax.Array:
    """The input in the dtype to compute in: its own, and float32 for half precision."""
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"{name}: the input is {input.dtype}; accepted are floats")
    return input.astype(promoted(input.dtype, jnp.float32))


def moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean over some axes, distance from it, and its mean square (the biased variance).

    Returns:
        The mean with those axes kept at size 1, x - mean, and the variance as the mean.
    """
    # torch adds up in float64; here the mean of what the rounded mean leaves over
    # does as well, for about a fifth of the whole step's time.
    rough = lax.stop_gradient(x.mean(axes, keepdims=True))
    shifted = x - rough
    rest = shifted.mean(axes, keepdims=True)
    centred = shifted - rest
    return rough + rest, centred, jnp.square(centred).mean(axes, keepdims=True)


def affine(
    x: jax.Array, shape: tuple[int, ...], weight: jax.Array | None, bias: jax.Array | None
) -> jax.Array:
    """x weight + bias, both put into a shape with as many axes as x."""
    if weight is not None:
        x = x * weight.reshape(shape).astype(x.dtype)
    if bias is not None:
        x = x + bias.reshape(shape).astype(x.dtype)
    return x


def check_sizes(name: str, shape: tuple[int, ...], **arrays: jax.Array | None) -> None:
    """Raises unless every array that is given has the shape."""
    for argument, array in arrays.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{name}: {argument} has shape {array.shape}; accepted is {shape}")


def _last_axes(name: str, input: jax.Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not shape:
        raise ValueError(f"{name}: normalized_shape is empty; give the sizes of the last axes")
    if input.shape[-len(shape) :] != shape:
        sizes = ", ".join(map(str, shape))
        raise ValueError(
            f"{name}: the input has shape {input.shape}; normalized_shape asks for (..., {sizes})"
        )
    return tuple(range(-len(shape), 0))


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(shape) if isinstance(shape, Sequence) else (int(shape),)


def layer_norm(
    input: Float[Array, "*shape"],
    normalized_shape: int | Sequence[int],
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> Float[Array, "*shape"]:
    """(x - mean) / sqrt(var + eps) weight + bias over the last axes.

    Args:
        input: (..., *normalized_shape).
        normalized_shape: sizes of the last axes, which are normalised together.
        weight: factors of normalized_shape.
        bias: summands of normalized_shape.
        eps: added to the (biased) variance; 1e-5, flax's default is 1e-6.
    """
    shape = _sizes(normalized_shape)
    axes = _last_axes("layer_norm", input, shape)
    check_sizes("layer_norm", shape, weight=weight, bias=bias)
    x = working("layer_norm", input)
    if input.size:
        _, centred, var = moments(x, axes)
        x = centred * lax.rsqrt(var + eps)
    return affine(x, (1,) * (x.ndim - len(shape)) + shape, weight, bias).astype(input.dtype)


def rms_norm(
    input: Float[Array, "*shape"],
    normalized_shape: int | Sequence[int],
    weight: jax.Array | None = None,
    eps: float | None = None,
) -> Float[Array, "*shape"]:
    """x / sqrt(mean(x^2) + eps) weight over the last axes.

    Args:
        input: (..., *normalized_shape).
        normalized_shape: sizes of the last axes, which are normalised together.
        weight: factors of normalized_shape.
        eps: added to the mean square; None takes the machine epsilon of the input's
            dtype (float32's for half precision), as torch does.
    """
    shape = _sizes(normalized_shape)
    axes = _last_axes("rms_norm", input, shape)
    check_sizes("rms_norm", shape, weight=weight)
    x = working("rms_norm", input)
    if input.size:
        added = float(jnp.finfo(x.dtype).eps) if eps is None else eps
        x = x * lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + added)
    return affine(x, (1,) * (x.ndim - len(shape)) + shape, weight, None).astype(input.dtype)


def group_norm(
    input: Float[Array, "N C *size"],
    num_groups: int,
    weight: Float[Array, " C"] | None = None,
    bias: Float[Array, " C"] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "N C *size"]:
    """Normalises groups of channels: torch.nn.functional.group_norm.

    Args:
        input: (N, C, ...).
        num_groups: into how many groups of neighbours the channels are cut.
        weight: factors (C,).
        bias: summands (C,).
        eps: added to the (biased) variance.

    Raises:
        ValueError: the groups do not divide the channels, or the batch has a single
            number in a group.
    """
    if input.ndim < 2:
        raise ValueError(f"group_norm: the input has shape {input.shape}; accepted is (N, C, ...)")
    n, channels = input.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"group_norm: num_groups {num_groups} does not divide {channels} channels")
    check_sizes("group_norm", (channels,), weight=weight, bias=bias)
    if n * channels // num_groups * math.prod(input.shape[2:]) == 1:
        raise ValueError(
            "group_norm: Expected more than 1 value per channel when training, "
            f"got input size {input.shape}"
        )
    x = working("group_norm", input)
    if input.size:
        grouped = x.reshape(n, num_groups, -1)  # (N, G, C/G * ...)
        _, centred, var = moments(grouped, (2,))
        x = (centred * lax.rsqrt(var + eps)).reshape(x.shape)
    per_channel = (1, channels) + (1,) * (x.ndim - 2)
    return affine(x, per_channel, weight, bias).astype(input.dtype)


def local_response_norm(
    input: Float[Array, "*shape"],
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Float[Array, "*shape"]:
    """x / (k + alpha mean of x^2 over `size` neighbouring channels)^beta.

    Args:
        input: (N, C, ...) with at least three axes. Beyond the ends the squares count as 0.
        size: how many channels; one more before than after when it is even.
        alpha: weight of the mean.
        beta: the power.
        k: added to the mean.
    """
    if input.ndim < 3:
        raise ValueError(
            f"local_response_norm: the input has shape {input.shape}; accepted is (N, C, L, ...)"
        )
    if size < 1:
        raise ValueError(f"local_response_norm: size is {size}; at least one channel is needed")
    channels = input.shape[1]
    pads = [(0, 0)] * input.ndim
    pads[1] = (size // 2, (size - 1) // 2)
    squares = jnp.pad(jnp.square(input), pads)
    total = sum(lax.slice_in_dim(squares, i, i + channels, axis=1) for i in range(size))
    return input / (k + alpha * (total / size)) ** beta


class LayerNorm(Module):
    """Normalises the last axes of each example: torch.nn.LayerNorm.

    Args:
        normalized_shape: sizes of the last axes, or the size of the last one.
        eps: added to the variance.
        elementwise_affine: whether there are weight and bias.
        bias: whether there is a bias beside the weight.
        dtype: of the parameters.

    Parameters `weight` (ones) and `bias` (zeros) of normalized_shape.

    >>> LayerNorm(2, eps=0)(jnp.array([3.0, 5.0]))
    Array([-1.,  1.], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.normalized_shape = _sizes(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(jnp.ones(shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(jnp.zeros(shape, dtype)) if elementwise_affine and bias else None

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """(..., *normalized_shape) to the same."""
        shape = self.normalized_shape
        if input.shape[-len(shape) :] != shape:
            raise wrong_shape(self, f"(..., {', '.join(map(str, shape))})", input)
        return layer_norm(input, shape, value(self.weight), value(self.bias), self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Divides the last axes of each example by their root mean square: torch.nn.RMSNorm.

    Args:
        normalized_shape: sizes of the last axes, or the size of the last one.
        eps: added to the mean square; None takes the dtype's machine epsilon.
        elementwise_affine: whether there is a weight.
        dtype: of the weight.

    Parameter `weight` (ones) of normalized_shape.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.normalized_shape = _sizes(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        shape = self.normalized_shape
        self.weight = Parameter(jnp.ones(shape, dtype)) if elementwise_affine else None

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """(..., *normalized_shape) to the same."""
        shape = self.normalized_shape
        if input.shape[-len(shape) :] != shape:
            raise wrong_shape(self, f"(..., {', '.join(map(str, shape))})", input)
        return rms_norm(input, shape, value(self.weight), self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class GroupNorm(Module):
    """Normalises groups of channels of each example: torch.nn.GroupNorm.

    Args:
        num_groups: into how many groups of neighbours the channels are cut.
        num_channels: C.
        eps: added to the variance.
        affine: whether there are weight and bias.
        bias: whether there is a bias beside the weight.
        dtype: of the parameters.

    Parameters `weight` (ones) and `bias` (zeros), (C,).
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels ({num_channels}) must be divisible by "
                f"num_groups ({num_groups})"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self.weight = Parameter(jnp.ones((num_channels,), dtype)) if affine else None
        self.bias = Parameter(jnp.zeros((num_channels,), dtype)) if affine and bias else None

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """(N, C, ...) to the same."""
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise wrong_shape(self, f"(N, {self.num_channels}, ...)", input)
        return group_norm(input, self.num_groups, value(self.weight), value(self.bias), self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """Divides by a power of the neighbouring channels' mean square: torch.nn.LocalResponseNorm."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """(N, C, ...) with at least three axes to the same."""
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def value(parameter: Parameter | None) -> jax.Array | None:
    """A parameter's array, or None where the layer has none."""
    return None if parameter is None else parameter[...]
