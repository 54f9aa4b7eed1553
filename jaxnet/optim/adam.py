"""Adam, AdamW and Adamax by torch's rules."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim.optimizer import (
    Optimizer,
    check,
    complement,
    coupled_decay,
    decoupled_decay,
    lerp,
    make_optimizer,
    one_minus_power,
    zeros,
)

__all__ = ["Adam", "AdamW", "Adamax"]


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

    def scalars(k: Any, t: jax.Array) -> dict[str, Any]:
        return {
            "b2": 1 - k.one_minus_beta2,
            "size": k.lr / one_minus_power(k.one_minus_beta1, t),
            "root": jnp.sqrt(one_minus_power(k.one_minus_beta2, t)),
        }

    def rule(p: jax.Array, g: jax.Array, s: Any, k: Any, q: Any) -> Any:
        g, decayed = decay(p, g, k, q, decoupled)
        m, v = moments(g, s, k, q)
        slots = {"exp_avg": m, "exp_avg_sq": v}
        if amsgrad:
            v = slots["max_exp_avg_sq"] = jnp.maximum(s["max_exp_avg_sq"], v)
        change = -k.size * m / q(q(q(jnp.sqrt(v)) / k.root) + k.eps)
        return change if decayed is p else (decayed - p) + change, slots

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
    p: jax.Array, g: jax.Array, k: Any, q: Any, decoupled: bool
) -> tuple[jax.Array, jax.Array]:
    """The gradient and the parameter after weight decay of either kind.

    Decoupled decay leaves the gradient alone and shrinks the parameter.
    """
    if decoupled:
        return g, decoupled_decay(p, k, q)
    return coupled_decay(p, g, k, q), p


def moments(g: jax.Array, s: Any, k: Any, q: Any) -> tuple[jax.Array, jax.Array]:
    """The running means of g and g^2."""
    m = q(lerp(s["exp_avg"], g, k.one_minus_beta1))
    v = q(q(k.b2 * s["exp_avg_sq"]) + k.one_minus_beta2 * g * g)
    return m, v


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

    def scalars(k: Any, t: jax.Array) -> dict[str, Any]:
        return {
            "b2": 1 - k.one_minus_beta2,
            "size": k.lr / one_minus_power(k.one_minus_beta1, t),
        }

    def rule(p: jax.Array, g: jax.Array, s: Any, k: Any, q: Any) -> Any:
        g = coupled_decay(p, g, k, q)
        m = q(lerp(s["exp_avg"], g, k.one_minus_beta1))
        u = jnp.maximum(q(k.b2 * s["exp_inf"]), q(jnp.abs(g) + k.eps))
        return -k.size * m / u, {"exp_avg": m, "exp_inf": u}

    hyperparams = hyperparams_of_adam(lr, betas, eps, weight_decay)
    slots = {"exp_avg": zeros, "exp_inf": zeros}
    return make_optimizer("Adamax", defaults, hyperparams, rule, slots, scalars)
