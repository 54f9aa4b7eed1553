"""The causes of differences outside of layers: in the loss, the gradients and the updates."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from jaxnet.parity._attribute import Cause, attribute
from jaxnet.parity._evidence import Evidence, StepEvidence, difference
from jaxnet.parity._judgement import rms
from jaxnet.parity._layer_causes import MOST_ALTERNATIVES
from jaxnet.parity._losses import loss_references
from jaxnet.parity._rebuilt import of_call
from jaxnet.parity._result import Finding
from jaxnet.parity._schedules import rates
from jaxnet.parity._sites import few, phase_of
from jaxnet.parity._steps import StepRuns
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._traps.gradients import Gradient
from jaxnet.parity._traps.preflight import INPUTS, TARGETS, WEIGHTS, Value, of_distribution
from jaxnet.parity._update_causes import (
    READ,
    Explained,
    Read,
    Steps,
    explain_updates,
    explained_by,
)
from jaxnet.parity._updates import chosen, gradients_of

Arrays = dict[int, dict[str, np.ndarray]]

_KEPT = ("update", "state", "loss", "grad", "param_grad")


def explain_loss(trace: Trace, jax: Steps, jax64: Steps) -> Explained | None:
    """The cause of a loss that differs, where all that it was computed from is torch's.

    Args:
        trace: The trace.
        jax: The JAX program's "loss:0" of each step in float32, from torch's outputs.
        jax64: The same in float64.

    Returns:
        The cause; None if the losses are the same. A loss that the program puts together itself
        and whose parts jaxnet does not know is not explained.
    """
    best = None
    failing: set[int] = set()
    for reference in loss_references(trace) or [None]:  # type: ignore[list-item]
        parts: list[dict[str, np.ndarray]] = [{}, {}, {}, {}]
        recorded = (
            {record.step for record in reference.records}
            if reference
            else {s.index for s in trace.steps}
        )
        for step in trace.steps:
            site = step.losses[0] if step.losses else ""
            given = jax64.get(step.index, {}).get(site)
            if step.index not in recorded or given is None:
                continue
            arrays = (
                step[site],
                step.double(site),
                jax.get(step.index, {}).get(site, given),
                given,
            )
            for part, array in zip(parts, arrays, strict=True):
                part[f"{step.index}:loss"] = np.asarray(array, np.float64)
        evidence = Evidence(*parts)
        failing |= {
            int(key.split(":")[0])
            for key in parts[1]
            if difference(parts[1][key], parts[3][key]) > evidence.tolerance(key)
        }
        if not failing or reference is None:
            continue
        cause = attribute(reference, evidence)
        if best is None or (cause.proven and not best[0].proven) or _simpler(cause, best[0]):
            best = cause, reference
    if not failing:
        return None
    steps = tuple(sorted(failing))
    if best is None or not best[0].proven:
        signs, tried = (best[0].symptoms, best[0].tried) if best else ((), 0)
        return Explained(("loss",), steps, symptoms=signs, tried=tried)
    return explained_by(best[0], (best[1].kind,), steps)


def _simpler(cause: Cause, other: Cause) -> bool:
    """Whether a proven cause has fewer parts and constants than another one."""

    def size(each: Cause) -> tuple[int, int]:
        first = each.proven[0]
        return len(first), sum(len(h.trap.constants) for h in first)

    return bool(cause.proven and other.proven) and size(cause) < size(other)


def explain_gradients(
    trace: Trace, jax: Steps, jax64: Steps, sites: Iterable[str]
) -> list[Explained]:
    """The causes of gradients that differ, where all they come from is torch's.

    Args:
        trace: The trace.
        jax: The JAX program's arrays of each step in float32.
        jax64: The same in float64.
        sites: The sites, "param_grad:NAME" and "grad:CALL".
    """
    found: dict[str, Explained] = {}
    for site in sites:
        name = site.partition(":")[2]
        steps = [s for s in trace.steps if site in s.sites and site in jax64.get(s.index, {})]
        if not steps:
            continue
        parts: list[dict[str, np.ndarray]] = [{}, {}, {}, {}]
        norms, batches = {}, 1
        uses: dict[str, dict[int, np.ndarray]] = {}
        for step in steps:
            ours = jax[step.index][site], jax64[step.index][site]
            arrays = (chosen(step[site]), chosen(step.double(site)), *map(chosen, ours))
            for part, array in zip(parts, arrays, strict=True):
                part[f"{step.index}:gradient"] = array
            norms[step.index] = gradients_of(step)[1]
            for call, array in _uses(trace, step, name).items():
                uses.setdefault(call, {})[step.index] = array
            batches = max(batches, step.events.count("backward"))
            step.forget()
        evidence = Evidence(*parts)
        wrong = [
            int(key.split(":")[0])
            for key in parts[1]
            if difference(parts[1][key], parts[3][key]) > evidence.tolerance(key)
        ]
        if not wrong:
            continue
        given = {step.index: parts[1][f"{step.index}:gradient"] for step in steps}
        known = {call: each for call, each in uses.items() if len(each) == len(given)}
        reference = Gradient(name, given, norms, batches, uses=known)
        cause = attribute(reference, evidence)
        if not cause.proven:
            continue
        one = explained_by(cause, (name,), wrong)
        old = found.get(one.words)
        found[one.words] = (
            one if old is None else dataclasses.replace(old, places=(*old.places, name))
        )
    return list(found.values())


def explain_rates(
    trace: Trace, ours: Mapping[int, float], optimizer: int = 0, group: int = 0
) -> Explained | None:
    """The cause of learning rates that differ.

    Args:
        trace: The trace.
        ours: The JAX program's learning rate in each recorded step.
        optimizer: The number of torch's optimizer.
        group: The number of its group.

    Returns:
        The cause; None if the learning rates are the same to seven digits.
    """
    reference = rates(trace, optimizer, group)
    count = reference.observed
    torch = np.array(reference.known)
    mine = np.array([ours.get(k, np.nan) for k in range(len(torch))])
    wrong = [k for k in range(len(torch)) if abs(torch[k] - mine[k]) > READ * abs(torch[k])]
    if not wrong:
        return None
    a, b = {"lr": torch[:count]}, {"lr": mine[:count]}
    cause = attribute(reference, Read(a, a, b, b))
    if not cause.proven:
        return Explained((f"lr:{group}",), tuple(wrong), symptoms=cause.symptoms, tried=cause.tried)
    return explained_by(cause, (f"lr:{group}",), wrong)


def _uses(trace: Trace, step: Step, name: str) -> dict[str, np.ndarray]:
    """The part of a parameter's gradient that comes from each call that uses it, if several do."""
    names = trace.parameters.get(name, {}).get("names", ())
    owners = {n.rpartition(".")[0]: n for n in names}
    calls = [call for call in step.calls if call.module in owners]
    found = {}
    for call in calls if len(calls) > 1 else ():
        try:
            numbers = of_call(trace, step, call).observe()
        except (ValueError, TypeError):
            return {}
        own = owners[call.module].rpartition(".")[2]
        found[call.name] = chosen(numbers.get(f"param_grad:{own}", np.zeros(0)))
    return found


