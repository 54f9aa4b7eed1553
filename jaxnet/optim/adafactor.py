"""Adafactor by torch's rule."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim.optimizer import Optimizer, check, decoupled_decay, lerp, make_optimizer

__all__ = ["Adafactor"]


def Adafactor(
    lr: float = 1e-2,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Adafactor: torch.optim.Adafactor.

    rho = min(lr, 1 / sqrt(t));  alpha = max(eps2, rms(p)) rho;  p <- (1 - lr weight_decay) p
    For two and more axes the running mean of g^2 (weight t^beta2_decay) is kept as
    its means over the last axis and over the one before; V is their product over
    the mean of the first. Otherwise V is the running mean itself.
    u = g / sqrt(max(V, eps1^2));  p <- p - alpha / max(1, rms(u) / d) u

    Args:
        lr: the largest relative step, finite and at least 0.
        beta2_decay: at most 0.
        eps: eps1 (None: the dtype's machine epsilon) and eps2, at least 0.
        d: above which rms(u) is scaled down, at least 1.
        weight_decay: decoupled, at least 0.
        maximize: goes uphill.

    Raises:
        ValueError: an argument is out of range.
    """
    check("Adafactor", lr=lr, beta2_decay=beta2_decay, d=d, weight_decay=weight_decay)
    if not isinstance(eps, (tuple, list)) or len(eps) != 2:
        raise ValueError(f"Adafactor: eps: {eps!r}; accepted are two numbers, or None and one")
    check("Adafactor", **{"eps[1]": eps[1]})
    if eps[0] is not None:
        check("Adafactor", **{"eps[0]": eps[0]})
    defaults = {
        "lr": lr,
        "beta2_decay": beta2_decay,
        "eps": tuple(eps),
        "d": d,
        "weight_decay": weight_decay,
        "maximize": maximize,
    }
    hyperparams = {
        "lr": lr,
        "beta2_decay": beta2_decay,
        "d": d,
        "weight_decay": weight_decay,
    }

    def scalars(k: Any, t: jax.Array) -> dict[str, Any]:
        return {
            "weight": jnp.exp(k.beta2_decay * jnp.log(t)),
            "rho": jnp.minimum(k.lr, 1 / jnp.sqrt(t)),
        }

    def rule(p: jax.Array, g: jax.Array, s: Any, k: Any, q: Any) -> Any:
        eps1 = k.machine_eps if eps[0] is None else eps[0]
        alpha = jnp.maximum(eps[1], _rms(p, q)) * k.rho
        decayed = decoupled_decay(p, k, q)
        slots = dict(s)
        if p.ndim > 1:
            row = slots["row_var"] = q(lerp(s["row_var"], _mean_square(g, -1, q), k.weight))
            col = slots["col_var"] = q(lerp(s["col_var"], _mean_square(g, -2, q), k.weight))
            mean = jnp.maximum(q(row.mean(axis=-2, keepdims=True)), eps1)
            # (..., A, 1) times (..., 1, B)
            v = q(q(row * col) / mean)
        else:
            v = slots["variance"] = q(lerp(s["variance"], q(g * g), k.weight))
        u = q(q(1 / jnp.sqrt(jnp.maximum(v, eps1 * eps1))) * g)
        size = alpha / jnp.maximum(1, _rms(u, q) / k.d)
        return (decayed - p) - size * u, slots

    slots = {
        "row_var": lambda p, h: jnp.zeros_like(p[..., :1]) if p.ndim > 1 else None,
        "col_var": lambda p, h: jnp.zeros_like(p[..., :1, :]) if p.ndim > 1 else None,
        "variance": lambda p, h: jnp.zeros_like(p) if p.ndim < 2 else None,
    }
    return make_optimizer("Adafactor", defaults, hyperparams, rule, slots, scalars)


def _rms(x: jax.Array, q: Any) -> jax.Array:
    return q(jnp.sqrt(jnp.sum(x * x))) / x.size**0.5


def _mean_square(g: jax.Array, axis: int, q: Any) -> jax.Array:
    norm = q(jnp.sqrt(jnp.sum(g * g, axis=axis, keepdims=True)))
    return q(q(norm * norm) / g.shape[axis])
