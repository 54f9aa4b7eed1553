"""Joins of arrays, their parts, and diagonals of matrices."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_integer
from jaxnet.ops._arguments import axes, axis, common_dtype, op


def _arrays(name: str, tensors: Any) -> list[jax.Array]:
    if not isinstance(tensors, list | tuple):
        raise TypeError(f"{name}: {type(tensors).__name__}; accepted is a list or tuple of arrays")
    if not tensors:
        raise ValueError(f"{name}: no arrays; accepted is at least one")
    arrays = [as_jax(f"{name}[{i}]", x) for i, x in enumerate(tensors)]
    dtype = common_dtype(*arrays)
    return [x.astype(dtype) for x in arrays]


@op
def cat(tensors: Sequence[ArrayLike], dim: int = 0) -> jax.Array:
    """Arrays one after another along an axis. Empty vectors are left out, as in torch.

    >>> cat([jnp.ones((1, 2)), jnp.zeros((2, 2))]).shape
    (3, 2)
    """
    arrays = _arrays("tensors", tensors)
    arrays = [x for x in arrays if x.shape != (0,)] or arrays[:1]
    if arrays[0].ndim == 0:
        raise ValueError("tensors: arrays without axes have nothing to join; see `stack`")
    at = axis("dim", dim, arrays[0].ndim)
    rest = {x.shape[:at] + x.shape[at + 1 :] for x in arrays}
    if len(rest) > 1 or len({x.ndim for x in arrays}) > 1:
        raise ValueError(
            f"tensors: shapes {[x.shape for x in arrays]}; accepted are shapes that differ on axis "
            f"{at} only"
        )
    return jnp.concatenate(arrays, at)


concat = concatenate = cat


@op
def stack(tensors: Sequence[ArrayLike], dim: int = 0) -> jax.Array:
    """Arrays of one shape next to each other along a new axis."""
    arrays = _arrays("tensors", tensors)
    if len({x.shape for x in arrays}) > 1:
        raise ValueError(f"tensors: shapes {[x.shape for x in arrays]}; accepted is one shape")
    return jnp.stack(arrays, axis("dim", dim, arrays[0].ndim + 1))


@op
def hstack(tensors: Sequence[ArrayLike]) -> jax.Array:
    """Arrays joined along axis 1, and vectors along axis 0."""
    return jnp.hstack(_arrays("tensors", tensors))


@op
def vstack(tensors: Sequence[ArrayLike]) -> jax.Array:
    """Arrays joined along axis 0; vectors become rows."""
    return jnp.vstack(_arrays("tensors", tensors))


row_stack = vstack


@op
def dstack(tensors: Sequence[ArrayLike]) -> jax.Array:
    """Arrays joined along axis 2, which is added where it is missing."""
    return jnp.dstack(_arrays("tensors", tensors))


@op
def column_stack(tensors: Sequence[ArrayLike]) -> jax.Array:
    """Arrays joined along axis 1; vectors become columns."""
    return jnp.column_stack(_arrays("tensors", tensors))


def _parts(x: jax.Array, lengths: Sequence[int], at: int) -> tuple[jax.Array, ...]:
    ends = np.cumsum([0, *lengths]).tolist()
    return tuple(lax.slice_in_dim(x, a, b, axis=at) for a, b in itertools.pairwise(ends))


@op
def split(
    tensor: ArrayLike, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[jax.Array, ...]:
    """Parts of one length along an axis, the last one perhaps shorter, or of given lengths."""
    x = as_jax("tensor", tensor)
    at = axis("dim", dim, x.ndim)
    n, given = x.shape[at], split_size_or_sections
    if isinstance(given, Sequence):
        if sum(given) != n or min(given, default=0) < 0:
            raise ValueError(f"split_size_or_sections: {list(given)} have to add up to {n}")
        return _parts(x, given, at)
    check_integer("split_size_or_sections", given, least=1)
    starts = range(0, max(n, 1), given)
    return _parts(x, [min(given, n - start) for start in starts], at)


split_with_sizes = split


@op
def chunk(input: ArrayLike, chunks: int, dim: int = 0) -> tuple[jax.Array, ...]:
    """At most `chunks` parts of one length, rounded up; the last is shorter, as in torch."""
    check_integer("chunks", chunks, least=1)
    x = as_jax("input", input)
    n = x.shape[axis("dim", dim, x.ndim)]
    return split(x, max(-(-n // chunks), 1), dim) if n else (x,) * chunks


@op
def tensor_split(
    input: ArrayLike, indices_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[jax.Array, ...]:
    """So many parts of nearly equal length, or parts that begin at given indices."""
    x = as_jax("input", input)
    return tuple(jnp.array_split(x, indices_or_sections, axis("dim", dim, x.ndim)))


def _cuts(indices_or_sections: int | Sequence[int]) -> int | np.ndarray:
    given = indices_or_sections
    return np.asarray(given) if isinstance(given, Sequence) else given


@op
def hsplit(input: ArrayLike, indices_or_sections: int | Sequence[int]) -> tuple[jax.Array, ...]:
    """`tensor_split` along axis 1, and of vectors along axis 0."""
    return tuple(jnp.hsplit(as_jax("input", input), _cuts(indices_or_sections)))


@op
def vsplit(input: ArrayLike, indices_or_sections: int | Sequence[int]) -> tuple[jax.Array, ...]:
    """`tensor_split` along axis 0."""
    return tuple(jnp.vsplit(as_jax("input", input), _cuts(indices_or_sections)))


@op
def dsplit(input: ArrayLike, indices_or_sections: int | Sequence[int]) -> tuple[jax.Array, ...]:
    """`tensor_split` along axis 2."""
    return tuple(jnp.dsplit(as_jax("input", input), _cuts(indices_or_sections)))


@op
def unbind(input: ArrayLike, dim: int = 0) -> tuple[jax.Array, ...]:
    """The arrays along an axis, without the axis."""
    x = as_jax("input", input)
    at = axis("dim", dim, x.ndim)
    return tuple(lax.index_in_dim(x, i, at, keepdims=False) for i in range(x.shape[at]))


@op
def tril(input: ArrayLike, diagonal: int = 0) -> jax.Array:
    """Matrices with zeros above a diagonal."""
    return jnp.tril(_matrices(input), diagonal)


@op
def triu(input: ArrayLike, diagonal: int = 0) -> jax.Array:
    """Matrices with zeros below a diagonal."""
    return jnp.triu(_matrices(input), diagonal)


def _matrices(input: ArrayLike) -> jax.Array:
    x = as_jax("input", input)
    if x.ndim < 2:
        raise ValueError(f"input: shape {x.shape}; accepted are matrices, (..., n, m)")
    return x


@op
def diagonal(input: ArrayLike, offset: int = 0, dim1: int = 0, dim2: int = 1) -> jax.Array:
    """The diagonal of two axes, as a new last axis."""
    x = as_jax("input", input)
    first, second = axes("dim1, dim2", (dim1, dim2), x.ndim)
    return jnp.diagonal(x, offset, first, second)


@op
def diag(input: ArrayLike, diagonal: int = 0) -> jax.Array:
    """The diagonal of a matrix, or a matrix with a vector on its diagonal."""
    x = as_jax("input", input)
    if x.ndim not in (1, 2):
        raise ValueError(f"input: shape {x.shape}; accepted are vectors and matrices")
    return jnp.diag(x, diagonal)


@op
def diagflat(input: ArrayLike, offset: int = 0) -> jax.Array:
    """A matrix with all numbers of the input on a diagonal."""
    return jnp.diagflat(as_jax("input", input), offset)


@op
def diag_embed(input: ArrayLike, offset: int = 0, dim1: int = -2, dim2: int = -1) -> jax.Array:
    """Matrices, along axes dim1 and dim2 of the result, with the last axis on a diagonal."""
    x = as_jax("input", input)
    n = x.shape[-1] + abs(offset)
    first, second = axes("dim1, dim2", (dim1, dim2), x.ndim + 1)
    row = np.arange(x.shape[-1]) + max(-offset, 0)
    column = np.arange(x.shape[-1]) + max(offset, 0)
    out = jnp.zeros((*x.shape[:-1], n, n), x.dtype).at[..., row, column].set(x)
    return jnp.moveaxis(out, (-2, -1), (first, second))
