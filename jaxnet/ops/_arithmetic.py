"""Arithmetic with arguments of its own: sums with a factor, quotients, powers, limits."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_choice
from jaxnet.ops._arguments import (
    broadcast,
    common_dtype,
    floating,
    is_complex_dtype,
    is_inexact,
    is_traced,
    op,
    operand,
    operands,
)
from jaxnet.ops._elementwise import no_bool


def _scaled(name: str, other: jax.Array, alpha: ArrayLike) -> jax.Array:
    if isinstance(alpha, int | float) and alpha == 1:
        return other
    if isinstance(alpha, float) and not is_inexact(other):
        raise ValueError(f"{name}: alpha {alpha} is a float and the arrays are {other.dtype}")
    return other * jnp.asarray(alpha, other.dtype)


@op
def add(input: ArrayLike, other: ArrayLike, *, alpha: ArrayLike = 1) -> jax.Array:
    """input + alpha * other; for booleans, `or`."""
    x, y = operands(("input", input), ("other", other))
    return x + _scaled("add", y, alpha)


@op
def sub(input: ArrayLike, other: ArrayLike, *, alpha: ArrayLike = 1) -> jax.Array:
    """input - alpha * other; booleans are refused, as in torch."""
    x, y = operands(("input", input), ("other", other))
    no_bool("sub", x, "write ops.logical_xor(input, other)")
    return x - _scaled("sub", y, alpha)


@op
def rsub(input: ArrayLike, other: ArrayLike, *, alpha: ArrayLike = 1) -> jax.Array:
    """other - alpha * input."""
    return sub(other, input, alpha=alpha)


subtract = sub


def _no_zero(name: str, x: jax.Array, y: jax.Array) -> None:
    """Refuses a division of integers by 0 where it is seen."""
    if not is_inexact(x) and not is_traced(y) and bool((np.asarray(y) == 0).any()):
        raise ZeroDivisionError(f"{name}: other holds a 0, and integers have no infinity")


@op
def div(input: ArrayLike, other: ArrayLike, *, rounding_mode: str | None = None) -> jax.Array:
    """input / other.

    Args:
        input: The dividend.
        other: The divisor.
        rounding_mode: "trunc" rounds the quotient towards 0, "floor" down. Without it the
            quotient of integers is float32.

    Raises:
        ZeroDivisionError: A rounded quotient of integers has a divisor 0. In a compiled
            function, where torch raises too, the result is XLA's, -1.
    """
    check_choice("rounding_mode", rounding_mode, (None, "trunc", "floor"))
    to = "float" if rounding_mode is None else "same"
    x, y = operands(("input", input), ("other", other), to=to)
    if rounding_mode is None:
        return x / y
    _no_zero("div", x, y)
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    return jnp.trunc(x / y) if is_inexact(x) else lax.div(x, y)


divide = div


@op
def true_divide(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """input / other; integers become float32."""
    return div(input, other)


@op
def floor_divide(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """input / other, rounded down, as // does in Python."""
    return div(input, other, rounding_mode="floor")