class _Rounded(Evidence):
    """Numbers that were changed in float32, in a few operations."""

    def tolerance(self, name: str) -> float:
        return 10 * READ * rms(self.torch64[name])


def explain_start(
    kind: str, torch: Mapping[str, np.ndarray], jax: Mapping[str, np.ndarray]
) -> list[Explained]:
    """What differs in what both programs begin with.

    Args:
        kind: "weights", "inputs" or "targets".
        torch: Torch's arrays by name.
        jax: The JAX program's.

    Returns:
        The causes, each with the names of the arrays; no arithmetic has happened, so that equal
        means equal in every bit of float32.
    """
    if kind not in (WEIGHTS, INPUTS, TARGETS):
        raise ValueError(f"kind: {kind!r}; accepted are {WEIGHTS!r}, {INPUTS!r} and {TARGETS!r}")
    found: dict[str, Explained] = {}
    for name, array in torch.items():
        if name not in jax or np.array_equal(array, jax[name], equal_nan=True):
            continue
        ours = np.asarray(jax[name])
        value = Value(kind, array, ours)
        a, b = ({"value": np.asarray(x, np.float64)} for x in (array, ours))
        cause = attribute(value, _Rounded(a, a, b, b))
        words = cause.words[0] if cause.proven else ""
        if not words and kind == WEIGHTS:
            words = of_distribution(array, ours)
        old = found.get(words)
        places = (*old.places, name) if old else (name,)
        found[words] = Explained(
            places,
            (0,),
            words,
            cause.fixes[0] if cause.proven else "",
            cause.proof,
            tuple(cause.words[1:]),
            cause.symptoms,
            cause.tried,
            tuple(h.trap.name for h in cause.proven[0]) if cause.proven else (),
        )
    return list(found.values())


