"""The state of LBFGS in torch's form, which is one vector of all parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnet.optim import Optimizer
from jaxnet.optim._hyperparams import map_states, states

_SHARED = ("n_iter", "func_evals", "t", "H_diag")
_VECTORS = ("d", "prev_flat_grad")
_LISTS = ("old_dirs", "old_stps", "ro")


def is_lbfgs(optimizer: Any) -> bool:
    """Whether an optimizer is jaxnet's LBFGS, plain or wrapped."""
    return isinstance(optimizer, Optimizer) and [g.name for g in optimizer.groups] == ["LBFGS"]


def load(opt_state: Any, params: Mapping[str, Any], order: Sequence[str], slots: Any) -> Any:
    """The optimizer's state of torch's.

    Args:
        opt_state: The state to fill.
        params: The parameters.
        order: Their names in torch's order.
        slots: torch's arrays by name, "n_iter", "old_dirs.0" and so on; empty before the first
            step.
    """
    if not slots:
        return opt_state

    def vector(array: Any) -> Any:
        parts, start = {}, 0
        for name in order:
            size = params[name].size
            parts[name] = jnp.asarray(array)[start : start + size].reshape(params[name].shape)
            start += size
        return ravel_pytree({name: parts[name] for name in params})[0]

    def filled(_: int, own: Any) -> Any:
        shared = {k: jnp.asarray(slots[k], v.dtype) for k, v in own.shared.items() if k in slots}
        stored = sum(name.startswith("ro.") for name in slots)
        shared["stored"] = jnp.asarray(stored, own.shared["stored"].dtype)
        new = dict(own.slots)
        for name in _VECTORS:
            if name in slots:
                new[name] = vector(slots[name]).astype(new[name].dtype)
        for i in range(stored):
            for name in _LISTS:
                each = slots[f"{name}.{i}"]
                each = each if name == "ro" else vector(each)
                new[name] = new[name].at[i].set(jnp.asarray(each).astype(new[name].dtype))
        return own._replace(shared={**own.shared, **shared}, slots=new)

    return map_states(filled, opt_state)


def slots_of(opt_state: Any, params: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """torch's arrays of the optimizer's state by name, as `load` takes them."""
    (own,) = states(opt_state)
    _, unravel = ravel_pytree(dict(params))

    def vector(array: Any) -> np.ndarray:
        parts = unravel(jnp.asarray(array))
        return np.concatenate([np.ravel(parts[name]) for name in order])

    found = {name: np.asarray(own.shared[name]) for name in _SHARED}
    found |= {name: vector(own.slots[name]) for name in _VECTORS}
    size, stored = len(own.slots["ro"]), int(own.shared["stored"])
    for i, row in enumerate(range(max(0, stored - size), stored)):
        for name in _LISTS:
            each = own.slots[name][row % size]
            found[f"{name}.{i}"] = np.asarray(each) if name == "ro" else vector(each)
    return found
