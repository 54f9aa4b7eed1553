"""Adam by torch's rule."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.optim.sgd import check_lr

__all__ = ["Adam", "AdamState"]


class AdamState(NamedTuple):
    """Torch's names: steps done, running mean of g, running mean of g^2."""

    step: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


def Adam(
    lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam: torch.optim.Adam.

    m <- m + (1 - b1)(g - m);  v <- b2 v + (1 - b2) g^2
    p <- p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    Args:
        lr: learning rate, finite and at least 0.
        betas: b1 and b2, in [0, 1).
        eps: added to the root, outside the bias correction's division.
    """
    check_lr(lr)
    for i, beta in enumerate(betas):
        if not 0 <= beta < 1:
            raise ValueError(f"betas[{i}]: {beta}; accepted is [0, 1)")
    if not eps >= 0:
        raise ValueError(f"eps: {eps}; accepted is a number of at least 0")
    b1, b2 = betas

    def init(params: Any) -> AdamState:
        return AdamState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(jnp.zeros_like, params),
        )

    def update(grads: Any, state: AdamState, params: Any = None) -> tuple[Any, AdamState]:
        del params
        step = state.step + 1
        mean = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.exp_avg, grads)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.exp_avg_sq, grads)
        size = lr / _one_minus_power(b1, step)
        root = jnp.sqrt(_one_minus_power(b2, step))
        updates = jax.tree.map(
            lambda m, v: (-size * m / (jnp.sqrt(v) / root + eps)).astype(m.dtype), mean, square
        )
        return updates, AdamState(step, mean, square)

    return optax.GradientTransformation(init, update)


def _one_minus_power(beta: float, step: jax.Array) -> jax.Array:
    """1 - beta^step. In float32 the plain form loses 4 digits at the first step."""
    if beta == 0:
        return jnp.ones(())
    return -jnp.expm1(step * math.log(beta))
