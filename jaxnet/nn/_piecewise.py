"""Piecewise activation functions: linear parts, or for Hardswish also a parabola.

Each activation is a function and a module under torch's names. An activation acts on every
number by itself and keeps the shape and the dtype of its input. Where a function has no
derivative, its gradient is the value that torch's backward pass gives. The argument `inplace`
has no effect, since JAX's arrays never change.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet._keys import uniform
from jaxnet.nn._activation import with_inplace
from jaxnet.nn._module import Module, Parameter


def leaky_relu(
    input: Float[Array, "*shape"], negative_slope: float = 0.01, inplace: bool = False
) -> Float[Array, "*shape"]:
    """Computes x where x > 0, and negative_slope x elsewhere."""
    return jnp.where(input > 0, input, negative_slope * input)


def rrelu(
    input: Float[Array, "*shape"],
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
    *,
    key: jax.Array | None = None,
) -> Float[Array, "*shape"]:
    """Computes x where x > 0, and slope x elsewhere: torch.nn.functional.rrelu.

    In training every number has a slope of its own from U(lower, upper); otherwise the slope
    is (lower + upper) / 2.

    Args:
        input: An array of floats of any shape.
        lower: The lower bound of the slopes.
        upper: The upper bound of the slopes.
        training: Whether the slopes are drawn.
        inplace: An argument of torch that has no effect.
        key: A random key. Without it the open `nn.keys` context supplies one.

    Returns:
        An array with the shape and dtype of the input.

    Raises:
        ValueError: The bound lower is above upper, or in training there is no key.
        TypeError: The input has no float dtype.
    """
    if not lower <= upper:
        raise ValueError(f"rrelu: lower {lower} is above upper {upper}; accepted is lower <= upper")
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"rrelu: the input is {input.dtype}; accepted are floats")
    if not training:
        return leaky_relu(input, (lower + upper) / 2)
    return jnp.where(
        input > 0, input, uniform("rrelu", input.shape, lower, upper, input.dtype, key) * input
    )


def prelu(input: Float[Array, "*shape"], weight: jax.Array) -> Float[Array, "*shape"]:
    """Computes x where x > 0, and weight x elsewhere: torch.nn.functional.prelu.

    Args:
        input: An array (N, C, ...), or of any shape if there is a single slope.
        weight: The slopes, one for each channel (C,), or a single one, (1,) or ().

    Returns:
        An array with the shape of the input.

    Raises:
        ValueError: The number of slopes does not fit the channels.
    """
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ValueError(
            f"prelu: a weight of shape {weight.shape} does not fit an input of shape "
            f"{input.shape}; accepted are (), (1,) and ({channels},)"
        )
    if weight.size == 1:
        slope = weight.reshape(())
    else:
        slope = weight.reshape(1, -1, *(1,) * (input.ndim - 2))
    return jnp.where(input > 0, input, slope * input)


def threshold(
    input: Float[Array, "*shape"], threshold: float, value: float, inplace: bool = False
) -> Float[Array, "*shape"]:
    """Computes x where x > threshold, and value elsewhere."""
    return jnp.where(input <= threshold, value, input)


def hardtanh(
    input: Float[Array, "*shape"],
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Float[Array, "*shape"]:
    """Clips x to [min_val, max_val]. The gradient at both ends is 0.

    Raises:
        ValueError: The argument min_val is greater than max_val.
    """
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is greater than max_val {max_val}")
    return jnp.where(input <= min_val, min_val, jnp.where(input >= max_val, max_val, input))


def relu6(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """Clips x to [0, 6]. The gradient at both ends is 0."""
    return hardtanh(input, 0, 6)


@jax.custom_jvp
def _hardsigmoid(x: jax.Array) -> Float[Array, "*shape"]:
    return (hardtanh(x, -3, 3) + 3) / 6


@_hardsigmoid.defjvp
def _hardsigmoid_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    slope = float(np.float32(1 / 6))  # torch has this float32 constant for every dtype
    return _hardsigmoid(x), jnp.where((x > -3) & (x < 3), slope * dx, 0)


def hardsigmoid(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """Clips (x + 3) / 6 to [0, 1]. The gradient at both ends is 0.

    As in torch, the gradient in between is 1/6 rounded to float32, also for float64.
    """
    return _hardsigmoid(input)


def hardswish(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """Computes x hardsigmoid(x). The gradient is 0 at -3 and 1 at 3."""
    middle = jnp.where(jnp.abs(input) < 3, input, 0)  # so that the square does not overflow
    curve = middle * (middle + 3) / 6
    return jnp.where(input <= -3, 0, jnp.where(input >= 3, input, curve))


def hardshrink(input: Float[Array, "*shape"], lambd: float = 0.5) -> Float[Array, "*shape"]:
    """Computes 0 where -lambd <= x <= lambd, and x elsewhere."""
    return jnp.where((input >= -lambd) & (input <= lambd), 0, input)


def softshrink(input: Float[Array, "*shape"], lambd: float = 0.5) -> Float[Array, "*shape"]:
    """Moves x towards 0 by lambd, and gives 0, with gradient 0, where -lambd <= x <= lambd.

    Raises:
        ValueError: The argument lambd is negative.
    """
    if not lambd >= 0:
        raise ValueError(f"softshrink: lambd is {lambd}; accepted is 0 or more")
    moved = input - jnp.where(input > 0, lambd, -lambd).astype(input.dtype)
    return jnp.where(jnp.abs(input) <= lambd, 0, moved)


class Threshold(Module):
    """Computes x where x > threshold, and value elsewhere: torch.nn.Threshold."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return threshold(input, self.threshold, self.value)

    def extra_repr(self) -> str:
        text = f"threshold={self.threshold}, value={self.value}"
        return with_inplace(text, self.inplace)


