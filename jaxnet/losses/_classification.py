"""Losses for scores and classes, and for probabilities."""

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
    divide,
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
    """The negative log likelihood: torch.nn.functional.nll_loss.

    The loss of each sample is -weight[target] * input[target].

    Args:
        input: The log probabilities, (N, C), (N, C, d1, ...) or (C,).
        target: The class numbers, integers (N,) or (N, d1, ...), or one class number.
        weight: The weights of the classes, (C,). None is 1 for all.
        ignore_index: The class number whose targets are ignored.
        reduction: The reduction, "mean", "sum" or "none". "mean" divides by the sum of the
            weights of the targets that are not ignored (nan if there are none).

    Returns:
        The loss, one number, or with "none" an array of the target's shape.

    Raises:
        ValueError: The shapes do not match, or a class number is outside [0, C). Inside jit
            the class numbers are not known; there such a number makes the loss nan.
        TypeError: The input is not floating, or the targets are no integers.
    """
    check_reduction(reduction)
    (input,) = floats("nll_loss", input=input)
    target, weight = _classes("nll_loss", input, target, weight, ignore_index)
    values, weights = _picked(input, target, weight, ignore_index)
    return reduce_weighted(values, weights, reduction)


def cross_entropy(
    input: Float[ArrayLike, "..."],
    target: Shaped[ArrayLike, "..."],
    weight: Float[ArrayLike, " C"] | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Float[Array, "..."]:
    """The cross entropy of scores and classes: torch.nn.functional.cross_entropy.

    The loss of each sample is -sum_c weight_c target_c log softmax(input)_c, where target_c
    is the probability of class c: 1 for the class of a class number and 0 for the others.

    Args:
        input: The scores (logits), (N, C), (N, C, d1, ...) or (C,).
        target: The class numbers, integers (N,) or (N, d1, ...), or one class number; or
            the probabilities of the classes, floats of the input's shape.
        weight: The weights of the classes, (C,). None is 1 for all.
        ignore_index: The class number whose targets are ignored.
        reduction: The reduction, "mean", "sum" or "none". "mean" divides by the sum of the
            weights of the targets that are not ignored (nan if there are none); with
            probabilities it divides by the number of samples.
        label_smoothing: The share of each target that is spread evenly over all classes, in
            [0, 1].

    Returns:
        The loss, one number, or with "none" one number for each sample.

    Raises:
        ValueError: label_smoothing is outside [0, 1], the shapes do not match, or a class
            number is outside [0, C). Inside jit the class numbers are not known; there such
            a number makes the loss nan.
        TypeError: The input is not floating, or class numbers are no integers.

    >>> print(cross_entropy(jnp.zeros((2, 4)), jnp.array([1, -100]), reduction="none"))
    [1.3862944 0.       ]
    """
    check_reduction(reduction)
    (input,) = floats("cross_entropy", input=input)
    checked = check_cross_entropy(
        "cross_entropy", input, target, weight, ignore_index, label_smoothing
    )
    values, weights = sample_losses(input, *checked, ignore_index, label_smoothing)
    return reduce_weighted(values, weights, reduction)


def check_cross_entropy(
    loss: str,
    input: jax.Array | jax.ShapeDtypeStruct,
    target: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[jax.Array, jax.Array | None]:
    """The checked targets and class weights of a cross entropy.

    Args:
        loss: The name of the function, for errors.
        input: The scores; only their shape and dtype are used.
        target: As in `cross_entropy`, and so are weight, ignore_index and label_smoothing.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{loss}: label_smoothing {label_smoothing}; accepted is [0, 1]")
    # As in torch, the shape of the target decides what it is: no class numbers have the shape
    # of the scores.
    if not input.ndim or jnp.shape(target) != input.shape:
        return _classes(loss, input, target, weight, ignore_index)
    target = jnp.asarray(target)
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise TypeError(
            f"{loss}: a target of the scores' shape {input.shape} holds probabilities "
            f"and is floating; it is {target.dtype}"
        )
    if ignore_index >= 0:
        raise ValueError(
            f"{loss}: ignore_index {ignore_index} with probabilities as target; "
            "only class numbers can be ignored"
        )
    return target, None if weight is None else _class_weight(loss, input, weight)


def sample_losses(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[jax.Array, jax.Array | None]:
    """The cross entropy of each sample, and its weight, which is None for probabilities."""
    axis = min(input.ndim - 1, 1)  # of the classes
    log_p = jax.nn.log_softmax(input, axis)
    if target.shape == input.shape:
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / input.shape[axis]
        terms = log_p * target
        if weight is not None:
            terms = terms * _along(axis, weight, input)
        return -terms.sum(axis), None
    values, weights = _picked(log_p, target, weight, ignore_index)
    if label_smoothing:
        spread = log_p if weight is None else log_p * _along(axis, weight, log_p)
        even = jnp.where(target == ignore_index, 0, -spread.sum(axis))
        values = (1 - label_smoothing) * values + label_smoothing / input.shape[axis] * even
    return values, weights


def _classes(
    loss: str,
    input: jax.Array | jax.ShapeDtypeStruct,
    target: ArrayLike,
    weight: ArrayLike | None,
    ignore_index: int,
) -> tuple[jax.Array, jax.Array | None]:
    """The checked class numbers and class weights.

    The class numbers have the shape of the result.
    """
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


def _class_weight(
    loss: str, input: jax.Array | jax.ShapeDtypeStruct, weight: ArrayLike
) -> jax.Array:
    """The checked class weights, (C,)."""
    weight = jnp.asarray(weight)
    count = input.shape[min(input.ndim - 1, 1)]
    if weight.shape != (count,):
        raise ValueError(
            f"{loss}: weight of shape {weight.shape}; it needs one a class, ({count},)"
        )
    return weight


def _along(axis: int, weight: jax.Array, like: jax.Array) -> jax.Array:
    """Class weights (C,) broadcast along an axis of the scores."""
    return lax.broadcast_in_dim(weight, like.shape, (axis,))


def _picked(
    log_p: jax.Array, target: jax.Array, weight: jax.Array | None, ignore_index: int
) -> tuple[jax.Array, jax.Array]:
    """-weight * log_p of each target, and the weight of each target.

    The weight is 0 for an ignored target and nan for a number that is no class.
    """
    axis = min(log_p.ndim - 1, 1)
    ignored = target == ignore_index
    inside = (target >= 0) & (target < log_p.shape[axis])
    place = jnp.where(inside, target, 0).astype(jnp.int32)
    # A comparison and not a gather, whose gradient would be a scatter into zeros: a GPU fuses the
    # comparison with the softmax, which for many classes takes a third of the memory traffic.
    number = lax.broadcasted_iota(place.dtype, log_p.shape, axis)
    picked = jnp.where(number == jnp.expand_dims(place, axis), log_p, 0).sum(axis)
    weights = jnp.ones_like(picked) if weight is None else weight[place]
    weights = jnp.where(ignored, 0, jnp.where(inside, weights, jnp.nan))
    # An ignored target is 0 even if its log probability is infinite or nan.
    return jnp.where(ignored, 0, -picked * weights), weights


def reduce_weighted(values: jax.Array, weights: jax.Array | None, reduction: str) -> jax.Array:
    """Reduces losses that have their weights already; "mean" divides by the weights' sum.

    Without weights, "mean" divides by the number of losses.
    """
    if reduction == "mean" and weights is not None:
        return divide(values.sum(), weights.sum())
    return reduce(values, reduction)


# The limit in torch's gradient, a float32 number there.
_BCE_EPS = float(np.float32(1e-12))


@jax.custom_jvp
def _log_terms(p: jax.Array, target: jax.Array) -> jax.Array:
    """-target log p - (1 - target) log(1 - p), with logarithms of at least -100."""
    below, above = jnp.maximum(jnp.log(p), -100), jnp.maximum(jnp.log1p(-p), -100)
    return (target - 1) * above - target * below


# The derivative is torch's and not that of the limited logarithm: at p = 0 and p = 1 it still
# has the right sign (and is 1e12 at most), where the plain derivative would be 0 or nan.
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
    """The cross entropy of probabilities: torch.nn.functional.binary_cross_entropy.

    The loss of each element is -w (t log p + (1 - t) log(1 - p)), with logarithms of at
    least -100.

    Args:
        input: The probabilities p, floats of any shape.
        target: The targets t in [0, 1], of the input's shape.
        weight: The weights w, of a shape that broadcasts to the input's. None is 1 for all.
        reduction: The reduction, "mean" (over the elements, weighted or not), "sum" or
            "none".

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or a number is outside [0, 1]. Inside jit and grad
            the numbers are not known; there such a number makes the loss nan.
        TypeError: The input and the target are integers.
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
    """The cross entropy of scores: torch.nn.functional.binary_cross_entropy_with_logits.

    The loss of each element is -w (a t log s(x) + (1 - t) log(1 - s(x))), where s is the
    sigmoid.

    Args:
        input: The scores (logits) x, floats of any shape.
        target: The targets t in [0, 1], of the input's shape.
        weight: The weights w, of a shape that broadcasts to the input's. None is 1 for all.
        reduction: The reduction, "mean" (over the elements, weighted or not), "sum" or
            "none".
        pos_weight: The weights a of the positive targets, of a shape that broadcasts to the
            input's. None is 1 for all.

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes of input and target differ, or a weight does not broadcast.
        TypeError: The input and the target are integers.
    """
    loss = "binary_cross_entropy_with_logits"
    input, target = floats(loss, input=input, target=target)
    same_shape(loss, input=input, target=target)
    # log(1 - s(x)) = log s(x) - x: one log_sigmoid, stable for all x, serves both terms.
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
    """The Kullback-Leibler divergence: torch.nn.functional.kl_div.

    The loss of each element is target (log target - input).

    Args:
        input: The log probabilities, floats of any shape.
        target: The probabilities, or with log_target their logarithms, of the input's
            shape. Another shape is an error, where torch broadcasts.
        reduction: The reduction, "batchmean", "mean", "sum" or "none". "batchmean" divides
            the sum by the size of the first axis, as in the definition of the divergence.
            "mean" divides the sum by the number of elements; torch warns about it.
        log_target: Whether target is a logarithm.

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
        TypeError: The input and the target are integers.
    """
    check_reduction(reduction, "batchmean")
    input, target = floats("kl_div", input=input, target=target)
    same_shape("kl_div", input=input, target=target)
    if log_target:
        values = jnp.exp(target) * (target - input)
    else:
        # xlogy is 0, and not nan, for a probability of 0.
        values = xlogy(target, target) - target * input
    if reduction == "batchmean":
        total = values.sum()
        return total / jnp.asarray(input.shape[0], total.dtype) if input.ndim else total
    return reduce(values, reduction)
