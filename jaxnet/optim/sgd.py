"""Stochastic gradient descent by torch's rule."""

from typing import Any

import jax
import optax

__all__ = ["SGD"]


def SGD(lr: float = 1e-3) -> optax.GradientTransformation:
    """p <- p - lr * g: torch.optim.SGD.

    Args:
        lr: learning rate, finite and at least 0.
    """
    check_lr(lr)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda g: -lr * g, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def check_lr(lr: float) -> None:
    """Refuses a learning rate that torch refuses, and nan and infinity too."""
    if not 0 <= lr < float("inf"):
        raise ValueError(f"lr: {lr}; a learning rate is a finite number, at least 0")
