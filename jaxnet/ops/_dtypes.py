"""torch's dtypes by name, and the questions that are asked of them."""

import builtins
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxnet._arrays import as_jax
from jaxnet.ops._arguments import common_dtype, dtype_of, is_complex_dtype, op, operand
from jaxnet.precision import promoted


class DType:
    """One of torch's dtypes, as an argument, for comparisons, and as a cast.

    `ops.float32` goes wherever numpy's dtype does, and `x.dtype == ops.float32` compares.
    Called with an array it casts, as the method does in torch: `ops.float(x)` is
    `x.float()`. Where JAX has no integers of 64 bits, `ops.int64` stands for those of 32.

    Attributes:
        name: torch's name, such as "float32".

    >>> float32(jnp.arange(3)).dtype == float32, jnp.zeros(2, int64).dtype == long
    (True, True)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._dtype = np.dtype(getattr(ml_dtypes, name, name))

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's dtype."""
        if self._dtype.kind in "iu":
            return jax.dtypes.canonicalize_dtype(self._dtype)
        return self._dtype

    @property
    def itemsize(self) -> builtins.int:
        """The number of bytes of one number."""
        return self.dtype.itemsize

    @property
    def is_floating_point(self) -> builtins.bool:
        """Whether the numbers are floats."""
        return builtins.bool(jnp.issubdtype(self.dtype, jnp.floating))

    @property
    def is_complex(self) -> builtins.bool:
        """Whether the numbers are complex."""
        return is_complex_dtype(self.dtype)

    def __call__(self, input: ArrayLike) -> jax.Array:
        return to(input, self)

    def __eq__(self, other: object) -> builtins.bool:
        try:
            return self.dtype == np.dtype(other)  # type: ignore[call-overload]
        except TypeError:
            return NotImplemented

    def __hash__(self) -> builtins.int:
        return hash(self.dtype)

    def __repr__(self) -> str:
        return f"ops.{self.name}"


bool = DType("bool")
uint8 = DType("uint8")
int8 = DType("int8")
int16 = short = DType("int16")
int32 = int = DType("int32")
int64 = long = DType("int64")
float16 = half = DType("float16")
bfloat16 = DType("bfloat16")
float32 = float = DType("float32")
float64 = double = DType("float64")
complex64 = cfloat = DType("complex64")
complex128 = cdouble = DType("complex128")


@op
def to(input: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """An array with another dtype: `x.to(dtype)` and `x.type(dtype)`.

    Floats become integers by cutting off the fraction. Arrays stay on their device;
    `jax.device_put(x, device)` moves one.

    >>> to(jnp.array([1.5, -1.5]), int64).tolist()
    [1, -1]
    """
    if isinstance(dtype, str) and dtype.partition(":")[0] in ("cpu", "cuda"):
        raise TypeError(f"to: {dtype!r} is a device; leave it out, or write jax.device_put")
    return as_jax("input", input).astype(dtype_of("dtype", dtype))


@op
def type_as(input: ArrayLike, other: ArrayLike) -> jax.Array:
    """An array with the dtype of another."""
    return to(input, as_jax("other", other).dtype)


@op
def result_type(tensor1: ArrayLike, tensor2: ArrayLike) -> np.dtype[Any]:
    """The dtype of the sum of two arrays or numbers, by torch's rule.

    Arrays with axes decide. An array without axes, and after it a number of Python, counts
    only if it is of a higher category: boolean, integer, float, complex.

    >>> result_type(jnp.zeros(3, jnp.float16), jnp.float32(1.0))
    dtype('float16')
    """
    return common_dtype(operand("tensor1", tensor1), operand("tensor2", tensor2))


@op
def promote_types(type1: DTypeLike, type2: DTypeLike) -> np.dtype[Any]:
    """The smallest dtype that two dtypes can be cast to."""
    return promoted(np.dtype(type1), np.dtype(type2))


@op
def is_floating_point(input: ArrayLike) -> builtins.bool:
    """Whether an array has floats."""
    return builtins.bool(jnp.issubdtype(as_jax("input", input).dtype, jnp.floating))


@op
def is_complex(input: ArrayLike) -> builtins.bool:
    """Whether an array has complex numbers."""
    return is_complex_dtype(as_jax("input", input).dtype)


@op
def is_tensor(obj: Any) -> builtins.bool:
    """Whether a value is an array of JAX; NumPy's do not count."""
    return isinstance(obj, jax.Array)


@op
def finfo(type: DTypeLike = float32) -> jnp.finfo:
    """The limits of a float dtype: `min`, `max`, `eps`, `tiny`, `smallest_normal`, `bits`.

    Given as numbers of NumPy, which `masked_fill`, `clamp` and `full` take.

    >>> print(finfo(bfloat16).max)
    3.38953e+38
    """
    return jnp.finfo(dtype_of("type", type))


@op
def iinfo(type: DTypeLike) -> jnp.iinfo:
    """The limits of an integer dtype: `min`, `max`, `bits`."""
    return jnp.iinfo(dtype_of("type", type))
