"""What the functions of `jaxnet.ops` share: arguments, axes, indices, and torch's promotion."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxnet._arrays import as_jax, check_fits
from jaxnet._checks import is_integer
from jaxnet.precision import check_x64, promoted

P = ParamSpec("P")
R = TypeVar("R")

_REFUSED = {
    "out": "an array of JAX cannot be written to; use the result, x = ops.{name}(...)",
    "device": "leave it out; arrays are made on JAX's default device, and "
    "jax.device_put(x, device) moves one",
    "requires_grad": "leave it out; the arguments of jax.grad say what is differentiated",
    "pin_memory": "leave it out; JAX moves arrays to the device by itself",
    "layout": "leave it out; all arrays of JAX are dense",
    "memory_format": "leave it out; XLA chooses how an array lies in memory",
    "names": "axes of arrays have numbers only",
    "non_blocking": "leave it out; JAX never waits for a copy",
    "inplace": "an array of JAX cannot be written to; use the result, x = ops.{name}(...)",
}


def op(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function answer the arguments that torch has and JAX has not.

    A value that stands for nothing in torch, such as `out=None` or `requires_grad=False`, is
    accepted and left out.

    Raises:
        TypeError: Such an argument was given, or the function does not have the argument.
    """
    name = function.__name__

    @functools.cache
    def parameters() -> Any:
        # Seen at the first call by name, because the signatures of all would slow the import.
        return inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for given in kwargs.keys() - parameters().keys() if kwargs else ():
            value = kwargs.pop(given)
            if given not in _REFUSED:
                own = ", ".join(parameters())
                raise TypeError(f"{name}: {given}= is no argument; accepted are {own}")
            if value is not None and value is not False:
                shown = repr(value) if isinstance(value, str | bool) else type(value).__name__
                raise TypeError(f"{name}: {given}={shown}; {_REFUSED[given].format(name=name)}")
        return function(*args, **kwargs)

    return call


class Unary(Protocol):
    """A function of each number of one array."""

    def __call__(self, input: ArrayLike) -> jax.Array: ...


class Binary(Protocol):
    """A function of the pairs of numbers of two arrays, which are broadcast."""

    def __call__(self, input: ArrayLike, other: ArrayLike) -> jax.Array: ...


def named(function: Callable[..., Any], name: str, doc: str) -> Any:
    """A function of a table under its own name, with its docstring, as `op` makes it."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return op(function)


def long() -> np.dtype[Any]:
    """The dtype of torch's counts and indices: int64, or int32 where JAX has 32 bits only."""
    return np.dtype(np.int64 if getattr(jax.config, "jax_enable_x64") else np.int32)  # noqa: B009


def dtype_of(name: str, dtype: DTypeLike | None) -> np.dtype[Any] | None:
    """A dtype argument as numpy's dtype; an integer of 64 bits becomes 32 where JAX has no more.

    Raises:
        ValueError: It is a float or complex dtype that needs jax_enable_x64.
        TypeError: It is no dtype.
    """
    if dtype is None:
        return None
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(
            f"{name}: {dtype!r} is no dtype; give ops.float32, jnp.float32 or the like"
        ) from None
    check_x64(name, found)
    return jax.dtypes.canonicalize_dtype(found) if found.kind in "iu" else found


