"""Normalisation without running statistics: layer, group, RMS and local response.

A variance is the mean square of the distances from a mean that is corrected once, so float32
stays exact for numbers far from 0. Half precision is computed in float32. The output has the
dtype of the input.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet._mixed_precision import machine_epsilon
from jaxnet.backend import batch_innermost
from jaxnet.nn._group_images import normalised_images
from jaxnet.nn._module import Module, Parameter, wrong_shape
from jaxnet.nn._moments import moments
from jaxnet.precision import promoted


def working(name: str, input: jax.Array) -> jax.Array:
    """Returns the input in the dtype of the computation: float32 for half precision, else its own.

    Raises:
        TypeError: The input has no float dtype.
    """
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"{name}: the input is {input.dtype}; accepted are floats")
    return input.astype(promoted(input.dtype, jnp.float32))


def affine(
    x: jax.Array, shape: tuple[int, ...], weight: jax.Array | None, bias: jax.Array | None
) -> jax.Array:
    """Computes x weight + bias, with weight and bias reshaped to as many axes as x has."""
    if weight is not None:
        x = x * weight.reshape(shape).astype(x.dtype)
    if bias is not None:
        x = x + bias.reshape(shape).astype(x.dtype)
    return x


def check_sizes(name: str, shape: tuple[int, ...], **arrays: jax.Array | None) -> None:
    """Raises a ValueError unless every given array has the shape."""
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
    """Computes (x - mean) / sqrt(var + eps) weight + bias over the last axes.

    Equivalent of torch.nn.functional.layer_norm.

    Args:
        input: An array (..., *normalized_shape) with a float dtype.
        normalized_shape: The sizes of the last axes, which are normalised together.
        weight: The factors, of shape normalized_shape.
        bias: The summands, of shape normalized_shape.
        eps: A small number that is added to the biased variance (flax's default is 1e-6).

    Returns:
        An array with the shape and dtype of the input.

    Raises:
        ValueError: The input, weight or bias does not have the shape that normalized_shape
            asks for.
        TypeError: The input has no float dtype.
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
    """Computes x / sqrt(mean(x^2) + eps) weight over the last axes.

    Equivalent of torch.nn.functional.rms_norm.

    Args:
        input: An array (..., *normalized_shape) with a float dtype.
        normalized_shape: The sizes of the last axes, which are normalised together.
        weight: The factors, of shape normalized_shape.
        eps: A small number that is added to the mean square. As in torch, None takes the
            machine epsilon of the input's dtype, or of float32 for half precision.

    Returns:
        An array with the shape and dtype of the input.

    Raises:
        ValueError: The input or weight does not have the shape that normalized_shape asks for.
        TypeError: The input has no float dtype.
    """
    shape = _sizes(normalized_shape)
    axes = _last_axes("rms_norm", input, shape)
    check_sizes("rms_norm", shape, weight=weight)
    x = working("rms_norm", input)
    if input.size:
        added = machine_epsilon(x.dtype) if eps is None else eps
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
        input: The batch, (N, C, ...), with a float dtype.
        num_groups: The number of groups of neighbouring channels.
        weight: A factor for each channel, (C,).
        bias: A summand for each channel, (C,).
        eps: A small number that is added to the biased variance.

    Returns:
        An array with the shape and dtype of the input.

    Raises:
        ValueError: The groups do not divide the channels, or the whole batch has a single
            number in a group.
        TypeError: The input has no float dtype.
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
    if input.size and batch_innermost(x):
        return normalised_images(x, num_groups, weight, bias, eps).astype(input.dtype)
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
    """Computes x / (k + alpha mean(x^2))^beta, with the mean over neighbouring channels.

    Equivalent of torch.nn.functional.local_response_norm.

    Args:
        input: An array (N, C, ...) with at least three axes. Channels beyond the ends count
            as 0 in the mean.
        size: The number of channels; an even size has one more channel before than after.
        alpha: The factor of the mean.
        beta: The exponent.
        k: The summand.

    Returns:
        An array with the shape of the input.

    Raises:
        ValueError: The input has fewer than three axes, or size is not positive.
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

    The parameters are `weight` (initially ones) and `bias` (initially zeros), both of shape
    normalized_shape.

    Args:
        normalized_shape: The sizes of the last axes, or the size of the last axis.
        eps: A small number that is added to the variance.
        elementwise_affine: Whether the layer has a weight and a bias.
        bias: Whether an affine layer has a bias beside the weight.
        dtype: The dtype of the parameters.

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
        """Normalises (..., *normalized_shape)."""
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

    The parameter is `weight` (initially ones), of shape normalized_shape.

    Args:
        normalized_shape: The sizes of the last axes, or the size of the last axis.
        eps: A small number that is added to the mean square. None takes the machine epsilon
            of the dtype.
        elementwise_affine: Whether the layer has a weight.
        dtype: The dtype of the weight.
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
        """Normalises (..., *normalized_shape)."""
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

    The parameters are `weight` (C,), initially ones, and `bias` (C,), initially zeros.

    Args:
        num_groups: The number of groups of neighbouring channels.
        num_channels: The number of channels C.
        eps: A small number that is added to the variance.
        affine: Whether the layer has a weight and a bias.
        bias: Whether an affine layer has a bias beside the weight.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: The groups do not divide the channels.
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
        """Normalises (N, C, ...)."""
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise wrong_shape(self, f"(N, {self.num_channels}, ...)", input)
        return group_norm(input, self.num_groups, value(self.weight), value(self.bias), self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """Divides by a power of the neighbouring channels' mean square: torch.nn.LocalResponseNorm.

    The arguments are those of `local_response_norm`.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Normalises (N, C, ...) with at least three axes."""
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


def value(parameter: Parameter | None) -> jax.Array | None:
    """Returns the array of a parameter, or None if the layer does not have the parameter."""
    return None if parameter is None else parameter[...]
