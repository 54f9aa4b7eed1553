"""The shape of arrays: axes, parts, joins, repetitions, and orders along an axis."""

import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_integer, is_integer
from jaxnet.ops._arguments import (
    axes,
    axis,
    broadcast,
    dtype_of,
    index,
    is_traced,
    op,
    sizes,
)

Size = int | Sequence[int]
Axes = int | Sequence[int]


def _reshaped(name: str, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    known = math.prod(n for n in shape if n != -1)
    fits = x.size == known if -1 not in shape else known > 0 and x.size % known == 0
    if shape.count(-1) > 1 or min(shape, default=0) < -1 or not fits:
        raise ValueError(
            f"{name}: {shape} does not fit {x.size} numbers of shape {x.shape}; one axis may be -1"
        )
    return x.reshape(shape)


@op
def reshape(input: ArrayLike, *shape: Size) -> jax.Array:
    """The same numbers in another shape; one axis may be -1, for what is left.

    >>> reshape(jnp.arange(6), 2, -1).shape, reshape(jnp.arange(6), (3, 2)).shape
    ((2, 3), (3, 2))
    """
    return _reshaped("shape", as_jax("input", input), sizes("shape", shape))


@op
def view(input: ArrayLike, *shape: Size | DTypeLike) -> jax.Array:
    """`x.view(2, -1)`: the same as `reshape`; or, with one dtype, the bits as other numbers.

    A view of torch shares memory with its base. Arrays of JAX never change, so nothing could
    tell.
    """
    x = as_jax("input", input)
    if len(shape) == 1 and not is_integer(shape[0]) and not isinstance(shape[0], Sequence):
        return x.view(dtype_of("dtype", cast(DTypeLike, shape[0])))
    return _reshaped("shape", x, sizes("shape", shape))


@op
def view_as(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The numbers in the shape of another array."""
    return _reshaped("other", as_jax("input", input), as_jax("other", other).shape)


@op
def reshape_as(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The numbers in the shape of another array."""
    return view_as(input, other)


@op
def ravel(input: ArrayLike) -> jax.Array:
    """All numbers in one axis."""
    return as_jax("input", input).ravel()


@op
def flatten(input: ArrayLike, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
    """The axes from start_dim to end_dim, both included, as one."""
    x = as_jax("input", input)
    start, end = axis("start_dim", start_dim, x.ndim), axis("end_dim", end_dim, x.ndim)
    if start > end:
        raise ValueError(f"start_dim, end_dim: {start_dim} comes after {end_dim}")
    merged = math.prod(x.shape[start : end + 1])
    return x.reshape(*x.shape[:start], merged, *x.shape[end + 1 :])


@op
def unflatten(input: ArrayLike, dim: int, sizes: Sequence[int]) -> jax.Array:
    """One axis as several; one of the sizes may be -1."""
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    inner = _reshaped("sizes", jnp.empty(x.shape[at], bool), tuple(sizes)).shape
    return x.reshape(*x.shape[:at], *inner, *x.shape[at + 1 :])


@op
def squeeze(input: ArrayLike, dim: Axes | None = None) -> jax.Array:
    """The array without axes of size 1: all of them, or those of `dim`; others stay."""
    x = as_jax("input", input)
    among = range(x.ndim) if dim is None else (axes("dim", dim, x.ndim) if dim != () else ())
    return x.squeeze(tuple(a for a in among if x.shape[a] == 1))


@op
def unsqueeze(input: ArrayLike, dim: int) -> jax.Array:
    """The array with a new axis of size 1 at position dim."""
    x = as_jax("input", input)
    return jnp.expand_dims(x, axis("dim", dim, x.ndim + 1))


@op
def permute(input: ArrayLike, *dims: Size) -> jax.Array:
    """The axes in another order, all of them named."""
    x = as_jax("input", input)
    order = sizes("dims", dims)
    if len(order) != x.ndim:
        raise ValueError(f"dims: {order}; accepted are the {x.ndim} axes of shape {x.shape}")
    return x.transpose(axes("dims", order, x.ndim))


@op
def transpose(input: ArrayLike, dim0: int, dim1: int) -> jax.Array:
    """Two axes exchanged."""
    x = as_jax("input", input)
    a, b = axis("dim0", dim0, x.ndim), axis("dim1", dim1, x.ndim)
    return jnp.swapaxes(x, a, b) if x.ndim else x


swapaxes = swapdims = transpose


@op
def t(input: ArrayLike) -> jax.Array:
    """The transpose of a matrix; vectors stay as they are."""
    x = as_jax("input", input)
    if x.ndim > 2:
        raise ValueError(f"t: shape {x.shape}; accepted are at most two axes; see `transpose`")
    return x.T


@op
def adjoint(input: ArrayLike) -> jax.Array:
    """The last two axes exchanged, and complex numbers conjugated."""
    return jnp.conj(transpose(input, -2, -1))


@op
def movedim(input: ArrayLike, source: Axes, destination: Axes) -> jax.Array:
    """Axes moved to other positions; the others keep their order."""
    x = as_jax("input", input)
    return jnp.moveaxis(x, axes("source", source, x.ndim), axes("destination", destination, x.ndim))


moveaxis = movedim


@op
def expand(input: ArrayLike, *size: Size) -> jax.Array:
    """Axes of size 1 repeated to a larger size, and new axes in front; -1 keeps a size."""
    x = as_jax("input", input)
    wanted = sizes("size", size)
    new = len(wanted) - x.ndim
    if new >= 0:
        own = (None,) * new + x.shape
        shape = tuple(o if w == -1 else w for w, o in zip(wanted, own, strict=True))
        if all(s is not None and o in (None, 1, s) for s, o in zip(shape, own, strict=True)):
            return jnp.broadcast_to(x, shape)
    raise ValueError(
        f"size: {wanted} does not fit shape {x.shape}; only axes of size 1 grow, -1 keeps an axis, "
        "and new axes stand in front"
    )


@op
def expand_as(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The array expanded to the shape of another."""
    return expand(input, as_jax("other", other).shape)


@op
def broadcast_to(input: ArrayLike, size: Sequence[int]) -> jax.Array:
    """The array expanded to a shape."""
    return expand(input, size)


@op
def broadcast_tensors(*tensors: ArrayLike) -> tuple[jax.Array, ...]:
    """Arrays expanded to their common shape."""
    names = [f"tensors[{i}]" for i in range(len(tensors))]
    return tuple(broadcast(names, [as_jax(n, x) for n, x in zip(names, tensors, strict=True)]))


@op
def broadcast_shapes(*shapes: Size) -> tuple[int, ...]:
    """The common shape of several shapes."""
    return np.broadcast_shapes(*shapes)


@op
def repeat(input: ArrayLike, *repeats: Size) -> jax.Array:
    """The array `repeats` times along each axis, as `x.repeat(2, 3)`; new axes come in front."""
    x = as_jax("input", input)
    counts = sizes("repeats", repeats)
    if len(counts) < x.ndim or min(counts, default=0) < 0:
        raise ValueError(f"repeats: {counts}; accepted is a number for each axis of {x.shape}")
    return jnp.tile(x, counts)


@op
def tile(input: ArrayLike, *dims: Size) -> jax.Array:
    """The array `dims` times along its last axes; new axes come in front."""
    return jnp.tile(as_jax("input", input), sizes("dims", dims))


@op
def repeat_interleave(
    input: ArrayLike, repeats: ArrayLike, dim: int | None = None, *, output_size: int | None = None
) -> jax.Array:
    """Each entry along an axis repeated on the spot.

    Args:
        input: The array.
        repeats: How often, one number or one for each entry.
        dim: The axis; None for the numbers of the flattened array.
        output_size: The sum of the repeats, which a compiled function has to be told when
            `repeats` is an array that it computes.

    Raises:
        ValueError: The repeats are not known when the function is compiled.
    """
    x = as_jax("input", input)
    if is_traced(repeats) and output_size is None:
        raise ValueError(
            "repeats: their sum is not known in a compiled function; give output_size="
        )
    x, at = (x.ravel(), 0) if dim is None else (x, axis("dim", dim, x.ndim))
    counts = repeats if is_traced(repeats) else np.asarray(repeats)
    return jnp.repeat(x, counts, at, total_repeat_length=output_size)


@op
def narrow(input: ArrayLike, dim: int, start: ArrayLike, length: int) -> jax.Array:
    """`length` entries of an axis from `start` on.

    In a compiled function, a start that it computes and that leads beyond the end is moved
    back until the part fits.
    """
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    n = x.shape[at]
    check_integer("length", length, least=0, most=n)
    if is_traced(start):
        return lax.dynamic_slice_in_dim(x, jnp.asarray(start), length, at)
    first = int(np.asarray(start))
    if not -n <= first <= n - length:
        raise ValueError(f"start: {first} with length {length} leaves the axis of {n}")
    return lax.slice_in_dim(x, first % max(n, 1), first % max(n, 1) + length, axis=at)


@op
def select(input: ArrayLike, dim: int, index: ArrayLike) -> jax.Array:
    """One entry of an axis, without the axis: input[:, index] for dim 1."""
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    return jnp.take(x, _one(index, x.shape[at]), axis=at, mode="fill")


def _one(value: ArrayLike, size: int) -> jax.Array:
    return index("index", value, size, negative=True)


@op
def unfold(input: ArrayLike, dimension: int, size: int, step: int) -> jax.Array:
    """Windows along an axis, `x.unfold(dimension, size, step)`.

    Returns:
        The array with the number of windows on axis `dimension`, and a new last axis that
        holds each window.

    >>> unfold(jnp.arange(5), 0, 3, 2).tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    x = as_jax("input", input)
    at = axis("dimension", dimension, x.ndim)
    check_integer("size", size, least=0, most=x.shape[at])
    check_integer("step", step, least=1)
    starts = np.arange(0, x.shape[at] - size + 1, step)
    rows = starts[:, None] + np.arange(size)
    return jnp.moveaxis(jnp.take(x, rows, axis=at), at + 1, -1)


@op
def roll(input: ArrayLike, shifts: Size, dims: Axes | None = None) -> jax.Array:
    """The entries moved along axes; what leaves at one end comes in at the other."""
    x = as_jax("input", input)
    return jnp.roll(x, shifts, None if dims is None else axes("dims", dims, x.ndim))


@op
def flip(input: ArrayLike, *dims: Axes) -> jax.Array:
    """The order along axes reversed."""
    x = as_jax("input", input)
    return jnp.flip(x, axes("dims", sizes("dims", dims), x.ndim)) if sizes("dims", dims) else x


@op
def fliplr(input: ArrayLike) -> jax.Array:
    """The order along axis 1 reversed."""
    return flip(input, 1)


@op
def flipud(input: ArrayLike) -> jax.Array:
    """The order along axis 0 reversed."""
    return flip(input, 0)


@op
def rot90(input: ArrayLike, k: int = 1, dims: Sequence[int] = (0, 1)) -> jax.Array:
    """The plane of two axes turned k times by 90 degrees, from the first axis to the second."""
    first, second = axes("dims", tuple(dims), np.ndim(input))
    return jnp.rot90(as_jax("input", input), k, (first, second))


@op
def atleast_1d(input: ArrayLike) -> jax.Array:
    """The array with at least one axis."""
    return jnp.atleast_1d(as_jax("input", input))


@op
def atleast_2d(input: ArrayLike) -> jax.Array:
    """The array with at least two axes; new ones come in front."""
    return jnp.atleast_2d(as_jax("input", input))


@op
def atleast_3d(input: ArrayLike) -> jax.Array:
    """The array with at least three axes."""
    return jnp.atleast_3d(as_jax("input", input))


@op
def size(input: ArrayLike, dim: int | None = None) -> Any:
    """The shape, or the size of one axis: `x.size()` and `x.size(0)`."""
    shape = np.shape(input)
    return shape if dim is None else shape[axis("dim", dim, len(shape))]


@op
def dim(input: ArrayLike) -> int:
    """The number of axes: `x.dim()`."""
    return np.ndim(input)


@op
def numel(input: ArrayLike) -> int:
    """The number of numbers."""
    return int(np.size(input))


@op
def detach(input: ArrayLike) -> jax.Array:
    """The array as a constant, through which no gradient flows: `x.detach()`."""
    return lax.stop_gradient(as_jax("input", input))


@op
def clone(input: ArrayLike) -> jax.Array:
    """The array itself, because arrays of JAX never change."""
    return as_jax("input", input)


@op
def contiguous(input: ArrayLike) -> jax.Array:
    """The array itself, because XLA chooses how it lies in memory."""
    return as_jax("input", input)
