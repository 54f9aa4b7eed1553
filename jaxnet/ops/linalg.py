"""torch.linalg: norms, equations and decompositions of matrices, and of batches of them.

A decomposition is unique up to signs (`qr`, `svd`, `eigh`). On a CPU both libraries call
LAPACK and have its signs; on other devices the columns may have other signs than torch's.
Products are in full float32 unless chosen otherwise.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import expm
from jax.scipy.linalg import solve_triangular as _solve_triangular
from jax.typing import ArrayLike, DTypeLike

from jaxnet import precision
from jaxnet._arrays import as_jax
from jaxnet._checks import check_choice, check_integer
from jaxnet._hints import module_getattr
from jaxnet.ops._absent import LINALG
from jaxnet.ops._arguments import axes, dtype_of, needs_float, op
from jaxnet.ops._order import sort
from jaxnet.ops._products import cross as _cross
from jaxnet.ops._products import matmul
from jaxnet.ops._reduction import vector_norm as _vector_norm
from jaxnet.precision import full_float32

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "vecdot",
    "vector_norm",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.ops.linalg", LINALG)
del TYPE_CHECKING, LINALG, module_getattr


class QR(NamedTuple):
    """torch.return_types.linalg_qr.

    Attributes:
        Q: Matrices with orthonormal columns.
        R: Upper triangular matrices.
    """

    Q: jax.Array
    R: jax.Array


class SVD(NamedTuple):
    """torch.return_types.linalg_svd.

    Attributes:
        U: The left singular vectors, as columns.
        S: The singular values, in descending order.
        Vh: The right singular vectors, as rows.
    """

    U: jax.Array
    S: jax.Array
    Vh: jax.Array


class Eigh(NamedTuple):
    """torch.return_types.linalg_eigh.

    Attributes:
        eigenvalues: The eigenvalues, in ascending order.
        eigenvectors: The eigenvectors, as columns.
    """

    eigenvalues: jax.Array
    eigenvectors: jax.Array


class Slogdet(NamedTuple):
    """torch.return_types.linalg_slogdet.

    Attributes:
        sign: The sign of the determinant.
        logabsdet: The logarithm of its absolute value.
    """

    sign: jax.Array
    logabsdet: jax.Array


def _matrices(function: str, name: str, value: ArrayLike, square: bool = False) -> jax.Array:
    x = as_jax(name, value)
    needs_float(function, x)
    if x.ndim < 2 or (square and x.shape[-1] != x.shape[-2]):
        kind = "square matrices" if square else "matrices"
        raise ValueError(f"{function}: {name} has shape {x.shape}; accepted are {kind}")
    return x


@op
def vector_norm(
    x: ArrayLike,
    ord: float = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The norm over axes, all by default, as if their numbers were one vector.

    Args:
        x: The numbers.
        ord: The order: a number, inf or -inf; 0 counts the numbers that are not 0.
        dim: The axes.
        keepdim: Whether the axes stay, with size 1.
        dtype: The dtype to compute in.

    Returns:
        The norms. The gradient at the norm 0 is 0.
    """
    array = as_jax("x", x)
    return _vector_norm(array.astype(dtype_of("dtype", dtype) or array.dtype), ord, dim, keepdim)


