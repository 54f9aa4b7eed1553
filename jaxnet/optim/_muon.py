"""Muon by the rule of torch."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet._checks import check_choice
from jaxnet.optim._hyperparams import check, complement
from jaxnet.optim._optimizer import (
    Optimizer,
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
    """Momentum orthogonalized by the Newton-Schulz iteration: torch.optim.Muon.

    B <- B + (1 - momentum)(g - B);  u = g + momentum (B - g) with nesterov, B without
    X = u / max(|u|, eps), transposed if it has more rows than columns
    X <- a X + (b A + c A A) X with A = X X^T, ns_steps times
    p <- (1 - lr weight_decay) p - lr ratio X

    Args:
        lr: The learning rate, finite and at least 0.
        weight_decay: The factor of the decoupled weight decay, finite and at least 0.
        momentum: The weight of the old buffer B, finite and at least 0.
        nesterov: Whether Nesterov momentum is used.
        ns_coefficients: The coefficients a, b and c of the iteration.
        eps: The lower limit of the norm in the division, finite and at least 0.
        ns_steps: The number of iterations, below 100.
        adjust_lr_fn: The ratio for a parameter with R rows and C columns: None and
            "original" are sqrt(max(1, R / C)), "match_rms_adamw" is 0.2 sqrt(max(R, C)).

    All parameters have to be matrices; `groups` gives the others another optimizer. As in
    torch, the iteration is computed in bfloat16 for parameters of every dtype. A sum in
    another order than torch's may round the last digit of bfloat16 (0.4 %) differently.

    Raises:
        ValueError: An argument is out of range, or (in init) a parameter is no matrix.
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
    """A matrix with the singular vectors of u and singular values near 1.

    Args:
        u: The matrix, of any floating dtype.
        coefficients: The coefficients a, b and c of the iteration.
        steps: The number of iterations.
        eps: The lower limit of the norm in the division.

    Returns:
        A float32 matrix of the shape of u whose entries are rounded to bfloat16. A cast to
        bfloat16 and back would not do, because XLA may leave it out, and torch's rounding
        with it.
    """
    a, b, c = coefficients
    narrow = rounding(jnp.bfloat16)
    tall = u.shape[0] > u.shape[1]
    x = narrow(u.astype(jnp.float32))
    # From here on there are at most as many rows as columns, so that X X^T is small.
    x = x.T if tall else x
    norm = narrow(jnp.sqrt(jnp.sum(x * x)))
    x = narrow(x / jnp.maximum(norm, narrow(jnp.asarray(eps, jnp.float32))))
    for _ in range(steps):
        gram = narrow(_product(x, x.T))
        # Each line is one torch.addmm: the sum is in float32 and is rounded once.
        of_gram = narrow(b * gram + c * _product(gram, gram))
        x = narrow(a * x + _product(of_gram, x))
    return x.T if tall else x


@full_float32()
def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    """The product of matrices whose entries fit bfloat16, summed in float32."""
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)
