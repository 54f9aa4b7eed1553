"""The reduction and the checks of arguments that all losses share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jax.typing import ArrayLike

from jaxnet._arrays import as_jax
from jaxnet.precision import promoted


def reduce(values: jax.Array, reduction: str) -> jax.Array:
    """Reduces the losses of all elements as torch does.

    Args:
        values: The losses, of any shape.
        reduction: The reduction, "mean" (nan if there are no values), "sum" or "none".

    Returns:
        One number, or with "none" the values.

    Raises:
        ValueError: The reduction is another word.
    """
    check_reduction(reduction)
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    return values


def check_reduction(reduction: str, *more: str) -> None:
    """Refuses a reduction that is neither one of torch's three nor one of `more`."""
    accepted = ("mean", "sum", "none", *more)
    if reduction not in accepted:
        raise ValueError(f"reduction: {reduction!r}; accepted are {', '.join(map(repr, accepted))}")


def floats(loss: str, **arrays: Any) -> tuple[jax.Array, ...]:
    """The arguments as arrays of one floating dtype, the dtype that they promote to."""
    values = {name: as_jax(f"{loss}: {name}", value) for name, value in arrays.items()}
    dtype = promoted(*values.values())
    if not jnp.issubdtype(dtype, jnp.floating):
        given = ", ".join(f"{name} {value.dtype}" for name, value in values.items())
        raise TypeError(f"{loss}: it needs floating numbers; given are {given}")
    return tuple(value.astype(dtype) for value in values.values())


def integers(loss: str, name: str, value: ArrayLike) -> jax.Array:
    """An argument as an array of integers with at least 32 bits, so that -1 and -100 fit."""
    array = as_jax(f"{loss}: {name}", value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{loss}: {name} of dtype {array.dtype}; give integers")
    return array.astype(jnp.int32) if array.dtype.itemsize < 4 else array


def same_shape(loss: str, **arrays: jax.Array) -> None:
    """Refuses arrays of different shapes."""
    if len({value.shape for value in arrays.values()}) > 1:
        given = " and ".join(f"{name} {value.shape}" for name, value in arrays.items())
        raise ValueError(f"{loss}: {given} differ in shape; reshape one of them")


def broadcast(loss: str, **arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Broadcasts axes of size 1 as torch does, for arrays with the same number of axes."""
    shapes = [value.shape for value in arrays.values()]
    if len({len(shape) for shape in shapes}) == 1:
        sizes = [{size for size in axis if size != 1} for axis in zip(*shapes, strict=True)]
        if all(len(size) <= 1 for size in sizes):
            shape = tuple(size.pop() if size else 1 for size in sizes)
            return tuple(jnp.broadcast_to(value, shape) for value in arrays.values())
    given = ", ".join(f"{name} {value.shape}" for name, value in arrays.items())
    raise ValueError(
        f"{loss}: the shapes of {given} do not match; accepted are as many axes each, "
        "with equal sizes or size 1"
    )


def broadcast_to(loss: str, name: str, value: ArrayLike, like: jax.Array) -> jax.Array:
    """A weight in its own dtype, broadcast to the shape of the input."""
    array = jnp.asarray(value)
    try:
        return jnp.broadcast_to(array, like.shape)
    except ValueError:
        raise ValueError(
            f"{loss}: {name} of shape {array.shape} does not broadcast to {like.shape}"
        ) from None


def host(*arrays: jax.Array) -> list[np.ndarray] | None:
    """The arrays in numpy, or None if one of them is traced or lies partly on another host."""
    if any(isinstance(a, jax.core.Tracer) or not a.is_fully_addressable for a in arrays):
        return None
    return [np.asarray(a) for a in arrays]


def first_bad(values: jax.Array, is_bad: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The first number for which is_bad holds, or None if there is none.

    It is also None if the numbers are not known, because they are traced. The test runs in
    numpy, because inside jit jax.numpy traces even known numbers.
    """
    numbers = host(values)
    found = numbers[0][is_bad(numbers[0])] if numbers else np.zeros(0)
    return found[0].item() if found.size else None


# Parts of a batch. The mean of a whole batch is the mean of its parts' losses only if all parts
# divide by the same number, which cross entropy's weights and ignored targets do not do. So
# `make_train_step(microbatches=)` runs a loss twice: it notes the divisors of every part, and then
# has every part divide by their mean. The compiler leaves out of the first run all but that.

_noted: ContextVar[tuple[list[jax.Array], Any] | None] = ContextVar("noted", default=None)
_given: ContextVar[Iterator[jax.Array] | None] = ContextVar("given", default=None)


@contextmanager
def noting_divisors() -> Iterator[list[jax.Array]]:
    """Collects the divisors of the means inside, where these depend on the numbers of a batch."""
    found: list[jax.Array] = []
    token = _noted.set((found, get_opaque_trace_state()))
    try:
        yield found
    finally:
        _noted.reset(token)


@contextmanager
def dividing_by(divisors: Sequence[jax.Array]) -> Iterator[None]:
    """Has these means divide by other numbers, in the order in which they were noted."""
    token = _given.set(iter(divisors) if divisors else None)
    try:
        yield
    finally:
        _given.reset(token)


def divide(total: jax.Array, divisor: jax.Array) -> jax.Array:
    """A mean: the sum of a batch's losses divided by the sum of their weights."""
    noted, given = _noted.get(), _given.get()
    if noted is not None:
        if noted[1] != get_opaque_trace_state():
            raise ValueError(
                "microbatches: cross_entropy or nll_loss with reduction='mean' inside jax.jit, "
                "vmap, checkpoint or a loop of the loss, so that the number of targets of the "
                "whole batch is not known; call it outside of them"
            )
        noted[0].append(divisor)
    return total / (divisor if given is None else next(given))
