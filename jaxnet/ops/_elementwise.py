"""Functions of each number, or of the pairs of numbers of two arrays."""

import builtins
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special
from jax.typing import ArrayLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_choice
from jaxnet.ops._arguments import (
    Binary,
    Unary,
    broadcast,
    common_dtype,
    floating,
    is_complex_dtype,
    is_inexact,
    is_traced,
    named,
    op,
    operand,
    operands,
)


def unary(name: str, function: Callable[..., Any], doc: str) -> Unary:
    """A function that keeps the dtype, from JAX's."""

    def call(input: ArrayLike) -> jax.Array:
        return function(as_jax("input", input))

    return named(call, name, doc)


def float_unary(name: str, function: Callable[..., Any], doc: str) -> Unary:
    """A function of floats, from JAX's; integers become float32."""

    def call(input: ArrayLike) -> jax.Array:
        return function(floating("input", input))

    return named(call, name, f"{doc} Integers become float32.")


def binary(name: str, function: Callable[..., Any], doc: str, to: str = "same") -> Binary:
    """A function of two arrays of torch's common dtype, from JAX's."""

    def call(input: ArrayLike, other: ArrayLike) -> jax.Array:
        return function(*operands(("input", input), ("other", other), to=to))

    return named(call, name, doc)


def _no_bool(name: str, x: jax.Array, way_out: str) -> None:
    if x.dtype == np.bool_:
        raise TypeError(f"{name}: input is of booleans, which torch refuses too; {way_out}")


