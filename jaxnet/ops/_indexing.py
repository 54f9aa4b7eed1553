"""Reading and writing by index or mask, and what counts and finds.

An index that is out of range is refused wherever its value is known, as in torch. In a
compiled function it is not: reading gives nan (the least integer, False), and nothing is written.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_choice, check_integer
from jaxnet.ops._arguments import (
    axis,
    broadcast,
    floating,
    is_inexact,
    is_traced,
    long,
    mask_of,
    op,
)
from jaxnet.ops._arguments import (
    index as index_of,
)


def _as_dtype(name: str, value: ArrayLike, dtype: Any) -> jax.Array:
    """A value in an array's dtype, which has to hold it."""
    x = as_jax(name, value)
    if isinstance(value, int | float) and jnp.issubdtype(dtype, jnp.floating):
        if np.isfinite(value) and abs(value) > float(jnp.finfo(dtype).max):
            raise ValueError(f"{name}: {value} does not fit {dtype}; give ops.finfo(x.dtype).min")
    elif isinstance(value, float) and not float(value).is_integer():
        raise ValueError(f"{name}: {value} has no place among {dtype}; give a whole number")
    return x.astype(dtype)


def _fits(input: jax.Array, dim: int, index: jax.Array, name: str) -> int:
    """Checks the shapes of gather and scatter, and gives the axis."""
    at = axis("dim", dim, input.ndim)
    others = [a for a in range(input.ndim) if a != at]
    if index.ndim != input.ndim or any(index.shape[a] > input.shape[a] for a in others):
        raise ValueError(
            f"index: shape {index.shape}; accepted for {name} of shape {input.shape} are "
            f"{input.ndim} axes, none larger except axis {at}"
        )
    return at


@op
def gather(input: ArrayLike, dim: int, index: ArrayLike) -> jax.Array:
    """Numbers picked along an axis: `out[i, j] = input[index[i, j], j]` for dim 0.

    Args:
        input: The array.
        dim: The axis.
        index: Integers with as many axes as the input, and no larger except on `dim`; the
            result has this shape.

    Raises:
        ValueError: The shapes do not fit, or an index is negative or too large.

    >>> gather(jnp.array([[1, 2], [3, 4]]), 1, jnp.array([[0, 0], [1, 0]])).tolist()
    [[1, 1], [4, 3]]
    """
    x = as_jax("input", input)
    at = _fits(x, dim, as_jax("index", index), "input")
    if x.ndim == 0:
        return jnp.where(index_of("index", index, 1) == 0, x, x)
    found = index_of("index", index, x.shape[at])
    # Along the other axes gather takes only as much of the input as the index has.
    part = x[tuple(slice(None if a == at else n) for a, n in enumerate(found.shape))]
    return jnp.take_along_axis(part, found, at, mode="fill")


@op
def take_along_dim(input: ArrayLike, indices: ArrayLike, dim: int | None = None) -> jax.Array:
    """Numbers picked along an axis by indices, as `argsort` gives them; -1 is the last.

    The shapes are broadcast except along the axis. Without an axis the input is flattened.
    """
    x = as_jax("input", input)
    if dim is None:
        flat = index_of("indices", indices, x.size, negative=True).ravel()
        return jnp.take(x.ravel(), flat, mode="fill")
    at = axis("dim", dim, x.ndim)
    found = index_of("indices", indices, x.shape[at], negative=True)
    return jnp.take_along_axis(x, found, at, mode="fill")


@op
def take(input: ArrayLike, index: ArrayLike) -> jax.Array:
    """Numbers of the flattened input; -1 is the last. The result has the shape of the index."""
    x = as_jax("input", input).ravel()
    return jnp.take(x, index_of("index", index, x.size, negative=True), mode="fill")


@op
def index_select(input: ArrayLike, dim: int, index: ArrayLike) -> jax.Array:
    """Entries of an axis in the order of an index vector: input[:, index] for dim 1."""
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    found = jnp.atleast_1d(index_of("index", index, x.shape[at]))
    return jnp.take(x, found, at, mode="fill")


