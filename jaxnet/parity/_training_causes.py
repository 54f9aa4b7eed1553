"""The causes of differences outside of layers: in the loss, the gradients and the updates."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxnet._names import few
from jaxnet.parity._attribute import Cause, attribute
from jaxnet.parity._evidence import Evidence, StepEvidence
from jaxnet.parity._explained import READ, Explained, Read, constant, explained_by, merged
from jaxnet.parity._findings import kind_of
from jaxnet.parity._judgement import rms
from jaxnet.parity._layer_causes import MOST_ALTERNATIVES
from jaxnet.parity._losses import loss_references
from jaxnet.parity._rebuilt import of_call
from jaxnet.parity._result import Finding, SiteResult
from jaxnet.parity._schedules import rates
from jaxnet.parity._sites import phase_of
from jaxnet.parity._steps import StepRuns
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._traps.gradients import Gradient
from jaxnet.parity._traps.preflight import Weights, of_distribution
from jaxnet.parity._update_causes import Steps, explain_updates
from jaxnet.parity._updates import chosen, gradients_of

Arrays = dict[int, dict[str, np.ndarray]]

LOSS = ("loss",)
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
    best: Cause | None = None
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
        failing |= {*evidence.failing()}
        if not failing or reference is None:
            continue
        cause = attribute(reference, evidence)
        if best is None or (cause.proven and not best.proven) or _simpler(cause, best):
            best = cause
    if not failing:
        return None
    steps = tuple(sorted(failing))
    if best is None or not best.proven:
        signs, tried = (best.symptoms, best.tried) if best else ((), 0)
        return Explained(LOSS, steps, symptoms=signs, tried=tried)
    return explained_by(best, LOSS, steps)


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
    found = []
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
            batches = max(batches, step.collected)
            step.forget()
        evidence = Evidence(*parts)
        wrong = evidence.failing()
        if not wrong:
            continue
        given = {step.index: parts[1][f"{step.index}:gradient"] for step in steps}
        known = {call: each for call, each in uses.items() if len(each) == len(given)}
        reference = Gradient(name, given, norms, batches, uses=known)
        cause = attribute(reference, evidence)
        if cause.proven:
            found.append(explained_by(cause, (name,), wrong))
        else:
            signs, tried = cause.symptoms, cause.tried
            found.append(Explained((name,), wrong, symptoms=signs, tried=tried))
    return merged(found)


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
        both = [", ".join(f"{rate:.6g}" for rate in rates) for rates in (mine, torch)]
        sign = f"In the recorded steps it is {both[0]}; torch's is {both[1]}."
        return Explained((f"lr:{group}",), tuple(wrong), symptoms=(sign,), tried=cause.tried)
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
    torch: Mapping[str, np.ndarray], jax: Mapping[str, np.ndarray]
) -> list[Explained]:
    """What differs in the weights and buffers that both programs begin with.

    Args:
        torch: Torch's arrays by name.
        jax: The JAX program's.

    Returns:
        The causes, each with the names of the arrays; no arithmetic has happened, so that equal
        means equal in every bit of float32.
    """
    found = []
    for name, array in torch.items():
        if name not in jax or np.array_equal(array, jax[name], equal_nan=True):
            continue
        a, b = ({"value": np.asarray(x, np.float64)} for x in (array, jax[name]))
        cause = attribute(Weights(array), _Rounded(a, a, b, b))
        if cause.proven:
            found.append(explained_by(cause, (name,), (0,)))
        else:
            words = of_distribution(array, jax[name])
            signs, tried = cause.symptoms, cause.tried
            found.append(Explained((name,), (0,), words, symptoms=signs, tried=tried))
    return merged(found)


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
        self._same_rates = True
        self.notes: list[str] = []
        self.rounding: list[SiteResult] = []  # of findings that were no faults
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
                theirs = float(np.asarray(four.torch64))
                self._same_rates &= abs(rate - theirs) <= READ * abs(theirs)

    def explain(self, finding: Finding) -> list[Finding]:
        """A finding with its cause; several where it has several causes in different parameters.

        Args:
            finding: The finding, of the loss, the optimizer, the schedule, the gradient of a
                parameter, or of a whole step. Others are given back as they are.
        """
        found: list[Explained] = []
        phases = {phase_of(result.site) for result in finding.results}
        if phases == {"grad"} and (
            one := constant(self.trace, self._kept["layer"][1], finding.results)
        ):
            found = [one]
        elif finding.origin == "loss" and "loss" in phases:
            one = explain_loss(self.trace, *self._kept["layer"])
            found = [one] if one is not None else []
        elif finding.origin == "optimizer" and finding.level != "preflight":
            own = bool(self._rates)  # torch's took the place of the program's own
            found = explain_updates(self.trace, *self._kept["update"], self.carried, own)
        elif finding.origin == "schedule":
            found = self._schedules()
        elif finding.level == "preflight" and not finding.origin:
            found = explain_start(*self.start)
        elif finding.level == "step" and "update" in phases:
            own = bool(self._rates) and self._same_rates
            found = explain_updates(self.trace, *self._kept["step"], self.carried, own)
        elif finding.cause is None and phases <= {"grad", "param_grad"}:
            sites = dict.fromkeys(result.site for result in finding.results)
            found = explain_gradients(self.trace, *self._kept["layer"], sites)
        left = [r for r in finding.results if not _is_rounding(found, finding, r)]
        if len(left) < len(finding.results):
            self.rounding += [r for r in finding.results if not any(r is each for each in left)]
            self.notes += dict.fromkeys(each.words for each in found if each.rounding)
        # In float64 a state that goes on by itself comes from another rounding than torch's.
        known = left
        if finding.origin == "optimizer" and self.carried:
            known = [r for r in left if r.judgement.evidence == "float64"]
        named = [
            each
            for each in found
            if each.words and not each.rounding and any(_concerns(each, r.site) for r in known)
        ]
        parts = [_described(finding, each, left) for each in named]
        placed = {id(result) for part in parts for result in part.results}
        rest = [
            r
            for r in left
            if id(r) not in placed and not any(_concerns(each, r.site) for each in named)
        ]
        return [*parts, *([_unexplained(finding, found, rest)] if rest else [])]

    def _schedules(self) -> list[Explained]:
        found: list[Explained] = []
        number = 0
        for i, optimizer in enumerate(self.trace.optimizers):
            for j in range(len(optimizer["groups"])):
                site = f"lr:{number}"
                one = explain_rates(self.trace, self._rates.get(site, {}), i, j)
                number += 1
                if one is not None:
                    found.append(dataclasses.replace(one, places=(site,)))
        return merged(found)


def _is_rounding(found: Iterable[Explained], finding: Finding, result: SiteResult) -> bool:
    """Whether a result of a finding is no fault but a constant of float32.

    The cause was found in some elements of some steps. A result, which is of all elements, has to
    be no larger than what was found there.
    """
    shares = [each.rounding for each in found if each.rounding and _concerns(each, result.site)]
    size = max(r.judgement.scale for r in finding.results if r.site == result.site)
    return bool(shares) and result.judgement.double <= 2 * max(shares) * size


def _described(finding: Finding, explained: Explained, left: list[SiteResult]) -> Finding:
    """The part of a finding that a cause explains, among the results that are no rounding."""
    there = [r for r in left if _concerns(explained, r.site)]
    steps = explained.steps
    concerned = [r for r in there if r.step in steps] or there
    # The numbers of all steps prove the cause: in others it is within the digits of float32.
    others = [r for r in there if not any(r is each for each in concerned)]
    return dataclasses.replace(
        _part(finding, concerned, explained.places),
        consequences=[*finding.consequences, *others],
        cause=explained.words,
        proof=explained.proof,
        fix=explained.fix or finding.fix,
        alternatives=list(explained.alternatives[:MOST_ALTERNATIVES]),
        apart=explained.apart,
        tried=finding.tried + explained.tried,
    )


def _unexplained(
    finding: Finding, found: Iterable[Explained], rest: Sequence[SiteResult]
) -> Finding:
    """The part of a finding that no cause explains, with what the numbers show."""
    places = tuple(dict.fromkeys(_owner(result.site) for result in rest))
    tried = [
        each
        for each in found
        if not each.words
        and any({_owner(result.site), result.site} & {*each.places} for result in rest)
    ]
    part = _part(finding, rest, places)
    for sign in dict.fromkeys(sign for each in tried for sign in each.symptoms):
        # Elements were compared without their axes, of which nothing can be said.
        if "axis" not in sign and sign not in part.message:
            part.message = f"{part.message.removesuffix('.')}. {sign}"
    return dataclasses.replace(part, tried=finding.tried + sum(each.tried for each in tried))


def _part(finding: Finding, results: Sequence[SiteResult], places: Sequence[str]) -> Finding:
    """A finding with some of its results, which concern these places."""
    if len(results) == len(finding.results):
        return dataclasses.replace(finding)
    first = results[0]
    when = f" from step {first.step} on" if first.step > 0 else ""
    message = finding.message.removesuffix(f" from step {finding.step} on")
    return dataclasses.replace(
        finding,
        site=first.site,
        step=first.step,
        kind=kind_of(results),
        message=f"{message}{when} ({few(places)})",
        results=list(results),
    )


def _owner(site: str) -> str:
    """The parameter that a site is of; of others what the site names."""
    phase, _, place = site.partition(":")
    return place.rpartition(".")[0] if phase == "state" else place


def _concerns(explained: Explained, site: str) -> bool:
    return explained.places == LOSS or not {site, _owner(site)}.isdisjoint(explained.places)