def _whole(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """A rounding function that leaves integers as they are."""
    return lambda x: function(x) if is_inexact(x) else x


def _abs(x: jax.Array) -> jax.Array:
    _no_bool("abs", x, "they are their own absolute values")
    return jnp.abs(x)


def _neg(x: jax.Array) -> jax.Array:
    _no_bool("neg", x, "write ops.logical_not(input)")
    return -x


def _nextafter(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.nextafter(lax.stop_gradient(x), lax.stop_gradient(y))


# Without derivative at 0 torch takes 0, as JAX does for abs and sign.
abs = absolute = unary("abs", _abs, "Absolute values; of complex numbers, their lengths.")
neg = negative = unary("neg", _neg, "-input.")
positive = unary("positive", lambda x: x, "The input itself.")
sign = unary("sign", lambda x: x if x.dtype == np.bool_ else jnp.sign(x), "-1, 0 or 1.")
sgn = unary("sgn", jnp.sign, "The sign; of complex numbers, those of length 1 in their direction.")
floor = unary("floor", _whole(jnp.floor), "The largest integers that are not larger.")
ceil = unary("ceil", _whole(jnp.ceil), "The smallest integers that are not smaller.")
trunc = fix = unary("trunc", _whole(jnp.trunc), "The numbers without their fractions.")
frac = unary("frac", lambda x: x - jnp.trunc(x), "The fractions, with the sign of the numbers.")
square = unary("square", jnp.square, "input * input.")
real = unary("real", jnp.real, "The real parts.")
imag = unary("imag", jnp.imag, "The imaginary parts.")
conj = unary("conj", jnp.conj, "The complex conjugates.")
isnan = unary("isnan", jnp.isnan, "Where a number is nan.")
isinf = unary("isinf", jnp.isinf, "Where a number is infinite.")
isposinf = unary("isposinf", jnp.isposinf, "Where a number is +infinity.")
isneginf = unary("isneginf", jnp.isneginf, "Where a number is -infinity.")
isfinite = unary("isfinite", jnp.isfinite, "Where a number is neither infinite nor nan.")
isreal = unary("isreal", jnp.isreal, "Where a number has no imaginary part.")
signbit = unary("signbit", jnp.signbit, "Where a number is negative, -0.0 included.")
logical_not = unary("logical_not", lambda x: x == 0, "Where a number is 0.")
bitwise_not = unary("bitwise_not", jnp.bitwise_not, "All bits inverted; of booleans, `not`.")

exp = float_unary("exp", jnp.exp, "e to the power of the input.")
exp2 = float_unary("exp2", jnp.exp2, "2 to the power of the input.")
expm1 = float_unary("expm1", jnp.expm1, "exp(input) - 1, exact near 0.")
log = float_unary("log", jnp.log, "The natural logarithm; nan for negative numbers.")
log2 = float_unary("log2", jnp.log2, "The logarithm to base 2.")
log10 = float_unary("log10", jnp.log10, "The logarithm to base 10.")
log1p = float_unary("log1p", jnp.log1p, "log(1 + input), exact near 0.")
sqrt = float_unary("sqrt", jnp.sqrt, "The square root; nan for negative numbers.")
rsqrt = float_unary("rsqrt", lax.rsqrt, "1 / sqrt(input).")
reciprocal = float_unary("reciprocal", lambda x: 1 / x, "1 / input.")
sin = float_unary("sin", jnp.sin, "The sine.")
cos = float_unary("cos", jnp.cos, "The cosine.")
tan = float_unary("tan", jnp.tan, "The tangent.")
asin = arcsin = float_unary("asin", jnp.arcsin, "The inverse of the sine.")
acos = arccos = float_unary("acos", jnp.arccos, "The inverse of the cosine.")
atan = arctan = float_unary("atan", jnp.arctan, "The inverse of the tangent.")
sinh = float_unary("sinh", jnp.sinh, "The hyperbolic sine.")
cosh = float_unary("cosh", jnp.cosh, "The hyperbolic cosine.")
asinh = arcsinh = float_unary("asinh", jnp.arcsinh, "The inverse of the hyperbolic sine.")
acosh = arccosh = float_unary("acosh", jnp.arccosh, "The inverse of the hyperbolic cosine.")
atanh = arctanh = float_unary("atanh", jnp.arctanh, "The inverse of the hyperbolic tangent.")
sinc = float_unary("sinc", jnp.sinc, "sin(pi input) / (pi input), and 1 at 0.")
erf = float_unary("erf", special.erf, "The error function.")
erfc = float_unary("erfc", special.erfc, "1 - erf(input), exact for large numbers.")
erfinv = float_unary("erfinv", special.erfinv, "The inverse of the error function.")
lgamma = float_unary("lgamma", special.gammaln, "The logarithm of the gamma function's size.")
digamma = float_unary("digamma", special.digamma, "The derivative of lgamma.")
i0 = float_unary("i0", special.i0, "The modified Bessel function of the first kind, order 0.")
deg2rad = float_unary("deg2rad", jnp.deg2rad, "Degrees as radians.")
rad2deg = float_unary("rad2deg", jnp.rad2deg, "Radians as degrees.")
angle = float_unary("angle", jnp.angle, "The angle in radians: of reals 0, or pi if negative.")

mul = multiply = binary("mul", jnp.multiply, "input * other.")
maximum = binary("maximum", jnp.maximum, "The larger of both; nan where one is nan.")
minimum = binary("minimum", jnp.minimum, "The smaller of both; nan where one is nan.")
fmax = binary("fmax", jnp.fmax, "The larger of both; a number where one is nan.")
fmin = binary("fmin", jnp.fmin, "The smaller of both; a number where one is nan.")
atan2 = arctan2 = binary("atan2", jnp.arctan2, "The angle of the point (other, input).", "float")
hypot = binary("hypot", jnp.hypot, "sqrt(input**2 + other**2).", "float")
copysign = binary("copysign", jnp.copysign, "input with the sign of other.", "float")
nextafter = binary("nextafter", _nextafter, "The next float from input towards other.")
logaddexp = binary("logaddexp", jnp.logaddexp, "log(exp(input) + exp(other)).", "float")
logaddexp2 = binary("logaddexp2", jnp.logaddexp2, "log2(2**input + 2**other).", "float")
ldexp = binary("ldexp", lambda x, y: x * jnp.exp2(y), "input * 2**other.", "float")
xlogy = binary("xlogy", special.xlogy, "input * log(other), and 0 where input is 0.", "float")
heaviside = binary("heaviside", jnp.heaviside, "0 or 1 by the sign of input, and other at 0.")
gcd = binary("gcd", jnp.gcd, "The greatest common divisor of integers.")
lcm = binary("lcm", jnp.lcm, "The least common multiple of integers.")
eq = binary("eq", jnp.equal, "Where input == other.")
ne = not_equal = binary("ne", jnp.not_equal, "Where input != other.")
lt = less = binary("lt", jnp.less, "Where input < other.")
le = less_equal = binary("le", jnp.less_equal, "Where input <= other.")
gt = greater = binary("gt", jnp.greater, "Where input > other.")
ge = greater_equal = binary("ge", jnp.greater_equal, "Where input >= other.")
logical_and = binary("logical_and", jnp.logical_and, "Where both are not 0.")
logical_or = binary("logical_or", jnp.logical_or, "Where one is not 0.")
logical_xor = binary("logical_xor", jnp.logical_xor, "Where one is 0 and the other is not.")
bitwise_and = binary("bitwise_and", jnp.bitwise_and, "The bits that both have.")
bitwise_or = binary("bitwise_or", jnp.bitwise_or, "The bits that one has.")
bitwise_xor = binary("bitwise_xor", jnp.bitwise_xor, "The bits that only one has.")
bitwise_left_shift = binary("bitwise_left_shift", jnp.left_shift, "input << other.")
bitwise_right_shift = binary("bitwise_right_shift", jnp.right_shift, "input >> other.")


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
    _no_bool("sub", x, "write ops.logical_xor(input, other)")
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
    elif isinstance(power, int | float) and power == int(power) and builtins.abs(power) <= 64:
        # With a number JAX multiplies, which has a gradient at 0 and no logarithm.
        return jnp.asarray(base, dtype) ** int(power)
    x, y = broadcast(("input", "exponent"), [jnp.asarray(v, dtype) for v in (base, power)])
    return jnp.power(x, y)


@op
def float_power(input: ArrayLike, exponent: ArrayLike) -> jax.Array:
    """input ** exponent in float64, which needs jax_enable_x64; otherwise in float32."""
    wide = jax.dtypes.canonicalize_dtype(np.float64)
    return pow(jnp.asarray(input, wide), jnp.asarray(exponent, wide))


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


@op
def isclose(
    input: ArrayLike,
    other: ArrayLike,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> jax.Array:
    """Where |input - other| <= atol + rtol * |other|."""
    x, y = operands(("input", input), ("other", other))
    return jnp.isclose(x, y, rtol, atol, equal_nan)


@op
def allclose(
    input: ArrayLike,
    other: ArrayLike,
    rtol: float = 1e-5,
    atol: float = 1e-8,
    equal_nan: bool = False,
) -> jax.Array:
    """Whether all numbers are close: `isclose` of all, as an array, which `if` accepts."""
    return isclose(input, other, rtol, atol, equal_nan).all()


@op
def equal(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """Whether two arrays have the same shape and numbers, as an array, which `if` accepts."""
    x, y = as_jax("input", input), as_jax("other", other)
    return eq(x, y).all() if x.shape == y.shape else jnp.asarray(False)


@op
def where(
    condition: ArrayLike, input: ArrayLike | None = None, other: ArrayLike | None = None
) -> jax.Array:
    """input where the condition holds, and other elsewhere.

    Raises:
        ValueError: Only the condition was given. The number of indices would depend on the
            values, and shapes in JAX do not.
    """
    if input is None or other is None:
        raise ValueError(
            "where: with one argument the result's shape would depend on values; write "
            "jnp.nonzero(condition, size=n, fill_value=k), or where(condition, x, y)"
        )
    x, y = operands(("input", input), ("other", other))
    mask, x, y = broadcast(("condition", "input", "other"), [as_jax("condition", condition), x, y])
    if mask.dtype != np.bool_:
        raise TypeError(f"condition: {mask.dtype}; accepted are booleans, such as x > 0")
    return jnp.where(mask, x, y)


@op
def isin(
    elements: ArrayLike,
    test_elements: ArrayLike,
    *,
    assume_unique: bool = False,
    invert: bool = False,
) -> jax.Array:
    """Where a number is one of the test elements, or with `invert` none of them.

    `assume_unique` makes no difference.
    """
    x, tests = operand("elements", elements), operand("test_elements", test_elements)
    dtype = common_dtype(x, tests)
    return jnp.isin(jnp.asarray(x, dtype), jnp.asarray(tests, dtype), invert=invert)


@op
def complex(real: ArrayLike, imag: ArrayLike) -> jax.Array:
    """Complex numbers from their real and imaginary parts."""
    return lax.complex(*operands(("real", real), ("imag", imag), to="float"))


@op
def polar(abs: ArrayLike, angle: ArrayLike) -> jax.Array:
    """Complex numbers from their lengths and angles in radians."""
    length, turn = operands(("abs", abs), ("angle", angle), to="float")
    return lax.complex(length * jnp.cos(turn), length * jnp.sin(turn))


@op
def view_as_real(input: ArrayLike) -> jax.Array:
    """Complex numbers as pairs (real, imaginary) along a new last axis."""
    x = as_jax("input", input)
    if not is_complex_dtype(x.dtype):
        raise TypeError(f"view_as_real: {x.dtype}; accepted are complex numbers")
    return jnp.stack([x.real, x.imag], axis=-1)


@op
def view_as_complex(input: ArrayLike) -> jax.Array:
    """Pairs (real, imaginary) along the last axis, of size 2, as complex numbers."""
    x = floating("input", input)
    if x.ndim == 0 or x.shape[-1] != 2 or x.dtype.itemsize < 4:
        raise ValueError(
            f"view_as_complex: {x.dtype} of shape {x.shape}; accepted are float32 or float64 with "
            "a last axis of size 2"
        )
    return lax.complex(x[..., 0], x[..., 1])