def _written(input: ArrayLike, dim: int, index: ArrayLike, source: ArrayLike, how: str) -> Any:
    """input with entries of an axis set to those of a source, or with them added."""
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    found = jnp.atleast_1d(index_of("index", index, x.shape[at]))
    values = _as_dtype("source", source, x.dtype)
    if values.ndim and as_jax("source", source).dtype != x.dtype:
        raise TypeError(
            f"source: {as_jax('source', source).dtype}; accepted is the dtype of input, {x.dtype}"
        )
    shape = (*x.shape[:at], len(found), *x.shape[at + 1 :])
    if values.ndim and values.shape != shape:
        raise ValueError(f"source: shape {values.shape}; accepted for this index is {shape}")
    slices = (*(slice(None),) * at, found)
    return getattr(x.at[slices], how)(jnp.broadcast_to(values, shape), mode="drop")


@op
def index_add(
    input: ArrayLike, dim: int, index: ArrayLike, source: ArrayLike, *, alpha: ArrayLike = 1
) -> jax.Array:
    """alpha * source added to entries of an axis; those of an index that repeats add up."""
    values = as_jax("source", source)
    return _written(input, dim, index, values * jnp.asarray(alpha, values.dtype), "add")


@op
def index_copy(input: ArrayLike, dim: int, index: ArrayLike, source: ArrayLike) -> jax.Array:
    """Entries of an axis replaced by those of a source."""
    return _written(input, dim, index, source, "set")


@op
def index_fill(input: ArrayLike, dim: int, index: ArrayLike, value: ArrayLike) -> jax.Array:
    """Entries of an axis replaced by one number; -1 is the last entry."""
    size = np.shape(input)[axis("dim", dim, np.ndim(input))]
    found = index_of("index", index, size, negative=True)
    # What is out of range already was refused or is to be dropped: it stays `size`.
    x, at = as_jax("input", input), axis("dim", dim, np.ndim(input))
    slices = (*(slice(None),) * at, jnp.atleast_1d(found))
    return x.at[slices].set(_as_dtype("value", value, x.dtype), mode="drop")


@op
def select_scatter(input: ArrayLike, src: ArrayLike, dim: int, index: int) -> jax.Array:
    """The array with one entry of an axis replaced: x[:, index] = src for dim 1."""
    x, at = as_jax("input", input), axis("dim", dim, np.ndim(input))
    found = index_of("index", index, x.shape[at], negative=True)
    slices = (*(slice(None),) * at, found)
    return x.at[slices].set(_as_dtype("src", src, x.dtype), mode="drop")


def _scatter(
    input: ArrayLike, dim: int, index: ArrayLike, src: ArrayLike
) -> tuple[jax.Array, tuple[jax.Array, ...], jax.Array]:
    """The input, the coordinates that are written to, and what is written to each."""
    x = as_jax("input", input)
    at = _fits(x, dim, as_jax("index", index), "input")
    found = index_of("index", index, x.shape[at] if x.ndim else 1)
    values = as_jax("src", src)
    if np.ndim(src) or not isinstance(src, int | float):
        if values.ndim != found.ndim or any(
            n > m for n, m in zip(found.shape, values.shape, strict=True)
        ):
            raise ValueError(f"src: shape {values.shape}; accepted is at least {found.shape}")
        if values.dtype != x.dtype:
            raise TypeError(f"src: {values.dtype}; accepted is the dtype of input, {x.dtype}")
        values = values[tuple(slice(n) for n in found.shape)]
    else:
        values = jnp.broadcast_to(_as_dtype("src", src, x.dtype), found.shape)
    grid = jnp.meshgrid(*(jnp.arange(n) for n in found.shape), indexing="ij")
    return x, tuple(found if a == at else g for a, g in enumerate(grid)), values


@op
def scatter(
    input: ArrayLike, dim: int, index: ArrayLike, src: ArrayLike, *, reduce: str | None = None
) -> jax.Array:
    """Numbers written along an axis: `out[index[i, j], j] = src[i, j]` for dim 0.

    Where an index repeats, one of the numbers is written, and which one is not defined.

    Args:
        input: The array that is written to.
        dim: The axis.
        index: Integers with as many axes as the input.
        src: What is written: an array of at least the index's shape, or one number.
        reduce: "add" or "multiply" combines with what is there; None replaces it.
    """
    check_choice("reduce", reduce, (None, "add", "multiply"))
    x, where, values = _scatter(input, dim, index, src)
    how = {None: "set", "add": "add", "multiply": "multiply"}[reduce]
    return getattr(x.at[where], how)(values, mode="drop")


