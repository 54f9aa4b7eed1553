"""Distances and cosines of vectors, and vectors scaled to length 1."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnet import losses
from jaxnet.losses._ranking import p_norm
from jaxnet.losses._reduction import floats
from jaxnet.nn._embedding import with_value
from jaxnet.nn._module import Module


def cosine_similarity(
    x1: Float[Array, "..."], x2: Float[Array, "..."], dim: int = 1, eps: float = 1e-8
) -> Float[Array, "..."]:
    """The cosine of the angle of two vectors: torch.nn.functional.cosine_similarity.

    The value is x1 . x2 / (max(|x1|, eps) max(|x2|, eps)).

    Args:
        x1: The first vectors, floats of any shape.
        x2: The second vectors, of a shape that broadcasts with that of x1.
        dim: The axis, of the broadcast shape, along which the vectors lie.
        eps: The smallest length to divide by. As in torch the gradient is that of the
            length itself, also below eps.

    Returns:
        The cosines, of the broadcast shape without the axis dim.

    Raises:
        ValueError: The shapes do not broadcast, or there is no axis dim.
        TypeError: Both arrays are integers.

    >>> cosine_similarity(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]])).tolist()
    [0.0]
    """
    a, b = floats("cosine_similarity", x1=x1, x2=x2)
    try:
        shape = jnp.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(
            f"cosine_similarity: x1 {a.shape} and x2 {b.shape} do not broadcast to one shape"
        ) from None
    # As torch has it, a number is a vector with a single entry.
    a, b = (jnp.atleast_1d(jnp.broadcast_to(x, shape)) for x in (a, b))
    axis = _axis("cosine_similarity", a, dim)

    def scaled(x: jax.Array) -> jax.Array:
        length = p_norm(x, 2, True, axis)
        return x / with_value(length, jax.lax.stop_gradient(jnp.maximum(length, eps)))

    return (scaled(a) * scaled(b)).sum(axis)


def normalize(
    input: Float[Array, "*shape"],
    p: float = 2.0,
    dim: int | tuple[int, ...] = 1,
    eps: float = 1e-12,
) -> Float[Array, "*shape"]:
    """Divides vectors by their p-norm: torch.nn.functional.normalize.

    Args:
        input: The vectors, floats of any shape.
        p: The order of the norm; also 0, infinity and negative numbers.
        dim: The axis along which the vectors lie, or a tuple of several.
        eps: The smallest norm to divide by.

    Returns:
        The vectors x / max(|x|_p, eps), with the shape of the input.

    Raises:
        ValueError: There is no axis dim.
        TypeError: The vectors are integers.

    >>> normalize(jnp.array([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    (x,) = floats("normalize", input=input)
    axes = tuple(_axis("normalize", x, d) for d in (dim if isinstance(dim, tuple) else (dim,)))
    norm = p_norm(x, p, True, axes)
    # The gradient of a norm of exactly eps passes, as that of torch's clamp_min does.
    return x / jnp.where(norm >= eps, norm, jnp.where(jnp.isnan(norm), norm, eps))


def pdist(input: Float[Array, "N M"], p: float = 2.0) -> Float[Array, " pairs"]:
    """The p-norm distances of all pairs of rows: torch.nn.functional.pdist.

    Args:
        input: The rows, (N, M).
        p: The order of the norm, not negative; also 0 (the number of entries that differ) and
            infinity.

    Returns:
        The distances of the rows 0 and 1, 0 and 2, ..., 1 and 2, ...: (N (N - 1) / 2,).

    Raises:
        ValueError: The input has not two axes, or p is negative.
        TypeError: The rows are integers.

    >>> pdist(jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])).tolist()
    [5.0, 8.0, 5.0]
    """
    (x,) = floats("pdist", input=input)
    if x.ndim != 2:
        raise ValueError(f"pdist: an input of shape {x.shape}; accepted is (N, M)")
    if not p >= 0:
        raise ValueError(f"pdist: p {p}; accepted are numbers that are not negative")
    first, second = np.triu_indices(x.shape[0], 1)
    difference = x[first] - x[second]
    if x.shape[1] == 0:
        return difference.sum(-1)
    if p == math.inf:
        return _largest(difference)
    return p_norm(difference, p, False)


@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    return jnp.abs(x).max(-1)


@_largest.defjvp
def _largest_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    # Entries that share the largest size have the whole gradient each in torch's pdist.
    size = jnp.abs(x)
    largest = size.max(-1)
    return largest, jnp.where(size == largest[..., None], jnp.sign(x) * dx, 0).sum(-1)


def _axis(name: str, x: jax.Array, dim: int) -> int:
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"{name}: dim {dim}; an array of shape {x.shape} has no such axis")
    return dim % x.ndim


class CosineSimilarity(Module):
    """The cosine of the angle of two vectors: torch.nn.CosineSimilarity.

    As in `jaxnet.nn.functional.cosine_similarity`.
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        self.dim = dim
        self.eps = eps

    def __call__(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        return cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps: torch.nn.PairwiseDistance.

    As in `jaxnet.losses.pairwise_distance`.
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def __call__(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        return losses.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)
