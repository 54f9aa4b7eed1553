"""Activation functions."""

import jax
import jax.numpy as jnp

from jaxnet.nn.module import Module

__all__ = ["ReLU", "Tanh", "relu", "tanh"]


def relu(input: jax.Array) -> jax.Array:
    """max(x, 0); the slope at 0 is 0, as in torch."""
    return jax.nn.relu(input)


def tanh(input: jax.Array) -> jax.Array:
    """The hyperbolic tangent."""
    return jnp.tanh(input)


class ReLU(Module):
    """max(x, 0): torch.nn.ReLU."""

    def __call__(self, input: jax.Array) -> jax.Array:
        return relu(input)


class Tanh(Module):
    """The hyperbolic tangent: torch.nn.Tanh."""

    def __call__(self, input: jax.Array) -> jax.Array:
        return tanh(input)
