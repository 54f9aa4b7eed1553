"""Losses between numbers and numbers."""

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
    """(input - target)^2: torch.nn.functional.mse_loss.

    Args:
        input: floats of any shape.
        target: the same shape. Torch warns and broadcasts when it is another one,
            which hides mistakes such as (N,) against (N, 1); here it is an error.
        reduction: "mean", "sum" or "none".
        weight: of each element, the same shape; "mean" then divides by its sum.

    Returns:
        One number, or one an element with "none".

    Raises:
        ValueError: for shapes that differ, or an unknown reduction.
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
    """|input - target|, with slope 0 at 0: torch.nn.functional.l1_loss.

    Args:
        input: floats of any shape.
        target: the same shape; another one is an error, where torch broadcasts.
        reduction: "mean", "sum" or "none".
        weight: of each element, the same shape; "mean" then divides by its sum.

    Returns:
        One number, or one an element with "none".
    """
    input, target = floats("l1_loss", input=input, target=target)
    same_shape("l1_loss", input=input, target=target)
    return _weighted("l1_loss", absolute(input - target), weight, reduction)


def _weighted(loss: str, values: jax.Array, weight: ArrayLike | None, reduction: str) -> jax.Array:
    """Reduces; a weighted mean is divided by the weights' sum."""
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
    """0.5 d^2 / beta below beta, |d| - 0.5 beta above: torch.nn.functional.smooth_l1_loss.

    Args:
        input: floats of any shape.
        target: the same shape; another one is an error, where torch broadcasts.
        reduction: "mean", "sum" or "none".
        beta: where the parabola ends; 0 gives `l1_loss`.

    Returns:
        One number, or one an element with "none".
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
    """0.5 d^2 below delta, delta (|d| - 0.5 delta) above: torch.nn.functional.huber_loss.

    Args:
        input: floats of any shape.
        target: the same shape; another one is an error, where torch broadcasts.
        reduction: "mean", "sum" or "none".
        delta: where the parabola ends, above 0.
        weight: of each element, the same shape; as in torch, "mean" divides by the
            number of elements all the same.

    Returns:
        One number, or one an element with "none".
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
    """0.5 d^2 up to the width, then the tangent; slope and value are right at infinity."""
    size = jnp.abs(d)
    near = jnp.minimum(size, width)
    return near * (0.5 * near) + width * (size - near)


def gaussian_nll_loss(
    input: ArrayLike,
    target: ArrayLike,
    var: ArrayLike,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> jax.Array:
    """0.5 (log v + (input - target)^2 / v), v = max(var, eps): gaussian_nll_loss of torch.

    The gradient passes the limit eps as if it were not there, as torch's does.

    Args:
        input: the means, floats (N, ...).
        target: the same shape, or with axes of size 1.
        var: the variances, at least 0: the shape of input, that shape with the last
            axis missing or one axis of size 1, or a Python number for all.
        full: whether 0.5 log(2 pi) is added.
        eps: the smallest variance used.
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one an element with "none".

    Raises:
        ValueError: for shapes that do not match and negative variances. Inside jit
            these cannot be seen; the loss becomes nan there.
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
    """exp(input) - target * input: torch.nn.functional.poisson_nll_loss.

    With log_input=False it is input - target * log(input + eps).

    Args:
        input: logarithm of the expected count (or the count itself), any shape.
        target: counts, the same shape; another one is an error, where torch broadcasts.
        log_input: whether input is a logarithm.
        full: whether Stirling's t log t - t + 0.5 log(2 pi t) is added where t > 1.
        eps: keeps log away from 0 when log_input is False.
        reduction: "mean", "sum" or "none".

    Returns:
        One number, or one an element with "none".
    """
    input, target = floats("poisson_nll_loss", input=input, target=target)
    same_shape("poisson_nll_loss", input=input, target=target)
    expected, log = (jnp.exp(input), input) if log_input else (input, jnp.log(input + eps))
    values = expected - target * log
    if full:
        above = jnp.where(target > 1, target, 2)
        term = above * jnp.log(above) - above + 0.5 * jnp.log(2 * math.pi * above)
        values = values + jnp.where(target <= 1, 0, term)
    return reduce(values, reduction)
