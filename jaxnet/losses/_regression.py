"""Losses for regression: numbers and their targets."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet.losses._kinks import absolute
from jaxnet.losses._reduction import (
    broadcast,
    check_reduction,
    first_bad,
    floats,
    reduce,
    same_shape,
)


def mse_loss(
    input: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """The squared error (input - target)^2: torch.nn.functional.mse_loss.

    Args:
        input: The outputs, floats of any shape.
        target: The targets, of the input's shape. Another shape is an error, where torch
            warns and broadcasts, which hides mistakes such as (N,) against (N, 1).
        reduction: The reduction over the elements, "mean", "sum" or "none".
        weight: The weights of the elements, of the input's shape. "mean" then divides by the
            sum of the weights. None is 1 for all.

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
        TypeError: The input and the target are integers.
    """
    input, target = floats("mse_loss", input=input, target=target)
    same_shape("mse_loss", input=input, target=target)
    return _weighted("mse_loss", jnp.square(input - target), weight, reduction)


def l1_loss(
    input: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    reduction: str = "mean",
    weight: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """The absolute error |input - target|: torch.nn.functional.l1_loss.

    As in torch, the derivative at 0 is 0.

    Args:
        input: The outputs, floats of any shape.
        target: The targets, of the input's shape. Another shape is an error, where torch
            broadcasts.
        reduction: The reduction over the elements, "mean", "sum" or "none".
        weight: The weights of the elements, of the input's shape. "mean" then divides by the
            sum of the weights. None is 1 for all.

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
        TypeError: The input and the target are integers.
    """
    input, target = floats("l1_loss", input=input, target=target)
    same_shape("l1_loss", input=input, target=target)
    return _weighted("l1_loss", absolute(input - target), weight, reduction)


def _weighted(loss: str, values: jax.Array, weight: ArrayLike | None, reduction: str) -> jax.Array:
    """Reduces losses with weights; a weighted mean is divided by the sum of the weights."""
    if weight is None:
        return reduce(values, reduction)
    weight = jnp.asarray(weight)
    same_shape(loss, input=values, weight=weight)
    if reduction == "mean":
        return (values * weight).sum() / weight.sum()
    return reduce(values * weight, reduction)


def smooth_l1_loss(
    input: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    reduction: str = "mean",
    beta: float = 1.0,
) -> Float[Array, "..."]:
    """The smooth absolute error: torch.nn.functional.smooth_l1_loss.

    With d = input - target the loss of each element is 0.5 d^2 / beta where |d| < beta, and
    |d| - 0.5 beta elsewhere.

    Args:
        input: The outputs, floats of any shape.
        target: The targets, of the input's shape. Another shape is an error, where torch
            broadcasts.
        reduction: The reduction over the elements, "mean", "sum" or "none".
        beta: The |d| at which the parabola ends, at least 0. The loss for 0 is `l1_loss`.

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or beta or reduction is out of range.
        TypeError: The input and the target are integers.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta {beta}; it must be at least 0")
    if beta == 0:
        return l1_loss(input, target, reduction)
    input, target = floats("smooth_l1_loss", input=input, target=target)
    same_shape("smooth_l1_loss", input=input, target=target)
    return reduce(_parabola_then_line(input - target, beta) / beta, reduction)


