"""NAdam and RAdam by the rules of torch."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._adam import decay, hyperparams_of_adam, moments
from jaxnet.optim._hyperparams import check
from jaxnet.optim._optimizer import (
    Optimizer,
    make_optimizer,
    one_minus_power,
    without_parameters,
    zeros,
)


@without_parameters
def NAdam(
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adam with Nesterov momentum: torch.optim.NAdam.

    mu_t = b1 (1 - 0.96^(t momentum_decay) / 2);  P <- P mu_t
    m <- m + (1 - b1)(g - m);  v <- b2 v + (1 - b2) g^2
    d = sqrt(v / (1 - b2^t)) + eps
    p <- p - lr (1 - mu_t) / (1 - P) g / d - lr mu_(t+1) / (1 - P mu_(t+1)) m / d

    Args:
        lr, betas, eps, maximize: As in `Adam`.
        weight_decay: The factor of the weight decay, at least 0.
        momentum_decay: The speed with which mu grows towards b1, at least 0.
        decoupled_weight_decay: Whether the decay is p <- (1 - lr weight_decay) p. Otherwise
            weight_decay p is added to the gradient.

    Raises:
        ValueError: An argument is out of range.

    Torch stores the product P in its default dtype, usually float32, even for float64
    parameters. Here P is float64 under jax_enable_x64.
    """
    check(
        "NAdam",
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        momentum_decay=momentum_decay,
    )
    defaults = {
        "lr": lr,
        "betas": tuple(betas),
        "eps": eps,
        "weight_decay": weight_decay,
        "momentum_decay": momentum_decay,
        "decoupled_weight_decay": decoupled_weight_decay,
        "maximize": maximize,
    }

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        b1 = 1 - hyper.one_minus_beta1
        half = 0.5 * jnp.exp(t * hyper.momentum_decay * math.log(0.96))
        half_next = 0.5 * jnp.exp((t + 1) * hyper.momentum_decay * math.log(0.96))
        mu, mu_next = b1 * (1 - half), b1 * (1 - half_next)
        product = hyper.mu_product * mu
        return {
            "b2": 1 - hyper.one_minus_beta2,
            "correction2": one_minus_power(hyper.one_minus_beta2, t),
            "mu_product": product,
            # The first factor is 1 - mu, without the loss of digits of that difference.
            "of_g": hyper.lr * (hyper.one_minus_beta1 + b1 * half) / (1 - product),
            "of_m": hyper.lr * mu_next / (1 - product * mu_next),
        }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad, decayed = decay(param, grad, hyper, rounded, decoupled_weight_decay)
        m, v = moments(grad, state, hyper, rounded)
        denominator = rounded(rounded(jnp.sqrt(rounded(v / hyper.correction2))) + hyper.eps)
        # Torch makes the two steps one after the other; the first result is stored and rounded.
        between = rounded(decayed - hyper.of_g * grad / denominator)
        change = (between - param) - hyper.of_m * m / denominator
        return change, {"exp_avg": m, "exp_avg_sq": v}

    hyperparams = hyperparams_of_adam(lr, betas, eps, weight_decay)
    hyperparams["momentum_decay"] = momentum_decay
    slots = {"exp_avg": zeros, "exp_avg_sq": zeros}
    shared = {"mu_product": lambda h: jnp.ones_like(h["lr"])}
    return make_optimizer("NAdam", defaults, hyperparams, rule, slots, scalars, shared)


