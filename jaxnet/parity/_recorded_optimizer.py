"""The optimizer of a recorded program, with its clipping and its schedule, built with jaxnet."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jaxnet import optim
from jaxnet.optim import Optimizer
from jaxnet.parity._fit import rounded
from jaxnet.parity._schedules import PLATEAU, rates
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._updates import updates

# What a schedule may change beside the learning rate.
_SCHEDULED = ("lr", "betas", "momentum", "initial_lr", "max_lr", "min_lr")


class UnknownOptimizerError(ValueError):
    """An optimizer that cannot be built from what a trace has of it."""


def recorded_optimizer(trace: Trace, steps: Sequence[Step]) -> Optimizer:
    """The optimizer of a trace.

    Args:
        trace: The trace.
        steps: The steps of it that are compared.

    Raises:
        UnknownOptimizerError: It cannot be built; the message says why.
    """
    if not trace.optimizers:
        raise UnknownOptimizerError("the program changes its parameters without an optimizer")
    if any(step.again for step in steps):
        raise UnknownOptimizerError("the program updates parameters several times in a step")
    groups = [
        (i, j, group)
        for i, optimizer in enumerate(trace.optimizers)
        for j, group in enumerate(optimizer["groups"])
    ]
    known = {(i, j): _recorded(trace, i, j) for i, j, _ in groups}
    built = [
        (
            _trained(trace, group),
            _built(trace.optimizers[i]["class"], {**known[i, j][0], "lr": _base(known[i, j][0])}),
        )
        for i, j, group in groups
    ]
    optimizer = _grouped(trace, built)
    schedule = _schedule(trace, optimizer, known)
    if schedule is not None:
        optimizer = optim.scheduled(optimizer, *schedule)
    if any("clip" in step.events for step in steps):
        optimizer = optim.chain(_clipping(trace, steps), optimizer)
    return optimizer


def _recorded(trace: Trace, optimizer: int, group: int) -> list[Mapping[str, Any]]:
    """The hyperparameters of a group in each step."""
    found = [s.groups[optimizer][group] for s in trace.steps if len(s.groups) > optimizer]
    moving = {
        name
        for name in found[0]
        if any(each.get(name) != found[0][name] for each in found) and name not in _SCHEDULED
    }
    if moving:
        raise UnknownOptimizerError(f"the program changes {', '.join(sorted(moving))} by itself")
    return found


def _trained(trace: Trace, group: Mapping[str, Any]) -> set[str]:
    """The names of the parameters of a group that are trained."""
    return {n for n in group["params"] if trace.parameters.get(n, {}).get("requires_grad", True)}


def _built(cls: str, group: Mapping[str, Any]) -> Optimizer:
    """One of jaxnet's optimizers with the hyperparameters of a group of torch's."""
    make: Any = getattr(optim, cls, None)
    if make is None or isinstance(make, type):
        raise UnknownOptimizerError(f"jaxnet.optim has no {cls}")
    accepted = inspect.signature(make).parameters
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in group.items()
        if name in accepted
    }
    try:
        made = make(**given)
    except (TypeError, ValueError) as error:
        words = f"optim.{cls} does not take torch's arguments: {error}"
        raise UnknownOptimizerError(words) from error
    assert isinstance(made, Optimizer)
    return made


def _grouped(trace: Trace, built: Sequence[tuple[set[str], Optimizer]]) -> Optimizer:
    left = trace.parameters.keys() - set().union(*(names for names, _ in built))

    def among(names: set[str]) -> Callable[[str, Any], bool]:
        return lambda name, parameter: name in names

    rules = [(among(names), optimizer) for names, optimizer in built if names]
    if left:  # of no optimizer, or frozen
        return optim.groups(rules, optim.frozen())
    *rules, (_, last) = rules
    return optim.groups(rules, last) if rules else last


def _base(group: Mapping[str, Any]) -> float:
    """The learning rate that a schedule begins with."""
    return float(group.get("initial_lr", group["lr"]))


def _schedule(
    trace: Trace, optimizer: Optimizer, known: Mapping[tuple[int, int], Sequence[Mapping[str, Any]]]
) -> tuple[optim.Schedule, int, int] | None:
    """The schedule, the number of its steps and the updates in each; None without one."""
    table = [[float(each["lr"]) for each in groups] for groups in known.values()]
    bases = [_base(groups[0]) for groups in known.values()]
    if all(rate == base for row, base in zip(table, bases, strict=True) for rate in row):
        return None
    found = rates(trace)
    cls: Any = getattr(optim, found.kind, None)
    if cls is not None and found.kind != PLATEAU and len(trace.optimizers) == 1:
        own = next(s["config"] for s in trace.schedulers if s["class"] == found.kind)
        config = found.config if len(table) == 1 else {**found.config, **own}
        accepted = [*inspect.signature(cls).parameters][1:]
        every = found.config["every"]
        try:
            schedule = cls(optimizer, **{n: config[n] for n in accepted if n in config})
            for number, row in enumerate(table):
                theirs = [schedule(update // every)[number]["lr"] for update in range(len(row))]
                np.testing.assert_allclose(theirs, row, rtol=1e-9)
        except (AssertionError, TypeError, ValueError, KeyError, IndexError):
            pass  # it is not known in full, and its recorded numbers are
        else:
            return schedule, -(-len(table[0]) // every), every
    factors: list[Callable[[int], float]] = [
        partial(_factor, [rate / base if base else 1.0 for rate in row])
        for row, base in zip(table, bases, strict=True)
    ]
    return optim.LambdaLR(optimizer, factors), max(map(len, table)), 1


def _factor(factors: Sequence[float], step: int) -> float:
    return factors[min(step, len(factors) - 1)]


def _clipping(trace: Trace, steps: Sequence[Step]) -> Any:
    """The clipping that makes torch's gradients of what backward() gave."""
    found = {
        record.max_norm
        for update in updates(trace).values()
        for record in update.records
        if record.max_norm is not None
    }
    values = {c for step in steps for c in _bounds(step)}
    if len(values) == 1:
        return optim.clip_by_value(values.pop())
    if len(found) == 1:
        return optim.clip_by_norm(found.pop())
    raise UnknownOptimizerError("it is not known how the program changes its gradients")


def _bounds(step: Step) -> set[float]:
    """The bound of clip_grad_value_, if it is what was done to the gradients of a step."""
    pairs = [
        (step[f"param_grad:{name}"], step[site])
        for name, site in step.of("clipped").items()
        if f"param_grad:{name}" in step
    ]
    if not pairs:
        return set()
    bound = float(max(np.max(np.abs(clipped), initial=0) for _, clipped in pairs))
    exact = all(np.array_equal(np.clip(raw, -bound, bound), clipped) for raw, clipped in pairs)
    return {rounded(bound) or bound} if exact else set()
