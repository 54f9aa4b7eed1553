"""Conversion of an optimizer's state to torch's optimizer.state_dict() and back."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._arrays import as_numpy
from jaxnet._names import dotted, named_leaves
from jaxnet.optim._hyperparams import (
    COMPLEMENT,
    PAIRS,
    check,
    map_states,
    set_hyperparams,
    states,
    stored,
)
from jaxnet.optim._optimizer import Optimizer, OptimizerState

# The arguments that only torch's constructors have. They have no effect on the numbers, but a
# state_dict that torch is to load needs them.
_INERT: dict[str, dict[str, Any]] = {
    "SGD": {"foreach": None, "differentiable": False, "fused": None},
    "Adam": {"foreach": None, "capturable": False, "differentiable": False, "fused": None},
    "NAdam": {"foreach": None, "capturable": False, "differentiable": False},
    "Adagrad": {"foreach": None, "differentiable": False, "fused": None},
    "Adafactor": {"foreach": None},
    "Muon": {},
}
_INERT["AdamW"] = _INERT["Adam"]
for _name in ("RAdam", "Adamax", "RMSprop", "Adadelta", "Rprop", "ASGD"):
    _INERT[_name] = _INERT["NAdam"]

_WITHOUT_STEP = ("SGD", "Muon")


def optimizer_state_dict(
    optimizer: Optimizer, opt_state: Any, params: Any, names: Sequence[str]
) -> dict[str, Any]:
    """The dictionary that torch's `optimizer.state_dict()` would give after the same steps.

    Args:
        optimizer: The optimizer, one of `jaxnet.optim`, plain or wrapped.
        opt_state: The state of the optimizer.
        params: The parameters that `optimizer.init` got.
        names: The names of the parameters in torch's order, `[n for n, _ in
            model.named_parameters()]`. A dictionary of parameters does not have this order,
            because JAX sorts the names.

    Returns:
        {"state": {number: {...}}, "param_groups": [{...}]} with numpy arrays and Python
        numbers. The parameters are numbered group by group, as in torch when the groups are
        given in the same order.

    Raises:
        ValueError: names and params differ, or the optimizer's state cannot be converted
            (LBFGS).
    """
    parts = _parts(optimizer, params, names)
    found = _states_of(optimizer, opt_state)
    state: dict[int, dict[str, Any]] = {}
    param_groups = []
    start = 0
    orders = optimizer.partition(params)
    for group, part, order, own in zip(optimizer.groups, parts, orders, found, strict=True):
        own = jax.device_get(own)
        # A slot that a parameter does not have is None, which JAX would leave out of the tree.
        slots = {
            slot: named_leaves(tree, is_leaf=lambda x: x is None)
            for slot, tree in own.slots.items()
        }
        for number, name in enumerate(part, start):
            # Torch makes the entry of a parameter with its first gradient, Adagrad at once.
            i = order.index(name)
            if own.step > own.missed[i] or group.name == "Adagrad":
                state[number] = _entry(group, own, slots, name, i)
        numbers = list(range(start, start + len(part)))
        param_groups.append({**_values(group, own), **_INERT[group.name], "params": numbers})
        start += len(part)
    return {"state": state, "param_groups": param_groups}


def load_optimizer_state_dict(
    optimizer: Optimizer,
    opt_state: Any,
    params: Any,
    state_dict: Mapping[str, Any],
    names: Sequence[str],
    step: int | None = None,
) -> Any:
    """Makes an optimizer's state from torch's state_dict, to continue a run of torch.

    Args:
        optimizer: The optimizer, built with the arguments of torch's optimizer.
        opt_state: The state to fill, `optimizer.init(params)`. It is not changed.
        params: The parameters.
        state_dict: The result of torch's `optimizer.state_dict()`, with tensors or arrays.
        names: The names of the parameters in torch's order.
        step: The number of steps so far, for SGD and Muon, whose state_dict does not have
            it. Only schedules need it. None is 1 if there is a buffer, else 0.

    Returns:
        A new state with the slots, the number of steps and the hyperparameters of the
        state_dict. A parameter that has no state in it, since it never had a gradient in
        torch, has that of a new optimizer.

    Raises:
        ValueError: The state_dict does not fit. The error lists all that does not fit.
    """
    parts = _parts(optimizer, params, names)
    found = _states_of(optimizer, opt_state)
    groups = list(state_dict["param_groups"])
    if [len(group["params"]) for group in groups] != [len(part) for part in parts]:
        raise ValueError(
            f"state_dict: groups of {[len(group['params']) for group in groups]} parameters; "
            f"the optimizer has groups of {[len(part) for part in parts]}"
        )
    faults: list[str] = []
    news = []
    orders = optimizer.partition(params)
    for i, (group, part, own) in enumerate(zip(optimizer.groups, parts, found, strict=True)):
        saved = groups[i]
        numbers = dict(zip(part, saved["params"], strict=True))
        entries = {name: state_dict["state"].get(numbers[name], {}) for name in orders[i]}
        faults += _static_faults(f"group {i}", group, own, saved)
        news.append(_filled(f"group {i}", own, entries, step, faults))
    if faults:
        raise ValueError("state_dict: " + "; ".join(faults))
    opt_state = map_states(lambda i, own: news[i], opt_state)
    for i, (group, saved) in enumerate(zip(optimizer.groups, groups, strict=True)):
        values = {
            name: saved[name]
            for name, given in group.defaults.items()
            if name in saved and stored(name, given, news[i].hyperparams)
        }
        check(group.name, **values)
        opt_state = set_hyperparams(opt_state, group=i, **values)
    return opt_state


def has_torch_form(optimizer: Optimizer) -> bool:
    """Whether the optimizer's state has a common form with torch's."""
    return all(group.name in _INERT for group in optimizer.groups)


def _parts(optimizer: Optimizer, params: Any, names: Sequence[str]) -> list[list[str]]:
    """The names of the parameters of each group, in torch's order."""
    unknown = [group.name for group in optimizer.groups if group.name not in _INERT]
    if unknown:
        raise ValueError(
            f"optimizer: the state of {unknown} has no common form with torch's; "
            f"accepted are {sorted(_INERT)}"
        )
    groups = [set(group) for group in optimizer.partition(params)]
    trained = set().union(*groups)
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    missing = sorted(trained - set(names))
    if repeated or missing:
        raise ValueError(f"names: missing are {missing}, repeated are {repeated}")
    known = sorted(named_leaves(params))
    unexpected = [name for name in names if name not in known]
    if unexpected:
        raise ValueError(f"names: {unexpected} are not among the parameters {known}")
    return [[name for name in names if name in group] for group in groups]


def _states_of(optimizer: Optimizer, opt_state: Any) -> list[OptimizerState]:
    found = states(opt_state)
    if len(found) != len(optimizer.groups):
        raise ValueError(
            f"opt_state: it has {len(found)} parameter groups, "
            f"the optimizer {len(optimizer.groups)}"
        )
    return found


def _entry(
    group: Optimizer, own: OptimizerState, slots: dict[str, dict[str, Any]], name: str, i: int
) -> dict[str, np.ndarray]:
    """The state of one parameter in torch's form.

    Args:
        group: The optimizer.
        own: The optimizer's state.
        slots: The arrays of the parameters by slot and name.
        name: The name of the parameter.
        i: The number of the parameter among the leaves.
    """
    entry = {}
    if group.name not in _WITHOUT_STEP:
        entry["step"] = np.asarray(own.step - own.missed[i], np.float32)
    entry |= {key: np.asarray(value[i]) for key, value in own.shared.items()}
    entry |= {
        slot: np.asarray(leaves[name]) for slot, leaves in slots.items() if leaves[name] is not None
    }
    return entry


def _values(group: Optimizer, own: OptimizerState) -> dict[str, Any]:
    """The current hyperparameters by torch's names, as Python numbers.

    A hyperparameter that was not changed has the value that the optimizer was built with.
    Another one is the shortest decimal number that rounds to the array, so that 0.1 stays
    0.1.
    """
    values = dict(group.defaults)
    for name, given in group.defaults.items():
        now = {key: own.hyperparams[key] for key in stored(name, given, own.hyperparams)}
        same = all(
            np.asarray(number, now[key].dtype) == np.asarray(now[key])
            for key, number in stored(name, given, own.hyperparams).items()
        )
        if not same:
            numbers = tuple(
                1 - _decimal(value) if key.startswith(COMPLEMENT) else _decimal(value)
                for key, value in now.items()
            )
            values[name] = numbers if name in PAIRS else numbers[0]
    return values


def _decimal(value: jax.Array) -> float:
    return float(str(np.asarray(value)))


def _static_faults(
    where: str, group: Optimizer, own: OptimizerState, saved: Mapping[str, Any]
) -> list[str]:
    """The differences in arguments that cannot be changed after an optimizer is built."""
    faults = []
    for name, given in group.defaults.items():
        if stored(name, given, own.hyperparams) or name not in saved:
            continue
        # These two have no effect: the accumulator has its first value behind it, and without
        # momentum there is no buffer to dampen.
        idle = name == "dampening" and "momentum" not in own.hyperparams
        if idle or name == "initial_accumulator_value":
            continue
        theirs = tuple(saved[name]) if isinstance(saved[name], list) else saved[name]
        if theirs != given:
            faults.append(f"{where}: {name} is {theirs}, the optimizer was built with {given}")
    return faults


def _filled(
    where: str,
    own: OptimizerState,
    entries: Mapping[str, Mapping[str, Any]],
    step: int | None,
    faults: list[str],
) -> OptimizerState:
    """The state of a group filled with torch's entries of the parameters.

    Args:
        where: The name of the group, for the errors.
        own: The state to fill.
        entries: The entries of torch's state_dict by parameter name, in the order of the leaves.
        step: As in `load_optimizer_state_dict`.
        faults: The list to which a line is added for everything that does not fit.

    Returns:
        The filled state; parts that do not fit are unchanged.
    """
    if not any(entries.values()):
        return own._replace(step=jnp.asarray(step or 0, own.step.dtype))
    without = 1 if step is None else step  # for SGD and Muon, whose entries have no number
    done = {
        name: int(as_numpy(entry.get("step", without))) if entry else 0
        for name, entry in entries.items()
    }
    shared: dict[str, list[Any]] = {}
    for key, values in own.shared.items():
        faults += [
            f"{where}: {name} has no {key}" for name, e in entries.items() if e and key not in e
        ]
        shared[key] = [
            as_numpy(entry[key]) if key in entry else value
            for entry, value in zip(entries.values(), values, strict=True)
        ]

    def fill(slot: str, path: Any, old: Any) -> Any:
        entry = entries[dotted(path)]
        if old is None or not entry:  # torch makes a state with the first gradient
            return old
        if slot not in entry:
            faults.append(f"{where}: {dotted(path)} has no {slot}")
            return old
        value = as_numpy(entry[slot])
        if value.shape != old.shape:
            faults.append(
                f"{where}: {slot} of {dotted(path)} has shape {value.shape}, expected {old.shape}"
            )
            return old
        # A copy of its own: JAX may share the memory of torch's tensor, which changes in place.
        return jnp.asarray(np.array(value), old.dtype)

    return own._replace(
        step=jnp.asarray(max(done.values()), own.step.dtype),
        missed=jnp.asarray([max(done.values()) - n for n in done.values()], own.missed.dtype),
        shared={
            key: jnp.asarray(np.stack(values).astype(own.shared[key].dtype))
            for key, values in shared.items()
        },
        slots={
            slot: jax.tree_util.tree_map_with_path(
                partial(fill, slot), tree, is_leaf=lambda x: x is None
            )
            for slot, tree in own.slots.items()
        },
    )