@without_parameters
def RAdam(
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Rectified Adam: torch.optim.RAdam.

    rho_inf = 2 / (1 - b2) - 1
    rho_t = rho_inf - 2 t b2^t / (1 - b2^t)
    r_t = sqrt((rho_t - 4)(rho_t - 2) rho_inf / ((rho_inf - 4)(rho_inf - 2) rho_t))

    p <- p - lr m' r_t sqrt(1 - b2^t) / (sqrt(v) + eps)   where rho_t > 5
    p <- p - lr m'                                        elsewhere

    Here m and v are those of `Adam` and m' = m / (1 - b1^t).

    Args:
        lr, betas, eps, maximize: As in `Adam`.
        weight_decay: The factor of the weight decay, at least 0.
        decoupled_weight_decay: Whether the decay is p <- (1 - lr weight_decay) p. Otherwise
            weight_decay p is added to the gradient.

    Raises:
        ValueError: An argument is out of range.

    rho_t is computed without the cancellation in this formula, which costs torch three
    digits of float64 when b2 is 0.9999.
    """
    check("RAdam", lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    defaults = {
        "lr": lr,
        "betas": tuple(betas),
        "eps": eps,
        "weight_decay": weight_decay,
        "decoupled_weight_decay": decoupled_weight_decay,
        "maximize": maximize,
    }

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        rho_inf = 2 / hyper.one_minus_beta2 - 1
        rho = _rho(hyper.one_minus_beta2, t)
        rectified = rho > 5
        # Where rho is at most 5 the root is not used, and must not be nan.
        safe = jnp.where(rectified, rho, 6)
        square = (safe - 4) * (safe - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * safe)
        return {
            "b2": 1 - hyper.one_minus_beta2,
            "correction1": one_minus_power(hyper.one_minus_beta1, t),
            "root": jnp.sqrt(one_minus_power(hyper.one_minus_beta2, t)),
            "rectified": rectified,
            "rect": jnp.sqrt(square),
        }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad, decayed = decay(param, grad, hyper, rounded, decoupled_weight_decay)
        m, v = moments(grad, state, hyper, rounded)
        plain = rounded(rounded(m / hyper.correction1) * hyper.lr)
        adaptive = rounded(hyper.root / rounded(rounded(jnp.sqrt(v)) + hyper.eps))
        change = -jnp.where(
            hyper.rectified > 0, rounded(rounded(plain * adaptive) * hyper.rect), plain
        )
        return (decayed - param) + change, {"exp_avg": m, "exp_avg_sq": v}

    hyperparams = hyperparams_of_adam(lr, betas, eps, weight_decay)
    slots = {"exp_avg": zeros, "exp_avg_sq": zeros}
    return make_optimizer("RAdam", defaults, hyperparams, rule, slots, scalars)


def _rho(c: jax.Array, t: jax.Array) -> jax.Array:
    """rho_t = 2 / c - 1 - 2 t b^t / (1 - b^t) with b = 1 - c, without its cancellation.

    In float32 the plain formula leaves 3 digits of rho at the first steps (1999 - 1994).
    With L = -log(b) and x = t L it equals (2 / c - 2 / L - 1) + (2 / L)(1 - x / (e^x - 1)).
    Each bracket is computed by a series where it is a difference of nearly equal numbers.
    """
    L = -jnp.log1p(-c)
    # (L - c) / c^2 = 1/2 + c/3 + c^2/4 + ...
    excess = jnp.where(
        c < 0.1,
        jnp.polyval(jnp.asarray([1 / n for n in range(18, 1, -1)], c.dtype), jnp.minimum(c, 0.1)),
        (L - c) / (c * c),
    )
    first = 2 * excess * c / L - 1
    x = t * L
    small = jnp.minimum(x, 0.5)
    # 1 - x / (e^x - 1) by its Taylor series, whose coefficients are Bernoulli numbers.
    series = small * (
        0.5 - small * jnp.polyval(jnp.asarray(_BERNOULLI[::-1], c.dtype), small * small)
    )
    second = jnp.where(x < 0.5, series, 1 - x / jnp.expm1(jnp.maximum(x, 0.5)))
    return first + 2 / L * second


_BERNOULLI = (
    1 / 12,
    -1 / 720,
    1 / 30240,
    -1 / 1209600,
    1 / 47900160,
    -691 / 1307674368000,
    1 / 74724249600,
)
"""B_2n / (2n)! for n = 1, 2, ..."""
