"""Adam, AdamW and Adamax by torch's rules."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._optimizer import (
    Optimizer,
    check,
    complement,
    coupled_decay,
    decoupled_decay,
    lerp,
    make_optimizer,
    one_minus_power,
    without_parameters,
    zeros,
)


@without_parameters
def Adam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> Optimizer:
    """Adam: torch.optim.Adam.

    g <- g + weight_decay p
    m <- m + (1 - b1)(g - m);  v <- b2 v + (1 - b2) g^2
    p <- p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    Args:
        lr: learning rate, finite and at least 0.
        betas: b1 and b2, in [0, 1).
        eps: added to the root, outside the bias correction's division.
        weight_decay: added to the gradient, so that it passes through m and v.
        amsgrad: divides by the root of the largest v so far.
        maximize: goes uphill.
        decoupled_weight_decay: p <- (1 - lr weight_decay) p instead: AdamW.

    Raises:
        ValueError: an argument is out of range.
    """
    return _adam("Adam", lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay)


@without_parameters
def AdamW(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adam with decoupled weight decay: torch.optim.AdamW.

    p <- (1 - lr weight_decay) p, then Adam's step without decay.

    Args:
        lr, betas, eps, amsgrad, maximize: as Adam's.
        weight_decay: 1e-2 by default, as torch's (optax's is 1e-4).

    Raises:
        ValueError: an argument is out of range.
    """
    return _adam("AdamW", lr, betas, eps, weight_decay, amsgrad, maximize, True)


def _adam(
    name: str,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    maximize: bool,
    decoupled: bool,
) -> Optimizer:
    check(name, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    defaults = {
        "lr": lr,
        "betas": tuple(betas),
        "eps": eps,
        "weight_decay": weight_decay,
        "amsgrad": amsgrad,
        "maximize": maximize,
        "decoupled_weight_decay": decoupled,
    }

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        return {
            "b2": 1 - hyper.one_minus_beta2,
            "size": hyper.lr / one_minus_power(hyper.one_minus_beta1, t),
            "root": jnp.sqrt(one_minus_power(hyper.one_minus_beta2, t)),
        }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad, decayed = decay(param, grad, hyper, rounded, decoupled)
        m, v = moments(grad, state, hyper, rounded)
        slots = {"exp_avg": m, "exp_avg_sq": v}
        if amsgrad:
            v = slots["max_exp_avg_sq"] = jnp.maximum(state["max_exp_avg_sq"], v)
        change = -hyper.size * m / rounded(rounded(rounded(jnp.sqrt(v)) / hyper.root) + hyper.eps)
        return change if decayed is param else (decayed - param) + change, slots

    names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if amsgrad else [])
    hyperparams = hyperparams_of_adam(lr, betas, eps, weight_decay)
    return make_optimizer(name, defaults, hyperparams, rule, dict.fromkeys(names, zeros), scalars)


def hyperparams_of_adam(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> dict[str, Any]:
    """What the whole family keeps in its state."""
    return {
        "lr": lr,
        "one_minus_beta1": complement(betas[0]),
        "one_minus_beta2": complement(betas[1]),
        "eps": eps,
        "weight_decay": weight_decay,
    }


def decay(
    param: jax.Array, grad: jax.Array, hyper: Any, rounded: Any, decoupled: bool
) -> tuple[jax.Array, jax.Array]:
    """The gradient and the parameter after weight decay of either kind.

    Decoupled decay leaves the gradient alone and shrinks the parameter.
    """
    if decoupled:
        return grad, decoupled_decay(param, hyper, rounded)
    return coupled_decay(param, grad, hyper, rounded), param


def moments(grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> tuple[jax.Array, jax.Array]:
    """The running means of g and g^2."""
    m = rounded(lerp(state["exp_avg"], grad, hyper.one_minus_beta1))
    v = rounded(rounded(hyper.b2 * state["exp_avg_sq"]) + hyper.one_minus_beta2 * grad * grad)
    return m, v


@without_parameters
def Adamax(
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adam with the infinity norm: torch.optim.Adamax.

    g <- g + weight_decay p
    m <- m + (1 - b1)(g - m);  u <- max(b2 u, |g| + eps)
    p <- p - lr / (1 - b1^t) * m / u

    Args:
        lr, betas, weight_decay, maximize: as Adam's.
        eps: added to |g|.

    Raises:
        ValueError: an argument is out of range.
    """
    check("Adamax", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    defaults = {
        "lr": lr,
        "betas": tuple(betas),
        "eps": eps,
        "weight_decay": weight_decay,
        "maximize": maximize,
    }

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        return {
            "b2": 1 - hyper.one_minus_beta2,
            "size": hyper.lr / one_minus_power(hyper.one_minus_beta1, t),
        }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad = coupled_decay(param, grad, hyper, rounded)
        m = rounded(lerp(state["exp_avg"], grad, hyper.one_minus_beta1))
        u = jnp.maximum(rounded(hyper.b2 * state["exp_inf"]), rounded(jnp.abs(grad) + hyper.eps))
        return -hyper.size * m / u, {"exp_avg": m, "exp_inf": u}

    hyperparams = hyperparams_of_adam(lr, betas, eps, weight_decay)
    slots = {"exp_avg": zeros, "exp_inf": zeros}
    return make_optimizer("Adamax", defaults, hyperparams, rule, slots, scalars)
