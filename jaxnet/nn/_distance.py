"""The distance between vectors as a layer."""

import jax

from jaxnet import losses
from jaxnet.nn._module import Module


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps: torch.nn.PairwiseDistance.

    As in `jaxnet.losses.pairwise_distance`.
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def __call__(self, x1: jax.Array, x2: jax.Array) -> jax.Array:
        return losses.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)
