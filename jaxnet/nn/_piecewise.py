"""Activation functions made of straight (or for Hardswish parabolic) pieces.

Each is a function and a module under torch's names. At a kink the slope is the
one that torch's backward gives; `inplace` has no effect, for arrays never change.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet.nn._activation import with_inplace
from jaxnet.nn._module import Module, Parameter


def leaky_relu(
    input: Float[Array, "*shape"], negative_slope: float = 0.01, inplace: bool = False
) -> Float[Array, "*shape"]:
    """x right of 0, negative_slope x left of it and at it."""
    return jnp.where(input > 0, input, negative_slope * input)


def prelu(input: Float[Array, "*shape"], weight: jax.Array) -> Float[Array, "*shape"]:
    """x right of 0, weight x left of it and at it.

    Args:
        input: (N, C, ...), or any shape when there is a single slope.
        weight: (C,), (1,) or ().
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
    """x where x > threshold, and value elsewhere."""
    return jnp.where(input <= threshold, value, input)


def hardtanh(
    input: Float[Array, "*shape"],
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Float[Array, "*shape"]:
    """x cut to [min_val, max_val]; the slope at both ends is 0."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is greater than max_val {max_val}")
    return jnp.where(input <= min_val, min_val, jnp.where(input >= max_val, max_val, input))


def relu6(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """x cut to [0, 6]; the slope at both ends is 0."""
    return hardtanh(input, 0, 6)


@jax.custom_jvp
def _hardsigmoid(x: jax.Array) -> Float[Array, "*shape"]:
    return (hardtanh(x, -3, 3) + 3) / 6


@_hardsigmoid.defjvp
def _hardsigmoid_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    slope = float(np.float32(1 / 6))  # torch's constant for every dtype
    return _hardsigmoid(x), jnp.where((x > -3) & (x < 3), slope * dx, 0)


def hardsigmoid(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """(x + 3) / 6 cut to [0, 1]; the slope at both ends is 0.

    The slope in between is 1/6 as float32 has it, in float64 too, as in torch.
    """
    return _hardsigmoid(input)


def hardswish(input: Float[Array, "*shape"], inplace: bool = False) -> Float[Array, "*shape"]:
    """x hardsigmoid(x); the slope at -3 is 0 and at 3 is 1."""
    middle = jnp.where(jnp.abs(input) < 3, input, 0)  # no overflow of the square
    curve = middle * (middle + 3) / 6
    return jnp.where(input <= -3, 0, jnp.where(input >= 3, input, curve))


def hardshrink(input: Float[Array, "*shape"], lambd: float = 0.5) -> Float[Array, "*shape"]:
    """0 in [-lambd, lambd], and x elsewhere."""
    return jnp.where((input >= -lambd) & (input <= lambd), 0, input)


def softshrink(input: Float[Array, "*shape"], lambd: float = 0.5) -> Float[Array, "*shape"]:
    """x moved towards 0 by lambd; 0 in [-lambd, lambd], with slope 0 at both ends."""
    if not lambd >= 0:
        raise ValueError(f"softshrink: lambd is {lambd}; accepted is 0 or more")
    moved = input - jnp.where(input > 0, lambd, -lambd).astype(input.dtype)
    return jnp.where(jnp.abs(input) <= lambd, 0, moved)


class Threshold(Module):
    """x where x > threshold, and value elsewhere: torch.nn.Threshold."""

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
    """x right of 0, negative_slope x left of it: torch.nn.LeakyReLU."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        self.negative_slope = negative_slope
        self.inplace = inplace

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return leaky_relu(input, self.negative_slope)

    def extra_repr(self) -> str:
        return with_inplace(f"negative_slope={self.negative_slope}", self.inplace)


class PReLU(Module):
    """LeakyReLU with trained slopes: torch.nn.PReLU.

    Args:
        num_parameters: 1, or the number of channels for one slope each.
        init: where the slopes start.
        dtype: of the slopes.

    Parameter `weight` (num_parameters,). Do not put weight decay on it.
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, dtype: DTypeLike = jnp.float32
    ) -> None:
        # torch's attribute num_parameters is Module's property of that name: one a slope.
        self.init = init
        self.weight = Parameter(jnp.full((num_parameters,), init, dtype))

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return prelu(input, self.weight[...])

    def extra_repr(self) -> str:
        return f"num_parameters={self.weight.size}"


class Hardtanh(Module):
    """x cut to [min_val, max_val]: torch.nn.Hardtanh.

    `min_value` and `max_value` are torch's older names for the ends.
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
    """x cut to [0, 6]: torch.nn.ReLU6."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class Hardsigmoid(Module):
    """(x + 3) / 6 cut to [0, 1]: torch.nn.Hardsigmoid."""

    def __init__(self, inplace: bool = False) -> None:
        self.inplace = inplace

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hardsigmoid(input)


class Hardswish(Hardsigmoid):
    """x hardsigmoid(x): torch.nn.Hardswish."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hardswish(input)


class Hardshrink(Module):
    """0 in [-lambd, lambd], and x elsewhere: torch.nn.Hardshrink."""

    def __init__(self, lambd: float = 0.5) -> None:
        self.lambd = lambd

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        return f"{self.lambd}"


class Softshrink(Hardshrink):
    """x moved towards 0 by lambd: torch.nn.Softshrink."""

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return softshrink(input, self.lambd)
