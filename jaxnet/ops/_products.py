"""Products of vectors, matrices and batches of them, in full float32 unless chosen otherwise.

Plain JAX lets a GPU round the factors of a float32 product; see
`jaxnet.precision.set_float32_matmul_precision`.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnet._arrays import as_jax
from jaxnet._checks import is_integer
from jaxnet.ops._arguments import axis, common_dtype, op, operands
from jaxnet.ops._reduction import vector_norm
from jaxnet.precision import full_float32


def factors(function: str, *values: tuple[str, ArrayLike, Sequence[int]]) -> list[jax.Array]:
    """Arrays of one dtype with the number of axes that a product takes.

    Raises:
        ValueError: The dtypes or the numbers of axes are others.
    """
    arrays = [as_jax(name, x) for name, x, _ in values]
    for (name, _, ndims), x in zip(values, arrays, strict=True):
        if ndims and x.ndim not in ndims:
            accepted = " or ".join(map(str, ndims))
            raise ValueError(
                f"{function}: {name} has shape {x.shape}; accepted are {accepted} axes"
            )
    if len({x.dtype for x in arrays}) > 1:
        given = ", ".join(
            f"{name} {x.dtype}" for (name, _, _), x in zip(values, arrays, strict=True)
        )
        raise ValueError(f"{function}: {given}; accepted is one dtype, as in torch: see ops.to")
    return arrays


@full_float32()
def _product(function: str, x: jax.Array, y: jax.Array) -> jax.Array:
    inner = x.shape[-1], y.shape[-2 if y.ndim > 1 else -1]
    if inner[0] != inner[1]:
        raise ValueError(f"{function}: shapes {x.shape} and {y.shape}; the inner axes, "
                         f"{inner[0]} and {inner[1]}, have to be equal")  # fmt: skip
    return jnp.matmul(x, y)


@op
def matmul(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The product of vectors, matrices, or batches of matrices along the first axes."""
    x, y = factors("matmul", ("input", input, ()), ("other", other, ()))
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(f"matmul: shapes {x.shape} and {y.shape}; accepted are at least vectors")
    return _product("matmul", x, y)


@op
def mm(input: ArrayLike, mat2: ArrayLike) -> jax.Array:
    """The product of two matrices."""
    return _product("mm", *factors("mm", ("input", input, (2,)), ("mat2", mat2, (2,))))


@op
def bmm(input: ArrayLike, mat2: ArrayLike) -> jax.Array:
    """The products of two batches of matrices, (B, n, m) and (B, m, p)."""
    x, y = factors("bmm", ("input", input, (3,)), ("mat2", mat2, (3,)))
    if len(x) != len(y):
        raise ValueError(f"bmm: shapes {x.shape} and {y.shape} have different batches")
    return _product("bmm", x, y)


@op
def mv(input: ArrayLike, vec: ArrayLike) -> jax.Array:
    """The product of a matrix and a vector."""
    return _product("mv", *factors("mv", ("input", input, (2,)), ("vec", vec, (1,))))


@op
def dot(input: ArrayLike, tensor: ArrayLike) -> jax.Array:
    """The sum of the products of two vectors."""
    return _product("dot", *factors("dot", ("input", input, (1,)), ("tensor", tensor, (1,))))


@op
def vdot(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The same as `dot`, with the first vector conjugated."""
    return dot(jnp.conj(as_jax("input", input)), other)


@op
@full_float32()
def inner(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The sums of the products along the last axes of both."""
    return jnp.inner(*factors("inner", ("input", input, ()), ("other", other, ())))


@op
def outer(input: ArrayLike, vec2: ArrayLike) -> jax.Array:
    """The products of all pairs of two vectors' numbers."""
    x, y = (as_jax("input", input), as_jax("vec2", vec2))
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"outer: shapes {x.shape} and {y.shape}; accepted are vectors")
    dtype = common_dtype(x, y)
    return x.astype(dtype)[:, None] * y.astype(dtype)[None, :]


ger = outer


def _added(input: ArrayLike, product: jax.Array, beta: Any, alpha: Any) -> jax.Array:
    """beta * input + alpha * product; with beta 0 the input's nan does not count, as in torch."""
    x = as_jax("input", input)
    if x.dtype != product.dtype:
        raise ValueError(f"input: {x.dtype}; accepted is the dtype of the product, {product.dtype}")
    try:
        x = jnp.broadcast_to(x, product.shape)
    except ValueError:
        raise ValueError(
            f"input: shape {x.shape} does not expand to that of the product, {product.shape}"
        ) from None
    total = product if is_one(alpha) else product * jnp.asarray(alpha, product.dtype)
    if isinstance(beta, int | float) and beta == 0:
        return total
    return total + (x if is_one(beta) else x * jnp.asarray(beta, x.dtype))


def is_one(number: Any) -> bool:
    return isinstance(number, int | float) and number == 1


