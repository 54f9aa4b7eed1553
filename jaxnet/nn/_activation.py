"""Smooth activation functions and the most common rectifiers.

Each activation is a function and a module under torch's names. An activation acts on every
number by itself and keeps the shape and the dtype of its input. The argument `inplace` is
accepted as in torch but has no effect, since JAX's arrays never change. Where a function has
no derivative, as `relu` at 0, its gradient is the value that torch's backward pass gives.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxnet.nn._module import Module


def relu(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """Computes max(x, 0). The gradient at 0 is 0."""
    return jnp.where(input <= 0, 0, input)


def _exponential_unit(
    input: Float[Array, "*shape"], alpha: float, scale: float, rate: float
) -> Float[Array, "*shape"]:
    """Computes scale x where x > 0, and scale alpha (exp(rate x) - 1) elsewhere."""
    left = input <= 0
    # The gradient of jnp.where multiplies the branch that is not taken by 0, and 0 times an
    # overflown exp is nan. So expm1 sees no positive number.
    bounded = jnp.where(left, input, 0)
    return jnp.where(left, scale * alpha * jnp.expm1(rate * bounded), scale * input)


def elu(
    input: Float[Array, "*shape"], alpha: float = 1.0, inplace: bool = False
) -> Float[Array, "*shape"]:
    """Computes x where x > 0, and alpha (exp(x) - 1) elsewhere. The gradient at 0 is alpha."""
    return _exponential_unit(input, alpha, 1.0, 1.0)


def selu(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """Computes ELU with the factors that keep mean 0 and variance 1 (Klambauer et al., 2017).

    The gradient at 0 is 1.758.
    """
    return _exponential_unit(input, 1.6732632423543772848, 1.0507009873554804934, 1.0)


def celu(
    input: Float[Array, "*shape"], alpha: float = 1.0, inplace: bool = False
) -> Float[Array, "*shape"]:
    """Computes x where x > 0, and alpha (exp(x / alpha) - 1) elsewhere.

    Raises:
        ValueError: The argument alpha is 0.
    """
    if alpha == 0:
        raise ValueError("celu: alpha is 0; accepted is any other number")
    return _exponential_unit(input, alpha, 1.0, 1 / alpha)


def gelu(input: Float[Array, "*shape"], approximate: str = "none") -> Float[Array, "*shape"]:
    """Computes x Phi(x), where Phi is the distribution function of N(0, 1).

    Args:
        input: An array of any shape.
        approximate: The string "none" for the exact function, which is torch's default but
            not flax's, or "tanh" for (x / 2) (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Raises:
        ValueError: The argument approximate is another string.
    """
    if approximate == "none":
        return 0.5 * input * (1 + lax.erf(input * math.sqrt(0.5)))
    if approximate == "tanh":
        inner = input + 0.044715 * (input * input * input)
        return 0.5 * input * (1 + jnp.tanh(math.sqrt(2 / math.pi) * inner))
    raise ValueError(f"gelu: approximate is {approximate!r}; accepted are 'none' and 'tanh'")


def sigmoid(input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes 1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(input)


def silu(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """Computes x sigmoid(x)."""
    return input * jax.nn.sigmoid(input)


def mish(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """Computes x tanh(softplus(x))."""
    return input * jnp.tanh(jax.nn.softplus(input))


def softplus(
    input: Float[Array, "*shape"], beta: float = 1.0, threshold: float = 20.0
) -> Float[Array, "*shape"]:
    """Computes log(1 + exp(beta x)) / beta, and x itself where beta x > threshold."""
    scaled = input * beta
    return jnp.where(scaled > threshold, input, jax.nn.softplus(scaled) / beta)


def softsign(input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes x / (1 + |x|)."""
    return input / (1 + jnp.abs(input))


def tanh(input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes the hyperbolic tangent."""
    return jnp.tanh(input)


def tanhshrink(input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes x - tanh(x)."""
    return input - jnp.tanh(input)


def logsigmoid(input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes log(1 / (1 + exp(-x))) without overflow."""
    return jax.nn.log_sigmoid(input)


class InPlace(Module):
    """An activation whose only argument is torch's `inplace`, which has no effect here."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


def with_inplace(text: str, inplace: bool) -> str:
    """The arguments of an activation as torch prints them, with `inplace` only if it is True."""
    return text + (", inplace=True" if inplace else "")


class ReLU(InPlace):
    """Computes max(x, 0): torch.nn.ReLU."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return relu(input)


class SELU(InPlace):
    """Computes the ELU that keeps mean 0 and variance 1: torch.nn.SELU."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return selu(input)


class SiLU(InPlace):
    """Computes x sigmoid(x): torch.nn.SiLU."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return silu(input)


class Mish(InPlace):
    """Computes x tanh(softplus(x)): torch.nn.Mish."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return mish(input)


class ELU(Module):
    """Computes x where x > 0, and alpha (exp(x) - 1) elsewhere: torch.nn.ELU."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self.alpha = alpha
        self.inplace = inplace

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return elu(input, self.alpha)

    def extra_repr(self) -> str:
        return with_inplace(f"alpha={self.alpha}", self.inplace)


class CELU(ELU):
    """Computes x where x > 0, and alpha (exp(x / alpha) - 1) elsewhere: torch.nn.CELU."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return celu(input, self.alpha)


class GELU(Module):
    """Computes x Phi(x), exactly unless approximate="tanh": torch.nn.GELU."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """Computes log(1 + exp(beta x)) / beta, or x where beta x > threshold: torch.nn.Softplus."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = beta
        self.threshold = threshold

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Sigmoid(Module):
    """Computes 1 / (1 + exp(-x)): torch.nn.Sigmoid."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return sigmoid(input)


class LogSigmoid(Module):
    """Computes log(sigmoid(x)): torch.nn.LogSigmoid."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return logsigmoid(input)


class Softsign(Module):
    """Computes x / (1 + |x|): torch.nn.Softsign."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softsign(input)


class Tanh(Module):
    """Computes the hyperbolic tangent: torch.nn.Tanh."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return tanh(input)


class Tanhshrink(Module):
    """Computes x - tanh(x): torch.nn.Tanhshrink."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return tanhshrink(input)
