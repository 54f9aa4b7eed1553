"""The hyperparameters in an optimizer's state: their ranges, how they are read and changed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._checks import is_number
from jaxnet.optim._optimizer import OptimizerState

PAIRS = {
    "betas": ("beta1", "beta2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}
"""The arguments of torch that consist of two hyperparameters, and the names of the two."""


COMPLEMENT = "one_minus_"
"""The prefix of a hyperparameter that the state stores as 1 minus its value."""


def complement(value: Any) -> Any:
    """1 - value; for a Python number in double precision, so that float32 has all its digits."""
    return 1 - value


def check(owner: str, **values: Any) -> None:
    """Refuses hyperparameters, given by torch's names, that are out of range or no numbers.

    Traced arrays have no value yet and are accepted. The error names the owner.
    """
    for name, value in values.items():
        parts = PAIRS.get(name)
        if parts is None:
            _check_one(owner, name, value, *_RANGES.get(name, _AT_LEAST_0))
            continue
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(f"{owner}: {name}: {value!r}; accepted are two numbers")
        for i, (part, number) in enumerate(zip(parts, value, strict=True)):
            _check_one(owner, f"{name}[{i}]", number, *_RANGES.get(part, _AT_LEAST_0))


_AT_LEAST_0 = (lambda x: 0 <= x < math.inf, "a finite number, at least 0")
_FRACTION = (lambda x: 0 <= x < 1, "[0, 1)")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "beta1": _FRACTION,
    "beta2": _FRACTION,
    "rho": (lambda x: 0 <= x <= 1, "[0, 1]"),
    "dampening": (math.isfinite, "a finite number"),
    "lambd": (math.isfinite, "a finite number"),
    "t0": (math.isfinite, "a finite number"),
    "beta2_decay": (lambda x: -math.inf < x <= 0, "a finite number, at most 0"),
    "d": (lambda x: 1 <= x < math.inf, "a finite number, at least 1"),
    "etaminus": (lambda x: 0 < x < 1, "(0, 1)"),
    "etaplus": (lambda x: 1 < x < math.inf, "a finite number above 1"),
}


def _check_one(
    owner: str, name: str, value: Any, accepts: Callable[[float], bool], words: str
) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, (jax.Array, np.ndarray)) and value.ndim == 0:
        value = float(value)
    if not is_number(value):
        raise TypeError(f"{owner}: {name}: {value!r}; accepted is {words}")
    if not accepts(float(value)):
        raise ValueError(f"{owner}: {name}: {value}; accepted is {words}")


def stored(name: str, value: Any, keys: Any) -> dict[str, Any]:
    """The numbers, by name, that a state with the hyperparameters `keys` stores for an argument.

    They are none if the state does not have the hyperparameter.
    """
    found = {}
    for part, number in zip(*_parts(name, value), strict=True):
        if part in keys:
            found[part] = number
        elif COMPLEMENT + part in keys:
            found[COMPLEMENT + part] = complement(number)
    return found


def _parts(name: str, value: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    return (PAIRS[name], tuple(value)) if name in PAIRS else ((name,), (value,))


def states(opt_state: Any) -> list[OptimizerState]:
    """The states of the parameter groups in order, at any depth of an optimizer's state."""
    found = jax.tree.leaves(opt_state, is_leaf=_is_state)
    return [leaf for leaf in found if _is_state(leaf)]


def map_states(change: Callable[[int, OptimizerState], OptimizerState], opt_state: Any) -> Any:
    """An optimizer's state with change(i, state) in place of the state of each group i."""
    treedef: Any
    leaves, treedef = jax.tree.flatten(opt_state, is_leaf=_is_state)
    count = iter(range(len(leaves)))
    leaves = [change(next(count), leaf) if _is_state(leaf) else leaf for leaf in leaves]
    return treedef.unflatten(leaves)


def _is_state(x: Any) -> bool:
    return isinstance(x, OptimizerState)


