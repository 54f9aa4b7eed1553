"""Sums, means and extremes along axes."""

import builtins
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jax.typing import ArrayLike, DTypeLike

from jaxnet import precision
from jaxnet._arrays import as_jax
from jaxnet.ops._arguments import (
    axes,
    axis,
    dtype_of,
    floating,
    is_float,
    is_inexact,
    long,
    needs_float,
    op,
    operands,
)
from jaxnet.ops._elementwise import maximum, minimum

Axes = int | Sequence[int]


class Extremes(NamedTuple):
    """Numbers along an axis and where they stand, as torch's return types have them.

    Attributes:
        values: The numbers.
        indices: Their indices along the axis, of dtype int64 as far as JAX has it.
    """

    values: jax.Array
    indices: jax.Array


class MinMax(NamedTuple):
    """The smallest and the largest numbers: torch.return_types.aminmax.

    Attributes:
        min: The smallest.
        max: The largest.
    """

    min: jax.Array
    max: jax.Array


def cast(input: ArrayLike, dtype: DTypeLike | None, widen: bool = True) -> jax.Array:
    """The input in the dtype that is summed in: integers and booleans in int64."""
    x = as_jax("input", input)
    kind = dtype_of("dtype", dtype)
    if kind is None and widen and not is_inexact(x):
        kind = long()
    return x if kind is None else x.astype(kind)


