"""Losses between scores and classes, or probabilities and probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import xlogy
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer, Shaped

from jaxnet.losses._reduction import (
    broadcast_to,
    check_reduction,
    first_bad,
    floats,
    integers,
    reduce,
    same_shape,
)


def nll_loss(
    input: Float[ArrayLike, "..."],
    target: Integer[ArrayLike, "..."],
    weight: Float[ArrayLike, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """-weight[target] * input[target]: torch.nn.functional.nll_loss.

    Args:
        input: log probabilities (N, C), (N, C, d1, ...) or (C,).
        target: class numbers (N,), (N, d1, ...) or a single one.
        weight: of each class, (C,).
        ignore_index: targets of this number count for nothing.
        reduction: "mean" divides by the sum of the weights of the targets that count
            (nan when none does), "sum" or "none".

    Returns:
        One number, or one a target with "none".

    Raises:
        ValueError: for shapes that do not match, and for a class number outside
            [0, C). Inside jit numbers cannot be looked at: there such a target makes
            the loss nan.
        TypeError: for targets that are no integers.
    """
    check_reduction(reduction)
    (input,) = floats("nll_loss", input=input)
    target, weight = _classes("nll_loss", input, target, weight, ignore_index)
    values, weights = _picked(input, target, weight, ignore_index)
    return _reduce_weighted(values, weights, reduction)


def cross_entropy(
    input: Float[ArrayLike, "..."],
    target: Shaped[ArrayLike, "..."],
    weight: Float[ArrayLike, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Float[Array, "..."]:
    """-sum_c weight_c target_c log softmax(input)_c: torch.nn.functional.cross_entropy.

    Args:
        input: scores (N, C), (N, C, d1, ...) or (C,).
        target: class numbers (N,), (N, d1, ...) or a single one; or, of input's
            shape and floating, the probability of each class.
        weight: of each class, (C,).
        ignore_index: class numbers that count for nothing.
        reduction: "mean" divides by the sum of the weights of the targets that count
            (nan when none does); with probabilities by the number of samples.
        label_smoothing: share in [0, 1] of the target that is spread over all classes.

    Returns:
        One number, or one a sample with "none".

    Raises:
        ValueError: for shapes that do not match, and for a class number outside
            [0, C). Inside jit numbers cannot be looked at: there such a target makes
            the loss nan.
        TypeError: for class numbers that are no integers.

    >>> print(cross_entropy(jnp.zeros((2, 4)), jnp.array([1, -100]), reduction="none"))
    [1.3862944 0.       ]
    """
    check_reduction(reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing {label_smoothing}; accepted is [0, 1]")
    (input,) = floats("cross_entropy", input=input)
    axis = min(input.ndim - 1, 1)
    if input.ndim and jnp.shape(target) == input.shape:
        return _soft_cross_entropy(
            input, target, weight, ignore_index, reduction, label_smoothing, axis
        )
    target, weight = _classes("cross_entropy", input, target, weight, ignore_index)
    log_p = jax.nn.log_softmax(input, axis)
    values, weights = _picked(log_p, target, weight, ignore_index)
    if label_smoothing:
        spread = log_p if weight is None else log_p * _along(axis, weight, log_p)
        even = jnp.where(target == ignore_index, 0, -spread.sum(axis))
        values = (1 - label_smoothing) * values + label_smoothing / input.shape[axis] * even
    return _reduce_weighted(values, weights, reduction)


def _soft_cross_entropy(
    input: jax.Array,
    target: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    axis: int,
) -> jax.Array:
    """cross_entropy with a probability for each class as target."""
    target = jnp.asarray(target)
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise TypeError(
            f"cross_entropy: a target of the scores' shape {input.shape} holds probabilities "
            f"and is floating; it is {target.dtype}"
        )
    if ignore_index >= 0:
        raise ValueError(
            f"cross_entropy: ignore_index {ignore_index} with probabilities as target; "
            "only class numbers can be ignored"
        )
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / input.shape[axis]
    terms = jax.nn.log_softmax(input, axis) * target
    if weight is not None:
        terms = terms * _along(axis, _class_weight("cross_entropy", input, weight), input)
    return reduce(-terms.sum(axis), reduction)


def _classes(
    loss: str,
    input: jax.Array,
    target: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
) -> tuple[jax.Array, jax.Array | None]:
    """Class numbers and class weights, checked; the target's shape is that of the result."""
    target = integers(loss, "target", target)
    if input.ndim == 1 and target.shape == (1,):
        target = target[0]
    if input.ndim == 0 or target.shape != input.shape[: input.ndim - 1][:1] + input.shape[2:]:
        raise ValueError(
            f"{loss}: scores {input.shape} and classes {target.shape} do not match; accepted "
            "are (N, C) with (N,), (N, C, d1, ...) with (N, d1, ...), and (C,) with one class"
        )
    if weight is not None:
        weight = _class_weight(loss, input, weight)
    count = input.shape[min(input.ndim - 1, 1)]
    first = first_bad(target, lambda t: ((t < 0) | (t >= count)) & (t != ignore_index))
    if first is not None:
        raise ValueError(
            f"{loss}: target holds class {first}; accepted are 0 to {count - 1}, "
            f"and {ignore_index} for what is ignored"
        )
    return target, weight


