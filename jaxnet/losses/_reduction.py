"""What the losses share: the reduction, and the checks of what they are given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnet.precision import promoted


def reduce(values: jax.Array, reduction: str) -> jax.Array:
    """One number out of many, or all of them, by torch's word for it.

    Args:
        values: any shape.
        reduction: "mean" (of no values it is nan), "sum" or "none".

    Raises:
        ValueError: for any other word.
    """
    check_reduction(reduction)
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    return values


def check_reduction(reduction: str, *more: str) -> None:
    """Refuses a word that is none of torch's three, nor one of `more`."""
    accepted = ("mean", "sum", "none", *more)
    if reduction not in accepted:
        raise ValueError(f"reduction: {reduction!r}; accepted are {', '.join(map(repr, accepted))}")


def floats(loss: str, **arrays: Any) -> tuple[jax.Array, ...]:
    """The arguments as arrays of one floating dtype, the one that they promote to."""
    values = {name: jnp.asarray(value) for name, value in arrays.items()}
    dtype = promoted(*values.values())
    if not jnp.issubdtype(dtype, jnp.floating):
        given = ", ".join(f"{name} {value.dtype}" for name, value in values.items())
        raise TypeError(f"{loss}: it needs floating numbers; given are {given}")
    return tuple(value.astype(dtype) for value in values.values())


def integers(loss: str, name: str, value: ArrayLike) -> jax.Array:
    """An integer argument, at least 32 bits wide so that -1 and -100 fit."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{loss}: {name} of dtype {array.dtype}; give integers")
    return array.astype(jnp.int32) if array.dtype.itemsize < 4 else array


def same_shape(loss: str, **arrays: jax.Array) -> None:
    """Refuses arrays of different shapes."""
    if len({value.shape for value in arrays.values()}) > 1:
        given = " and ".join(f"{name} {value.shape}" for name, value in arrays.items())
        raise ValueError(f"{loss}: {given} differ in shape; reshape one of them")


def broadcast(loss: str, **arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Stretches axes of size 1, as torch does; the number of axes has to agree."""
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
    """A weight in its own dtype, stretched to the shape of the input."""
    array = jnp.asarray(value)
    try:
        return jnp.broadcast_to(array, like.shape)
    except ValueError:
        raise ValueError(
            f"{loss}: {name} of shape {array.shape} does not broadcast to {like.shape}"
        ) from None


def host(*arrays: jax.Array) -> list[np.ndarray] | None:
    """The numbers, where they can be looked at: not while traced, nor on other hosts."""
    if any(isinstance(a, jax.core.Tracer) or not a.is_fully_addressable for a in arrays):
        return None
    return [np.asarray(a) for a in arrays]


def first_bad(values: jax.Array, is_bad: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The first bad one among numbers that can be looked at, else None.

    The test runs in numpy: inside jit, jax.numpy traces even what is known.
    """
    numbers = host(values)
    found = numbers[0][is_bad(numbers[0])] if numbers else np.zeros(0)
    return found[0].item() if found.size else None
