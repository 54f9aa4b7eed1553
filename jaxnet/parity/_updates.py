"""The recorded updates of parameters: torch's gradients, states and changes of each step."""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np

from jaxnet.parity._fit import rounded
from jaxnet.parity._judgement import LEFT, SAME, SAME_SCALE, rms
from jaxnet.parity._rules import KINDS, State, rule
from jaxnet.parity._trace import Step, Trace

# Elementwise arithmetic needs no more elements than these to be told apart.
ELEMENTS = 4096


@dataclasses.dataclass(frozen=True)
class Clip:
    """What clipping needs to know of all gradients of a step.

    Attributes:
        norm: The 2-norm of all gradients before clipping.
        own: That of this parameter.
        units: For each element the 2-norm of the gradient of its unit, the row of a matrix or
            the filter of a convolution; of a vector that of all of it.
        sizes: The same of the parameter itself.
    """

    norm: float
    own: float
    units: np.ndarray
    sizes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """One recorded update of one parameter.

    Attributes:
        step: The step of the trace.
        t: The number of the update, from 1.
        config: The hyperparameters of the parameter's group in this step.
        before: The parameter.
        gradient: The gradient that torch's optimizer was given.
        raw: The gradient before clipping.
        state: The optimizer's state before the update, empty before the first one.
        clip: The norms.
        batches: The number of batches whose gradients are added up before the update.
    """

    step: int
    t: int
    config: Mapping[str, Any]
    before: np.ndarray
    gradient: np.ndarray
    raw: np.ndarray
    state: Mapping[str, np.ndarray]
    clip: Clip
    batches: int = 1

    def shortened(self) -> Self:
        """The same with the chosen elements only."""
        return dataclasses.replace(
            self,
            before=chosen(self.before),
            gradient=chosen(self.gradient),
            raw=chosen(self.raw),
            state={slot: chosen(value) for slot, value in self.state.items()},
            clip=dataclasses.replace(
                self.clip, units=chosen(self.clip.units), sizes=chosen(self.clip.sizes)
            ),
        )

    @cached_property
    def max_norm(self) -> float | None:
        """The bound of torch's clip_grad_norm_, where it changed the gradient of this step."""
        raw, given = np.linalg.norm(self.raw), np.linalg.norm(self.gradient)
        if not raw or not given < raw:
            return None
        share = float(given / raw)
        if np.max(np.abs(self.gradient - share * self.raw)) > 1e-6 * np.max(np.abs(given)):
            return None
        return rounded(share * (self.clip.norm + 1e-6))


