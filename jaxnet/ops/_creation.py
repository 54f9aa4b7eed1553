"""New arrays: from values, constant, in steps, and grids of indices."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxnet._arrays import as_jax, as_numpy, check_fits, is_array
from jaxnet._checks import check_choice, check_integer, is_integer
from jaxnet.ops._arguments import dtype_of, long, new_shape, op

Size = int | Sequence[int]
"""One axis of a shape, or a whole shape."""


@op
def tensor(data: Any, dtype: DTypeLike | None = None) -> jax.Array:
    """An array from numbers, nested lists or an array.

    Without a dtype, floats of Python become float32 and integers int64 (int32 where JAX has
    32 bits only). An array keeps its dtype.

    Raises:
        ValueError: An integer does not fit, or the dtype needs jax_enable_x64.
    """
    kind = dtype_of("dtype", dtype)
    if isinstance(data, jax.Array):
        return data if kind is None else data.astype(kind)
    if is_array(data):
        host = as_numpy(data)
    elif any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(data)):
        return tensor(jnp.asarray(data), dtype)
    else:
        host = np.asarray(data)
        if kind is None:
            defaults = {"f": np.dtype(np.float32), "c": np.dtype(np.complex64), "i": long()}
            kind = defaults.get(host.dtype.kind)
    if kind is None or kind.kind in "iu":
        check_fits("data", host)
    return jnp.asarray(host, kind)


@op
def as_tensor(data: Any, dtype: DTypeLike | None = None) -> jax.Array:
    """The same as `tensor`; arrays of JAX are never copied, because they never change."""
    return tensor(data, dtype)


@op
def from_numpy(ndarray: Any) -> jax.Array:
    """An array of JAX from NumPy's. It is a copy: later changes of NumPy's are not seen."""
    return tensor(ndarray)


def _float_or(dtype: DTypeLike | None) -> np.dtype[Any]:
    return dtype_of("dtype", dtype) or np.dtype(np.float32)


@op
def zeros(*size: Size, dtype: DTypeLike | None = None) -> jax.Array:
    """An array of zeros, float32 unless a dtype is given.

    >>> zeros(2, 3).shape, zeros((2, 3), dtype=jnp.int8).dtype
    ((2, 3), dtype('int8'))
    """
    return jnp.zeros(new_shape("size", size), _float_or(dtype))


@op
def ones(*size: Size, dtype: DTypeLike | None = None) -> jax.Array:
    """An array of ones, float32 unless a dtype is given."""
    return jnp.ones(new_shape("size", size), _float_or(dtype))


@op
def empty(*size: Size, dtype: DTypeLike | None = None) -> jax.Array:
    """An array to be replaced: zeros, where torch leaves what the memory held."""
    return jnp.zeros(new_shape("size", size), _float_or(dtype))


@op
def full(size: Size, fill_value: ArrayLike, *, dtype: DTypeLike | None = None) -> jax.Array:
    """An array of one number, whose dtype is that of the number unless one is given."""
    return jnp.broadcast_to(tensor(fill_value, dtype), new_shape("size", (size,)))


def _like(input: ArrayLike, value: Any, dtype: DTypeLike | None, *size: Size) -> jax.Array:
    x = as_jax("input", input)
    shape = new_shape("size", size) if size else x.shape
    return jnp.full(shape, value, dtype_of("dtype", dtype) or x.dtype)


@op
def zeros_like(input: ArrayLike, *, dtype: DTypeLike | None = None) -> jax.Array:
    """Zeros of the shape and dtype of an array."""
    return _like(input, 0, dtype)


@op
def ones_like(input: ArrayLike, *, dtype: DTypeLike | None = None) -> jax.Array:
    """Ones of the shape and dtype of an array."""
    return _like(input, 1, dtype)


@op
def empty_like(input: ArrayLike, *, dtype: DTypeLike | None = None) -> jax.Array:
    """Zeros of the shape and dtype of an array."""
    return _like(input, 0, dtype)


@op
def full_like(
    input: ArrayLike, fill_value: ArrayLike, *, dtype: DTypeLike | None = None
) -> jax.Array:
    """One number in the shape and dtype of an array."""
    return _like(input, fill_value, dtype)


@op
def new_zeros(input: ArrayLike, *size: Size, dtype: DTypeLike | None = None) -> jax.Array:
    """Zeros of another shape with the dtype of an array: `x.new_zeros(2, 3)`."""
    return _like(input, 0, dtype, *(size or ((),)))


@op
def new_ones(input: ArrayLike, *size: Size, dtype: DTypeLike | None = None) -> jax.Array:
    """Ones of another shape with the dtype of an array: `x.new_ones(2, 3)`."""
    return _like(input, 1, dtype, *(size or ((),)))


@op
def new_empty(input: ArrayLike, *size: Size, dtype: DTypeLike | None = None) -> jax.Array:
    """Zeros of another shape with the dtype of an array: `x.new_empty(2, 3)`."""
    return _like(input, 0, dtype, *(size or ((),)))


@op
def new_full(
    input: ArrayLike, size: Size, fill_value: ArrayLike, *, dtype: DTypeLike | None = None
) -> jax.Array:
    """One number in another shape with the dtype of an array: `x.new_full((2, 3), 1.0)`."""
    return _like(input, fill_value, dtype, size)


@op
def new_tensor(input: ArrayLike, data: Any, *, dtype: DTypeLike | None = None) -> jax.Array:
    """An array from data with the dtype of another array: `x.new_tensor([1, 2])`."""
    return tensor(data, dtype if dtype is not None else as_jax("input", input).dtype)


def _host(name: str, value: Any) -> float | int:
    """A number that decides about a shape, which has to be known before the program runs."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name}: its value is not known in a compiled function, where shapes are; give a "
            "number of Python, such as x.shape[0]"
        )
    return value if isinstance(value, int | float) else np.asarray(value).item()


