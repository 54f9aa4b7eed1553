"""Orders along an axis: sorting, medians and quantiles, and running sums and extremes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_choice, check_integer
from jaxnet.ops._arguments import (
    axis,
    common_dtype,
    floating,
    is_float,
    long,
    needs_float,
    op,
)
from jaxnet.ops._reduction import Extremes, cast


def _picked(x: jax.Array, order: jax.Array, at: int) -> Extremes:
    if x.ndim == 0:
        return Extremes(x, jnp.zeros((), long()))
    return Extremes(jnp.take_along_axis(x, order, at), order.astype(long()))


@op
def sort(
    input: ArrayLike, dim: int = -1, descending: bool = False, stable: bool = False
) -> Extremes:
    """The numbers along an axis in order, and where they stood; nan counts as the largest.

    Equal numbers keep their order, which torch promises for stable=True only.
    """
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    if x.ndim == 0:
        return _picked(x, x, at)
    return _picked(x, jnp.argsort(x, at, stable=True, descending=descending), at)


@op
def argsort(
    input: ArrayLike, dim: int = -1, descending: bool = False, stable: bool = False
) -> jax.Array:
    """Where the numbers along an axis stand in their order, as `sort` has it."""
    return sort(input, dim, descending, stable).indices


@op
def msort(input: ArrayLike) -> jax.Array:
    """The numbers along axis 0 in ascending order."""
    return sort(input, 0).values


@op
def topk(
    input: ArrayLike, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Extremes:
    """The k largest numbers along an axis, from the largest down, and where they stand.

    Args:
        input: The numbers.
        k: How many.
        dim: The axis.
        largest: False for the smallest, from the smallest up.
        sorted: Without effect; the result is always in order.

    Returns:
        (values, indices); of equal numbers the first come first, and nan counts as the largest.
    """
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    if x.ndim == 0:
        check_integer("k", k, least=0, most=1)
        return _picked(x, x, at)
    check_integer("k", k, least=0, most=x.shape[at])
    if not largest:
        found = sort(x, at)
        return Extremes(*(lax.slice_in_dim(part, 0, k, axis=at) for part in found))
    order = lax.top_k(jnp.moveaxis(x, at, -1), k)[1]
    return _picked(x, jnp.moveaxis(order, -1, at), at)


def _kth(x: jax.Array, k: jax.Array | int, at: int, keepdim: bool) -> Extremes:
    """The number at position k of the order, which may differ along the axis."""
    if x.ndim == 0:
        return _picked(x, x, 0)
    order = jnp.argsort(x, at, stable=True)
    shape = (*x.shape[:at], 1, *x.shape[at + 1 :])
    at_k = jnp.take_along_axis(order, jnp.broadcast_to(jnp.asarray(k), shape), at)
    found = _picked(x, at_k, at)
    return found if keepdim else Extremes(*(v.squeeze(at) for v in found))


@op
def kthvalue(input: ArrayLike, k: int, dim: int = -1, keepdim: bool = False) -> Extremes:
    """The k-th smallest number along an axis, counted from 1, and where it stands."""
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    check_integer("k", k, least=1, most=x.shape[at] if x.ndim else 1)
    return _kth(x, k - 1, at, keepdim)


def _middle(input: ArrayLike, dim: int | None, keepdim: bool, skip_nan: bool) -> Any:
    x = as_jax("input", input)
    if dim is None:
        return _middle(x.ravel(), 0, False, skip_nan).values
    at = axis("dim", dim, x.ndim)
    n = x.shape[at] if x.ndim else 1
    if n == 0:
        raise ValueError(f"input: shape {x.shape} has no numbers along {at}")
    if not is_float(x) or x.ndim == 0:
        return _kth(x, (n - 1) // 2, at, keepdim)
    # nan stands at the end of the order: the middle is that of the numbers, or the first nan.
    numbers = (~jnp.isnan(x)).sum(at, keepdims=True)
    middle = jnp.maximum(numbers - 1, 0) // 2
    if not skip_nan:
        middle = jnp.where(numbers < n, numbers, middle)
    return _kth(x, middle, at, keepdim)


@op
def median(input: ArrayLike, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle number of the order: the lower of two, where NumPy and JAX take their mean.

    Returns:
        One number for the whole array, or along an axis (values, indices). A nan makes the
        median nan.

    >>> float(median(jnp.array([4.0, 1.0, 3.0, 2.0])))
    2.0
    """
    return _middle(input, dim, keepdim, skip_nan=False)


