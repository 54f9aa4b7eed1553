"""Rprop and ASGD by torch's rules."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim.optimizer import Optimizer, check, coupled_decay, make_optimizer, shrink, zeros

__all__ = ["ASGD", "Rprop"]


def Rprop(
    lr: float = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50),
    *,
    maximize: bool = False,
) -> Optimizer:
    """Resilient backpropagation: torch.optim.Rprop.

    Each element's step size grows by etas[1] while its gradient keeps its sign and
    shrinks by etas[0], with no step, when the sign turns; p <- p - sign(g) size.

    Args:
        lr: the first step size, finite and at least 0. It has no effect later.
        etas: the factors, in (0, 1) and above 1.
        step_sizes: the smallest and the largest step.
        maximize: goes uphill.

    Raises:
        ValueError: an argument is out of range.
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

    def rule(p: jax.Array, g: jax.Array, s: Any, k: Any, q: Any) -> Any:
        del p
        turn = jnp.sign(q(g * s["prev"]))
        factor = jnp.where(turn > 0, q(k.etaplus), jnp.where(turn < 0, q(k.etaminus), 1))
        size = q(jnp.clip(q(s["step_size"] * factor), k.step_size_min, k.step_size_max))
        g = jnp.where(turn < 0, 0, g)
        return -jnp.sign(g) * size, {"prev": g, "step_size": size}

    def first_size(p: jax.Array, h: dict[str, jax.Array]) -> jax.Array:
        return jnp.full_like(p, h["lr"])

    slots = {"prev": zeros, "step_size": first_size}
    return make_optimizer("Rprop", defaults, hyperparams, rule, slots)


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
        lr: learning rate, finite and at least 0. As in torch, a change of it takes
            effect one step later, through eta.
        lambd: of the decay term.
        alpha: power of eta's decrease.
        t0: the step at which averaging starts.
        weight_decay: times p, added to the gradient.
        maximize: goes uphill.

    The average is the slot "ax" of the state.

    Raises:
        ValueError: an argument is out of range.
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

    def scalars(k: Any, t: jax.Array) -> dict[str, Any]:
        return {
            "eta_now": k.eta,
            "mu_now": k.mu,
            "keep": 1 - k.lambd * k.eta,
            "eta": k.lr / (1 + k.lambd * k.lr * t) ** k.alpha,
            "mu": 1 / jnp.maximum(1, t - k.t0),
        }

    def rule(p: jax.Array, g: jax.Array, s: Any, k: Any, q: Any) -> Any:
        g = coupled_decay(p, g, k, q)
        new = q(q(shrink(p, k.keep)) - k.eta_now * g)
        ax = s["ax"]
        moved = q(ax + q(q(new - ax) * k.mu_now))
        return new - p, {"ax": jnp.where(k.mu_now == 1, new, moved)}

    shared = {"eta": lambda h: h["lr"], "mu": lambda h: jnp.ones_like(h["lr"])}
    return make_optimizer("ASGD", defaults, hyperparams, rule, {"ax": zeros}, scalars, shared)
