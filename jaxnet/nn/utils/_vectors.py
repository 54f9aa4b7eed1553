"""All parameters of a model as one vector."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def parameters_to_vector(parameters: Iterable[nnx.Variable[Any] | jax.Array]) -> jax.Array:
    """One vector of all numbers of some parameters: torch.nn.utils.parameters_to_vector.

    Args:
        parameters: The parameters, such as `model.parameters()`, or arrays.

    Returns:
        The vector, (n,).

    Raises:
        ValueError: There are no parameters.
    """
    arrays = [parameter[...].reshape(-1) for parameter in parameters]
    if not arrays:
        raise ValueError("parameters_to_vector: parameters: none given; give at least one")
    return jnp.concatenate(arrays)


def vector_to_parameters(vec: jax.Array, parameters: Iterable[nnx.Variable[Any]]) -> None:
    """Writes a vector into some parameters: torch.nn.utils.vector_to_parameters.

    Args:
        vec: The numbers of all parameters, (n,).
        parameters: The parameters, such as `model.parameters()`, which are changed in place.
            They keep their dtypes.

    Raises:
        TypeError: A parameter is no Parameter but an array, which nothing can be written into.
        ValueError: The vector does not have as many numbers as the parameters.
    """
    targets = list(parameters)
    if any(not isinstance(target, nnx.Variable) for target in targets):
        raise TypeError(
            "vector_to_parameters: parameters: one is no Parameter; accepted is, for example, "
            "model.parameters(). For arrays jax.flatten_util.ravel_pytree gives the way back"
        )
    size = sum(target.size for target in targets)
    if jnp.shape(vec) != (size,):
        raise ValueError(
            f"vector_to_parameters: vec: shape {jnp.shape(vec)}; the parameters need ({size},)"
        )
    start = 0
    for target in targets:
        part = vec[start : start + target.size].reshape(target.shape)
        target.set_value(jnp.asarray(part, target.dtype))
        start += target.size