def _class_weight(loss: str, input: jax.Array, weight: ArrayLike) -> jax.Array:
    weight = jnp.asarray(weight)
    count = input.shape[min(input.ndim - 1, 1)]
    if weight.shape != (count,):
        raise ValueError(
            f"{loss}: weight of shape {weight.shape}; it needs one a class, ({count},)"
        )
    return weight


def _along(axis: int, weight: jax.Array, like: jax.Array) -> jax.Array:
    """Class weights (C,) laid along an axis of the scores."""
    return lax.broadcast_in_dim(weight, like.shape, (axis,))


def _picked(
    log_p: jax.Array, target: jax.Array, weight: jax.Array | None, ignore_index: int
) -> tuple[jax.Array, jax.Array]:
    """-weight * log_p of each target, and the weights: 0 if ignored, nan if no class."""
    axis = min(log_p.ndim - 1, 1)
    ignored = target == ignore_index
    inside = (target >= 0) & (target < log_p.shape[axis])
    place = jnp.where(inside, target, 0).astype(jnp.int32)
    # By comparison and not by a gather, whose gradient would be a scatter into zeros: a GPU
    # fuses this with the softmax, and needs a third of the memory traffic for many classes.
    number = lax.broadcasted_iota(place.dtype, log_p.shape, axis)
    picked = jnp.where(number == jnp.expand_dims(place, axis), log_p, 0).sum(axis)
    weights = jnp.ones_like(picked) if weight is None else weight[place]
    weights = jnp.where(ignored, 0, jnp.where(inside, weights, jnp.nan))
    return jnp.where(ignored, 0, -picked * weights), weights


def _reduce_weighted(values: jax.Array, weights: jax.Array, reduction: str) -> jax.Array:
    if reduction == "mean":
        return values.sum() / weights.sum()
    return reduce(values, reduction)


# torch limits the slope with this; it holds the number in float32.
_BCE_EPS = float(np.float32(1e-12))


@jax.custom_jvp
def _log_terms(p: jax.Array, target: jax.Array) -> jax.Array:
    """-target log p - (1 - target) log(1 - p), with the logarithms held above -100."""
    below, above = jnp.maximum(jnp.log(p), -100), jnp.maximum(jnp.log1p(-p), -100)
    return (target - 1) * above - target * below