@op
def sum(
    input: ArrayLike,
    dim: Axes | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The sum over axes, all by default. Integers and booleans are summed as int64.

    >>> sum(jnp.ones((2, 3)), dim=(0, 1), keepdim=True).shape
    (1, 1)
    """
    x = cast(input, dtype)
    return x.sum(axes("dim", dim, x.ndim), keepdims=keepdim)


@op
def nansum(
    input: ArrayLike,
    dim: Axes | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The sum of the numbers that are not nan."""
    x = cast(input, dtype)
    return jnp.nansum(x, axes("dim", dim, x.ndim), keepdims=keepdim)


@op
def prod(
    input: ArrayLike,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The product over one axis, or over all. Integers and booleans are multiplied as int64."""
    x = cast(input, dtype)
    return x.prod(axes("dim", dim, x.ndim), keepdims=keepdim)


@op
def mean(
    input: ArrayLike,
    dim: Axes | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The mean over axes, all by default.

    Raises:
        ValueError: The input is of integers, which torch refuses too, and no dtype is given.
    """
    x = cast(input, dtype, widen=False)
    needs_float("mean", x)
    return x.mean(axes("dim", dim, x.ndim), keepdims=keepdim)


@op
def nanmean(
    input: ArrayLike,
    dim: Axes | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The mean of the numbers that are not nan."""
    x = cast(input, dtype, widen=False)
    needs_float("nanmean", x)
    return jnp.nanmean(x, axes("dim", dim, x.ndim), keepdims=keepdim)


def _moments(
    function: str,
    input: ArrayLike,
    dim: Axes | bool | None,
    unbiased: bool | None,
    correction: float | None,
    keepdim: bool,
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance. `std(x, False)` and `std(x, 1, False)` mean `unbiased`, as in torch."""
    x = as_jax("input", input)
    needs_float(function, x)
    if x.dtype.itemsize < 4 and is_float(x):  # a count or a sum may exceed what 16 bits hold
        wide = _moments(function, x.astype(jnp.float32), dim, unbiased, correction, keepdim)
        return wide[0].astype(x.dtype), wide[1].astype(x.dtype)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise ValueError(f"{function}: unbiased and correction say the same; give one of them")
    if correction is None:
        correction = 1 if unbiased in (None, True) else 0
    over = axes("dim", dim, x.ndim)
    n = np.prod([x.shape[a] for a in over], dtype=int)
    center = x.mean(over, keepdims=True)
    # Of complex numbers the variance is that of the distances.
    squares = jnp.square(jnp.abs(x - center) if not is_float(x) else x - center)
    left = np.asarray(builtins.max(n - correction, 0), squares.dtype)
    variance = squares.sum(over, keepdims=keepdim) / left
    return (center if keepdim else center.squeeze(over)), variance


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root whose derivative is 0 at 0."""
    zero = x == 0
    return jnp.where(zero, x, jnp.sqrt(jnp.where(zero, 1, x)))


@op
def var(
    input: ArrayLike,
    dim: Axes | bool | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> jax.Array:
    """The variance over axes, all by default.

    Args:
        input: The numbers, floats.
        dim: The axes.
        unbiased: False is another way to say correction=0.
        keepdim: Whether the axes stay, with size 1.
        correction: What is subtracted from the count before the sum of squares is divided by
            it. The default is 1, where NumPy and JAX have 0.
    """
    return _moments("var", input, dim, unbiased, correction, keepdim)[1]


@op
def std(
    input: ArrayLike,
    dim: Axes | bool | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> jax.Array:
    """The standard deviation over axes, with the arguments of `var`: correction is 1."""
    return safe_sqrt(_moments("std", input, dim, unbiased, correction, keepdim)[1])


@op
def var_mean(
    input: ArrayLike,
    dim: Axes | bool | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The variance and the mean, with the arguments of `var`."""
    center, variance = _moments("var_mean", input, dim, unbiased, correction, keepdim)
    return variance, center


@op
def std_mean(
    input: ArrayLike,
    dim: Axes | bool | None = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The standard deviation and the mean, with the arguments of `var`."""
    center, variance = _moments("std_mean", input, dim, unbiased, correction, keepdim)
    return safe_sqrt(variance), center


@op
def amax(input: ArrayLike, dim: Axes | None = None, keepdim: bool = False) -> jax.Array:
    """The largest number over axes, nan if there is one; equal numbers share the gradient."""
    return _extreme(precision.amax, input, dim, keepdim)


@op
def amin(input: ArrayLike, dim: Axes | None = None, keepdim: bool = False) -> jax.Array:
    """The smallest number over axes, nan if there is one; equal numbers share the gradient."""
    return _extreme(precision.amin, input, dim, keepdim)


def _extreme(reduce: Any, input: ArrayLike, dim: Axes | None, keepdim: bool) -> jax.Array:
    x = as_jax("input", input)
    over = axes("dim", dim, x.ndim)
    if builtins.any(x.shape[a] == 0 for a in over):
        raise ValueError(f"input: shape {x.shape} has no numbers along {over}")
    return reduce(x, over, keepdims=keepdim)


@op
def aminmax(input: ArrayLike, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """The smallest and the largest number, over one axis or all."""
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


def _places(function: Any, input: ArrayLike, dim: int, keepdim: bool) -> Extremes:
    x = as_jax("input", input)
    if x.ndim == 0:
        axis("dim", dim, 0)
        return Extremes(x, jnp.zeros((), long()))
    at = axis("dim", dim, x.ndim)
    if x.shape[at] == 0:
        raise ValueError(f"input: shape {x.shape} has no numbers along {at}")
    where = function(x, axis=at, keepdims=True)
    values = jnp.take_along_axis(x, where, at)
    found = Extremes(values, where.astype(long()))
    return found if keepdim else Extremes(*(v.squeeze(at) for v in found))


@op
def max(input: ArrayLike, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The largest number, in each of torch's three forms.

    `max(x)` is the largest of all, `max(x, dim)` a named tuple (values, indices) along an axis,
    and `max(x, y)` with an array y the larger of each pair.

    Args:
        input: The numbers.
        dim: The axis, or the other array.
        keepdim: Whether the axis stays, with size 1.
        other: The other array by name.

    Returns:
        An array, or with an axis a tuple: nan counts as the largest, and the index is the
        first of equal numbers, as in torch on a CPU.

    >>> values, indices = max(jnp.array([[1, 3], [2, 0]]), 1)
    >>> values.tolist(), indices.tolist()
    ([3, 2], [1, 0])
    """
    return _any_form(maximum, amax, jnp.argmax, input, dim, keepdim, other)


@op
def min(input: ArrayLike, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """The smallest number, in each of torch's three forms, which are those of `max`."""
    return _any_form(minimum, amin, jnp.argmin, input, dim, keepdim, other)


def _any_form(
    pair: Any, whole: Any, place: Any, input: Any, dim: Any, keepdim: bool, other: Any
) -> Any:
    if other is None and dim is not None and not isinstance(dim, int | np.integer):
        dim, other = None, dim
    if other is not None:
        return pair(input, other)
    return whole(input) if dim is None else _places(place, input, dim, keepdim)


@op
def argmax(input: ArrayLike, dim: int | None = None, keepdim: bool = False) -> jax.Array:
    """Where the largest number stands, the first of equal ones; nan counts as the largest.

    Without an axis it is the index into the flattened array. The dtype is int64 as far as
    JAX has it.
    """
    return _place(jnp.argmax, input, dim, keepdim)


@op
def argmin(input: ArrayLike, dim: int | None = None, keepdim: bool = False) -> jax.Array:
    """Where the smallest number stands, the first of equal ones; nan counts as the smallest."""
    return _place(jnp.argmin, input, dim, keepdim)


def _place(function: Any, input: ArrayLike, dim: int | None, keepdim: bool) -> jax.Array:
    x = as_jax("input", input)
    if dim is not None:
        return _places(function, x, dim, keepdim).indices
    return function(x, keepdims=keepdim).astype(long())


@op
def all(input: ArrayLike, dim: Axes | None = None, keepdim: bool = False) -> jax.Array:
    """Whether all numbers are not 0, over axes."""
    x = as_jax("input", input)
    return jnp.all(x, axes("dim", dim, x.ndim), keepdims=keepdim)


@op
def any(input: ArrayLike, dim: Axes | None = None, keepdim: bool = False) -> jax.Array:
    """Whether one number is not 0, over axes."""
    x = as_jax("input", input)
    return jnp.any(x, axes("dim", dim, x.ndim), keepdims=keepdim)


@op
def count_nonzero(input: ArrayLike, dim: Axes | None = None) -> jax.Array:
    """How many numbers are not 0, over axes."""
    x = as_jax("input", input)
    return (x != 0).sum(axes("dim", dim, x.ndim)).astype(long())


@op
def logsumexp(input: ArrayLike, dim: Axes, keepdim: bool = False) -> jax.Array:
    """log(sum(exp(input))) over axes, without overflow."""
    x = floating("input", input)
    return special.logsumexp(x, axes("dim", dim, x.ndim), keepdims=keepdim)


@op
def norm(
    input: ArrayLike,
    p: float | str | None = "fro",
    dim: Axes | None = None,
    keepdim: bool = False,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The norm over axes, all by default: the old torch.norm, for which `linalg` has better ones.

    Args:
        input: The numbers.
        p: The order of the vector norm: a number, inf or -inf; "fro" is 2, and "nuc" the sum of
            the singular values of a matrix.
        dim: The axes.
        keepdim: Whether the axes stay, with size 1.
        dtype: The dtype to compute in.
    """
    if p == "nuc":
        from jaxnet.ops import linalg

        over = (-2, -1) if dim is None else axes("dim", dim, np.ndim(input))
        return linalg.matrix_norm(input, "nuc", over, keepdim, dtype=dtype)
    if isinstance(p, str) and p != "fro":
        raise ValueError(f"p: {p!r}; accepted are numbers, 'fro' and 'nuc'")
    order = 2.0 if p is None or isinstance(p, str) else float(p)
    return vector_norm(cast(input, dtype, widen=False), order, dim, keepdim)


def vector_norm(x: jax.Array, order: float, dim: Axes | None, keepdim: bool) -> jax.Array:
    """The norm of order `order` over axes. Its derivative at 0 is 0, as in torch."""
    needs_float("norm", x)
    over = axes("dim", dim, x.ndim)
    size = jnp.abs(x)
    if order == np.inf:
        return precision.amax(size, over, keepdims=keepdim)
    if order == -np.inf:
        return precision.amin(size, over, keepdims=keepdim)
    if order == 0:
        return (x != 0).sum(over, keepdims=keepdim).astype(size.dtype)
    if order == 1:
        return size.sum(over, keepdims=keepdim)
    if order == 2:
        squares = jnp.square(x) if is_float(x) else x.real**2 + x.imag**2
        return safe_sqrt(squares.sum(over, keepdims=keepdim))
    zero = size == 0
    powers = jnp.where(zero, 0.0 if order > 0 else jnp.inf, jnp.where(zero, 1, size) ** order)
    total = powers.astype(size.dtype).sum(over, keepdims=keepdim)
    flat = (total == 0) | (total == jnp.inf)
    end = total if order > 0 else jnp.where(total == 0, jnp.inf, 0).astype(total.dtype)
    return jnp.where(flat, end, jnp.where(flat, 1, total) ** (1.0 / order))


@op
def dist(input: ArrayLike, other: ArrayLike, p: float = 2) -> jax.Array:
    """The p-norm of input - other, over all numbers."""
    x, y = operands(("input", input), ("other", other))
    return vector_norm(x - y, float(p), None, False)
