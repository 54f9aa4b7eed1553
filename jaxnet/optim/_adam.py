"""Adam, AdamW and Adamax by torch's rules."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._hyperparams import check, complement
from jaxnet.optim._optimizer import (
    Optimizer,
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
        lr: The learning rate, finite and at least 0.
        betas: The numbers b1 and b2, in [0, 1).
        eps: The number added to the root after the root's bias correction, at least 0.
        weight_decay: The factor of p in the term added to the gradient, at least 0. The
            term therefore also enters m and v.
        amsgrad: Whether the largest v so far replaces v in the last line.
        maximize: Whether the objective is maximized instead of minimized.
        decoupled_weight_decay: Whether the decay is p <- (1 - lr weight_decay) p instead,
            as in `AdamW`.

    Raises:
        ValueError: An argument is out of range.
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

    p <- (1 - lr weight_decay) p

    The step of `Adam` without weight decay follows.

    Args:
        lr, betas, eps, amsgrad, maximize: As in `Adam`.
        weight_decay: The factor of the decay, at least 0. The default is torch's 1e-2, where
            optax has 1e-4.

    Raises:
        ValueError: An argument is out of range.
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
            # Torch corrects sqrt(v) by the root of the correction, and not v itself.
            "root": jnp.sqrt(one_minus_power(hyper.one_minus_beta2, t)),
        }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad, decayed = decay(param, grad, hyper, rounded, decoupled)
        m, v = moments(grad, state, hyper, rounded)
        slots = {"exp_avg": m, "exp_avg_sq": v}
        if amsgrad:
            v = slots["max_exp_avg_sq"] = jnp.maximum(state["max_exp_avg_sq"], v)
        change = -hyper.size * m / rounded(rounded(rounded(jnp.sqrt(v)) / hyper.root) + hyper.eps)
        # The rule gives a change of the parameter, so that decoupled decay is part of it.
        return change if decayed is param else (decayed - param) + change, slots

    names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if amsgrad else [])
    hyperparams = hyperparams_of_adam(lr, betas, eps, weight_decay)
    return make_optimizer(name, defaults, hyperparams, rule, dict.fromkeys(names, zeros), scalars)


def hyperparams_of_adam(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> dict[str, Any]:
    """The hyperparameters in the state of every optimizer of Adam's family."""
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

    Coupled decay changes only the gradient, decoupled decay only the parameter.
    """
    if decoupled:
        return grad, decoupled_decay(param, hyper, rounded)
    return coupled_decay(param, grad, hyper, rounded), param


def moments(grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> tuple[jax.Array, jax.Array]:
    """The new running means of g and g^2, rounded where torch stores them."""
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
        lr, betas, weight_decay, maximize: As in `Adam`.
        eps: The number added to |g|, at least 0.

    Raises:
        ValueError: An argument is out of range.
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
