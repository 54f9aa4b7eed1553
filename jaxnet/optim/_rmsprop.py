"""RMSprop, Adagrad and Adadelta by the rules of torch."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._hyperparams import check, complement
from jaxnet.optim._optimizer import (
    Optimizer,
    coupled_decay,
    given,
    lerp,
    make_optimizer,
    without_parameters,
    zeros,
)


@without_parameters
def RMSprop(
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0,
    momentum: float = 0,
    centered: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """RMSprop: torch.optim.RMSprop.

    g <- g + weight_decay p
    v <- alpha v + (1 - alpha) g^2;  a <- a + (1 - alpha)(g - a)
    d = sqrt(v) + eps, or sqrt(v - a^2) + eps with centered
    p <- p - lr g / d, or b <- momentum b + g / d; p <- p - lr b

    Args:
        lr: The learning rate, finite and at least 0.
        alpha: The weight of the old v in the running mean, at least 0.
        eps: The number added to the root, at least 0 (optax adds it inside the root).
        weight_decay: The factor of p in the term added to the gradient, at least 0.
        momentum: The factor of the buffer b, at least 0. With 0 the state has no buffer.
        centered: Whether g is divided by an estimate of its standard deviation.
        maximize: Whether the objective is maximized instead of minimized.

    Raises:
        ValueError: An argument is out of range.

    As in `SGD`, a momentum or weight decay that is 0 when the optimizer is built cannot be
    turned on later.
    """
    check("RMSprop", lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
    buffered = given(momentum)
    defaults = {
        "lr": lr,
        "momentum": momentum,
        "alpha": alpha,
        "eps": eps,
        "centered": centered,
        "weight_decay": weight_decay,
        "maximize": maximize,
    }
    hyperparams = {
        "lr": lr,
        "one_minus_alpha": complement(alpha),
        "eps": eps,
        "weight_decay": weight_decay,
    }
    if buffered:
        hyperparams["momentum"] = momentum

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        del t
        return {"alpha": 1 - hyper.one_minus_alpha}

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad = coupled_decay(param, grad, hyper, rounded)
        v = rounded(
            rounded(hyper.alpha * state["square_avg"]) + hyper.one_minus_alpha * grad * grad
        )
        slots = {"square_avg": v}
        if centered:
            a = slots["grad_avg"] = rounded(lerp(state["grad_avg"], grad, hyper.one_minus_alpha))
            # Torch stores this difference; rounding may make it negative and its root nan.
            v = rounded(v - a * a)
        divisor = rounded(rounded(jnp.sqrt(v)) + hyper.eps)
        if not buffered:
            return -hyper.lr * grad / divisor, slots
        buffer = slots["momentum_buffer"] = rounded(
            rounded(hyper.momentum * state["momentum_buffer"]) + grad / divisor
        )
        return -hyper.lr * buffer, slots

    names = ["square_avg"]
    names += ["momentum_buffer"] if buffered else []
    names += ["grad_avg"] if centered else []
    return make_optimizer(
        "RMSprop", defaults, hyperparams, rule, dict.fromkeys(names, zeros), scalars
    )


@without_parameters
def Adagrad(
    lr: float = 1e-2,
    lr_decay: float = 0,
    weight_decay: float = 0,
    initial_accumulator_value: float = 0,
    eps: float = 1e-10,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adagrad: torch.optim.Adagrad.

    g <- g + weight_decay p;  s <- s + g^2
    p <- p - lr / (1 + (t - 1) lr_decay) * g / (sqrt(s) + eps)

    Args:
        lr: The learning rate, finite and at least 0.
        lr_decay: The decrease of the learning rate in a step, at least 0.
        weight_decay: The factor of p in the term added to the gradient, at least 0.
        initial_accumulator_value: The first value of s, at least 0. The default is 0, where
            optax has 0.1.
        eps: The number added to the root, at least 0.
        maximize: Whether the objective is maximized instead of minimized.

    Raises:
        ValueError: An argument is out of range.
    """
    check(
        "Adagrad",
        lr=lr,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        initial_accumulator_value=initial_accumulator_value,
        eps=eps,
    )
    defaults = {
        "lr": lr,
        "lr_decay": lr_decay,
        "eps": eps,
        "weight_decay": weight_decay,
        "initial_accumulator_value": initial_accumulator_value,
        "maximize": maximize,
    }
    hyperparams = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        return {"size": hyper.lr / (1 + (t - 1) * hyper.lr_decay)}

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad = coupled_decay(param, grad, hyper, rounded)
        total = rounded(state["sum"] + grad * grad)
        return -hyper.size * grad / rounded(rounded(jnp.sqrt(total)) + hyper.eps), {"sum": total}

    slots = {"sum": lambda param, h: jnp.full_like(param, initial_accumulator_value)}
    return make_optimizer("Adagrad", defaults, hyperparams, rule, slots, scalars)


@without_parameters
def Adadelta(
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adadelta: torch.optim.Adadelta.

    g <- g + weight_decay p;  v <- rho v + (1 - rho) g^2
    d = sqrt(u + eps) / sqrt(v + eps) g;  u <- rho u + (1 - rho) d^2
    p <- p - lr d

    Args:
        lr: The learning rate, finite and at least 0.
        rho: The weight of the old u and v in the running means, in [0, 1].
        eps: The number added inside the roots, at least 0.
        weight_decay: The factor of p in the term added to the gradient, at least 0.
        maximize: Whether the objective is maximized instead of minimized.

    Raises:
        ValueError: An argument is out of range.
    """
    check("Adadelta", lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
    defaults = {
        "lr": lr,
        "rho": rho,
        "eps": eps,
        "weight_decay": weight_decay,
        "maximize": maximize,
    }
    hyperparams = {
        "lr": lr,
        "one_minus_rho": complement(rho),
        "eps": eps,
        "weight_decay": weight_decay,
    }

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        del t
        return {"rho": 1 - hyper.one_minus_rho}

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad = coupled_decay(param, grad, hyper, rounded)
        v = rounded(rounded(hyper.rho * state["square_avg"]) + hyper.one_minus_rho * grad * grad)
        u = state["acc_delta"]
        delta = rounded(
            rounded(
                rounded(jnp.sqrt(rounded(u + hyper.eps)))
                / rounded(jnp.sqrt(rounded(v + hyper.eps)))
            )
            * grad
        )
        # The step above uses u as it was before this update.
        u = rounded(rounded(hyper.rho * u) + hyper.one_minus_rho * delta * delta)
        return -hyper.lr * delta, {"square_avg": v, "acc_delta": u}

    slots = {"square_avg": zeros, "acc_delta": zeros}
    return make_optimizer("Adadelta", defaults, hyperparams, rule, slots, scalars)
