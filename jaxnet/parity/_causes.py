"""The causes of findings: each kind of origin asks the part of the catalogue that is about it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxnet.parity._flow import Flow
from jaxnet.parity._force import StepEvidence
from jaxnet.parity._result import Finding
from jaxnet.parity._sites import named
from jaxnet.parity._steps import StepRuns
from jaxnet.parity._trace import Trace
from jaxnet.parity._training import Explained, explain_loss, explain_rates, explain_updates
from jaxnet.parity._updates import chosen

Arrays = dict[str, np.ndarray]

# An optimizer's fault that shows only after many steps is told by its first ones too.
_UPDATES = 12


@dataclasses.dataclass
class Numbers:
    """The program's numbers of the steps that differ, as far as they are needed for causes.

    Attributes:
        layers: The first steps in which a layer differs.
        updates, updates64: Of each step the parameters and the optimizer's state after the update
            with torch's gradients, in float32 and in float64.
        losses, losses64: Of each step the losses from torch's outputs.
        rates: The learning rate of each group ("lr:0") in each step.
    """

    layers: dict[int, StepEvidence] = dataclasses.field(default_factory=dict)
    updates: dict[int, Arrays] = dataclasses.field(default_factory=dict)
    updates64: dict[int, Arrays] = dataclasses.field(default_factory=dict)
    losses: dict[int, Arrays] = dataclasses.field(default_factory=dict)
    losses64: dict[int, Arrays] = dataclasses.field(default_factory=dict)
    rates: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)

    def add(self, evidence: StepEvidence | None, runs: StepRuns, number: int) -> None:
        """Takes what is needed of a step's numbers."""
        if evidence is not None:
            for site, four in evidence.forced.items():
                if site.startswith("loss:") and four.jax is not None and four.jax64 is not None:
                    self.losses.setdefault(number, {})[site] = four.jax
                    self.losses64.setdefault(number, {})[site] = four.jax64
        for site, four in runs.rates.items():
            if four.jax64 is not None:
                self.rates.setdefault(site, {})[number] = float(four.jax64)
        if len(self.updates) < _UPDATES:
            for site, four in runs.update.items():
                if four.jax is not None and four.jax64 is not None:
                    self.updates.setdefault(number, {})[site] = chosen(four.jax)
                    self.updates64.setdefault(number, {})[site] = chosen(four.jax64)


def with_causes(
    trace: Trace, origin: str, finding: Finding, numbers: Numbers, flows: Mapping[int, Flow]
) -> list[Finding]:
    """A finding with its cause; several where several causes explain parts of it.

    Args:
        trace: The trace.
        origin: What makes the difference, as `findings_of` says it.
        finding: The finding.
        numbers: The program's numbers.
        flows: The flows of the steps.
    """
    kind, _, place = origin.partition(":")
    if kind == "optimizer":
        return _each(finding, explain_updates(trace, numbers.updates, numbers.updates64))
    if kind == "schedule":
        found = [
            explain_rates(trace, rates, *_group(trace, int(site.partition(":")[2])))
            for site, rates in numbers.rates.items()
        ]
        return _each(finding, [explained for explained in found if explained is not None])
    if kind == "loss":
        explained = explain_loss(trace, numbers.losses, numbers.losses64)
        return _each(finding, [explained] if explained else [])
    steps = [r.step for r in finding.results if r.level == "layer" and r.step in numbers.layers]
    if kind == "between":
        origin = f"before:{place.partition(':')[2].partition('#')[0]}"
    if kind in ("module", "between", "before", "after") and steps:
        evidence = numbers.layers[steps[0]]
        finding = named(finding, origin, evidence)
        evidence.step.forget()
    return [finding]


def _group(trace: Trace, number: int) -> tuple[int, int]:
    """The number of the optimizer, and of the group in it, of a group among all groups."""
    for i, optimizer in enumerate(trace.optimizers):
        if number < len(optimizer["groups"]):
            return i, number
        number -= len(optimizer["groups"])
    return 0, number


def _each(finding: Finding, causes: Sequence[Explained]) -> list[Finding]:
    """A finding for each of the causes; the finding itself where there is none."""
    found = []
    for cause in causes:
        own = [r for r in finding.results if any(_of(r.site, place) for place in cause.places)]
        results = own or finding.results
        message = finding.message
        if not cause.words and cause.symptoms:
            message = f"{message}. {' '.join(cause.symptoms)}"
        found.append(
            dataclasses.replace(
                finding,
                site=results[0].site,
                step=results[0].step,
                message=message,
                cause=cause.words or None,
                proof=cause.proof,
                fix=cause.fix or finding.fix,
                alternatives=list(cause.alternatives),
                tried=finding.tried + cause.tried,
                results=results,
            )
        )
    return found or [finding]


def _of(site: str, place: str) -> bool:
    """Whether an array is that of a parameter, or of its optimizer's state."""
    phase, _, name = site.partition(":")
    return name == place or (phase == "state" and name.rpartition(".")[0] == place)
