"""Activation functions along an axis: softmax, its variants, and gated linear units."""

import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet._keys import exponential
from jaxnet.nn._module import Module, wrong_shape


def _axis(name: str, input: jax.Array, dim: int | None) -> int:
    """Returns the axis; if none is given, the one that torch chooses, with a warning."""
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
    """Computes exp(x) / sum(exp(x)) along an axis: torch.nn.functional.softmax.

    Args:
        input: An array of any shape.
        dim: The axis. Without it the axis is chosen as in torch, with a warning: 0 for inputs
            with 0, 1 or 3 axes, and 1 for others.
        dtype: The dtype that the input is converted to before the computation.

    Returns:
        An array with the shape of the input.

    Raises:
        ValueError: The axis does not exist.
    """
    return _over_axis("softmax", jax.nn.softmax, input, dim, dtype)


def softmin(
    input: Float[Array, "*shape"], dim: int | None = None, *, dtype: DTypeLike | None = None
) -> Float[Array, "*shape"]:
    """Computes softmax(-x). The arguments are those of `softmax`."""
    return _over_axis("softmin", jax.nn.softmax, -input, dim, dtype)


def log_softmax(
    input: Float[Array, "*shape"], dim: int | None = None, *, dtype: DTypeLike | None = None
) -> Float[Array, "*shape"]:
    """Computes log(softmax(x)) without overflow. The arguments are those of `softmax`."""
    return _over_axis("log_softmax", jax.nn.log_softmax, input, dim, dtype)


def gumbel_softmax(
    logits: Float[Array, "*shape"],
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Samples from the Gumbel-Softmax distribution: torch.nn.functional.gumbel_softmax.

    The sample is softmax((logits + g) / tau), where the numbers g = -log(e) come from
    exponential numbers e.

    Args:
        logits: The logarithms of the weights of the classes, floats of any shape.
        tau: The temperature, not 0.
        hard: Whether the sample is rounded to one 1 and zeros. Its gradient is that of the
            sample that is not rounded.
        eps: An argument of torch that has no effect, in torch as well.
        dim: The axis of the classes.
        key: A random key. Without it the open `nn.keys` context supplies one.

    Returns:
        An array with the shape and dtype of the logits, whose sum along dim is 1.

    Raises:
        ValueError: The axis does not exist, tau is 0, or there is no key.
        TypeError: The logits have no float dtype.
    """
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"gumbel_softmax: the logits are {logits.dtype}; accepted are floats")
    if isinstance(tau, int | float) and tau == 0:
        raise ValueError("gumbel_softmax: tau is 0; accepted is any other number")
    axis = _axis("gumbel_softmax", logits, dim)
    gumbels = -jnp.log(exponential("gumbel_softmax", logits.shape, logits.dtype, key))
    soft = softmax((logits + gumbels) / tau, axis)
    if not hard or soft.size == 0:
        return soft
    if soft.ndim == 0:
        one = jnp.ones_like(soft)
    else:
        one = jax.nn.one_hot(soft.argmax(axis), soft.shape[axis], dtype=soft.dtype, axis=axis)
    # The order of torch's operations, whose result need not be exactly 0 or 1.
    return one - jax.lax.stop_gradient(soft) + soft


def glu(input: Float[Array, "..."], dim: int = -1) -> Float[Array, "..."]:
    """Computes a sigmoid(b) for the two halves a and b of the input along an axis.

    Equivalent of torch.nn.functional.glu.

    Args:
        input: An array whose axis `dim` has an even size.
        dim: The axis that is split into halves.

    Returns:
        An array like the input with half the size along the axis.

    Raises:
        ValueError: The axis does not exist or has an odd size.
    """
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
    """Computes exp(x) / sum(exp(x)) along axis `dim`: torch.nn.Softmax."""

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(Softmax):
    """Computes softmax(-x) along axis `dim`: torch.nn.Softmin."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softmin(input, self.dim)


class LogSoftmax(Softmax):
    """Computes log(softmax(x)) along axis `dim`: torch.nn.LogSoftmax."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return log_softmax(input, self.dim)


class Softmax2d(Module):
    """Computes a softmax over the channels of (N, C, H, W) or (C, H, W): torch.nn.Softmax2d."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if input.ndim not in (3, 4):
            raise wrong_shape(self, "(N, C, H, W) or (C, H, W)", input)
        return softmax(input, -3)


class GLU(Module):
    """Computes a sigmoid(b) for the two halves a and b along axis `dim`: torch.nn.GLU."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def __call__(self, input: Float[Array, "..."]) -> Float[Array, "..."]:
        return glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
