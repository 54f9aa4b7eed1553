"""Losses that compare two or three inputs with one another."""

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

# torch adds this to the squared lengths; it holds the number in float32.
_COSINE_EPS = float(np.float32(1e-12))


def margin_ranking_loss(
    input1: Float[ArrayLike, "..."],
    input2: Float[ArrayLike, "..."],
    target: Shaped[ArrayLike, "..."],
    margin: float = 0.0,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """max(0, -y (x1 - x2) + margin): torch.nn.functional.margin_ranking_loss.

    Args:
        input1, input2: x1 and x2, floats.
        target: y, 1 where x1 should be larger, -1 where x2 should. All three have as
            many axes, of equal sizes or size 1.
        margin: how far apart they should be.
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one an element with "none".
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
    """1 - cos where y = 1, max(0, cos - margin) where y = -1: cosine_embedding_loss of torch.

    Args:
        input1, input2: floats (N, D), or (D,).
        target: y, (N,), or one number. Where it is neither 1 nor -1 the loss is 0.
        margin: the cosine that pairs with y = -1 may have.
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one a pair with "none".
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
    x1: ArrayLike, x2: ArrayLike, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> jax.Array:
    """(sum_d |x1 - x2 + eps|^p)^(1/p): torch.nn.functional.pairwise_distance.

    Args:
        x1, x2: floats (..., D), with as many axes, of equal sizes or size 1.
        p: of the norm; also 0 (how many differ), infinity and negative numbers.
        eps: added to each difference.
        keepdim: whether the last axis stays, with size 1.

    Returns:
        (...), or (..., 1) with keepdim. The slope at distance 0 is 0.
    """
    a, b = floats("pairwise_distance", x1=x1, x2=x2)
    a, b = broadcast("pairwise_distance", x1=a, x2=b)
    if a.ndim == 0:
        raise ValueError("pairwise_distance: x1 of shape (); accepted is (..., D)")
    return _norm(a - b + eps, p, keepdim)


def _norm(x: jax.Array, p: float, keepdims: bool) -> jax.Array:
    """The p-norm along the last axis, with slope 0 wherever an entry or the norm is 0."""
    size = absolute(x)
    if p == math.inf:
        return amax(size, -1, keepdims)
    if p == -math.inf:
        return amin(size, -1, keepdims)
    if p == 1:
        return size.sum(-1, keepdims=keepdims)
    if p == 0:
        return (x != 0).astype(x.dtype).sum(-1, keepdims=keepdims)
    if p == 2:
        total = jnp.square(x).sum(-1, keepdims=keepdims)
        return jnp.where(total == 0, 0, jnp.sqrt(jnp.where(total == 0, 1, total)))
    powers = jnp.where(x == 0, 0 if p > 0 else math.inf, jnp.where(x == 0, 1, size) ** p)
    total = powers.sum(-1, keepdims=keepdims)
    zero = (total == 0) | jnp.isinf(total)
    return jnp.where(zero, total ** (1 / p), jnp.where(zero, 1, total) ** (1 / p))


def triplet_margin_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """max(0, margin + d(a, p) - d(a, n)): torch.nn.functional.triplet_margin_loss.

    Args:
        anchor, positive, negative: floats (N, D), (D,) or (..., D), with as many axes,
            of equal sizes or size 1.
        margin: how much nearer the positive should be, above 0.
        p, eps: of the distance; see `pairwise_distance`.
        swap: whether d(p, n) is taken where it is smaller than d(a, n).
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one a triplet with "none".
    """

    def distance(x1: jax.Array, x2: jax.Array) -> jax.Array:
        return pairwise_distance(x1, x2, p, eps)

    return _triplet(
        "triplet_margin_loss", anchor, positive, negative, distance, margin, swap, reduction
    )


def triplet_margin_with_distance_loss(
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """max(0, margin + d(a, p) - d(a, n)) for any d: torch's function of the name.

    Args:
        anchor, positive, negative: floats, with as many axes, of equal sizes or size 1.
        distance_function: d; `pairwise_distance` if none is given.
        margin: how much nearer the positive should be, above 0.
        swap: whether d(p, n) is taken where it is smaller than d(a, n).
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one a triplet with "none".
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
    anchor: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    margin: float,
    swap: bool,
    reduction: str,
) -> jax.Array:
    check_reduction(reduction)
    if not margin > 0:
        raise ValueError(f"{loss}: margin {margin}; it must be above 0")
    a, p, n = floats(loss, anchor=anchor, positive=positive, negative=negative)
    a, p, n = broadcast(loss, anchor=a, positive=p, negative=n)
    far = distance(a, n)
    if swap:
        far = jnp.minimum(far, distance(p, n))
    return reduce(clamp_min_0(margin + distance(a, p) - far), reduction)