@op
def matrix_norm(
    A: ArrayLike,
    ord: float | str = "fro",
    dim: Sequence[int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The norm of matrices along two axes.

    Args:
        A: The matrices.
        ord: "fro", "nuc" (the sum of the singular values), 2 and -2 (the largest and the
            smallest), 1 and -1 (the sums of columns), inf and -inf (of rows).
        dim: The axes of rows and columns.
        keepdim: Whether the axes stay, with size 1.
        dtype: The dtype to compute in.
    """
    check_choice("ord", ord, ("fro", "nuc", 2, -2, 1, -1, np.inf, -np.inf))
    x = _matrices("matrix_norm", "A", A)
    x = x.astype(dtype_of("dtype", dtype) or x.dtype)
    rows, columns = axes("dim", tuple(dim), x.ndim)
    if ord == "fro":
        return _vector_norm(x, 2, (rows, columns), keepdim)
    x = jnp.moveaxis(x, (rows, columns), (-2, -1))
    if ord in ("nuc", 2, -2):
        values = jnp.linalg.svd(x, compute_uv=False)
        result = values.sum(-1) if ord == "nuc" else values[..., 0 if ord == 2 else -1]
    else:
        sums = jnp.abs(x).sum(-2 if ord in (1, -1) else -1)
        result = (precision.amax if float(ord) > 0 else precision.amin)(sums, -1)
    return jnp.expand_dims(result, sorted((rows, columns))) if keepdim else result


@op
def norm(
    A: ArrayLike,
    ord: float | str | None = None,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """The norm of a vector or of matrices, as torch.linalg.norm chooses.

    Without an order it is the 2-norm of all numbers. With one, a matrix, or two axes, have the
    `matrix_norm`, and a vector, or one axis, the `vector_norm`.
    """
    x = as_jax("A", A)
    two = (dim is None and x.ndim == 2) or (isinstance(dim, Sequence) and len(dim) == 2)
    if ord is not None and (two or isinstance(ord, str)):
        over = (-2, -1) if dim is None else dim
        if not isinstance(over, Sequence) or len(over) != 2:
            raise ValueError(f"dim: {dim}; accepted for ord {ord!r} are two axes")
        return matrix_norm(x, ord, over, keepdim, dtype=dtype)
    if ord is not None and dim is None and x.ndim > 2:
        raise ValueError(f"dim: missing for shape {x.shape} and ord {ord}; give one axis or two")
    assert not isinstance(ord, str)
    return vector_norm(x, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


def _equations(function: str, A: ArrayLike, B: ArrayLike) -> tuple[jax.Array, jax.Array, bool]:
    a, b = _matrices(function, "A", A, square=True), as_jax("B", B)
    if a.dtype != b.dtype:
        raise ValueError(f"{function}: A {a.dtype}, B {b.dtype}; accepted is one dtype")
    # torch takes B for a batch of vectors if its shape is that of A without the last axis.
    vectors = b.ndim == 1 or (a.ndim - 1 == b.ndim and b.shape == a.shape[:-1])
    b = b[..., None] if vectors else b
    if b.shape[-2] != a.shape[-1]:
        raise ValueError(f"{function}: A {a.shape}, B {as_jax('B', B).shape}; their rows differ")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (jnp.broadcast_to(x, batch + x.shape[-2:]) for x in (a, b))
    return a, b, vectors


@op
@full_float32()
def solve(A: ArrayLike, B: ArrayLike, *, left: bool = True) -> jax.Array:
    """The X with A X = B, or X A = B if not `left`. Of a singular A it is inf or nan.

    Torch raises for a singular matrix, which a compiled program cannot.
    """
    a, b, vectors = _equations("solve", A, B)
    if not left:
        return jnp.swapaxes(solve(jnp.swapaxes(a, -1, -2), jnp.swapaxes(b, -1, -2)), -1, -2)
    result = jnp.linalg.solve(a, b)
    return result[..., 0] if vectors else result


@op
@full_float32()
def solve_triangular(
    A: ArrayLike, B: ArrayLike, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> jax.Array:
    """The X with A X = B for a triangular A, of which only that triangle is read."""
    a, b = _matrices("solve_triangular", "A", A, True), _matrices("solve_triangular", "B", B)
    if not left:
        a, b = jnp.swapaxes(a, -1, -2), jnp.swapaxes(b, -1, -2)
    lower = not upper if left else upper
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (jnp.broadcast_to(x, batch + x.shape[-2:]) for x in (a, b))
    result = _solve_triangular(a, b, lower=lower, unit_diagonal=unitriangular)
    return result if left else jnp.swapaxes(result, -1, -2)


@op
@full_float32()
def inv(A: ArrayLike) -> jax.Array:
    """The inverse. Of a singular matrix it is inf or nan, where torch raises."""
    return jnp.linalg.inv(_matrices("inv", "A", A, square=True))


@op
@full_float32()
def det(A: ArrayLike) -> jax.Array:
    """The determinant."""
    return jnp.linalg.det(_matrices("det", "A", A, square=True))


@op
@full_float32()
def slogdet(A: ArrayLike) -> Slogdet:
    """The sign and the logarithm of the absolute value of the determinant."""
    return Slogdet(*jnp.linalg.slogdet(_matrices("slogdet", "A", A, square=True)))


@op
@full_float32()
def cholesky(A: ArrayLike, *, upper: bool = False) -> jax.Array:
    """The lower triangular L with L L^H = A, or its upper counterpart.

    Only the lower triangle of A is read. Of a matrix that is not positive definite it is nan,
    where torch raises.
    """
    x = _matrices("cholesky", "A", A, square=True)
    factor = jnp.linalg.cholesky(_hermitian(x), symmetrize_input=False)
    return jnp.conj(jnp.swapaxes(factor, -1, -2)) if upper else factor


@op
@full_float32()
def qr(A: ArrayLike, mode: str = "reduced") -> QR:
    """Q R = A with orthonormal columns in Q and an upper triangular R.

    Args:
        A: The matrices.
        mode: "reduced"; "complete" for a square Q; "r" for an empty Q.
    """
    check_choice("mode", mode, ("reduced", "complete", "r"))
    x = _matrices("qr", "A", A)
    if mode == "r":
        return QR(jnp.zeros(0, x.dtype), jnp.linalg.qr(x, mode="r"))
    return QR(*jnp.linalg.qr(x, mode=mode))


@op
@full_float32()
def svd(A: ArrayLike, full_matrices: bool = True) -> SVD:
    """U diag(S) Vh = A with the singular values S in descending order.

    The gradient needs full_matrices=False, or `svdvals`.
    """
    return SVD(*jnp.linalg.svd(_matrices("svd", "A", A), full_matrices=full_matrices))


@op
@full_float32()
def svdvals(A: ArrayLike) -> jax.Array:
    """The singular values in descending order."""
    return jnp.linalg.svd(_matrices("svdvals", "A", A), compute_uv=False)


def _one_triangle(function: str, A: ArrayLike, UPLO: str) -> jax.Array:
    check_choice("UPLO", UPLO, ("L", "U"))
    x = _matrices(function, "A", A, square=True)
    return _hermitian(x if UPLO == "L" else jnp.conj(jnp.swapaxes(x, -1, -2)))


@jax.custom_jvp
def _hermitian(x: jax.Array) -> jax.Array:
    """Matrices with the lower triangle mirrored; their gradient is Hermitian, as in torch."""
    return jnp.tril(x) + jnp.conj(jnp.swapaxes(jnp.tril(x, -1), -1, -2))


@_hermitian.defjvp
def _hermitian_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (moved,) = tangents
    return _hermitian(*primals), (moved + jnp.conj(jnp.swapaxes(moved, -1, -2))) / 2


@op
@full_float32()
def eigh(A: ArrayLike, UPLO: str = "L") -> Eigh:
    """Eigenvalues and eigenvectors of symmetric or Hermitian matrices.

    Args:
        A: The matrices, of which one triangle is read.
        UPLO: "L" for the lower triangle, "U" for the upper.
    """
    x = _one_triangle("eigh", A, UPLO)
    return Eigh(*jnp.linalg.eigh(x, symmetrize_input=False))


@op
@full_float32()
def eigvalsh(A: ArrayLike, UPLO: str = "L") -> jax.Array:
    """The eigenvalues of symmetric or Hermitian matrices, in ascending order."""
    return sort(jnp.linalg.eigvalsh(_one_triangle("eigvalsh", A, UPLO))).values


@op
@full_float32()
def pinv(A: ArrayLike, *, rtol: float | None = None, hermitian: bool = False) -> jax.Array:
    """The pseudo-inverse by Moore and Penrose.

    Args:
        A: The matrices.
        rtol: The smallest singular value that counts, relative to the largest; by default the
            larger size times the dtype's eps.
        hermitian: Whether A is symmetric or Hermitian, which makes no difference here.
    """
    x = _matrices("pinv", "A", A)
    limit = max(x.shape[-2:]) * float(jnp.finfo(x.dtype).eps) if rtol is None else rtol
    return jnp.linalg.pinv(x, rtol=limit)


@op
@full_float32()
def matrix_rank(A: ArrayLike, *, rtol: float | None = None) -> jax.Array:
    """How many singular values exceed rtol times the largest."""
    x = _matrices("matrix_rank", "A", A)
    return jnp.linalg.matrix_rank(x, rtol=rtol)


@op
@full_float32()
def matrix_power(A: ArrayLike, n: int) -> jax.Array:
    """The n-th power of square matrices; a negative power is one of the inverse."""
    check_integer("n", n)
    return jnp.linalg.matrix_power(_matrices("matrix_power", "A", A, square=True), n)


@op
@full_float32()
def matrix_exp(A: ArrayLike) -> jax.Array:
    """The exponential of square matrices."""
    return expm(_matrices("matrix_exp", "A", A, square=True))


@op
@full_float32()
def multi_dot(tensors: Sequence[ArrayLike]) -> jax.Array:
    """The product of several matrices, in the order that takes the least work.

    The first and the last may be vectors.
    """
    return jnp.linalg.multi_dot([as_jax(f"tensors[{i}]", x) for i, x in enumerate(tensors)])


@op
def cross(input: ArrayLike, other: ArrayLike, *, dim: int = -1) -> jax.Array:
    """The cross products of vectors of three numbers along an axis, by default the last."""
    return _cross(input, other, dim)


@op
def diagonal(A: ArrayLike, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> jax.Array:
    """The diagonals of matrices, as a new last axis."""
    x = as_jax("A", A)
    return jnp.diagonal(x, offset, *axes("dim1, dim2", (dim1, dim2), x.ndim))


@op
@full_float32()
def vecdot(x: ArrayLike, y: ArrayLike, *, dim: int = -1) -> jax.Array:
    """The sums of the products along an axis, with x conjugated."""
    return jnp.vecdot(as_jax("x", x), as_jax("y", y), axis=dim)