def set_hyperparams(opt_state: Any, group: int | None = None, **values: Any) -> Any:
    """Changes hyperparameters in an optimizer's state; nothing is compiled anew.

    Args:
        opt_state: The state of an optimizer of `jaxnet.optim`, plain or wrapped.
        group: The number of the parameter group. None is every group.
        **values: The new values by torch's names (`lr`, `betas`, ...), numbers or 0-d arrays.

    Returns:
        A new state.

    Raises:
        ValueError: There is no such group, a value is out of range, or a chosen group does not
            have the hyperparameter, because it is another optimizer's or was built with 0. A
            0 is then accepted.

    >>> from jaxnet import optim
    >>> state = optim.SGD(lr=0.1).init({"weight": jnp.zeros(3)})
    >>> state = optim.set_hyperparams(state, lr=0.01)
    >>> round(float(optim.get_hyperparams(state)["lr"]), 6)
    0.01
    """
    found = states(opt_state)
    chosen = range(len(found)) if group is None else [group]
    if not found or not all(0 <= i < len(found) for i in chosen):
        raise ValueError(f"group: {group}; the state has {len(found)} parameter groups")
    check("set_hyperparams", **values)
    for name, value in values.items():
        lack = [i for i in chosen if not stored(name, value, found[i].hyperparams)]
        off = not isinstance(value, jax.core.Tracer) and np.ndim(value) == 0 and value == 0
        if lack and (len(lack) == len(chosen) or not off):
            others = [i for i in chosen if i not in lack]
            raise ValueError(
                f"{name}: no hyperparameter of group {lack[0]}; there are "
                f"{sorted(get_hyperparams(found[lack[0]]))}. One that was 0 when the "
                "optimizer was built, as momentum or weight_decay, cannot be turned on later: "
                "build it with the value"
                + (f", or change the groups that have it, group={others[0]}" if others else "")
            )

    def change(i: int, state: OptimizerState) -> OptimizerState:
        if i not in chosen:
            return state
        new = dict(state.hyperparams)
        for name, value in values.items():
            for key, number in stored(name, value, new).items():
                new[key] = jnp.broadcast_to(jnp.asarray(number, new[key].dtype), new[key].shape)
        return state._replace(hyperparams=new)

    return map_states(change, opt_state)


def get_hyperparams(opt_state: Any, group: int = 0) -> dict[str, Any]:
    """The hyperparameters of a parameter group.

    Args:
        opt_state: The state of an optimizer of `jaxnet.optim`, plain or wrapped.
        group: The number of the parameter group.

    Returns:
        The values by torch's names, 0-d arrays; pairs such as `betas` are tuples.

    Raises:
        ValueError: There is no such group.
    """
    found = states(opt_state)
    if not 0 <= group < len(found):
        raise ValueError(f"group: {group}; the state has {len(found)} parameter groups")
    plain: dict[str, Any] = {
        key.removeprefix(COMPLEMENT): 1 - value if key.startswith(COMPLEMENT) else value
        for key, value in found[group].hyperparams.items()
    }
    for name, parts in PAIRS.items():
        if all(part in plain for part in parts):
            plain[name] = tuple(plain.pop(part) for part in parts)
    return plain


def learning_rates(opt_state: Any) -> dict[str, float]:
    """The learning rates in an optimizer's state, as numbers on the host.

    Args:
        opt_state: The state of an optimizer. If the optimizer is not of jaxnet.optim, there
            are no learning rates in it.

    Returns:
        The rates by name: "lr" for the first parameter group, "lr_1" for the second, and so
        on.

    >>> from jaxnet import optim
    >>> learning_rates(optim.SGD(lr=0.5).init({"w": jnp.ones(2)}))
    {'lr': 0.5}
    """
    rates = {
        "lr" if i == 0 else f"lr_{i}": state.hyperparams["lr"]
        for i, state in enumerate(states(opt_state))
        if "lr" in state.hyperparams
    }
    # By way of text, so that 0.1 in float32 becomes 0.1 and not 0.10000000149.
    return {name: float(str(rate)) for name, rate in jax.device_get(rates).items()}
