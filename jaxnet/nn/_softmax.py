"""Activation functions over an axis: softmax and its kin, and gated linear units."""

import warnings
from collections.abc import Callable

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet.nn._module import Module, wrong_shape


def _axis(name: str, input: jax.Array, dim: int | None) -> int:
    """The axis that torch takes, also where none is given."""
    if dim is None:
        warnings.warn(
            f"{name}: dim is not given; torch's old choice is taken (0 for inputs of 0, 1 or 3 "
            "axes, else 1); give dim",
            stacklevel=4,
        )
        return 0 if input.ndim in (0, 1, 3) else 1
    axes = max(input.ndim, 1)
    if not -axes <= dim < axes:
        raise ValueError(
            f"{name}: dim is {dim}; accepted for an input of shape {input.shape} "
            f"is {-axes} to {axes - 1}"
        )
    return dim


def _over_axis(
    name: str,
    function: Callable[..., jax.Array],
    input: jax.Array,
    dim: int | None,
    dtype: DTypeLike | None,
) -> jax.Array:
    axis = _axis(name, input, dim)
    values = input if dtype is None else input.astype(dtype)
    if values.size == 0:
        return values
    if values.ndim == 0:
        return function(values[None], axis=axis)[0]
    return function(values, axis=axis)


def softmax(
    input: Float[Array, "*shape"], dim: int | None = None, *, dtype: DTypeLike | None = None
) -> Float[Array, "*shape"]:
    """exp(x) / sum(exp(x)) along an axis: torch.nn.functional.softmax.

    Args:
        input: any shape.
        dim: the axis; without it torch's old choice is taken, with a warning.
        dtype: what the input is cast to first.
    """
    return _over_axis("softmax", jax.nn.softmax, input, dim, dtype)


def softmin(
    input: Float[Array, "*shape"], dim: int | None = None, *, dtype: DTypeLike | None = None
) -> Float[Array, "*shape"]:
    """softmax(-x). Arguments as `softmax`'s."""
    return _over_axis("softmin", jax.nn.softmax, -input, dim, dtype)


def log_softmax(
    input: Float[Array, "*shape"], dim: int | None = None, *, dtype: DTypeLike | None = None
) -> Float[Array, "*shape"]:
    """log(softmax(x)), without overflow. Arguments as `softmax`'s."""
    return _over_axis("log_softmax", jax.nn.log_softmax, input, dim, dtype)


def glu(input: Float[Array, "..."], dim: int = -1) -> Float[Array, "..."]:
    """a sigmoid(b) for the two halves a, b of the input along an axis."""
    if input.ndim == 0:
        raise ValueError("glu: the input has no axis; it needs one of even size")
    axis = _axis("glu", input, dim)
    if input.shape[axis] % 2:
        raise ValueError(
            f"glu: axis {dim} of an input of shape {input.shape} has odd size; it is cut in halves"
        )
    half = input.shape[axis] // 2
    a = jax.lax.slice_in_dim(input, 0, half, axis=axis)
    b = jax.lax.slice_in_dim(input, half, 2 * half, axis=axis)
    return a * jax.nn.sigmoid(b)


class Softmax(Module):
    """exp(x) / sum(exp(x)) along axis `dim`: torch.nn.Softmax."""

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(Softmax):
    """softmax(-x) along axis `dim`: torch.nn.Softmin."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softmin(input, self.dim)


class LogSoftmax(Softmax):
    """log(softmax(x)) along axis `dim`: torch.nn.LogSoftmax."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return log_softmax(input, self.dim)


class Softmax2d(Module):
    """Softmax over the channels of (N, C, H, W) or (C, H, W): torch.nn.Softmax2d."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if input.ndim not in (3, 4):
            raise wrong_shape(self, "(N, C, H, W) or (C, H, W)", input)
        return softmax(input, -3)


class GLU(Module):
    """a sigmoid(b) for the two halves a, b along axis `dim`: torch.nn.GLU."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def __call__(self, input: Float[Array, "..."]) -> Float[Array, "..."]:
        return glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