class Training:
    """The numbers of all checked steps in which the causes of these differences are looked for.

    Args:
        trace: The trace.
        carried: Whether the program's optimizer goes on from its own state.
    """

    def __init__(self, trace: Trace, carried: bool) -> None:
        self.trace, self.carried = trace, carried
        # By what they were computed from: torch's gradients, the whole step, torch's outputs.
        self._kept: dict[str, tuple[Arrays, Arrays]] = {
            kind: ({}, {}) for kind in ("update", "step", "layer")
        }
        self._rates: dict[str, dict[int, float]] = {}
        self.notes: list[str] = []
        # The initial arrays that differ, torch's and the program's.
        self.start: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = {}, {}

    def keep(self, step: Step, evidence: StepEvidence | None, runs: StepRuns) -> None:
        """Keeps of a step what is needed: of each parameter `_updates.ELEMENTS` elements."""
        layers = evidence.forced if evidence is not None else {}
        for kind, fours in (("update", runs.update), ("step", runs.own), ("layer", layers)):
            for site, four in fours.items():
                phase = phase_of(site)
                if phase not in _KEPT or four.jax is None or four.jax64 is None:
                    continue
                for kept, array in zip(self._kept[kind], (four.jax, four.jax64), strict=True):
                    kept.setdefault(step.index, {})[site] = (
                        np.asarray(array) if phase == "loss" else chosen(array)
                    )
        for site, four in runs.rates.items():
            if four.jax64 is not None:
                rate = float(np.asarray(four.jax64))
                self._rates.setdefault(site, {})[step.index] = rate

    def explain(self, finding: Finding) -> list[Finding]:
        """A finding with its cause; several where it has several causes in different parameters.

        Args:
            finding: The finding, of the loss, the optimizer, the schedule, the gradient of a
                parameter, or of a whole step. Others are given back as they are.
        """
        found: list[Explained] = []
        phases = {phase_of(result.site) for result in finding.results}
        if finding.origin == "loss":
            one = explain_loss(self.trace, *self._kept["layer"])
            found = [one] if one is not None else []
        elif finding.origin == "optimizer":
            found = explain_updates(self.trace, *self._kept["update"], self.carried)
        elif finding.origin == "schedule":
            found = self._schedules()
        elif finding.level == "preflight":
            found = explain_start(WEIGHTS, *self.start)
        elif finding.level == "step" and "update" in phases:
            found = explain_updates(self.trace, *self._kept["step"], self.carried)
        elif finding.cause is None and phases <= {"grad", "param_grad"}:
            sites = dict.fromkeys(result.site for result in finding.results)
            found = explain_gradients(self.trace, *self._kept["layer"], sites)
        named = [each for each in found if each.words]
        if found and all(each.rounding for each in found):
            self.notes += dict.fromkeys(each.words for each in found)
            return []
        named = [each for each in named if not each.rounding]
        if not named:
            for each in found:
                finding.tried += each.tried
            return [finding]
        return [_described(finding, each) for each in named]

    def _schedules(self) -> list[Explained]:
        found: list[Explained] = []
        number = 0
        for i, optimizer in enumerate(self.trace.optimizers):
            for j in range(len(optimizer["groups"])):
                one = explain_rates(self.trace, self._rates.get(f"lr:{number}", {}), i, j)
                number += 1
                if one is not None and one.words not in {each.words for each in found}:
                    found.append(one)
        return found


def _described(finding: Finding, explained: Explained) -> Finding:
    """The part of a finding that a cause explains."""
    there = [r for r in finding.results if _concerns(explained, r.site)]
    steps = explained.steps
    concerned = [r for r in there if r.step in steps] or there or finding.results
    first = concerned[0]
    part = len(concerned) < len(finding.results)
    when = f" from step {first.step} on" if first.step > 0 else ""
    return dataclasses.replace(
        finding,
        site=first.site,
        step=first.step,
        kind=first.judgement.label,
        message=f"{_without_step(finding)}{when} ({few(explained.places)})"
        if part
        else finding.message,
        cause=explained.words,
        proof=explained.proof,
        fix=explained.fix or finding.fix,
        alternatives=list(explained.alternatives[:MOST_ALTERNATIVES]),
        results=list(concerned),
        tried=finding.tried + explained.tried,
    )


def _without_step(finding: Finding) -> str:
    return finding.message.removesuffix(f" from step {finding.step} on")


def _concerns(explained: Explained, site: str) -> bool:
    phase, _, place = site.partition(":")
    name = place.rpartition(".")[0] if phase == "state" else place
    return name in explained.places
