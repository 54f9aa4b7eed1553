"""The losses of `jaxnet.losses` as modules."""

import jax

from jaxnet import losses
from jaxnet.nn.module import Module

__all__ = ["CrossEntropyLoss", "MSELoss"]


class MSELoss(Module):
    """Squared error: torch.nn.MSELoss. See `jaxnet.losses.mse_loss`."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return losses.mse_loss(input, target, self.reduction)


class CrossEntropyLoss(Module):
    """Softmax and negative log likelihood: torch.nn.CrossEntropyLoss."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return losses.cross_entropy(input, target, self.reduction)