@op
def nanmedian(input: ArrayLike, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median of the numbers that are not nan."""
    return _middle(input, dim, keepdim, skip_nan=True)


@op
def mode(input: ArrayLike, dim: int = -1, keepdim: bool = False) -> Extremes:
    """The most frequent number along an axis, the smallest of several, and where it stands.

    The index is that of one of them, and may differ from torch's.
    """
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    if x.ndim == 0:
        return _picked(x, x, at)
    order = jnp.argsort(x, at, stable=True)
    ordered = jnp.take_along_axis(x, order, at)
    position = lax.broadcasted_iota(jnp.int32, x.shape, at)
    begins = (position == 0) | (ordered != jnp.roll(ordered, 1, at))
    start = lax.cummax(jnp.where(begins, position, 0), at)
    longest = jnp.argmax(position - start, axis=at, keepdims=True)
    found = _picked(x, jnp.take_along_axis(order, longest, at), at)
    return found if keepdim else Extremes(*(v.squeeze(at) for v in found))


def _quantile(
    function: Callable[..., Any],
    input: ArrayLike,
    q: ArrayLike,
    dim: int | None,
    keepdim: bool,
    interpolation: str,
) -> jax.Array:
    x = as_jax("input", input)
    needs_float("quantile", x)
    check_choice(
        "interpolation", interpolation, ("linear", "lower", "higher", "midpoint", "nearest")
    )
    parts = jnp.asarray(q, x.dtype)
    if not isinstance(parts, jax.core.Tracer) and not bool(((parts >= 0) & (parts <= 1)).all()):
        raise ValueError(f"q: {q}; accepted are numbers from 0 to 1")
    at = None if dim is None else axis("dim", dim, x.ndim)
    return function(x, parts, at, method=interpolation, keepdims=keepdim)


@op
def quantile(
    input: ArrayLike,
    q: ArrayLike,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> jax.Array:
    """The q-th quantiles along an axis, or of all numbers; nan if there is one.

    Args:
        input: The numbers, floats.
        q: One number in [0, 1], or a vector of them, which becomes the first axis.
        dim: The axis.
        keepdim: Whether the axis stays, with size 1.
        interpolation: Between two numbers: "linear", "lower", "higher", "midpoint", "nearest"; of
            two that are equally near the last takes the lower, where torch takes that at an even
            position.
    """
    return _quantile(jnp.quantile, input, q, dim, keepdim, interpolation)


@op
def nanquantile(
    input: ArrayLike,
    q: ArrayLike,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> jax.Array:
    """The q-th quantiles of the numbers that are not nan, with the arguments of `quantile`."""
    return _quantile(jnp.nanquantile, input, q, dim, keepdim, interpolation)


def _running(
    function: Callable[..., Any], input: ArrayLike, dim: int, dtype: DTypeLike | None
) -> jax.Array:
    x = cast(input, dtype)
    at = axis("dim", dim, x.ndim)
    return function(x, at) if x.ndim else x


@op
def cumsum(input: ArrayLike, dim: int, *, dtype: DTypeLike | None = None) -> jax.Array:
    """The sums of all numbers up to each along an axis. Integers are summed as int64."""
    return _running(jnp.cumsum, input, dim, dtype)


@op
def cumprod(input: ArrayLike, dim: int, *, dtype: DTypeLike | None = None) -> jax.Array:
    """The products of all numbers up to each along an axis."""
    return _running(jnp.cumprod, input, dim, dtype)


@op
def logcumsumexp(input: ArrayLike, dim: int) -> jax.Array:
    """log(cumsum(exp(input))) along an axis, without overflow."""
    return _running(lax.cumlogsumexp, floating("input", input), dim, None)


def _running_extreme(beats: Callable[..., Any], input: ArrayLike, dim: int) -> Extremes:
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    if x.ndim == 0:
        return _picked(x, x, at)

    def later(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # nan beats every number, and an equal number beats the earlier one.
        wins = beats(b[0], a[0]) | (b[0] != b[0])
        return jnp.where(wins, b[0], a[0]), jnp.where(wins, b[1], a[1])

    fixed = lax.stop_gradient(x)
    places = lax.broadcasted_iota(jnp.int32, x.shape, at)
    return _picked(x, lax.associative_scan(later, (fixed, places), axis=at)[1], at)


@op
def cummax(input: ArrayLike, dim: int) -> Extremes:
    """The largest number so far along an axis, and where it stands, the last of equal ones."""
    return _running_extreme(jnp.greater_equal, input, dim)


@op
def cummin(input: ArrayLike, dim: int) -> Extremes:
    """The smallest number so far along an axis, and where it stands, the last of equal ones."""
    return _running_extreme(jnp.less_equal, input, dim)


@op
def diff(
    input: ArrayLike,
    n: int = 1,
    dim: int = -1,
    prepend: ArrayLike | None = None,
    append: ArrayLike | None = None,
) -> jax.Array:
    """The n-th differences of neighbours along an axis.

    Args:
        input: The numbers.
        n: How often differences are taken.
        dim: The axis.
        prepend, append: Numbers that come first before or after the input along the axis.
    """
    x = as_jax("input", input)
    given = {"prepend": prepend, "append": append}
    ends = {name: as_jax(name, end) for name, end in given.items() if end is not None}
    dtype = common_dtype(x, *ends.values())
    ends = {name: end.astype(dtype) for name, end in ends.items()}
    return jnp.diff(x.astype(dtype), n, axis("dim", dim, x.ndim), **ends)


@op
def trapezoid(
    y: ArrayLike, x: ArrayLike | None = None, *, dx: float = 1.0, dim: int = -1
) -> jax.Array:
    """The integral along an axis by the trapezoidal rule.

    Args:
        y: The values.
        x: The points, a vector or an array of the shape of y; without it they are dx apart.
        dx: The distance of the points.
        dim: The axis.
    """
    values = floating("y", y)
    at = axis("dim", dim, values.ndim)
    if x is None:
        return jnp.trapezoid(values, dx=dx, axis=at)
    points = floating("x", x).astype(values.dtype)
    if points.ndim == 1:
        points = points.reshape([-1 if a == at else 1 for a in range(values.ndim)])
    n = values.shape[at]
    steps = jnp.diff(jnp.broadcast_to(points, values.shape), axis=at)
    low = lax.slice_in_dim(values, 0, n - 1, axis=at)
    high = lax.slice_in_dim(values, 1, n, axis=at)
    return ((low + high) * steps).sum(at) / np.asarray(2, values.dtype)


trapz = trapezoid
