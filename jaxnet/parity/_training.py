"""The causes of differences outside of layers: in the loss, the gradients and the updates."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet.parity._attribute import Cause, Evidence, attribute, difference
from jaxnet.parity._force import StepEvidence
from jaxnet.parity._judge import rms
from jaxnet.parity._losses import loss_references
from jaxnet.parity._result import Finding
from jaxnet.parity._schedules import Rates, rates
from jaxnet.parity._steps import StepRuns
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._traps import Hypothesis, Trap, traps_of
from jaxnet.parity._traps.gradients import Gradient
from jaxnet.parity._traps.preflight import INPUTS, TARGETS, WEIGHTS, Value, of_distribution
from jaxnet.parity._updates import Update, chosen, gradients_of, updates

Steps = Mapping[int, Mapping[str, np.ndarray]]
"""The JAX program's arrays of each step, by site."""

Arrays = dict[int, dict[str, np.ndarray]]

_KEPT = ("update", "state", "loss", "param_grad")
_MOST_ALTERNATIVES = 8
# A learning rate that is read from an update has ten digits, one in float32 seven.
_READ = 1e-7
# Some roundings of float32, of the largest learning rate: schedules subtract.
_FLOAT32 = 8 * 2.0**-24


@dataclasses.dataclass(frozen=True)
class Explained:
    """A cause of differences outside of layers.

    Attributes:
        places: The parameters that it concerns, or the loss.
        steps: The steps that show it.
        words: What the program has and what torch has; "" where no row of the catalogue explains
            the difference.
        fix: What to write.
        proof: The numbers that prove it.
        alternatives: Other causes that cannot be told from it.
        symptoms: What the numbers show by themselves, in sentences.
        tried: How many causes were tried.
        traps: The names of the rows of the catalogue.
        rounding: Whether it is no fault: constants of float32 in the program's float64 run.
    """

    places: tuple[str, ...]
    steps: tuple[int, ...]
    words: str = ""
    fix: str = ""
    proof: str = ""
    alternatives: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()
    tried: int = 0
    traps: tuple[str, ...] = ()
    rounding: bool = False


class _Read(Evidence):
    """Numbers that were read from others, which have fewer digits."""

    def tolerance(self, name: str) -> float:
        return _READ * rms(self.torch64[name])


class _UntrustedError(Exception):
    """The reference of a parameter does not give torch's updates."""


@dataclasses.dataclass(frozen=True)
class _Case:
    """One parameter whose updates differ."""

    update: Update
    evidence: Evidence
    steps: tuple[int, ...]


def explain_updates(
    trace: Trace, jax: Steps, jax64: Steps, carried: bool = False
) -> list[Explained]:
    """The causes of updates that differ from torch's, where the gradients are torch's.

    Args:
        trace: The trace.
        jax: The JAX program's "update:NAME", and "state:NAME.SLOT" as far as they are known, of
            each step in float32, each computed from torch's parameters and gradients.
        jax64: The same in float64.
        carried: Whether its optimizer began anew before the first recorded step and went on from
            its own state, in each precision, instead of torch's state in each step. The recorded
            run has to begin with torch's first update then.

    Returns:
        A cause for each group of parameters that one explains, and what is left unexplained.
    """
    known = updates(trace, carried)
    cases, untrusted = [], []
    for update in known.values():
        try:
            case = _case(trace, update, jax, jax64)
        except _UntrustedError:
            untrusted.append(update.parameter)
            continue
        if case is not None:
            cases.append(case)
    found, left = _grouped(cases)
    explained = [
        _explained(cause, [c.update.parameter for c in group], [s for c in group for s in c.steps])
        for cause, group in found
    ]
    by_rate, left = _by_schedule(trace, left)
    explained += by_rate
    if untrusted:
        sign = "the reference does not give torch's own updates: they were not compared"
        explained.append(Explained(tuple(untrusted), (), symptoms=(sign,)))
    explained += [
        Explained((c.update.parameter,), c.steps, symptoms=cause.symptoms, tried=cause.tried)
        for c, cause in left
    ]
    return explained + _frozen(trace, known, jax64)


