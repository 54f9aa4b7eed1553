"""Functions of each number, or of the pairs of numbers of two arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special
from jax.typing import ArrayLike

from jaxnet._arrays import as_jax
from jaxnet.ops._arguments import (
    Binary,
    Unary,
    broadcast,
    common_dtype,
    floating,
    is_complex_dtype,
    is_inexact,
    mask_of,
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


def no_bool(name: str, x: jax.Array, way_out: str) -> None:
    if x.dtype == np.bool_:
        raise TypeError(f"{name}: input is of booleans, which torch refuses too; {way_out}")


def _whole(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """A rounding function that leaves integers as they are."""
    return lambda x: function(x) if is_inexact(x) else x


def _abs(x: jax.Array) -> jax.Array:
    no_bool("abs", x, "they are their own absolute values")
    return jnp.abs(x)


def _neg(x: jax.Array) -> jax.Array:
    no_bool("neg", x, "write ops.logical_not(input)")
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
    mask = mask_of("condition", condition)
    mask, x, y = broadcast(("condition", "input", "other"), [mask, x, y])
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
