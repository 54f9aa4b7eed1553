"""Stochastic gradient descent by the rule of torch."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim._hyperparams import check, complement
from jaxnet.optim._optimizer import (
    Optimizer,
    coupled_decay,
    given,
    make_optimizer,
    without_parameters,
    zeros,
)


@without_parameters
def SGD(
    lr: float = 1e-3,
    momentum: float = 0,
    dampening: float = 0,
    weight_decay: float = 0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> Optimizer:
    """Stochastic gradient descent: torch.optim.SGD.

    g <- g + weight_decay p
    b <- g at the first step, momentum b + (1 - dampening) g after it
    g <- g + momentum b with nesterov, b with plain momentum
    p <- p - lr g

    Args:
        lr: The learning rate, finite and at least 0.
        momentum: The factor of the buffer b, at least 0. With 0 the state has no buffer.
        dampening: The share of the gradient that is kept out of the buffer.
        weight_decay: The factor of p in the term added to the gradient, at least 0.
        nesterov: Whether Nesterov momentum is used. It needs a momentum above 0 and no
            dampening.
        maximize: Whether the objective is maximized instead of minimized.

    Raises:
        ValueError: An argument is out of range.

    In torch, momentum and weight decay can be turned on in the middle of a run. Here a
    hyperparameter that is 0 when the optimizer is built is left out of the compiled step,
    and `set_hyperparams` refuses to change it.
    """
    check("SGD", lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay)
    buffered = given(momentum)
    if nesterov and (not buffered or given(dampening)):
        raise ValueError(
            f"SGD: nesterov with momentum={momentum} and dampening={dampening}; "
            "accepted is a momentum above 0 and dampening=0"
        )
    defaults = {
        "lr": lr,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
        "maximize": maximize,
    }
    hyperparams = {"lr": lr, "weight_decay": weight_decay}
    if buffered:
        hyperparams["momentum"] = momentum
    damped = buffered and given(dampening)
    if damped:
        hyperparams["one_minus_dampening"] = complement(dampening)

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        if not damped:
            return {}
        # Torch fills the buffer with the whole gradient at the first step. With a momentum
        # that was set to 0 later it makes no use of the buffer, nor of the dampening.
        whole = (t == 1) | (hyper.momentum == 0)
        return {"share": jnp.where(whole, 1, hyper.one_minus_dampening)}

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        grad = coupled_decay(param, grad, hyper, rounded)
        if not buffered:
            return -hyper.lr * grad, {}
        buffer = rounded(hyper.momentum * state["momentum_buffer"])
        buffer = rounded(buffer + (hyper.share * grad if damped else grad))
        grad = rounded(grad + hyper.momentum * buffer) if nesterov else buffer
        return -hyper.lr * grad, {"momentum_buffer": buffer}

    slots = {"momentum_buffer": zeros} if buffered else {}
    return make_optimizer("SGD", defaults, hyperparams, rule, slots, scalars)