@dataclasses.dataclass(frozen=True)
class Update:
    """The updates of one parameter: a reference for the traps of optimizers.

    Attributes:
        kind: The class of torch's optimizer.
        parameter: The parameter's name.
        records: The recorded updates in their order.
        changes: What a trap changes: hyperparameters by torch's names, and the words of `rule`.
        carried: Whether the JAX program's optimizer went on from its own state; its state is
            torch's before each update otherwise.
    """

    kind: str
    parameter: str
    records: tuple[Record, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    carried: bool = False

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The hyperparameters of the first update, and max_norm where torch clips."""
        first = next((r.max_norm for r in self.records if r.max_norm is not None), None)
        return {**self.records[0].config, "max_norm": first}

    def altered(self, kind: str | None = None, **changes: Any) -> Self:
        """The same updates by another arithmetic."""
        return dataclasses.replace(
            self, kind=kind or self.kind, changes={**self.changes, **changes}
        )

    def observe(self) -> dict[str, np.ndarray]:
        """What each update adds to the parameter, and the states: {"0:change": ..., ...}."""
        numbers = {}
        state: Mapping[str, np.ndarray] = self.records[0].state
        first_lr = self.records[0].config["lr"]
        for record in self.records:
            change = {**record.config, **self.changes}
            if not self.carried:
                state = record.state
            change["lr"] *= change.get("lr_factor", 1.0)
            gradient = clipped(record, change.get("clip"))
            after, state = rule(
                self.kind, change, record.before, gradient, state, record.t, first_lr
            )
            numbers[f"{record.step}:change"] = after - record.before
            numbers |= {f"{record.step}:{slot}": value for slot, value in state.items()}
        return numbers


def clipped(record: Record, how: Any) -> np.ndarray:
    """The gradient of a record as torch's optimizer got it, or clipped in another way.

    Args:
        record: The record.
        how: None, or (kind, bound) or (kind, bound, scale of all gradients). The kinds are "none",
            "norm" (as torch does), "exact" (without the 1e-6), "always" (scaled up too), "value",
            "own" (each parameter by its own norm) and "adaptive" (each unit to a share of its
            parameters' norm).
    """
    if how is None:
        return record.gradient
    kind, bound, scale = (*how, 1.0)[:3]
    raw, clip = record.raw, record.clip
    if kind == "none":
        return raw
    if kind == "value":
        return np.clip(raw, -bound, bound)
    if kind == "adaptive":
        largest = bound * np.maximum(clip.sizes, 1e-3)
        return np.where(clip.units > largest, raw * largest / np.maximum(clip.units, 1e-6), raw)
    norm = clip.own if kind == "own" else clip.norm
    factor = bound / (scale * norm + (0.0 if kind in ("exact", "always", "own") else 1e-6))
    return raw * (factor if kind == "always" else min(1.0, factor))


def updates(trace: Trace, carried: bool = False) -> dict[str, Update]:
    """The updates of all parameters of a trace whose optimizers have a formula here.

    Args:
        trace: The trace.
        carried: As in `Update`.

    Returns:
        The updates by parameter. At most `ELEMENTS` elements of a parameter are used; `chosen`
        takes the same of the JAX program's arrays.
    """
    found: dict[str, list[Record]] = {}
    groups = _groups(trace)
    for step in trace.steps:
        raws, norm = gradients_of(step)
        for name, (i, j, _) in groups.items():
            # An optimizer that steps later has no groups before.
            if name in raws and f"before:{name}" in step and i < len(step.groups):
                known = found.setdefault(name, [])
                t = known[-1].t + 1 if known else 1
                record = _record(step, name, step.groups[i][j], t, raws[name], norm)
                known.append(record.shortened())
        step.forget()
    return {
        name: Update(groups[name][2], name, tuple(records), carried=carried)
        for name, records in found.items()
    }


class Carried:
    """torch's updates as they are with a state of float64 that goes on from step to step.

    What is recorded of torch in float64 begins in each step with the float32 state of torch's
    optimizer. An optimizer of the JAX program whose state has no form in torch goes on from its
    own state instead, that of its float64 run too, so it is compared with these numbers.

    Args:
        trace: The trace.
    """

    def __init__(self, trace: Trace) -> None:
        self._groups = _groups(trace)
        self._states: dict[str, tuple[int, State]] = {}
        self._first: dict[str, float] = {}

    def advance(self, step: Step) -> dict[str, np.ndarray]:
        """The parameters after a step by site, in float64.

        Those are left out whose optimizers have no formula here, and those of which the formula
        does not give torch's numbers.

        Args:
            step: The step; the first one that is given begins with a new state.
        """
        found = {}
        raws, norm = gradients_of(step)
        for name, (i, j, kind) in self._groups.items():
            if name not in raws or f"before:{name}" not in step or i >= len(step.groups):
                continue
            t, state = self._states.get(name, (0, {}))
            record = _record(step, name, step.groups[i][j], t + 1, raws[name], norm)
            lr = self._first.setdefault(name, float(record.config["lr"]))
            given = record.config, record.before, record.gradient
            own, _ = rule(kind, *given, record.state, record.t, lr)
            after, state = rule(kind, *given, state, t + 1, lr)
            self._states[name] = t + 1, state
            theirs = step.double(f"update:{name}")
            error = rms(step[f"update:{name}"] - theirs)
            scale = rms(theirs - record.before)
            if rms(own - theirs) <= max(SAME * LEFT * error, SAME_SCALE * scale):
                found[f"update:{name}"] = after
        return found


def _groups(trace: Trace) -> dict[str, tuple[int, int, str]]:
    """For each parameter the numbers of its optimizer and group, and the optimizer's class."""
    return {
        name: (i, j, optimizer["class"])
        for i, optimizer in enumerate(trace.optimizers)
        for j, group in enumerate(optimizer["groups"])
        for name in group["params"]
        if optimizer["class"] in KINDS
    }


def gradients_of(step: Step) -> tuple[dict[str, np.ndarray], float]:
    """The gradients of a step before clipping, and the norm of all."""
    raws = {name: step.double(site) for name, site in step.of("param_grad").items()}
    return raws, math.sqrt(sum(float(np.sum(np.square(raw))) for raw in raws.values()))


def _record(
    step: Step, name: str, config: Mapping[str, Any], t: int, raw: np.ndarray, norm: float
) -> Record:
    """The recorded update of a parameter; t is its number where torch's state does not say it."""
    state = _state(step, name)
    before = step.double(f"before:{name}")
    return Record(
        step=step.index,
        t=int(state.pop("step", t - 1)) + 1,
        config=config,
        before=before,
        gradient=step.double(f"clipped:{name}") if f"clipped:{name}" in step else raw,
        raw=raw,
        state=state,
        clip=Clip(norm, float(np.linalg.norm(raw)), _units(raw), _units(before)),
        batches=step.collected,
    )


def _state(step: Step, name: str) -> dict[str, np.ndarray]:
    """The state of one parameter before a step, by torch's names."""
    found = {}
    for place, site in step.of("state_before").items():
        owner, _, slot = place.rpartition(".")
        if owner == name:
            found[slot] = step.double(site)
    return found


def _units(array: np.ndarray) -> np.ndarray:
    """For each element the 2-norm of its unit (see `Clip`)."""
    axes = tuple(range(1, array.ndim)) if array.ndim > 1 else None
    norms = np.sqrt(np.sum(np.square(array), axes, keepdims=True))
    return np.broadcast_to(norms, array.shape)


def chosen(array: np.ndarray) -> np.ndarray:
    """At most `ELEMENTS` elements of a parameter, spread over it, as a flat float64 array."""
    flat = np.asarray(array, np.float64).ravel()
    if flat.size <= ELEMENTS:
        return flat
    return flat[np.linspace(0, flat.size - 1, ELEMENTS).astype(int)]