@op
def remainder(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The rest of the floored division, which has the sign of other, as % does in Python."""
    x, y = operands(("input", input), ("other", other))
    _no_zero("remainder", x, y)
    return jnp.remainder(x, y)


@op
def fmod(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """The rest of the truncated division, which has the sign of input, as in C."""
    x, y = operands(("input", input), ("other", other))
    _no_zero("fmod", x, y)
    return lax.rem(x, y)


@op
def pow(input: ArrayLike, exponent: ArrayLike) -> jax.Array:
    """input ** exponent.

    Raises:
        ValueError: An integer has a negative integer as its exponent.
    """
    base, power = operand("input", input), operand("exponent", exponent)
    dtype = common_dtype(base, power)
    if jnp.issubdtype(dtype, jnp.integer):
        if not is_traced(power) and bool((np.asarray(power) < 0).any()):
            raise ValueError(
                f"exponent: {exponent} of integers; accepted are exponents of at least 0: give "
                "the base as floats"
            )
    elif isinstance(power, int | float) and builtins.abs(power) <= 64 and power == int(power):
        # With a number JAX multiplies, which has a gradient at 0 and no logarithm.
        return jnp.asarray(base, dtype) ** int(power)
    x, y = broadcast(("input", "exponent"), [jnp.asarray(v, dtype) for v in (base, power)])
    return jnp.power(x, y)


@op
def float_power(input: ArrayLike, exponent: ArrayLike) -> jax.Array:
    """input ** exponent in double precision; without jax_enable_x64 in single precision."""
    base, power = operand("input", input), operand("exponent", exponent)
    is_complex = is_complex_dtype(common_dtype(base, power))
    wide = jax.dtypes.canonicalize_dtype(np.complex128 if is_complex else np.float64)
    return pow(jnp.asarray(base, wide), jnp.asarray(power, wide))


@op
def round(input: ArrayLike, *, decimals: int = 0) -> jax.Array:
    """The nearest integers, and the even one of two that are equally near.

    Args:
        input: The numbers.
        decimals: How many decimal digits stay; negative for tens, hundreds and so on.
    """
    x = as_jax("input", input)
    if not is_inexact(x):
        return x
    if decimals == 0:
        return jnp.rint(x)
    scale = jnp.asarray(10.0 ** builtins.abs(decimals), x.dtype)
    return jnp.rint(x * scale) / scale if decimals > 0 else jnp.rint(x / scale) * scale


@op
def clamp(
    input: ArrayLike, min: ArrayLike | None = None, max: ArrayLike | None = None
) -> jax.Array:
    """Numbers limited to [min, max].

    The gradient at a limit is 1, as in torch, and where min exceeds max the result is max.

    Args:
        input: The numbers.
        min: The lower limit, a number or an array; None for no limit.
        max: The upper limit, likewise.
    """
    if min is None and max is None:
        raise ValueError("clamp: neither min nor max was given")
    limits = [(name, x) for name, x in (("min", min), ("max", max)) if x is not None]
    x, *arrays = operands(("input", input), *limits)
    for (name, _), limit in zip(limits, arrays, strict=True):
        within = x >= limit if name == "min" else x <= limit
        # A nan stays, without a gradient, and a limit that is nan gives nan, as in torch.
        x = jnp.where(within, x, jnp.where(x != x, lax.stop_gradient(x), limit))
    return x


clip = clamp


@op
def clamp_min(input: ArrayLike, min: ArrayLike) -> jax.Array:
    """Numbers of at least min."""
    return clamp(input, min=min)


@op
def clamp_max(input: ArrayLike, max: ArrayLike) -> jax.Array:
    """Numbers of at most max."""
    return clamp(input, max=max)


@op
def lerp(input: ArrayLike, end: ArrayLike, weight: ArrayLike) -> jax.Array:
    """input + weight * (end - input), computed from the nearer end, as in torch."""
    x, y, w = operands(("input", input), ("end", end), ("weight", weight))
    near = jnp.abs(w) < 0.5
    return jnp.where(near, x + w * (y - x), y - (y - x) * (1 - w))


@op
def addcmul(
    input: ArrayLike, tensor1: ArrayLike, tensor2: ArrayLike, *, value: ArrayLike = 1
) -> jax.Array:
    """input + value * tensor1 * tensor2."""
    x, a, b = operands(("input", input), ("tensor1", tensor1), ("tensor2", tensor2))
    return x + _scaled("addcmul", a, value) * b


@op
def addcdiv(
    input: ArrayLike, tensor1: ArrayLike, tensor2: ArrayLike, *, value: ArrayLike = 1
) -> jax.Array:
    """input + value * tensor1 / tensor2."""
    x, a, b = operands(("input", input), ("tensor1", tensor1), ("tensor2", tensor2))
    return x + _scaled("addcdiv", a, value) / b


@op
def logit(input: ArrayLike, eps: float | None = None) -> jax.Array:
    """log(input / (1 - input)); with eps the input is limited to [eps, 1 - eps]."""
    x = floating("input", input)
    if eps is not None:
        x = clamp(x, eps, 1 - eps)
    return jnp.log(x / (1 - x))


@op
def nan_to_num(
    input: ArrayLike,
    nan: float | None = 0.0,
    posinf: float | None = None,
    neginf: float | None = None,
) -> jax.Array:
    """Numbers in the place of nan and the infinities, which are else the dtype's limits."""
    x = as_jax("input", input)
    return jnp.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)