def huber_loss(
    input: Float[ArrayLike, "*shape"],
    target: Float[ArrayLike, "*shape"],
    reduction: str = "mean",
    delta: float = 1.0,
    weight: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """The Huber loss: torch.nn.functional.huber_loss.

    With d = input - target the loss of each element is 0.5 d^2 where |d| < delta, and
    delta (|d| - 0.5 delta) elsewhere.

    Args:
        input: The outputs, floats of any shape.
        target: The targets, of the input's shape. Another shape is an error, where torch
            broadcasts.
        reduction: The reduction over the elements, "mean", "sum" or "none".
        delta: The |d| at which the parabola ends, above 0.
        weight: The weights of the elements, of the input's shape. As in torch, and unlike
            in `mse_loss`, "mean" still divides by the number of elements.

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or delta or reduction is out of range.
        TypeError: The input and the target are integers.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta {delta}; it must be above 0")
    input, target = floats("huber_loss", input=input, target=target)
    same_shape("huber_loss", input=input, target=target)
    values = _parabola_then_line(input - target, delta)
    if weight is not None:
        weight = jnp.asarray(weight)
        same_shape("huber_loss", input=input, weight=weight)
        values = values * weight
    return reduce(values, reduction)


def _parabola_then_line(d: jax.Array, width: float) -> jax.Array:
    """0.5 d^2 where |d| is at most the width, and the tangent beyond.

    Value and derivative are right for an infinite d too.
    """
    size = jnp.abs(d)
    # One formula and no jnp.where, whose unused branch would make nan of an infinite d.
    near = jnp.minimum(size, width)
    return near * (0.5 * near) + width * (size - near)


def gaussian_nll_loss(
    input: Float[ArrayLike, "..."],
    target: Float[ArrayLike, "..."],
    var: Float[ArrayLike, "..."],
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """The negative log likelihood of a normal distribution: torch.nn.functional.gaussian_nll_loss.

    The loss of each element is 0.5 (log v + (input - target)^2 / v) with v = max(var, eps).
    As in torch, the gradient with respect to var ignores the limit eps.

    Args:
        input: The means, floats (N, ...).
        target: The targets, of the input's shape or with axes of size 1.
        var: The variances, at least 0: an array of the input's shape, of that shape without
            the last axis, or of that shape with one axis of size 1; or one Python number.
        full: Whether the constant 0.5 log(2 pi) is added.
        eps: The smallest variance that is used.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes do not match, or a variance is negative. Inside jit the
            variances are not known; there a negative one makes the loss nan.
        TypeError: An argument is not floating.
    """
    loss = "gaussian_nll_loss"
    check_reduction(reduction)
    input, target = floats(loss, input=input, target=target)
    if isinstance(var, int | float):
        var = jnp.full(input.shape, var, input.dtype)
    (var,) = floats(loss, var=var)
    if var.shape != input.shape:
        if var.shape == input.shape[:-1]:
            var = var[..., None]
        elif var.ndim != input.ndim or [
            v for v, x in zip(var.shape, input.shape, strict=True) if v != x
        ] != [1]:
            raise ValueError(
                f"{loss}: var of shape {var.shape} for input {input.shape}; accepted are that "
                "shape, that shape without its last axis, or with one axis of size 1"
            )
    negative = first_bad(var, lambda v: v < 0)
    if negative is not None:
        raise ValueError(f"{loss}: var holds {negative}; variances are at least 0")
    input, target, var = broadcast(loss, input=input, target=target, var=var)
    # The value of passing is eps, and its derivative with respect to var is 1.
    passing = eps + (var - lax.stop_gradient(var))
    v = jnp.where(var < eps, jnp.where(var < 0, jnp.nan, passing), var)
    values = 0.5 * (jnp.log(v) + jnp.square(input - target) / v)
    if full:
        values = values + 0.5 * math.log(2 * math.pi)
    return reduce(values, reduction)


def poisson_nll_loss(
    input: Float[ArrayLike, "*shape"],
    target: Shaped[ArrayLike, "*shape"],
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Float[Array, "..."]:
    """The negative log likelihood of a Poisson distribution: torch.nn.functional.poisson_nll_loss.

    The loss of each element is exp(input) - target * input, or with log_input=False
    input - target * log(input + eps).

    Args:
        input: The logarithm of the expected count, or with log_input=False the expected
            count, floats of any shape.
        target: The counts, of the input's shape. Another shape is an error, where torch
            broadcasts.
        log_input: Whether input is a logarithm.
        full: Whether Stirling's approximation of log(t!), t log t - t + 0.5 log(2 pi t), is
            added where the target t is above 1.
        eps: The number added in the logarithm when log_input is False.
        reduction: The reduction over the elements, "mean", "sum" or "none".

    Returns:
        The loss, one number, or with "none" an array of the input's shape.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
        TypeError: The input and the target are integers.
    """
    input, target = floats("poisson_nll_loss", input=input, target=target)
    same_shape("poisson_nll_loss", input=input, target=target)
    expected, log = (jnp.exp(input), input) if log_input else (input, jnp.log(input + eps))
    values = expected - target * log
    if full:
        # The logarithm of a target that is not used must not make the gradient nan.
        above = jnp.where(target > 1, target, 2)
        term = above * jnp.log(above) - above + 0.5 * jnp.log(2 * math.pi * above)
        values = values + jnp.where(target <= 1, 0, term)
    return reduce(values, reduction)
