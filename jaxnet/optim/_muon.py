"""Muon by torch's rule."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet._checks import check_choice
from jaxnet.optim._optimizer import (
    Optimizer,
    check,
    complement,
    decoupled_decay,
    lerp,
    make_optimizer,
    rounding,
    without_parameters,
    zeros,
)
from jaxnet.precision import full_float32


@without_parameters
def Muon(
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
) -> Optimizer:
    """Momentum, orthogonalized by Newton-Schulz: torch.optim.Muon.

    b <- b + (1 - momentum)(g - b);  u = g + momentum (b - g) with nesterov, b without
    X = u / max(|u|, eps), lying;  X <- a X + (b A + c A A) X with A = X X^T, ns_steps times
    p <- (1 - lr weight_decay) p - lr ratio X

    Args:
        lr, weight_decay, momentum, eps: finite and at least 0.
        nesterov: looks one step ahead.
        ns_coefficients: a, b, c.
        ns_steps: iterations, below 100.
        adjust_lr_fn: the ratio for a matrix (A, B). None and "original":
            sqrt(max(1, A / B)); "match_rms_adamw": 0.2 sqrt(max(A, B)).

    Only matrices: give the other parameters another optimizer with `groups`. As in
    torch the iteration runs in bfloat16 whatever the parameter's dtype; where a sum
    is done in another order, a last digit of bfloat16 (0.4 %) may fall the other way.

    Raises:
        ValueError: an argument is out of range, or (in init) a parameter is no matrix.
    """
    check("Muon", lr=lr, weight_decay=weight_decay, momentum=momentum, eps=eps)
    check_choice("Muon: adjust_lr_fn", adjust_lr_fn, (None, "original", "match_rms_adamw"))
    if len(ns_coefficients) != 3:
        raise ValueError(f"Muon: ns_coefficients: {ns_coefficients}; accepted are three numbers")
    if not 0 <= ns_steps < 100:
        raise ValueError(f"Muon: ns_steps: {ns_steps}; accepted is [0, 100)")
    defaults = {
        "lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "nesterov": nesterov,
        "ns_coefficients": tuple(ns_coefficients),
        "eps": eps,
        "ns_steps": ns_steps,
        "adjust_lr_fn": adjust_lr_fn,
    }
    hyperparams = {
        "lr": lr,
        "weight_decay": weight_decay,
        "one_minus_momentum": complement(momentum),
        "eps": eps,
    }

    def scalars(hyper: Any, t: jax.Array) -> dict[str, Any]:
        del t
        return {"momentum": 1 - hyper.one_minus_momentum}

    def rule(param: jax.Array, grad: jax.Array, state: Any, hyper: Any, rounded: Any) -> Any:
        buffer = rounded(lerp(state["momentum_buffer"], grad, hyper.one_minus_momentum))
        u = rounded(lerp(grad, buffer, hyper.momentum)) if nesterov else buffer
        rows, columns = param.shape
        if adjust_lr_fn == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        else:
            ratio = math.sqrt(max(1, rows / columns))
        direction = newton_schulz(u, ns_coefficients, ns_steps, hyper.eps)
        change = -hyper.lr * ratio * direction.astype(param.dtype)
        return (decoupled_decay(param, hyper, rounded) - param) + change, {
            "momentum_buffer": buffer
        }

    def check_leaf(name: str, leaf: jax.Array) -> None:
        if jnp.ndim(leaf) != 2:
            raise ValueError(
                f"Muon: parameter {name!r} has shape {jnp.shape(leaf)}; only matrices "
                "are accepted, so give the others another optimizer with optim.groups"
            )

    slots = {"momentum_buffer": zeros}
    return make_optimizer(
        "Muon", defaults, hyperparams, rule, slots, scalars, check_leaf=check_leaf
    )


def newton_schulz(
    u: jax.Array, coefficients: tuple[float, float, float], steps: int, eps: Any
) -> jax.Array:
    """A matrix with u's singular vectors and singular values near 1.

    Its entries are float32 numbers rounded to bfloat16: of casts between the two XLA
    leaves out those it finds needless, and with them torch's rounding.
    """
    a, b, c = coefficients
    narrow = rounding(jnp.bfloat16)
    tall = u.shape[0] > u.shape[1]
    x = narrow(u.astype(jnp.float32))
    # (A, B) with A <= B from here on
    x = x.T if tall else x
    norm = narrow(jnp.sqrt(jnp.sum(x * x)))
    x = narrow(x / jnp.maximum(norm, narrow(jnp.asarray(eps, jnp.float32))))
    for _ in range(steps):
        gram = narrow(_product(x, x.T))
        # each line is one addmm of torch: summed in float32, rounded once
        of_gram = narrow(b * gram + c * _product(gram, gram))
        x = narrow(a * x + _product(of_gram, x))
    return x.T if tall else x


@full_float32()
def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """x y of matrices whose entries bfloat16 holds, summed in float32."""
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)