class LeakyReLU(Module):
    """Computes x where x > 0, and negative_slope x elsewhere: torch.nn.LeakyReLU."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = negative_slope
        self.inplace = inplace

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return with_inplace(f"negative_slope={self.negative_slope}", self.inplace)


class RReLU(Module):
    """Computes x where x > 0, and a random slope times x elsewhere: torch.nn.RReLU.

    As in `jaxnet.nn.functional.rrelu`, with training in training mode.
    """

    def __init__(
        self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False
    ) -> None:
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return rrelu(input, self.lower, self.upper, self.training)

    def extra_repr(self) -> str:
        return with_inplace(f"lower={self.lower}, upper={self.upper}", self.inplace)


class PReLU(Module):
    """A LeakyReLU with trained slopes: torch.nn.PReLU.

    The parameter is `weight` (num_parameters,). Weight decay should not be applied to it.

    Args:
        num_parameters: The number of slopes: 1, or the number of channels.
        init: The initial value of the slopes.
        dtype: The dtype of the slopes.
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, dtype: DTypeLike = jnp.float32
    ) -> None:
        # torch's attribute num_parameters needs no assignment: Module has a property of that
        # name, and its value, the number of trainable numbers, is the number of slopes.
        self.init = init
        self.weight = Parameter(jnp.full((num_parameters,), init, dtype))

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return prelu(input, self.weight[...])

    def extra_repr(self) -> str:
        return f"num_parameters={self.weight.size}"


class Hardtanh(Module):
    """Clips x to [min_val, max_val]: torch.nn.Hardtanh.

    Args:
        min_val: The lower end.
        max_val: The upper end.
        inplace: An argument of torch that has no effect, since JAX's arrays never change.
        min_value: torch's older name of min_val, which gives a FutureWarning.
        max_value: torch's older name of max_val, which gives a FutureWarning.

    Raises:
        ValueError: The upper end is not greater than the lower end.
    """

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        for old, new in (("min_value", min_value), ("max_value", max_value)):
            if new is not None:
                warnings.warn(
                    f"Hardtanh: {old} is deprecated; its name is {old[:-2]}",
                    FutureWarning,
                    stacklevel=2,
                )
        self.min_val = min_val if min_value is None else min_value
        self.max_val = max_val if max_value is None else max_value
        self.inplace = inplace
        if self.max_val <= self.min_val:
            raise ValueError(
                f"Hardtanh: max_val ({self.max_val}) must be greater than min_val ({self.min_val})"
            )

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hardtanh(input, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        text = f"min_val={self.min_val}, max_val={self.max_val}"
        return with_inplace(text, self.inplace)


class ReLU6(Hardtanh):
    """Clips x to [0, 6]: torch.nn.ReLU6."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Hardsigmoid(Module):
    """Clips (x + 3) / 6 to [0, 1]: torch.nn.Hardsigmoid."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hardsigmoid(input)


class Hardswish(Hardsigmoid):
    """Computes x hardsigmoid(x): torch.nn.Hardswish."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hardswish(input)


class Hardshrink(Module):
    """Computes 0 where -lambd <= x <= lambd, and x elsewhere: torch.nn.Hardshrink."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Softshrink(Hardshrink):
    """Moves x towards 0 by lambd: torch.nn.Softshrink."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softshrink(input, self.lambd)
