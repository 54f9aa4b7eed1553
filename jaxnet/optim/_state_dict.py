"""An optimizer's state as torch's optimizer.state_dict(), and back."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._arrays import as_numpy
from jaxnet._names import dotted, named_leaves
from jaxnet.optim._optimizer import (
    COMPLEMENT,
    PAIRS,
    Optimizer,
    OptimizerState,
    check,
    map_states,
    set_hyperparams,
    states,
    stored,
)

# What torch's constructors store beside what ours take; without effect here.
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
    """What torch's `optimizer.state_dict()` would give after the same steps.

    Args:
        optimizer: of `jaxnet.optim`, plain or wrapped.
        opt_state: its state.
        params: the parameters, as `optimizer.init` got them.
        names: the parameters' names in torch's order: `[n for n, _ in
            model.named_parameters()]`. A dictionary of parameters has lost it, since
            jax sorts names.

    Returns:
        {"state": {number: {...}}, "param_groups": [{...}]} with numpy arrays and plain
        numbers. Parameters are numbered group by group, as torch does when the groups
        are given in the same order.

    Raises:
        ValueError: names and params differ, or the optimizer has no such form (LBFGS).
    """
    parts = _parts(optimizer, params, names)
    found = _states_of(optimizer, opt_state)
    state: dict[int, dict[str, Any]] = {}
    param_groups = []
    start = 0
    for group, part, own in zip(optimizer.groups, parts, found, strict=True):
        # a slot that a parameter does not have is None
        slots = {
            slot: named_leaves(tree, is_leaf=lambda x: x is None)
            for slot, tree in own.slots.items()
        }
        for number, name in enumerate(part, start):
            entry = _entry(group, own, slots, name)
            # torch makes a parameter's entry at its first step
            if int(own.step) > 0 and entry:
                state[number] = entry
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
    """The optimizer's state that goes on where a torch run stopped.

    Args:
        optimizer: built with the torch optimizer's arguments.
        opt_state: `optimizer.init(params)`; it is not changed.
        params: the parameters.
        state_dict: torch's `optimizer.state_dict()`; tensors or arrays.
        names: the parameters' names in torch's order.
        step: how many steps were done, for SGD and Muon, whose state_dict does not say.
            Only schedules need it. If None: 1 where there is a buffer, else 0.

    Returns:
        A new state: slots, steps, and the hyperparameters of the state_dict's groups.

    Raises:
        ValueError: lists everything that does not fit at once.
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
    for i, (group, part, own) in enumerate(zip(optimizer.groups, parts, found, strict=True)):
        saved = groups[i]
        entries = {
            name: state_dict["state"].get(number, {})
            for name, number in zip(part, saved["params"], strict=True)
        }
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


def _parts(optimizer: Optimizer, params: Any, names: Sequence[str]) -> list[list[str]]:
    """The parameters' names of each group, in torch's order."""
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
    group: Optimizer, own: OptimizerState, slots: dict[str, dict[str, Any]], name: str
) -> dict[str, np.ndarray]:
    """Torch's state of one parameter."""
    entry = {}
    if group.name not in _WITHOUT_STEP:
        entry["step"] = np.asarray(own.step, np.float32)
    entry |= {key: np.asarray(value) for key, value in own.shared.items()}
    entry |= {
        slot: np.asarray(leaves[name]) for slot, leaves in slots.items() if leaves[name] is not None
    }
    return entry


def _values(group: Optimizer, own: OptimizerState) -> dict[str, Any]:
    """The current hyperparameters in torch's words.

    One that still is what the optimizer was built with comes back as it was given;
    another as the shortest decimal that rounds to it, so that 0.1 stays 0.1.
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
    """What the two optimizers were built with and cannot be changed."""
    faults = []
    for name, given in group.defaults.items():
        if stored(name, given, own.hyperparams) or name not in saved:
            continue
        # without effect: a run under way does not begin again, and without momentum
        # nothing is dampened
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
    """A group's state with the parameters' entries in place of its own; adds to faults."""
    if not any(entries.values()):
        return own._replace(step=jnp.asarray(step or 0, own.step.dtype))
    absent = [name for name, entry in entries.items() if not entry]
    if absent:
        faults.append(f"{where}: no state for {absent}, though others have one")
        return own
    shared = {}
    for key in ("step", *own.shared):
        found = {float(as_numpy(entry[key])) for entry in entries.values() if key in entry}
        if len(found) > 1:
            faults.append(f"{where}: {key} differs between parameters, {sorted(found)}")
        elif found:
            shared[key] = found.pop()
        elif key != "step":
            faults.append(f"{where}: {key} is missing")
    done = shared.pop("step", 1 if step is None else step)

    def fill(slot: str, path: Any, old: Any) -> Any:
        entry = entries[dotted(path)]
        if old is None:
            return None
        if slot not in entry:
            faults.append(f"{where}: {dotted(path)} has no {slot}")
            return old
        value = as_numpy(entry[slot])
        if value.shape != old.shape:
            faults.append(
                f"{where}: {slot} of {dotted(path)} has shape {value.shape}, expected {old.shape}"
            )
            return old
        return jnp.asarray(value, old.dtype)

    return own._replace(
        step=jnp.asarray(done, own.step.dtype),
        shared={
            key: jnp.asarray(shared.get(key, value), value.dtype)
            for key, value in own.shared.items()
        },
        slots={
            slot: jax.tree_util.tree_map_with_path(
                partial(fill, slot), tree, is_leaf=lambda x: x is None
            )
            for slot, tree in own.slots.items()
        },
    )