def _case(trace: Trace, update: Update, jax: Steps, jax64: Steps) -> _Case | None:
    """A parameter with the numbers of both programs; None where the updates are the same."""
    name = update.parameter
    torch, torch64, ours, ours64 = ({} for _ in range(4))
    for record in update.records:
        step, k = trace.steps[record.step], record.step
        for site, key in _sites(name, record.step, jax64.get(k, {})):
            if site not in step:
                continue
            start = record.before if site.startswith("update:") else 0.0
            torch[key] = chosen(step[site]) - start
            torch64[key] = chosen(step.double(site)) - start
            ours64[key] = chosen(jax64[k][site]) - start
            ours[key] = chosen(jax[k][site]) - start if site in jax.get(k, {}) else ours64[key]
    if update.carried:
        # Torch's float64 numbers of a step begin with its float32 state. What they would be with
        # a state of float64 from the first update on, the reference says, if it gives torch's.
        plain = dataclasses.replace(update, carried=False).observe()
        trial = Evidence(torch, torch64, torch, torch64)
        if any(difference(plain[k], torch64[k]) > trial.tolerance(k) for k in torch64):
            raise _UntrustedError
        torch64 = {k: v for k, v in update.observe().items() if k in torch64}
        torch = {k: torch[k] - plain[k] + v for k, v in torch64.items()}
    evidence = Evidence(torch, torch64, ours, ours64)
    failing = {
        int(key.split(":")[0])
        for key in torch64
        if difference(torch64[key], ours64[key]) > evidence.tolerance(key)
    }
    return _Case(update, evidence, tuple(sorted(failing))) if failing else None