# The slope is torch's own, not that of the limited logarithm: at p = 0 and 1 it goes on
# pointing the right way (1e12 at most), where the plain derivative would be 0 or nan.
def _log_terms_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    p, target = primals
    d_p, d_target = tangents
    out = _log_terms(p, target)
    total = jnp.zeros_like(out)
    if not isinstance(d_p, SymbolicZero):
        total = total + (p - target) / jnp.maximum((1 - p) * p, _BCE_EPS) * d_p
    if not isinstance(d_target, SymbolicZero):
        total = total + (jnp.log1p(-p) - jnp.log(p)) * d_target
    return out, total


_log_terms.defjvp(_log_terms_jvp, symbolic_zeros=True)


def binary_cross_entropy(
    input: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """-w (t log p + (1 - t) log(1 - p)), log held above -100: binary_cross_entropy of torch.

    Args:
        input: probabilities, floats of any shape.
        target: numbers in [0, 1], the same shape.
        weight: of a shape that broadcasts to input's.
        reduction: "mean" (over the elements, weighted or not), "sum" or "none".

    Returns:
        One number, or one an element with "none".

    Raises:
        ValueError: for shapes that differ, and numbers outside [0, 1]. Inside jit and
            grad numbers cannot be looked at; the loss becomes nan there.
    """
    loss = "binary_cross_entropy"
    check_reduction(reduction)
    input, target = floats(loss, input=input, target=target)
    same_shape(loss, input=input, target=target)
    for name, value in (("input", input), ("target", target)):
        first = first_bad(value, lambda v: ~((v >= 0) & (v <= 1)))
        if first is not None:
            raise ValueError(f"{loss}: {name} holds {first}; accepted are numbers in [0, 1]")
    values = _log_terms(input, jnp.where((target >= 0) & (target <= 1), target, jnp.nan))
    if weight is not None:
        values = values * broadcast_to(loss, "weight", weight, values)
    return reduce(values, reduction)


def binary_cross_entropy_with_logits(
    input: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """-w (a t log s(x) + (1 - t) log(1 - s(x))), s the sigmoid: torch's function of the name.

    Args:
        input: scores x, floats of any shape.
        target: numbers in [0, 1], the same shape.
        weight: w, of a shape that broadcasts to input's.
        reduction: "mean" (over the elements, weighted or not), "sum" or "none".
        pos_weight: a, of a shape that broadcasts to input's.

    Returns:
        One number, or one an element with "none".
    """
    loss = "binary_cross_entropy_with_logits"
    input, target = floats(loss, input=input, target=target)
    same_shape(loss, input=input, target=target)
    log_s = jax.nn.log_sigmoid(input)
    if pos_weight is not None:
        log_s = log_s * ((broadcast_to(loss, "pos_weight", pos_weight, input) - 1) * target + 1)
    values = (1 - target) * input - log_s
    if weight is not None:
        values = values * broadcast_to(loss, "weight", weight, values)
    return reduce(values, reduction)


def kl_div(
    input: Float[ArrayLike, "..."],
    target: Float[ArrayLike, "..."],
    reduction: str = "mean",
    log_target: bool = False,
) -> Float[Array, "..."]:
    """target (log target - input): torch.nn.functional.kl_div.

    Args:
        input: log probabilities of any shape.
        target: probabilities, or their logarithms with log_target; the same shape
            (torch broadcasts another one).
        reduction: "batchmean" divides the sum by the size of the first axis, which is
            the divergence's definition; "mean" (torch warns) by the number of
            elements; "sum" or "none".
        log_target: whether target is a logarithm.

    Returns:
        One number, or one an element with "none".
    """
    check_reduction(reduction, "batchmean")
    input, target = floats("kl_div", input=input, target=target)
    same_shape("kl_div", input=input, target=target)
    if log_target:
        values = jnp.exp(target) * (target - input)
    else:
        values = xlogy(target, target) - target * input
    if reduction == "batchmean":
        total = values.sum()
        return total / jnp.asarray(input.shape[0], total.dtype) if input.ndim else total
    return reduce(values, reduction)
