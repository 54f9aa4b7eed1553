"""Hinge-like losses of scores."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Shaped

from jaxnet._checks import check_choice
from jaxnet.losses._kinks import clamp_min_0
from jaxnet.losses._reduction import (
    broadcast_to,
    check_reduction,
    first_bad,
    floats,
    integers,
    reduce,
    same_shape,
)


def hinge_embedding_loss(
    input: Float[ArrayLike, "*shape"],
    target: Shaped[ArrayLike, "*shape"],
    margin: float = 1.0,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """x where y = 1, max(0, margin - x) where y = -1: torch.nn.functional.hinge_embedding_loss.

    Args:
        input: distances x, floats of any shape.
        target: y, 1 or -1, the same shape; another one is an error, where torch broadcasts.
        margin: how far apart pairs with y = -1 should be.
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one an element with "none".
    """
    (input,) = floats("hinge_embedding_loss", input=input)
    target = jnp.asarray(target)
    same_shape("hinge_embedding_loss", input=input, target=target)
    # Both terms for a target that is neither 1 nor -1: torch's reading.
    apart = jnp.where(target != 1, clamp_min_0(margin - input), 0)
    near = jnp.where(target != -1, input, 0)
    return reduce(apart + near, reduction)


def soft_margin_loss(
    input: Float[ArrayLike, "*shape"], target: Shaped[ArrayLike, "*shape"], reduction: str = "mean"
) -> Float[Array, "..."]:
    """log(1 + exp(-y x)): torch.nn.functional.soft_margin_loss.

    Where exp overflows (y x below -88 in float32) torch gives infinity and a nan
    gradient; here the value stays exact.

    Args:
        input: scores x, floats of any shape.
        target: y, 1 or -1, the same shape; another one is an error, where torch broadcasts.
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one an element with "none".
    """
    input, target = floats("soft_margin_loss", input=input, target=target)
    same_shape("soft_margin_loss", input=input, target=target)
    return reduce(jax.nn.softplus(-target * input), reduction)


def multi_margin_loss(
    input: Float[ArrayLike, "*N C"],
    target: Integer[ArrayLike, "*N"],
    p: int = 1,
    margin: float = 1.0,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """sum_{i != y} w_y max(0, margin - x_y + x_i)^p / C: torch.nn.functional.multi_margin_loss.

    Args:
        input: scores (N, C) or (C,).
        target: class numbers (N,), or one.
        p: 1 or 2.
        margin: how far the right class should lead.
        weight: of each class, (C,).
        reduction: "mean" (over the samples, weighted or not), "sum" or "none".

    Returns:
        One number, or one a sample with "none".

    Raises:
        ValueError: for shapes that do not match, another p, and class numbers outside
            [0, C). Inside jit numbers cannot be looked at: there such a target makes
            the loss nan. So does a nan score, which torch passes over.
    """
    loss = "multi_margin_loss"
    check_reduction(reduction)
    check_choice(f"{loss}: p", p, (1, 2))
    (input,) = floats(loss, input=input)
    target = integers(loss, "target", target)
    single = input.ndim == 1 and target.shape in ((), (1,))
    if not single and (input.ndim != 2 or target.shape != input.shape[:1]):
        raise ValueError(
            f"{loss}: scores {input.shape} and classes {target.shape} do not match; "
            "accepted are (N, C) with (N,), and (C,) with one class"
        )
    count = input.shape[-1]
    inside = (target >= 0) & (target < count)
    first = first_bad(target, lambda t: (t < 0) | (t >= count))
    if first is not None:
        raise ValueError(f"{loss}: target holds class {first}; accepted are 0 to {count - 1}")
    place = jnp.where(inside, target, 0).reshape(-1, 1)
    scores = input.reshape(-1, count)
    is_target = lax.broadcasted_iota(place.dtype, scores.shape, 1) == place
    right = jnp.where(is_target, scores, 0).sum(1, keepdims=True)
    short = jax.nn.relu(margin - right + scores)
    values = jnp.where(is_target, 0, short if p == 1 else jnp.square(short)).sum(1) / count
    if weight is not None:
        weight = jnp.asarray(weight)
        if weight.shape != (count,):
            raise ValueError(f"{loss}: weight of shape {weight.shape}; it needs ({count},)")
        values = values * weight[place[:, 0]]
    values = values.reshape(target.shape) * jnp.where(inside, 1, jnp.nan).astype(values.dtype)
    return reduce(values, reduction)


def multilabel_margin_loss(
    input: Float[ArrayLike, "*shape"], target: Integer[ArrayLike, "*shape"], reduction: str = "mean"
) -> Float[Array, "..."]:
    """sum_{j in y, i not in y} max(0, 1 - x_j + x_i) / C: multilabel_margin_loss of torch.

    Args:
        input: scores (N, C) or (C,).
        target: the same shape; each row lists class numbers up to its first -1.
        reduction: "mean" (over the samples), "sum" or "none".

    Returns:
        One number, or one a sample with "none".

    Raises:
        ValueError: for shapes that differ and numbers outside [-1, C). Inside jit
            numbers cannot be looked at: there such a target makes the loss nan.
    """
    loss = "multilabel_margin_loss"
    check_reduction(reduction)
    (input,) = floats(loss, input=input)
    target = integers(loss, "target", target)
    same_shape(loss, input=input, target=target)
    if input.ndim not in (1, 2):
        raise ValueError(f"{loss}: scores {input.shape}; accepted are (N, C) and (C,)")
    count = input.shape[-1]
    first = first_bad(target, lambda t: (t < -1) | (t >= count))
    if first is not None:
        raise ValueError(f"{loss}: target holds {first}; accepted are -1 to {count - 1}")
    listed = lax.cumsum((target < 0).astype(jnp.int32), target.ndim - 1) == 0
    # (..., list, class): which class each entry of the list names.
    number = lax.broadcasted_iota(target.dtype, (*target.shape, count), target.ndim)
    names = (number == target[..., None]) & listed[..., None]
    right = jnp.where(names, input[..., None, :], 0).sum(-1)
    short = jax.nn.relu(1 - right[..., None] + input[..., None, :])
    others = listed[..., None] & ~names.any(-2, keepdims=True)
    values = jnp.where(others, short, 0).sum((-2, -1)) / count
    outside = (target < -1) | (target >= count)
    return reduce(jnp.where(outside.any(-1), jnp.nan, values), reduction)


def multilabel_soft_margin_loss(
    input: Float[ArrayLike, "*shape"],
    target: Shaped[ArrayLike, "*shape"],
    weight: Float[ArrayLike, "..."] | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """-mean_c w_c (y log s(x) + (1 - y) log s(-x)): multilabel_soft_margin_loss of torch.

    Args:
        input: scores x (..., C); s is the sigmoid.
        target: y, 0 or 1, the same shape; another one is an error, where torch broadcasts.
        weight: of each class, (C,), or another shape that broadcasts to input's.
        reduction: "mean" (over the samples), "sum" or "none".

    Returns:
        One number, or one a sample, (...), with "none".
    """
    loss = "multilabel_soft_margin_loss"
    input, target = floats(loss, input=input, target=target)
    same_shape(loss, input=input, target=target)
    if input.ndim == 0:
        raise ValueError(f"{loss}: scores of shape (); accepted is (..., C)")
    log_s = jax.nn.log_sigmoid
    values = -(target * log_s(input) + (1 - target) * log_s(-input))
    if weight is not None:
        values = values * broadcast_to(loss, "weight", weight, values)
    return reduce(values.mean(-1), reduction)
