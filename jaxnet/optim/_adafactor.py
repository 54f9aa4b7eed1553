"""Adafactor by torch's rule."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._hyperparams import check
from jaxnet.optim._optimizer import (
    Optimizer,
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
    u = g / sqrt(max(V, eps1^2))
    p <- p - alpha / max(1, rms(u) / d) u

    V is the running mean of g^2, in which the newest g^2 has the weight t^beta2_decay. For
    a parameter with two or more axes only two means of it are stored, R over the last axis
    and C over the axis before, and V = R C / mean(R).

    Args:
        lr: The largest relative step, finite and at least 0.
        beta2_decay: The exponent of the running mean's weight, at most 0.
        eps: The two numbers eps1 and eps2, at least 0. None for eps1 is the machine
            epsilon of the parameter's dtype.
        d: The limit of rms(u), at least 1; a larger step is scaled down to it.
        weight_decay: The factor of the decoupled weight decay, at least 0.
        maximize: Whether the objective is maximized instead of minimized.

    Raises:
        ValueError: An argument is out of range.
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
            # t^beta2_decay, which is 1 at the first step: the zeros in the state drop out.
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
            # (..., A, 1) times (..., 1, B): the outer product is never stored in the state.
            v = rounded(rounded(row * col) / mean)
        else:
            v = slots["variance"] = rounded(
                lerp(state["variance"], rounded(grad * grad), hyper.weight)
            )
        u = rounded(rounded(1 / jnp.sqrt(jnp.maximum(v, eps1 * eps1))) * grad)
        size = alpha / jnp.maximum(1, _rms(u, rounded) / hyper.d)
        # The rule gives a change of the parameter, so that its decay is part of the change.
        return (decayed - param) - size * u, slots

    slots = {
        "row_var": lambda param, h: jnp.zeros_like(param[..., :1]) if param.ndim > 1 else None,
        "col_var": lambda param, h: jnp.zeros_like(param[..., :1, :]) if param.ndim > 1 else None,
        "variance": lambda param, h: jnp.zeros_like(param) if param.ndim < 2 else None,
    }
    return make_optimizer("Adafactor", defaults, hyperparams, rule, slots, scalars)


def _rms(x: jax.Array, rounded: Any) -> jax.Array:
    """The root of the mean square of all elements."""
    return rounded(jnp.sqrt(jnp.sum(x * x))) / x.size**0.5


def _mean_square(grad: jax.Array, axis: int, rounded: Any) -> jax.Array:
    """The mean square along an axis, by way of the norm, which torch computes and rounds."""
    norm = rounded(jnp.sqrt(jnp.sum(grad * grad, axis=axis, keepdims=True)))
    return rounded(rounded(norm * norm) / grad.shape[axis])
