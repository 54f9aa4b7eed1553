"""Activations whose numbers, or whose gradients at the edges, are others in jax.nn; and layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def leaky_relu(x: jax.Array, negative_slope: float = 0.01, inplace: bool = False) -> jax.Array:
    """Leaky ReLU, whose gradient at 0 is the slope, as in PyTorch."""
    return jnp.where(x > 0, x, negative_slope * x)


def hardtanh(
    x: jax.Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> jax.Array:
    """Between two numbers; the gradient at both of them is 0, as in PyTorch."""
    return jnp.where(x <= min_val, min_val, jnp.where(x >= max_val, max_val, x))


def relu6(x: jax.Array, inplace: bool = False) -> jax.Array:
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: jax.Array, inplace: bool = False) -> jax.Array:
    return hardtanh(x / 6 + 0.5, 0.0, 1.0)


def hardswish(x: jax.Array, inplace: bool = False) -> jax.Array:
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, x, x * (x + 3) / 6))


def softplus(x: jax.Array, beta: float = 1.0, threshold: float = 20.0) -> jax.Array:
    """log(1 + exp(beta x)) / beta, and x itself above the threshold, as in PyTorch."""
    return jnp.where(x * beta > threshold, x, jax.nn.softplus(x * beta) / beta)


def softshrink(x: jax.Array, lambd: float = 0.5) -> jax.Array:
    return jnp.where(x > lambd, x - lambd, jnp.where(x < -lambd, x + lambd, 0))


def hardshrink(x: jax.Array, lambd: float = 0.5) -> jax.Array:
    return jnp.where(jnp.abs(x) > lambd, x, 0)


def threshold(x: jax.Array, threshold: float, value: float, inplace: bool = False) -> jax.Array:
    return jnp.where(x > threshold, x, value)


def prelu(x: jax.Array, weight: Any) -> jax.Array:
    slope = weight[...]
    slope = slope.reshape(-1, *[1] * (x.ndim - 2)) if slope.size > 1 else slope
    return jnp.where(x > 0, x, slope * x)


class Activation(nnx.Module):
    """A function as a layer, whose only argument in PyTorch is `inplace`."""

    function: Any = None

    def __init__(self, inplace: bool = False, *, rngs: nnx.Rngs | None = None) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return type(self).function(x)


class ReLU(Activation):
    function = staticmethod(jax.nn.relu)


class ReLU6(Activation):
    function = staticmethod(relu6)


class SiLU(Activation):
    function = staticmethod(jax.nn.silu)


class Mish(Activation):
    function = staticmethod(jax.nn.mish)


class Hardswish(Activation):
    function = staticmethod(hardswish)


class Hardsigmoid(Activation):
    function = staticmethod(hardsigmoid)


class Sigmoid(Activation):
    function = staticmethod(jax.nn.sigmoid)


class Tanh(Activation):
    function = staticmethod(jnp.tanh)


class SELU(Activation):
    function = staticmethod(jax.nn.selu)


class Softsign(Activation):
    function = staticmethod(jax.nn.soft_sign)


class LogSigmoid(Activation):
    function = staticmethod(jax.nn.log_sigmoid)


class GELU(nnx.Module):
    """GELU, exact as in PyTorch; jax.nn.gelu is an approximation if nothing is said."""

    def __init__(self, approximate: str = "none", *, rngs: nnx.Rngs | None = None) -> None:
        self.approximate = approximate

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.gelu(x, approximate=self.approximate == "tanh")


class LeakyReLU(nnx.Module):
    """Leaky ReLU."""

    def __init__(
        self, negative_slope: float = 0.01, inplace: bool = False, *, rngs: nnx.Rngs | None = None
    ) -> None:
        self.negative_slope = negative_slope

    def __call__(self, x: jax.Array) -> jax.Array:
        return leaky_relu(x, self.negative_slope)


class ELU(nnx.Module):
    """The exponential linear unit."""

    def __init__(
        self, alpha: float = 1.0, inplace: bool = False, *, rngs: nnx.Rngs | None = None
    ) -> None:
        self.alpha = alpha

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.elu(x, self.alpha)


class Hardtanh(nnx.Module):
    """Between two numbers."""

    def __init__(
        self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False,
        *, rngs: nnx.Rngs | None = None,
    ) -> None:  # fmt: skip
        self.min_val, self.max_val = min_val, max_val

    def __call__(self, x: jax.Array) -> jax.Array:
        return hardtanh(x, self.min_val, self.max_val)


class Softplus(nnx.Module):
    """A smooth ReLU."""

    def __init__(
        self, beta: float = 1.0, threshold: float = 20.0, *, rngs: nnx.Rngs | None = None
    ) -> None:
        self.beta, self.threshold = beta, threshold

    def __call__(self, x: jax.Array) -> jax.Array:
        return softplus(x, self.beta, self.threshold)


class Softmax(nnx.Module):
    """The softmax along an axis, which has to be said."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs | None = None) -> None:
        self.dim = dim

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x, axis=self.dim)


class LogSoftmax(nnx.Module):
    """The logarithm of the softmax along an axis, which has to be said."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs | None = None) -> None:
        self.dim = dim

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(x, axis=self.dim)


class GLU(nnx.Module):
    """The gated linear unit along an axis."""

    def __init__(self, dim: int = -1, *, rngs: nnx.Rngs | None = None) -> None:
        self.dim = dim

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.glu(x, axis=self.dim)
