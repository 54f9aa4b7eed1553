"""Adafactor by torch's rule."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._optimizer import (
    Optimizer,
    check,
    decoupled_decay,
    lerp,
    make_optimizer,
    without_parameters,
)


@without_parameters
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

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        return {
            "weight": jnp.exp(hyper.beta2_decay * jnp.log(t)),
            "rho": jnp.minimum(hyper.lr, 1 / jnp.sqrt(t)),
        }

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        eps1 = hyper.machine_eps if eps[0] is None else eps[0]
        alpha = jnp.maximum(eps[1], _rms(param, rounded)) * hyper.rho
        decayed = decoupled_decay(param, hyper, rounded)
        slots = dict(state)
        if param.ndim > 1:
            row = slots["row_var"] = rounded(
                lerp(state["row_var"], _mean_square(grad, -1, rounded), hyper.weight)
            )
            col = slots["col_var"] = rounded(
                lerp(state["col_var"], _mean_square(grad, -2, rounded), hyper.weight)
            )
            mean = jnp.maximum(rounded(row.mean(axis=-2, keepdims=True)), eps1)
            # (..., A, 1) times (..., 1, B)
            v = rounded(rounded(row * col) / mean)
        else:
            v = slots["variance"] = rounded(
                lerp(state["variance"], rounded(grad * grad), hyper.weight)
            )
        u = rounded(rounded(1 / jnp.sqrt(jnp.maximum(v, eps1 * eps1))) * grad)
        size = alpha / jnp.maximum(1, _rms(u, rounded) / hyper.d)
        return (decayed - param) - size * u, slots

    slots = {
        "row_var": lambda param, h: jnp.zeros_like(param[..., :1]) if param.ndim > 1 else None,
        "col_var": lambda param, h: jnp.zeros_like(param[..., :1, :]) if param.ndim > 1 else None,
        "variance": lambda param, h: jnp.zeros_like(param) if param.ndim < 2 else None,
    }
    return make_optimizer("Adafactor", defaults, hyperparams, rule, slots, scalars)


def _rms(x: jax.Array, rounded: Any) -> jax.Array:
    return rounded(jnp.sqrt(jnp.sum(x * x))) / x.size**0.5


def _mean_square(grad: jax.Array, axis: int, rounded: Any) -> jax.Array:
    norm = rounded(jnp.sqrt(jnp.sum(grad * grad, axis=axis, keepdims=True)))
    return rounded(rounded(norm * norm) / grad.shape[axis])