@op
def scatter_add(input: ArrayLike, dim: int, index: ArrayLike, src: ArrayLike) -> jax.Array:
    """Numbers added along an axis: `out[index[i, j], j] += src[i, j]` for dim 0."""
    x, where, values = _scatter(input, dim, index, src)
    return x.at[where].add(values, mode="drop")


@op
def scatter_reduce(
    input: ArrayLike,
    dim: int,
    index: ArrayLike,
    src: ArrayLike,
    reduce: str,
    *,
    include_self: bool = True,
) -> jax.Array:
    """Numbers combined along an axis with what is there.

    Args:
        input: The array that is written to.
        dim: The axis.
        index: Integers with as many axes as the input.
        src: What is combined, an array of at least the index's shape.
        reduce: "sum", "prod", "mean", "amax" or "amin". JAX has no gradient of "prod".
        include_self: Whether the number that is there takes part; where nothing is written it
            stays in any case.
    """
    hows = {"sum": "add", "prod": "multiply", "mean": "add", "amax": "max", "amin": "min"}
    check_choice("reduce", reduce, hows)
    x, where, values = _scatter(input, dim, index, src)
    start = x
    if not include_self:
        if is_inexact(x):
            least, most = -jnp.inf, jnp.inf
        else:
            least, most = jnp.iinfo(x.dtype).min, jnp.iinfo(x.dtype).max
        neutral = {"prod": 1, "amax": least, "amin": most}.get(reduce, 0)
        start = x.at[where].set(jnp.asarray(neutral, x.dtype), mode="drop")
    result = getattr(start.at[where], hows[reduce])(values, mode="drop")
    if reduce == "mean":
        counts = jnp.full(x.shape, int(include_self), long()).at[where].add(1, mode="drop")
        divisor = jnp.maximum(counts, 1).astype(x.dtype)
        result = result / divisor if is_inexact(x) else jnp.floor_divide(result, divisor)
    return result


@op
def masked_fill(input: ArrayLike, mask: ArrayLike, value: ArrayLike) -> jax.Array:
    """The array with one number where the mask is True; the shapes are broadcast.

    Raises:
        TypeError: The mask is not of booleans.
        ValueError: The number does not fit the array's dtype, which the result keeps.
    """
    x, keep = as_jax("input", input), mask_of("mask", mask)
    if np.ndim(value):
        raise ValueError(f"value: shape {np.shape(value)}; accepted is one number; see `where`")
    keep, x = broadcast(("mask", "input"), [keep, x])
    return jnp.where(keep, _as_dtype("value", value, x.dtype), x)


def _sorted_positions(
    sequence: ArrayLike, values: ArrayLike, out_int32: bool, side: str, name: str
) -> jax.Array:
    edges, x = as_jax(name, sequence), as_jax("input", values)
    dtype = jnp.int32 if out_int32 else long()
    if edges.dtype != x.dtype:
        with jax.numpy_dtype_promotion("standard"):
            kind = jnp.result_type(edges, x)
        edges, x = edges.astype(kind), x.astype(kind)
    if edges.ndim == 1:
        return jnp.searchsorted(edges, x, side=side).astype(dtype)
    if edges.shape[:-1] != x.shape[:-1]:
        raise ValueError(
            f"{name}: shape {edges.shape}; accepted are a vector, or the axes of input, "
            f"{x.shape}, except the last"
        )
    find = jax.vmap(lambda e, v: jnp.searchsorted(e, v, side=side))
    rows = find(edges.reshape(-1, edges.shape[-1]), x.reshape(-1, x.shape[-1]))
    return rows.reshape(x.shape).astype(dtype)


@op
def searchsorted(
    sorted_sequence: ArrayLike,
    input: ArrayLike,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: ArrayLike | None = None,
) -> jax.Array:
    """Where numbers would have to be inserted into an ascending sequence.

    Args:
        sorted_sequence: The sequence, or one for each row of the input.
        input: The numbers.
        out_int32: Whether the result is int32; otherwise it is int64 as far as JAX has it.
        right: Whether equal numbers are passed over.
        side: "left" or "right", the same in words.
        sorter: The order that sorts the sequence, if it is not sorted.
    """
    check_choice("side", side, (None, "left", "right"))
    if right and side == "left":
        raise ValueError("side: 'left' contradicts right=True")
    sequence = sorted_sequence if sorter is None else take_along_dim(sorted_sequence, sorter, -1)
    where = "right" if right else (side or "left")
    return _sorted_positions(sequence, input, out_int32, where, "sorted_sequence")


