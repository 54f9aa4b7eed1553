"""Random numbers for initial weights, from PyTorch's generator or from flax's keys."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxnet.random import Generator

Rngs = Generator | nnx.Rngs
"""The sources of random numbers: one with PyTorch's numbers, and flax's with JAX's keys."""


def draw_uniform(
    rngs: Rngs, shape: tuple[int, ...], low: float, high: float, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Draws uniform numbers from [low, high).

    Args:
        rngs: The source of the numbers. A `Generator` gives those that torch draws.
        shape: The shape of the result.
        low: The lower bound.
        high: The upper bound.
        dtype: The dtype of the result.

    Returns:
        The numbers, as an array of the given shape and dtype.

    Raises:
        TypeError: The argument rngs is no source of random numbers.
    """
    if isinstance(rngs, Generator):
        return jax.device_put(rngs.uniform(low, high, shape, dtype))
    return jax.random.uniform(key(rngs), shape, dtype, low, high)


def draw_normal(
    rngs: Rngs | None,
    shape: tuple[int, ...],
    mean: float,
    std: float,
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Draws normal numbers.

    Args:
        rngs: The source of the numbers. A `Generator` gives those that torch draws.
        shape: The shape of the result.
        mean: The mean.
        std: The standard deviation.
        dtype: The dtype of the result.

    Returns:
        The numbers, as an array of the given shape and dtype.

    Raises:
        TypeError: The argument rngs is no source of random numbers.
    """
    if isinstance(rngs, Generator):
        return jax.device_put(rngs.normal(mean, std, shape, dtype))
    return jax.random.normal(key(rngs), shape, dtype) * std + mean


def draw_permutation(rngs: Rngs, n: int) -> np.ndarray | jax.Array:
    """Draws a random order of the numbers 0 to n - 1 from either kind of source."""
    if isinstance(rngs, Generator):
        return rngs.randperm(n)
    return jax.random.permutation(key(rngs), n)


def key(rngs: Any) -> jax.Array:
    """Draws the next key from flax's source of random numbers.

    Raises:
        TypeError: The argument is no source of random numbers.
    """
    if isinstance(rngs, nnx.Rngs):
        return rngs.params()
    raise TypeError(
        f"rngs: {type(rngs).__name__} is no source of random numbers; "
        "give jaxnet.random.Generator(seed) or flax.nnx.Rngs(seed)"
    )


def fill(tensor: nnx.Variable[Any], values: jax.Array | np.ndarray) -> nnx.Variable[Any]:
    """Writes values into a variable and returns the variable.

    Raises:
        TypeError: The tensor is an array, which cannot be changed, and not a variable.
    """
    if not isinstance(tensor, nnx.Variable):
        raise TypeError(
            f"tensor: {type(tensor).__name__} cannot be changed in place; "
            "give a Parameter or a Buffer, such as layer.weight"
        )
    tensor[...] = jnp.asarray(values, tensor.dtype)
    return tensor
