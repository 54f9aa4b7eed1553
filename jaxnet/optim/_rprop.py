"""Rprop and ASGD by the rules of torch."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._hyperparams import check
from jaxnet.optim._optimizer import (
    Optimizer,
    coupled_decay,
    make_optimizer,
    shrink,
    without_parameters,
    zeros,
)


@without_parameters
def Rprop(
    lr: float = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50),
    *,
    maximize: bool = False,
) -> Optimizer:
    """Resilient backpropagation: torch.optim.Rprop.

    p <- p - sign(g) size

    Every element has a step size of its own. The size is multiplied by etas[1] while the
    sign of the gradient stays the same. When the sign changes, the size is multiplied by
    etas[0] and the element does not move in this step.

    Args:
        lr: The first step size, finite and at least 0. A later change has no effect.
        etas: The two factors, the first in (0, 1) and the second above 1.
        step_sizes: The smallest and the largest step size.
        maximize: Whether the objective is maximized instead of minimized.

    Raises:
        ValueError: An argument is out of range.
    """
    check("Rprop", lr=lr, etas=etas, step_sizes=step_sizes)
    defaults = {
        "lr": lr,
        "etas": tuple(etas),
        "step_sizes": tuple(step_sizes),
        "maximize": maximize,
    }
    hyperparams = {
        "lr": lr,
        "etaminus": etas[0],
        "etaplus": etas[1],
        "step_size_min": step_sizes[0],
        "step_size_max": step_sizes[1],
    }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        del param
        turn = jnp.sign(rounded(grad * state["prev"]))
        factor = jnp.where(
            turn > 0, rounded(hyper.etaplus), jnp.where(turn < 0, rounded(hyper.etaminus), 1)
        )
        size = rounded(
            jnp.clip(rounded(state["step_size"] * factor), hyper.step_size_min, hyper.step_size_max)
        )
        # The 0 is stored as the previous gradient too, so that the next step sees no change
        # of sign and leaves the size as it is.
        grad = jnp.where(turn < 0, 0, grad)
        return -jnp.sign(grad) * size, {"prev": grad, "step_size": size}

    def first_size(param: jax.Array, h: dict[str, jax.Array]) -> jax.Array:
        return jnp.full_like(param, h["lr"])

    slots = {"prev": zeros, "step_size": first_size}
    return make_optimizer("Rprop", defaults, hyperparams, rule, slots)


@without_parameters
def ASGD(
    lr: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    weight_decay: float = 0,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Averaged stochastic gradient descent: torch.optim.ASGD.

    g <- g + weight_decay p
    p <- (1 - lambd eta) p - eta g;  ax <- ax + mu (p - ax)
    then eta <- lr / (1 + lambd lr t)^alpha;  mu <- 1 / max(1, t - t0)

    Args:
        lr: The learning rate, finite and at least 0. As in torch, a change of the learning
            rate takes effect one step later, because eta is computed at the end of a step.
        lambd: The factor of the decay of p, a finite number.
        alpha: The exponent in the decrease of eta, finite and at least 0.
        t0: The step at which averaging starts.
        weight_decay: The factor of p in the term added to the gradient, at least 0.
        maximize: Whether the objective is maximized instead of minimized.

    The average is ax, the slot "ax" of the optimizer's state.

    Raises:
        ValueError: An argument is out of range.
    """
    check("ASGD", lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay)
    defaults = {
        "lr": lr,
        "lambd": lambd,
        "alpha": alpha,
        "t0": t0,
        "weight_decay": weight_decay,
        "maximize": maximize,
    }
    hyperparams = {
        "lr": lr,
        "lambd": lambd,
        "alpha": alpha,
        "t0": t0,
        "weight_decay": weight_decay,
    }

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        return {
            # This step uses the eta and mu that the step before left in the state; those
            # computed here are for the next step.
            "eta_now": hyper.eta,
            "mu_now": hyper.mu,
            "keep": 1 - hyper.lambd * hyper.eta,
            "eta": hyper.lr / (1 + hyper.lambd * hyper.lr * t) ** hyper.alpha,
            "mu": 1 / jnp.maximum(1, t - hyper.t0),
        }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad = coupled_decay(param, grad, hyper, rounded)
        new = rounded(rounded(shrink(param, hyper.keep)) - hyper.eta_now * grad)
        ax = state["ax"]
        moved = rounded(ax + rounded(rounded(new - ax) * hyper.mu_now))
        # While mu is 1 the average is a plain copy, without the roundings of the formula.
        return new - param, {"ax": jnp.where(hyper.mu_now == 1, new, moved)}

    shared = {"eta": lambda h: h["lr"], "mu": lambda h: jnp.ones_like(h["lr"])}
    return make_optimizer("ASGD", defaults, hyperparams, rule, {"ax": zeros}, scalars, shared)