def is_float(x: jax.Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_complex_dtype(dtype: DTypeLike) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


def is_inexact(x: jax.Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def mask_of(name: str, value: ArrayLike) -> jax.Array:
    """A mask, which has to be of booleans."""
    array = as_jax(name, value)
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: {array.dtype}; accepted are booleans, such as x > 0")
    return array


def floating(name: str, x: ArrayLike) -> jax.Array:
    """An argument as floats: integers and booleans become float32, torch's default."""
    array = as_jax(name, x)
    return array if is_inexact(array) else array.astype(jnp.float32)


def needs_float(function: str, x: jax.Array) -> None:
    """Refuses integers where torch does, instead of promoting them."""
    if not is_inexact(x):
        raise ValueError(
            f"{function}: input is {x.dtype}; accepted are floats, as in torch: "
            "give ops.to(input, ops.float32)"
        )


def _category(dtype: np.dtype[Any]) -> int:
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next(i for i, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))


def _number_dtype(value: Any) -> np.dtype[Any]:
    """The dtype that torch gives a number of Python."""
    if isinstance(value, bool):
        return np.dtype(bool)
    if isinstance(value, int):
        return long()
    return np.dtype(np.complex64 if isinstance(value, complex) else np.float32)


def common_dtype(*operands: Any) -> np.dtype[Any]:
    """The dtype of an operation on arrays and numbers by torch's rule.

    Arrays with axes decide. An array without axes, and after it a number of Python, counts
    only if it is of a higher category (boolean, integer, float, complex) than the rest.
    """
    groups: tuple[list[Any], ...] = ([], [], [])
    for x in operands:
        if isinstance(x, bool | int | float | complex) and not isinstance(x, np.generic):
            groups[2].append(_number_dtype(x))
        else:
            groups[0 if np.ndim(x) else 1].append(x.dtype)
    result: np.dtype[Any] | None = None
    for group in groups:
        if not group:
            continue
        lower = promoted(*group)
        if result is None:
            result = lower
        elif _category(lower) > _category(result):
            both_float = _category(result) == 2
            wide = {8: jnp.complex128}.get(result.itemsize, jnp.complex64)
            result = np.dtype(wide) if both_float else promoted(result, lower)
    assert result is not None
    return result


def operand(name: str, x: Any) -> Any:
    """A number of Python as it is, and anything else as an array."""
    if isinstance(x, bool | int | float | complex) and not isinstance(x, np.generic):
        check_fits(name, np.asarray(x))
        return x
    return as_jax(name, x)


def operands(*named_values: tuple[str, Any], to: str = "same") -> list[jax.Array]:
    """Arguments as arrays of their common dtype and shape.

    Args:
        *named_values: The name and the value of each argument.
        to: "same" keeps the common dtype; "float" makes float32 of integers and booleans.

    Raises:
        ValueError: The shapes cannot be broadcast against each other.
    """
    values = [operand(name, x) for name, x in named_values]
    dtype = common_dtype(*values)
    if to == "float" and not jnp.issubdtype(dtype, jnp.inexact):
        dtype = np.dtype(np.float32)
    return broadcast([name for name, _ in named_values], [jnp.asarray(x, dtype) for x in values])


def broadcast(names: Sequence[str], arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Arrays broadcast against each other, with an error that names the arguments."""
    shapes = [a.shape for a in arrays]
    if len(set(shapes)) == 1:
        return list(arrays)
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        given = " and ".join(map(str, shapes))
        raise ValueError(
            f"{', '.join(names)}: shapes {given} cannot be broadcast; axes counted from the "
            "right must be equal or 1"
        ) from None
    return [jnp.broadcast_to(a, shape) for a in arrays]


def axis(name: str, dim: Any, ndim: int) -> int:
    """An axis, counted from the front.

    Raises:
        ValueError: It is no integer, or the array has no such axis.
    """
    least, most = min(-ndim, -1), max(ndim - 1, 0)
    if not is_integer(dim) or not least <= dim <= most:
        raise ValueError(f"{name}: {dim!r}; accepted for {ndim} axes is an integer from {least} "
                         f"to {most}")  # fmt: skip
    return int(dim) % max(ndim, 1)


def axes(name: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """Axes, counted from the front; None and () are all of them.

    Raises:
        ValueError: One is no axis of the array, or occurs twice.
    """
    if dim is None or (isinstance(dim, Sequence) and not dim):
        return tuple(range(ndim))
    if not isinstance(dim, Sequence):
        return (axis(name, dim, ndim),) if ndim else axis(name, dim, ndim) * ()
    found = tuple(axis(name, d, ndim) for d in dim)
    if len(set(found)) != len(found):
        raise ValueError(f"{name}: {dim} names an axis twice")
    return found if ndim else ()


def sizes(name: str, given: Sequence[Any]) -> tuple[int, ...]:
    """A shape from either of torch's forms: (2, 3) as separate numbers, or as one sequence."""
    values = given[0] if len(given) == 1 and isinstance(given[0], Sequence) else given
    if not all(is_integer(v) for v in values):
        raise ValueError(f"{name}: {tuple(values)}; accepted are integers, or one tuple of them")
    return tuple(int(v) for v in values)


def new_shape(name: str, given: Sequence[Any]) -> tuple[int, ...]:
    """The shape of a new array, in either form, where no length may be negative."""
    shape = sizes(name, given)
    if any(n < 0 for n in shape):
        raise ValueError(f"{name}: {shape}; accepted are numbers of at least 0")
    return shape


def is_traced(x: Any) -> bool:
    """Whether a value is known only when the compiled program runs."""
    return isinstance(x, jax.core.Tracer)


def index(name: str, value: ArrayLike, size: int, negative: bool = False) -> jax.Array:
    """An index argument: integers, in range wherever their values are known.

    In a compiled function the values are not known. An index that is out of range then stays
    so, and JAX reads nan (the least integer, False) there and writes nothing.

    Args:
        name: The name of the argument, for the error.
        value: The indices.
        size: The size of the axis.
        negative: Whether -1 stands for the last, as it does in some of torch's functions.

    Raises:
        TypeError: The index is not of integers.
        ValueError: A number is out of range.
    """
    array = as_jax(name, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: {array.dtype}; accepted are integers")
    least = -size if negative else 0
    if not is_traced(array) and array.size:
        host = np.asarray(array)
        for found in (int(host.min()), int(host.max())):
            if not least <= found < size:
                raise ValueError(
                    f"{name}: {found} is out of range; accepted for an axis of {size} is {least} "
                    f"to {size - 1}"
                )
    # JAX would count a negative number from the end. `size` is out of range on purpose.
    array = array.astype(long())
    valid = (array >= least) & (array < size)
    wrapped = jnp.where(array < 0, array + size, array) if negative else array
    return jnp.where(valid, wrapped, size)