@op
def bucketize(
    input: ArrayLike, boundaries: ArrayLike, *, out_int32: bool = False, right: bool = False
) -> jax.Array:
    """The number of the bucket of each number between ascending boundaries.

    Bucket i holds boundaries[i-1] < x <= boundaries[i], or with `right` the same with <= first.
    """
    side = "right" if right else "left"
    return _sorted_positions(boundaries, input, out_int32, side, "boundaries")


@op
def bincount(
    input: ArrayLike,
    weights: ArrayLike | None = None,
    minlength: int = 0,
    *,
    length: int | None = None,
) -> jax.Array:
    """How often each number from 0 on occurs in a vector of integers, or the sum of its weights.

    Args:
        input: The integers, at least 0.
        weights: A weight for each.
        minlength: The least length of the result.
        length: The length of the result, which a compiled function has to be told, and which
            torch does not have; larger numbers are left out.

    Raises:
        ValueError: A number is negative, or the length is not known when the function is
            compiled.
    """
    x = as_jax("input", input)
    if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(f"input: {x.dtype} of shape {x.shape}; accepted is a vector of integers")
    if length is None:
        if is_traced(x):
            raise ValueError(
                "bincount: the length of the result depends on the largest number, which a "
                "compiled function does not know; give length="
            )
        length = max(int(x.max()) + 1 if x.size else 0, minlength)
    check_integer("length", length, least=0)
    if not is_traced(x) and x.size and int(x.min()) < 0:
        raise ValueError(f"input: {int(x.min())}; accepted are numbers of at least 0")
    kept = jnp.where((x >= 0) & (x < length), x, length)
    if weights is None:
        return jnp.zeros(length, long()).at[kept].add(1, mode="drop")
    given = floating("weights", weights)
    return jnp.zeros(length, given.dtype).at[kept].add(given, mode="drop")


@op
def histc(input: ArrayLike, bins: int = 100, min: float = 0, max: float = 0) -> jax.Array:
    """How many numbers fall into each of so many bins of one width between min and max.

    With min and max both 0 the limits are those of the numbers. Numbers outside are left out,
    and max belongs to the last bin.
    """
    check_integer("bins", bins, least=1)
    x = as_jax("input", input).ravel()
    low, high = jnp.asarray(min, x.dtype), jnp.asarray(max, x.dtype)
    if min == max:
        spread = min == 0 and x.size > 0
        low, high = (x.min(), x.max()) if spread else (low, high)
        same = low == high
        low, high = jnp.where(same, low - 1, low), jnp.where(same, high + 1, high)
    elif min > max:
        raise ValueError(f"min, max: {min} exceeds {max}")
    place = jnp.floor((x - low) * bins / (high - low))
    inside = (x >= low) & (x <= high)
    slot = jnp.where(inside, jnp.minimum(place, bins - 1), bins).astype(jnp.int32)
    return jnp.zeros(bins, long()).at[slot].add(1, mode="drop").astype(x.dtype)


@op
def unravel_index(indices: ArrayLike, shape: Sequence[int]) -> tuple[jax.Array, ...]:
    """The coordinates in a shape of indices into its flattened numbers."""
    return tuple(jnp.unravel_index(as_jax("indices", indices), tuple(shape)))


@op
def masked_scatter(input: ArrayLike, mask: ArrayLike, source: ArrayLike) -> jax.Array:
    """The array with the source's numbers, in order, where the mask is True.

    The mask is broadcast to the input, and the source has to have as many numbers; in a
    compiled function its last number is repeated if it has fewer.

    Raises:
        TypeError: The mask is not of booleans.
        ValueError: The source has too few numbers.
    """
    x, fill = as_jax("input", input), as_jax("source", source).ravel()
    keep = jnp.broadcast_to(mask_of("mask", mask), x.shape)
    if not is_traced(keep) and int(keep.sum()) > fill.size:
        raise ValueError(f"source: {fill.size} numbers for {int(keep.sum())} True in the mask")
    order = jnp.cumsum(keep.ravel()) - 1
    values = fill[jnp.clip(order, 0, max(fill.size - 1, 0))].reshape(x.shape)
    return jnp.where(keep, values.astype(x.dtype), x)
