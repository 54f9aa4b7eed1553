"""Losses that compare two or three inputs with each other."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet.losses._kinks import absolute, clamp_min_0
from jaxnet.losses._reduction import broadcast, check_reduction, floats, reduce
from jaxnet.precision import amax, amin

# The number that torch adds to the squared lengths, a float32 number there.
_COSINE_EPS = float(np.float32(1e-12))


def margin_ranking_loss(
    input1: Float[ArrayLike, "..."],
    input2: Float[ArrayLike, "..."],
    target: Shaped[ArrayLike, "..."],
    margin: float = 0.0,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """The ranking loss of two scores: torch.nn.functional.margin_ranking_loss.

    The loss of each pair is max(0, -y (x1 - x2) + margin).

    Args:
        input1, input2: The scores x1 and x2, floats.
        target: The targets y, 1 where x1 should be larger and -1 where x2 should be. The
            three arrays have the same number of axes, each of equal sizes or size 1.
        margin: The difference that the scores should have at least.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" one number for each pair.

    Raises:
        ValueError: The shapes do not match, or the reduction is unknown.
        TypeError: All three arrays are integers.
    """
    loss = "margin_ranking_loss"
    x1, x2, y = floats(loss, input1=input1, input2=input2, target=target)
    x1, x2, y = broadcast(loss, input1=x1, input2=x2, target=y)
    return reduce(clamp_min_0(-y * (x1 - x2) + margin), reduction)


def cosine_embedding_loss(
    input1: Float[ArrayLike, "*N D"],
    input2: Float[ArrayLike, "*N D"],
    target: Shaped[ArrayLike, "*N"],
    margin: float = 0.0,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """The loss of the cosine of two vectors: torch.nn.functional.cosine_embedding_loss.

    The loss of each pair is 1 - cos where y = 1, and max(0, cos - margin) where y = -1.

    Args:
        input1, input2: The vectors, floats (N, D) or (D,).
        target: The targets y, (N,), or one number. Where y is neither 1 nor -1 the loss is
            0.
        margin: The cosine that pairs with y = -1 may have without a loss.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" one number for each pair.

    Raises:
        ValueError: The shapes do not match, or the reduction is unknown.
        TypeError: The inputs are integers.
    """
    loss = "cosine_embedding_loss"
    x1, x2 = floats(loss, input1=input1, input2=input2)
    x1, x2 = broadcast(loss, input1=x1, input2=x2)
    y = jnp.asarray(target)
    if x1.ndim not in (1, 2) or y.ndim != x1.ndim - 1:
        raise ValueError(
            f"{loss}: inputs {x1.shape} with target {y.shape}; accepted are (N, D) with (N,), "
            "and (D,) with one number"
        )
    length1 = jnp.square(x1).sum(-1) + _COSINE_EPS
    length2 = jnp.square(x2).sum(-1) + _COSINE_EPS
    cos, y = broadcast(loss, cosines=(x1 * x2).sum(-1) / jnp.sqrt(length1 * length2), target=y)
    same = jnp.where(y == 1, 1 - cos, 0)
    different = jnp.where(y == -1, clamp_min_0(cos - margin), 0)
    return reduce(same + different, reduction)


def pairwise_distance(
    x1: Float[ArrayLike, "... D"],
    x2: Float[ArrayLike, "... D"],
    p: float = 2.0,
    eps: float = 1e-6,
    keepdim: bool = False,
) -> Float[Array, "..."]:
    """The distance of vectors in the p-norm: torch.nn.functional.pairwise_distance.

    The distance of each pair is (sum_d |x1 - x2 + eps|^p)^(1/p).

    Args:
        x1, x2: The vectors, floats (..., D). They have the same number of axes, each of
            equal sizes or size 1.
        p: The order of the norm; also 0 (the number of entries that differ), infinity and
            negative numbers.
        eps: The number added to each difference.
        keepdim: Whether the last axis remains, with size 1.

    Returns:
        The distances, (...), or (..., 1) with keepdim. The derivative at distance 0 is 0.

    Raises:
        ValueError: The shapes do not match, or there is no axis.
        TypeError: The vectors are integers.
    """
    a, b = floats("pairwise_distance", x1=x1, x2=x2)
    a, b = broadcast("pairwise_distance", x1=a, x2=b)
    if a.ndim == 0:
        raise ValueError("pairwise_distance: x1 of shape (); accepted is (..., D)")
    return p_norm(a - b + eps, p, keepdim)


def p_norm(
    x: jax.Array, p: float, keepdims: bool, axis: int | tuple[int, ...] = -1
) -> Float[Array, "..."]:
    """The p-norm along axes, with the derivative 0 where an entry or the norm is 0."""
    size = absolute(x)
    if p == math.inf:
        return amax(size, axis, keepdims)
    if p == -math.inf:
        return amin(size, axis, keepdims)
    if p == 1:
        return size.sum(axis, keepdims=keepdims)
    if p == 0:
        return (x != 0).astype(x.dtype).sum(axis, keepdims=keepdims)
    if p == 2:
        total = jnp.square(x).sum(axis, keepdims=keepdims)
        # The root is taken of 1 where the sum is 0: its infinite derivative would make the
        # gradient nan even though jnp.where does not use the value.
        return jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))
    powers = jnp.where(x == 0, 0 if p > 0 else math.inf, jnp.where(x == 0, 1, size) ** p)
    total = powers.sum(axis, keepdims=keepdims)
    zero = (total == 0) | jnp.isinf(total)
    return jnp.where(zero, total ** (1 / p), jnp.where(zero, 1, total) ** (1 / p))


def triplet_margin_loss(
    anchor: Float[ArrayLike, "... D"],
    positive: Float[ArrayLike, "... D"],
    negative: Float[ArrayLike, "... D"],
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """The triplet loss: torch.nn.functional.triplet_margin_loss.

    The loss of each triplet is max(0, margin + d(a, p) - d(a, n)), where d is
    `pairwise_distance`.

    Args:
        anchor, positive, negative: The vectors a, p and n, floats (..., D). They have the
            same number of axes, each of equal sizes or size 1.
        margin: The distance by which p should be nearer to a than n, above 0.
        p, eps: As in `pairwise_distance`.
        swap: Whether d(p, n) replaces d(a, n) where it is smaller.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" one number for each triplet.

    Raises:
        ValueError: The shapes do not match, or margin or reduction is out of range.
        TypeError: The vectors are integers.
    """

    def distance(x1: jax.Array, x2: jax.Array) -> Float[Array, "..."]:
        return pairwise_distance(x1, x2, p, eps)

    return _triplet(
        "triplet_margin_loss", anchor, positive, negative, distance, margin, swap, reduction
    )


def triplet_margin_with_distance_loss(
    anchor: Float[ArrayLike, "... D"],
    positive: Float[ArrayLike, "... D"],
    negative: Float[ArrayLike, "... D"],
    *,
    distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """The triplet loss for any distance: torch.nn.functional.triplet_margin_with_distance_loss.

    The loss of each triplet is max(0, margin + d(a, p) - d(a, n)).

    Args:
        anchor, positive, negative: The samples a, p and n, floats. They have the same number
            of axes, each of equal sizes or size 1.
        distance_function: The distance d, a function of two arrays. None is
            `pairwise_distance`.
        margin: The distance by which p should be nearer to a than n, above 0.
        swap: Whether d(p, n) replaces d(a, n) where it is smaller.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" one number for each triplet.

    Raises:
        ValueError: The shapes do not match, or margin or reduction is out of range.
        TypeError: The vectors are integers.
    """
    return _triplet(
        "triplet_margin_with_distance_loss",
        anchor,
        positive,
        negative,
        distance_function or pairwise_distance,
        margin,
        swap,
        reduction,
    )


def _triplet(
    loss: str,
    anchor: Float[ArrayLike, "... D"],
    positive: Float[ArrayLike, "... D"],
    negative: Float[ArrayLike, "... D"],
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    margin: float,
    swap: bool,
    reduction: str,
) -> Float[Array, "..."]:
    """The triplet loss with a given distance; `loss` is the name for the errors."""
    check_reduction(reduction)
    if not margin > 0:
        raise ValueError(f"{loss}: margin {margin}; it must be above 0")
    a, p, n = floats(loss, anchor=anchor, positive=positive, negative=negative)
    a, p, n = broadcast(loss, anchor=a, positive=p, negative=n)
    far = distance(a, n)
    if swap:
        far = jnp.minimum(far, distance(p, n))
    return reduce(clamp_min_0(margin + distance(a, p) - far), reduction)
