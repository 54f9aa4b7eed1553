"""Margin (hinge) losses of scores."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Shaped

from jaxnet._arrays import as_jax
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
    """The hinge loss of distances: torch.nn.functional.hinge_embedding_loss.

    The loss of each element is x where y = 1, and max(0, margin - x) where y = -1.

    Args:
        input: The distances x, floats of any shape.
        target: The targets y, 1 or -1, of the input's shape. Another shape is an error, where
            torch broadcasts.
        margin: The distance that pairs with y = -1 should have at least.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
        TypeError: The input is not floating.
    """
    (input,) = floats("hinge_embedding_loss", input=input)
    target = as_jax("hinge_embedding_loss: target", target)
    same_shape("hinge_embedding_loss", input=input, target=target)
    # As in torch, a target that is neither 1 nor -1 gets both terms.
    apart = jnp.where(target != 1, clamp_min_0(margin - input), 0)
    near = jnp.where(target != -1, input, 0)
    return reduce(apart + near, reduction)


def soft_margin_loss(
    input: Float[ArrayLike, "*shape"], target: Shaped[ArrayLike, "*shape"], reduction: str = "mean"
) -> Float[Array, "..."]:
    """The logistic loss of scores: torch.nn.functional.soft_margin_loss.

    The loss of each element is log(1 + exp(-y x)). Where exp overflows (y x below -88 in
    float32), torch gives infinity and a nan gradient; here the loss is exact.

    Args:
        input: The scores x, floats of any shape.
        target: The targets y, 1 or -1, of the input's shape. Another shape is an error, where
            torch broadcasts.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
        TypeError: The input is not floating.
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
    """The margin loss of scores and classes: torch.nn.functional.multi_margin_loss.

    The loss of each sample is sum_{i != y} w_y max(0, margin - x_y + x_i)^p / C.

    Args:
        input: The scores x, floats (N, C) or (C,).
        target: The class numbers y, integers (N,), or one class number.
        p: The exponent, 1 or 2.
        margin: The difference that the score of the right class should have to the others.
        weight: The weights of the classes, (C,). None is 1 for all.
        reduction: The reduction, "mean" (over the samples, weighted or not), "sum" or
            "none".

    Returns:
        The loss, one number, or with "none" one number for each sample.

    Raises:
        ValueError: The shapes do not match, p is another number, or a class number is
            outside [0, C). Inside jit the class numbers are not known; there such a number
            makes the loss nan. A nan score makes the loss nan too, where torch ignores it.
        TypeError: The input is not floating, or the targets are no integers.
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
    # relu has torch's derivative 0 at 0; the term of the right class itself is left out below.
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
    """The margin loss of several classes: torch.nn.functional.multilabel_margin_loss.

    The loss of each sample is sum_{j in y, i not in y} max(0, 1 - x_j + x_i) / C.

    Args:
        input: The scores x, floats (N, C) or (C,).
        target: The class numbers y, integers of the input's shape. The classes of a sample
            are those before the first -1 in its row.
        reduction: The reduction, "mean" (over the samples), "sum" or "none".

    Returns:
        The loss, one number, or with "none" one number for each sample.

    Raises:
        ValueError: The shapes differ, or a number is outside [-1, C). Inside jit the class
            numbers are not known; there such a number makes the loss nan.
        TypeError: The input is not floating, or the targets are no integers.
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
    # True up to the first negative number of each row.
    listed = lax.cumsum((target < 0).astype(jnp.int32), target.ndim - 1) == 0
    # An array (..., list, class): whether an entry of the list is the number of a class.
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
    """The logistic loss of classes: torch.nn.functional.multilabel_soft_margin_loss.

    The loss of each sample is -mean_c w_c (y log s(x) + (1 - y) log s(-x)), where s is the
    sigmoid.

    Args:
        input: The scores x, floats (..., C).
        target: The targets y, 0 or 1, of the input's shape. Another shape is an error, where
            torch broadcasts.
        weight: The weights w of the classes, (C,) or another shape that broadcasts to the
            input's. None is 1 for all.
        reduction: The reduction, "mean" (over the samples), "sum" or "none".

    Returns:
        The loss, one number, or with "none" an array (...) of one number for each sample.

    Raises:
        ValueError: The shapes differ, the input has no axis, or the reduction is unknown.
        TypeError: The input and the target are integers.
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