@op
def arange(
    start: float, end: float | None = None, step: float = 1, *, dtype: DTypeLike | None = None
) -> jax.Array:
    """The numbers from start up to, and without, end.

    `arange(end)` starts at 0. Three integers give int64 (int32 where JAX has 32 bits only), and
    a float among them float32. Floats are computed in float64 and rounded once, as torch does.

    Raises:
        ValueError: The step is 0, or leads away from end.

    >>> arange(1, 2.5, 0.5).tolist()
    [1.0, 1.5, 2.0]
    """
    first, last = (0, start) if end is None else (start, end)
    a, b, c = (_host(n, v) for n, v in (("start", first), ("end", last), ("step", step)))
    if c == 0:
        raise ValueError("step: 0; accepted is any other number")
    if (b - a) / c < 0:
        raise ValueError(f"step: {c} leads from {a} away from {b}; change its sign")
    whole = all(is_integer(v) for v in (a, b, c))
    kind = dtype_of("dtype", dtype) or (long() if whole else np.dtype(np.float32))
    # torch counts the numbers of an integer dtype after it has cut off the fractions.
    if kind.kind in "iu":
        a, b, c = int(a), int(b), int(c)
        if c == 0:
            raise ValueError(f"step: {step} is 0 as an integer of {kind}")
        count = -((a - b) // c)
        check_fits("end", np.asarray([a, a + c * max(count - 1, 0)]))
        return jnp.arange(count, dtype=kind) * np.asarray(c, kind) + np.asarray(a, kind)
    count = math.ceil((b - a) / c)
    return jnp.asarray(a + np.arange(count, dtype=np.float64) * c, kind)


def _steps(start: Any, end: Any, steps: int, dtype: np.dtype[Any]) -> np.ndarray:
    """torch's evenly spaced numbers: the second half is counted from the end."""
    check_integer("steps", steps, least=0)
    first, last = _host("start", start), _host("end", end)
    if steps == 1:
        return np.asarray([first])
    kind = np.dtype(np.float32 if dtype.itemsize <= 4 and dtype.kind != "i" else np.float64)
    # torch computes half precision in float32 and integers in float64.
    if dtype.kind in "iu":
        first, last, kind = int(first), int(last), np.dtype(np.float64)
    ends = np.asarray([first, last], kind)
    step = (ends[1:] - ends[:1]) / np.asarray(max(steps - 1, 1), kind)
    i = np.arange(steps)
    late = (steps - 1 - i).astype(kind)
    return np.where(i < steps // 2, ends[:1] + step * i.astype(kind), ends[1:] - step * late)


@op
def linspace(start: float, end: float, steps: int, *, dtype: DTypeLike | None = None) -> jax.Array:
    """Evenly spaced numbers from start to end, both included; float32 unless a dtype is given.

    Args:
        start: The first number.
        end: The last number.
        steps: How many numbers.
        dtype: The dtype. Integers are cut off.
    """
    kind = _float_or(dtype)
    return jnp.asarray(_steps(start, end, steps, kind).astype(kind))


@op
def logspace(
    start: float, end: float, steps: int, base: float = 10.0, *, dtype: DTypeLike | None = None
) -> jax.Array:
    """base to the powers `linspace(start, end, steps)`; float32 unless a dtype is given."""
    kind = _float_or(dtype)
    powers = _steps(start, end, steps, kind).astype(np.float64)
    return jnp.asarray((np.float64(base) ** powers).astype(kind))


@op
def eye(n: int, m: int | None = None, *, dtype: DTypeLike | None = None) -> jax.Array:
    """Ones on the diagonal of an (n, m) array, where m = n by default."""
    check_integer("n", n, least=0)
    return jnp.eye(n, m, dtype=_float_or(dtype))


def _triangle(dtype: DTypeLike | None, mask: np.ndarray) -> jax.Array:
    return jnp.asarray(np.stack(np.nonzero(mask)), dtype_of("dtype", dtype) or long())


@op
def tril_indices(
    row: int, col: int, offset: int = 0, *, dtype: DTypeLike | None = None
) -> jax.Array:
    """The rows and columns of a (row, col) array on and below a diagonal, shape (2, count)."""
    return _triangle(dtype, np.tri(row, col, offset, dtype=bool))


@op
def triu_indices(
    row: int, col: int, offset: int = 0, *, dtype: DTypeLike | None = None
) -> jax.Array:
    """The rows and columns of a (row, col) array on and above a diagonal, shape (2, count)."""
    return _triangle(dtype, ~np.tri(row, col, offset - 1, dtype=bool))


def _listed(tensors: Sequence[Any]) -> list[jax.Array]:
    """Arrays given one by one or as one sequence."""
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else tensors
    return [as_jax(f"tensors[{i}]", x) for i, x in enumerate(given)]


@op
def meshgrid(
    *tensors: ArrayLike | Sequence[ArrayLike], indexing: str = "ij"
) -> tuple[jax.Array, ...]:
    """A grid of coordinates: array i has the i-th vector's numbers along axis i.

    Args:
        *tensors: Vectors, or numbers, which count as vectors of one.
        indexing: "ij", or "xy" for the first two axes exchanged.

    >>> [x.tolist() for x in meshgrid(jnp.arange(2), jnp.arange(3))]
    [[[0, 0, 0], [1, 1, 1]], [[0, 1, 2], [0, 1, 2]]]
    """
    check_choice("indexing", indexing, ("ij", "xy"))
    vectors = [jnp.atleast_1d(x) for x in _listed(tensors)]
    if any(v.ndim > 1 for v in vectors):
        raise ValueError(f"tensors: shapes {[v.shape for v in vectors]}; accepted are vectors")
    return tuple(jnp.meshgrid(*vectors, indexing=indexing))


@op
def cartesian_prod(*tensors: ArrayLike) -> jax.Array:
    """All combinations of one number from each vector, shape (count, vectors)."""
    vectors = _listed(tensors)
    if len(vectors) == 1:
        return vectors[0]
    return jnp.stack([g.ravel() for g in meshgrid(*vectors)], axis=1)


@op
def combinations(input: ArrayLike, r: int = 2, with_replacement: bool = False) -> jax.Array:
    """All combinations of r numbers of a vector, in their order, shape (count, r)."""
    x = as_jax("input", input)
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array(list(choose(range(len(x)), r)), np.int32).reshape(-1, r)
    return x[rows]


@op
def vander(x: ArrayLike, N: int | None = None, increasing: bool = False) -> jax.Array:
    """The powers of a vector's numbers as columns, from the highest down unless `increasing`."""
    return jnp.vander(as_jax("x", x), N, increasing)