@op
def addmm(
    input: ArrayLike, mat1: ArrayLike, mat2: ArrayLike, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    """beta * input + alpha * (mat1 @ mat2)."""
    return _added(input, mm(mat1, mat2), beta, alpha)


@op
def addmv(
    input: ArrayLike, mat: ArrayLike, vec: ArrayLike, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    """beta * input + alpha * (mat @ vec)."""
    return _added(input, mv(mat, vec), beta, alpha)


@op
def addr(
    input: ArrayLike, vec1: ArrayLike, vec2: ArrayLike, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    """beta * input + alpha * outer(vec1, vec2)."""
    return _added(input, outer(vec1, vec2), beta, alpha)


@op
def baddbmm(
    input: ArrayLike, batch1: ArrayLike, batch2: ArrayLike, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    """beta * input + alpha * bmm(batch1, batch2)."""
    return _added(input, bmm(batch1, batch2), beta, alpha)


@op
def addbmm(
    input: ArrayLike, batch1: ArrayLike, batch2: ArrayLike, *, beta: float = 1, alpha: float = 1
) -> jax.Array:
    """beta * input + alpha * the sum of bmm(batch1, batch2) over the batch."""
    return _added(input, bmm(batch1, batch2).sum(0), beta, alpha)


@op
@full_float32()
def einsum(equation: str, *operands: Any) -> jax.Array:
    """Products and sums by the letters of axes: einsum("bij,bjk->bik", x, y).

    The operands have one dtype, as in torch, and may also be given as one list.

    >>> float(einsum("i,i->", jnp.ones(3), jnp.arange(3.0)))
    3.0
    """
    if not isinstance(equation, str):
        raise TypeError("equation: lists of axes are not taken; write letters, 'ij,jk->ik'")
    given = (
        operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    )
    arrays = factors("einsum", *((f"operands[{i}]", x, ()) for i, x in enumerate(given)))
    return jnp.einsum(equation, *arrays)


@op
@full_float32()
def tensordot(a: ArrayLike, b: ArrayLike, dims: Any = 2) -> jax.Array:
    """Products summed over axes: the last `dims` of a and the first of b, or two lists of axes."""
    axes = dims if is_integer(dims) else tuple(tuple(d) for d in dims)
    x, y = factors("tensordot", ("a", a, ()), ("b", b, ()))
    return jnp.tensordot(x, y, axes)


@op
def chain_matmul(*matrices: ArrayLike) -> jax.Array:
    """The product of several matrices, from the left."""
    product = as_jax("matrices[0]", matrices[0])
    for matrix in matrices[1:]:
        product = mm(product, matrix)
    return product


@op
def kron(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The Kronecker product: a copy of other, scaled, for each number of input."""
    x, y = as_jax("input", input), as_jax("other", other)
    dtype = common_dtype(x, y)
    return jnp.kron(x.astype(dtype), y.astype(dtype))


@op
def cross(input: ArrayLike, other: ArrayLike, dim: int | None = None) -> jax.Array:
    """The cross products along an axis of size 3, by default the first such axis."""
    x, y = operands(("input", input), ("other", other))
    sizes = [a for a, n in enumerate(x.shape) if n == 3]
    if dim is None and not sizes:
        raise ValueError(f"cross: shape {x.shape} has no axis of size 3")
    at = sizes[0] if dim is None else axis("dim", dim, x.ndim)
    if x.shape[at] != 3:
        raise ValueError(f"cross: axis {at} of shape {x.shape} is not of size 3")
    return jnp.cross(x, y, axis=at)


@op
def trace(input: ArrayLike) -> jax.Array:
    """The sum of a matrix's diagonal."""
    x = as_jax("input", input)
    if x.ndim != 2:
        raise ValueError(f"trace: shape {x.shape}; accepted is a matrix")
    return jnp.trace(x)


@op
def block_diag(*tensors: ArrayLike) -> jax.Array:
    """A matrix with matrices on its diagonal, one after another."""
    arrays = [jnp.atleast_2d(as_jax("tensors", x)) for x in tensors]
    dtype = common_dtype(*arrays)
    return jax.scipy.linalg.block_diag(*(x.astype(dtype) for x in arrays))


@op
def cdist(
    x1: ArrayLike, x2: ArrayLike, p: float = 2.0, compute_mode: str | None = None
) -> jax.Array:
    """The p-norms of the differences of all pairs of rows, (..., P, M) and (..., R, M).

    Args:
        x1: The first rows.
        x2: The second rows.
        p: The order of the norm, from 0 to inf.
        compute_mode: Torch's words for its use of a matrix product, which is faster and less
            exact. All give the exact form here.

    Returns:
        The distances, (..., P, R). The gradient at distance 0 is 0.
    """
    if p < 0:
        raise ValueError(f"p: {p}; accepted are numbers of at least 0, and inf")
    x, y = factors("cdist", ("x1", x1, ()), ("x2", x2, ()))
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"cdist: shapes {x.shape} and {y.shape}; accepted are (P, M) and (R, M)")
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    x = jnp.broadcast_to(x, batch + x.shape[-2:])[..., :, None, :]
    y = jnp.broadcast_to(y, batch + y.shape[-2:])[..., None, :, :]
    shape = np.broadcast_shapes(x.shape, y.shape)
    gap = jnp.broadcast_to(x, shape) - jnp.broadcast_to(y, shape)
    return vector_norm(gap, float(p), -1, False)


@op
@full_float32()
def cov(input: ArrayLike, *, correction: int = 1) -> jax.Array:
    """The covariances of the rows, each of which is a variable."""
    return jnp.cov(as_jax("input", input), ddof=correction)


@op
@full_float32()
def corrcoef(input: ArrayLike) -> jax.Array:
    """The correlation coefficients of the rows, each of which is a variable."""
    return jnp.corrcoef(as_jax("input", input))
