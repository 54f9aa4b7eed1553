"""A model's numbers as a dictionary under torch's names, and back."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet.nn.module import is_persistent, members

__all__ = ["load_state_dict", "state_dict"]


def state_dict(model: Any) -> dict[str, np.ndarray]:
    """Parameters and buffers under torch's names and in torch's order, as numpy arrays.

    A module that is used at several places appears under each of its names.
    """
    return {name: np.asarray(variable[...]) for name, variable in _variables(model).items()}


def load_state_dict(model: Any, state_dict: Mapping[str, Any], strict: bool = True) -> None:
    """Writes arrays into a model by name, all or none.

    Args:
        model: changed in place; left as it is when an error is raised.
        state_dict: name to array; values are cast to the model's dtypes, as torch does.
        strict: whether missing and unexpected names are errors.

    Raises:
        ValueError: lists every missing, unexpected and mis-shaped name at once.
    """
    variables = _variables(model)
    faults = [
        f"{name}: shape {np.shape(state_dict[name])}, the model has {variable.shape}"
        for name, variable in variables.items()
        if name in state_dict and np.shape(state_dict[name]) != variable.shape
    ]
    if strict:
        faults += [f"{name}: missing" for name in variables if name not in state_dict]
        faults += [f"{name}: unexpected" for name in state_dict if name not in variables]
    if faults:
        raise ValueError(
            f"state_dict: it does not fit {type(model).__name__}:\n  " + "\n  ".join(faults)
        )
    for name, variable in variables.items():
        if name in state_dict:
            variable[...] = jnp.asarray(state_dict[name], variable.dtype)


def _variables(model: Any) -> dict[str, nnx.Variable]:
    """All variables by dotted name: a module's own before its children's, twins twice."""
    found: dict[str, nnx.Variable] = {}

    def visit(module: nnx.Module, prefix: str) -> None:
        # torch lists a module's parameters, then its buffers, then its children.
        own = [
            (n, v) for n, v in members(module) if isinstance(v, nnx.Variable) and is_persistent(v)
        ]
        for name, variable in sorted(own, key=lambda item: not isinstance(item[1], nnx.Param)):
            found[prefix + name] = variable
        for name, value in members(module):
            if isinstance(value, nnx.Module):
                visit(value, f"{prefix}{name}.")

    visit(model, "")
    return found