def _sites(name: str, step: int, given: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """The sites of a parameter, with the names of `Update.observe`."""
    for site in given:
        if site == f"update:{name}":
            yield site, f"{step}:change"
        elif site.startswith(f"state:{name}.") and not site.endswith(".step"):
            slot = site.removeprefix(f"state:{name}.")
            if "." not in slot:
                yield site, f"{step}:{slot}"


Key = tuple[tuple[str, tuple[Any, ...]], ...]


def _key(hypotheses: Sequence[Hypothesis]) -> Key:
    """What makes two proven causes one."""
    return tuple(sorted((h.trap.name, tuple(h.values.values())) for h in hypotheses))


def _grouped(
    cases: Sequence[_Case],
) -> tuple[list[tuple[Cause, list[_Case]]], list[tuple[_Case, Cause]]]:
    """The causes with the parameters that each explains, and the cases that none explains.

    The next parameter is first tried with the causes of those before it, since one mistake
    mostly concerns many parameters.
    """
    found: list[tuple[Cause, list[_Case]]] = []
    left = []
    # Those that show the difference in most steps first: they tell most causes apart.
    for case in sorted(cases, key=lambda c: -len(c.steps)):
        for i, (cause, group) in enumerate(found):
            rows = {h.trap.name: h.trap for each in cause.proven for h in each}
            again = attribute(case.update, case.evidence, rows.values())
            shared = {_key(each) for each in again.proven}
            both = tuple(each for each in cause.proven if _key(each) in shared)
            if both:
                found[i] = dataclasses.replace(cause, proven=both), [*group, case]
                break
        else:
            cause = attribute(case.update, case.evidence)
            if cause.proven:
                found.append((cause, [case]))
            else:
                left.append((case, cause))
    return found, left


def _explained(cause: Cause, places: Sequence[str], steps: Iterable[int]) -> Explained:
    return Explained(
        tuple(places),
        tuple(sorted(set(steps))),
        cause.words[0],
        cause.fixes[0],
        cause.proof,
        tuple(cause.words[1:]),
        cause.symptoms,
        cause.tried,
        tuple(h.trap.name for h in cause.proven[0]),
    )


def _by_schedule(
    trace: Trace, left: list[tuple[_Case, Cause]]
) -> tuple[list[Explained], list[tuple[_Case, Cause]]]:
    """The cases that other learning rates explain, one in each step."""
    explained: dict[tuple[str, ...], Explained] = {}
    rest = []
    rows = [trap for trap in traps_of("SGD") if trap.name == "lr-value"]
    for case, cause in left:
        read = _read_rates(case, rows)
        if read is None:
            rest.append((case, cause))
            continue
        reference = rates(trace, *_group_of(trace, case.update.parameter))
        torch, ours = (np.array(list(each.values())) for each in (read[0], read[1]))
        apart = np.abs(ours - torch) > _FLOAT32 * np.max(np.abs(torch))
        if not np.any(apart):
            words = "The learning rates are torch's, computed in float32."
            new = Explained((case.update.parameter,), case.steps, words, rounding=True)
            old = explained.get((words,))
            places = (*(old.places if old else ()), case.update.parameter)
            explained[(words,)] = dataclasses.replace(new, places=places)
            continue
        steps = tuple(k for k, is_apart in zip(read[0], apart, strict=True) if is_apart)
        n = reference.observed
        names = {"lr": (torch[:n], ours[:n])}
        evidence = _Read(
            *({k: v[0] for k, v in names.items()},) * 2, *({k: v[1] for k, v in names.items()},) * 2
        )
        series = attribute(reference, evidence)
        proven = [hs for hs in series.proven if _proves(case, reference, hs)] or list(series.proven)
        proof = (
            "the learning rates that your updates have are "
            + ", ".join(f"{lr:.6g}" for lr in ours)
            + "; torch's are "
            + ", ".join(f"{lr:.6g}" for lr in torch)
        )
        if proven:
            series = dataclasses.replace(series, proven=tuple(proven))
            new = dataclasses.replace(
                _explained(series, [case.update.parameter], steps), proof=proof
            )
        else:
            words = "The learning rates are others than torch's, by no rule that is known."
            fix = "the schedule of the torch program"
            new = Explained((case.update.parameter,), steps, words, fix, proof)
        old = explained.get((new.words,))
        if old is not None:
            new = dataclasses.replace(
                old,
                places=(*old.places, *new.places),
                steps=tuple(sorted({*old.steps, *new.steps})),
            )
        explained[(new.words,)] = new
    return list(explained.values()), rest


def _read_rates(
    case: _Case, rows: Sequence[Trap]
) -> tuple[dict[int, float], dict[int, float]] | None:
    """Torch's learning rate in each step and the JAX program's, None where none explains a step."""
    torch, ours = {}, {}
    update = case.update.begun_again()
    for record in update.records:
        one = dataclasses.replace(update, records=(record,))
        keys = [key for key in case.evidence.torch64 if key.startswith(f"{record.step}:")]
        parts = (
            {key: part[key] for key in keys if key in part}
            for part in dataclasses.astuple(case.evidence)
        )
        torch[record.step] = ours[record.step] = float(record.config["lr"])
        if record.step in case.steps:
            cause = attribute(one, Evidence(*parts), rows)
            if not cause.proven:
                return None
            ours[record.step] = float(cause.proven[0][0].values["lr"])
    return torch, ours


def _proves(case: _Case, reference: Rates, hypotheses: Sequence[Hypothesis]) -> bool:
    """Whether the rates that a hypothesis gives make the updates themselves."""
    changed: Any = reference
    for hypothesis in hypotheses:
        changed = hypothesis.applied(changed)
    try:
        series = changed.observe()["lr"]
    except (ValueError, TypeError):
        return False
    lrs = dict(enumerate(series))
    steps = [r for r in case.update.records if r.step in lrs]
    numbers = dataclasses.replace(case.update, records=tuple(steps)).altered(lrs=lrs).observe()
    return all(
        difference(numbers[k], case.evidence.jax64[k]) <= case.evidence.tolerance(k)
        for k in numbers
        if k in case.evidence.jax64
    )


def _group_of(trace: Trace, parameter: str) -> tuple[int, int]:
    return next(
        (i, j)
        for i, optimizer in enumerate(trace.optimizers)
        for j, group in enumerate(optimizer["groups"])
        if parameter in group["params"]
    )


def _frozen(trace: Trace, known: Mapping[str, Update], jax64: Steps) -> list[Explained]:
    """Parameters that torch does not train and the JAX program does."""
    moved: dict[str, list[int]] = {}
    for step in trace.steps:
        for name in step.of("before"):
            ours = jax64.get(step.index, {}).get(f"update:{name}")
            if name in known or ours is None or f"param_grad:{name}" in step:
                continue
            before = step.double(f"before:{name}")
            same = np.array_equal(before, step.double(f"update:{name}"))
            if same and not np.array_equal(before, ours):
                moved.setdefault(name, []).append(step.index)
    if not moved:
        return []
    return [
        Explained(
            tuple(moved),
            tuple(sorted({s for steps in moved.values() for s in steps})),
            "These parameters are trained; in torch they have no gradient (requires_grad=False, "
            "or not used) and stay as they are.",
            'optim.groups([("NAME", optim.frozen())], optimizer)',
            "torch's updates are 0",
            traps=("frozen-trained",),
        )
    ]


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
    return _explained(best[0], (best[1].kind,), steps)


def _simpler(cause: Cause, other: Cause) -> bool:
    """Whether a proven cause has fewer parts and constants than another one."""

    def size(each: Cause) -> tuple[int, int]:
        first = each.proven[0]
        return len(first), sum(len(h.trap.constants) for h in first)

    return bool(cause.proven and other.proven) and size(cause) < size(other)


def explain_gradients(trace: Trace, jax: Steps, jax64: Steps) -> list[Explained]:
    """The causes of gradients of parameters that differ, where all they come from is torch's.

    Args:
        trace: The trace.
        jax: The JAX program's "param_grad:NAME" of each step in float32.
        jax64: The same in float64.
    """
    found: dict[str, Explained] = {}
    for name in trace.parameters:
        site = f"param_grad:{name}"
        steps = [s for s in trace.steps if site in s.sites and site in jax64.get(s.index, {})]
        if not steps:
            continue
        parts: list[dict[str, np.ndarray]] = [{}, {}, {}, {}]
        norms, batches = {}, 1
        for step in steps:
            ours = jax[step.index][site], jax64[step.index][site]
            arrays = (chosen(step[site]), chosen(step.double(site)), *map(chosen, ours))
            for part, array in zip(parts, arrays, strict=True):
                part[f"{step.index}:gradient"] = array
            norms[step.index] = gradients_of(step)[1]
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
        reference = Gradient(name, given, norms, batches)
        cause = attribute(reference, evidence)
        if not cause.proven:
            continue
        one = _explained(cause, (name,), wrong)
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
    wrong = [k for k in range(len(torch)) if abs(torch[k] - mine[k]) > _READ * abs(torch[k])]
    if not wrong:
        return None
    a, b = {"lr": torch[:count]}, {"lr": mine[:count]}
    cause = attribute(reference, _Read(a, a, b, b))
    if not cause.proven:
        return Explained((f"lr:{group}",), tuple(wrong), symptoms=cause.symptoms, tried=cause.tried)
    return _explained(cause, (f"lr:{group}",), wrong)


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
        # A change that was made in float32 is known to its rounding.
        a, b = {"value": array}, {"value": ours}
        cause = attribute(value, _Read(a, a, b, b))
        words = cause.words[0] if cause.proven else ""
        if not words and kind == WEIGHTS:
            words = of_distribution(name, array, ours)
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
                phase = site.partition(":")[0]
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
        phases = {result.site.partition(":")[0] for result in finding.results}
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
        elif finding.cause is None and phases == {"param_grad"}:
            found = explain_gradients(self.trace, *self._kept["layer"])
        named = [each for each in found if each.words]
        if found and all(each.rounding for each in found):
            self.notes += [each.words for each in found]
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
    names = ", ".join(explained.places[:4])
    more = f" and {len(explained.places) - 4} more" if len(explained.places) > 4 else ""
    few = len(concerned) < len(finding.results)
    when = f" from step {first.step} on" if first.step > 0 else ""
    return dataclasses.replace(
        finding,
        site=first.site,
        step=first.step,
        kind=first.judgement.label,
        message=f"{_without_step(finding)}{when} ({names}{more})" if few else finding.message,
        cause=explained.words,
        proof=explained.proof,
        fix=explained.fix or finding.fix,
        alternatives=list(explained.alternatives[:_MOST_ALTERNATIVES]),
        results=list(concerned),
        tried=finding.tried + explained.tried,
    )


def _without_step(finding: Finding) -> str:
    return finding.message.removesuffix(f" from step {finding.step} on")


def _concerns(explained: Explained, site: str) -> bool:
    phase, _, place = site.partition(":")
    name = place.rpartition(".")[0] if phase == "state" else place
    return name in explained.places
