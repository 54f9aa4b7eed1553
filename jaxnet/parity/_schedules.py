"""The learning rates of a recorded run, computed again from its schedule."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxnet import optim
from jaxnet.parity._trace import Trace

PLATEAU = "ReduceLROnPlateau"
Index = Callable[[int], int]


@dataclasses.dataclass(frozen=True)
class Rates:
    """The learning rates of one parameter group: a reference for the traps of schedules.

    Attributes:
        kind: The class of the schedule, as torch has it; "lr" where there is none that jaxnet
            could build, so that only the recorded rates are known. Of ReduceLROnPlateau too only
            they are known, because its metric is not recorded.
        config: The arguments of the schedule, and "initial": the hyperparameters of the optimizer,
            "every": the number of updates in one step of the schedule, "steps": the number of
            recorded updates.
        known: The learning rates of the recorded updates.
        index: A function of the number of the update, from 0, that gives the step of the
            schedule.
        formula: A function of the step of the schedule that is taken in place of the schedule, of
            (rates, step).
    """

    kind: str
    config: Mapping[str, Any]
    known: tuple[float, ...]
    index: Index | None = None
    formula: Callable[["Rates", int], float] | None = None

    @property
    def observed(self) -> int:
        """The number of updates whose rates are observed.

        Without a schedule the last recorded update is left out, because the rate after it, which
        a program that is ahead has, is not known.
        """
        return len(self.known) - (self.kind == "lr")

    def altered(self, **config: Any) -> Self:
        """The same schedule with other arguments."""
        return dataclasses.replace(self, config={**self.config, **config})

    def moved(self, index: Index) -> Self:
        """The same schedule at other steps: `index` of the update's number."""
        return dataclasses.replace(self, index=index)

    def observe(self) -> dict[str, np.ndarray]:
        """The rates of the updates: {"lr": (updates,)}."""
        every = self.config["every"]
        index = self.index or (lambda update: update // every)
        steps = [max(index(update), 0) for update in range(self.observed)]
        if self.formula is not None:
            return {"lr": np.array([self.formula(self, step) for step in steps])}
        if self.kind in ("lr", PLATEAU):
            if self.kind == "lr" and max(steps) >= len(self.known):
                raise ValueError("the rates after the last recorded update are not known")
            return {"lr": np.array([self.known[min(step, len(self.known) - 1)] for step in steps])}
        schedule = build(self.kind, self.config)
        return {"lr": np.array([schedule(step)[0]["lr"] for step in steps])}


def build(kind: str, config: Mapping[str, Any]) -> optim.Schedule:
    """jaxnet's schedule of a torch class and its arguments.

    Raises:
        ValueError, TypeError: It has no such class, or the arguments are not all known.
    """
    cls: Any = getattr(optim, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, optim.Schedule)):
        raise ValueError(f"{kind}: jaxnet.optim has no such schedule")
    initial = config["initial"]
    if "betas" in initial:
        optimizer = optim.Adam(lr=initial["lr"], betas=tuple(initial["betas"]))
    else:
        optimizer = optim.SGD(lr=initial["lr"], momentum=initial.get("momentum", 0.0))
    accepted = [*inspect.signature(cls).parameters][1:]
    return cls(optimizer, **{name: config[name] for name in accepted if name in config})


def rates(trace: Trace, optimizer: int = 0, group: int = 0) -> Rates:
    """The learning rates of a parameter group.

    Args:
        trace: The trace.
        optimizer: The number of the optimizer.
        group: The number of its group.
    """
    # An optimizer that was made later has none in the steps before.
    groups = [step.groups[optimizer][group] for step in trace.steps if len(step.groups) > optimizer]
    known = tuple(float(each["lr"]) for each in groups)
    initial = {**groups[0], "lr": float(groups[0].get("initial_lr", known[0]))}
    about = {"initial": initial, "every": 1, "steps": len(known)}
    for scheduler in trace.schedulers:
        if scheduler["class"] == PLATEAU:
            return Rates(PLATEAU, about, known)
        config = {name: _of_group(value, group) for name, value in scheduler["config"].items()}
        if scheduler["class"] == "OneCycleLR":
            config = {**_one_cycle(groups[0]), **config}
        found = matching(scheduler["class"], {**config, **about}, known)
        if found is not None:
            return found
    return Rates("lr", about, known)


def _one_cycle(group: Mapping[str, Any]) -> dict[str, float]:
    """The arguments of OneCycleLR that torch keeps in the optimizer's group, or nowhere."""
    names = ("max_lr", "base_momentum", "max_momentum")
    found = {name: group[name] for name in names if name in group}
    if {"max_lr", "initial_lr", "min_lr"} <= group.keys():
        found["div_factor"] = group["max_lr"] / group["initial_lr"]
        found["final_div_factor"] = group["initial_lr"] / group["min_lr"]
    return {"pct_start": 0.3, **found}


def _of_group(value: Any, group: int) -> Any:
    """An argument of a schedule for one group, of those that torch stores for each group."""
    if isinstance(value, Mapping):  # the milestones of MultiStepLR, counted
        return sorted(int(step) for step, count in value.items() for _ in range(count))
    is_list = isinstance(value, list | tuple) and all(isinstance(v, int | float) for v in value)
    return value[group] if is_list and group < len(value) else value


def matching(kind: str, config: Mapping[str, Any], known: Sequence[float]) -> Rates | None:
    """The schedule with the number of updates in one of its steps, found from recorded rates.

    Returns:
        The rates; None if the schedule cannot be built or does not give these rates.
    """
    count = len(known)
    for every in (*range(1, count + 1), count + 1):
        found = Rates(kind, {**config, "every": every}, tuple(known))
        try:
            series = found.observe()["lr"]
        except (ValueError, TypeError, KeyError):
            return None
        if np.allclose(series, known, rtol=1e-9, atol=0):
            return found
    return None
