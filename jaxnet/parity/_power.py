"""What a trace can show: each known mistake is planted in the recorded program, and judged.

A check that finds no difference excludes the mistakes that would have changed the recorded
numbers, and no others: an epsilon beside a large variance, a bias that is zero, a dropout that
drops nothing, a prompt that is too short for its rotations to differ. For a mistake that is not
excluded, the inputs and weights are changed one by one until it shows.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity._attribute import observed
from jaxnet.parity._judge import judge
from jaxnet.parity._judgement import Judgement
from jaxnet.parity._losses import loss_references
from jaxnet.parity._probes import probes
from jaxnet.parity._rebuilt import of_call, of_function_call, recorded_numbers
from jaxnet.parity._reference import Layer
from jaxnet.parity._result import Alternative, Report, SiteResult
from jaxnet.parity._sites import phase_of
from jaxnet.parity._trace import Call, Function, Step, Trace
from jaxnet.parity._traps import Hypothesis, Reference, Trap, traps_of
from jaxnet.parity._updates import updates

# Of a row with many options so many are tried, and of a part of the program so many records.
_OPTIONS, _RECORDS = 4, 3

Numbers = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One record of a part of a program.

    Attributes:
        reference: The part, built again with jaxnet.
        torch: The float32 numbers of the torch program, by the names of `observe`, as far as the
            trace has them.
        torch64: Those in float64.
    """

    reference: Reference
    torch: Numbers = dataclasses.field(default_factory=dict)
    torch64: Numbers = dataclasses.field(default_factory=dict)


def power(trace: Trace, report: Report) -> list[Alternative]:
    """The mistakes that a check with this trace would have seen, and those that it would not.

    Args:
        trace: The trace.
        report: The report of the check. What it has not compared, in float64 and layer by layer,
            excludes nothing.

    Returns:
        For each layer, function, loss and optimizer the known mistakes that could be made there.
        Of a mistake with a constant, as another epsilon, the nearest usual value is taken.
    """
    found: list[Alternative] = []
    for place, records in parts(trace, report).items():
        if records:
            found += alternatives(place, records)
        else:
            found.append(Alternative(place, "any", False, 0.0, "it was not compared"))
    return found


def alternatives(
    place: str, records: Sequence[Recorded], traps: Iterable[Trap] | None = None
) -> list[Alternative]:
    """The mistakes that can be made at one place, and whether its records exclude them.

    Args:
        place: The name of the place.
        records: The records, at least one.
        traps: The rows of the catalogue; by default those of the reference's kind.
    """
    first = records[0].reference
    place_of = _Place(records)
    if place_of.wrong:
        return [Alternative(place, "any", False, 0.0, place_of.wrong)]
    found = []
    for trap in traps_of(first.kind) if traps is None else traps:
        for hypothesis in _chosen(trap, first):
            tried = place_of.tried(hypothesis)
            reason = ""
            if tried is None or not tried.seen:
                reason = _reason(hypothesis, [record.reference for record in records])
                if tried is None and not reason:
                    continue  # this mistake cannot be made here
            seen, separation = (False, 0.0) if tried is None else tried
            if not seen and not reason:
                given = ", ".join(f"{n}={v!r}" for n, v in first.config.items() if v is not None)
                reason = f"nothing that was tried shows it with {given or 'these arguments'}"
            words = hypothesis.words(first.config)
            found.append(Alternative(place, words, seen, separation, reason))
    return found


def candidates(records: Sequence[Recorded]) -> Iterator[Hypothesis]:
    """The mistakes that can be made at one place and that its records exclude."""
    if not records:
        return
    place = _Place(records)
    for trap in () if place.wrong else traps_of(records[0].reference.kind):
        for hypothesis in () if trap.precision else _chosen(trap, records[0].reference):
            tried = place.tried(hypothesis)
            if tried is not None and tried.seen:
                yield hypothesis


class _Tried(NamedTuple):
    """Whether a mistake shows, and how many floors it moves the numbers."""

    seen: bool
    separation: float


class _Place:
    """The records of a place, each computed when it is needed: most mistakes show in the first.

    Args:
        records: The records.
    """

    def __init__(self, records: Sequence[Recorded]) -> None:
        self._records = records
        self._own: list[Numbers | None] = []
        first = self._observed(0)
        kind = records[0].reference.kind
        self.wrong = ""
        if first is None:
            self.wrong = f"jaxnet's own {kind} cannot be built here"
        else:
            for name in _unlike(records[0], first):
                self.wrong = f"jaxnet's own {kind} gives another {name} than torch's here"

    def _observed(self, number: int) -> Numbers | None:
        while len(self._own) <= number:
            self._own.append(observed(self._records[len(self._own)].reference))
        return self._own[number]

    def tried(self, hypothesis: Hypothesis) -> _Tried | None:
        """What a mistake does to the records; None where it cannot be made with any."""
        most: _Tried | None = None
        for number, record in enumerate(self._records):
            own = self._observed(number)
            found = None if own is None else _judged(hypothesis, record, own)
            if found is not None:
                most = found if most is None else max(most, found)
                if most.seen:
                    break
        return most


def _chosen(trap: Trap, reference: Reference) -> Iterator[Hypothesis]:
    """The hypotheses of a row, with the usual constants that are nearest to torch's own."""
    for number, hypothesis in enumerate(trap.choices(reference)):
        if number == _OPTIONS:
            return
        values = {}
        for name, usual in trap.constants.items():
            own = reference.config.get(name)
            if isinstance(own, int | float) and not isinstance(own, bool):
                others = [v for v in usual if not math.isclose(v, own, rel_tol=1e-6)]
                usual = tuple(sorted(others, key=lambda v: _apart(v, float(own))))
            if usual:
                values[name] = usual[0]
        if len(values) == len(trap.constants):
            yield hypothesis.fitted(**values)


def _apart(one: float, other: float) -> float:
    """How far two constants lie apart, as powers of ten where that can be said."""
    if one > 0 and other > 0:
        return abs(math.log(one / other))
    return abs(one - other)


def _unlike(record: Recorded, own: Numbers) -> Iterator[str]:
    """The numbers of the reference that are not torch's."""
    for name, torch64 in record.torch64.items():
        if name in own:
            torch = record.torch[name]
            if judge(torch, torch64, torch, own[name], site=name).failed:
                yield name


def _judged(hypothesis: Hypothesis, record: Recorded, own: Numbers) -> _Tried | None:
    reference = record.reference
    if isinstance(reference, Layer) and reference.cotangents:
        # Most mistakes show in the output, and gradients take longer.
        output = dataclasses.replace(reference, cotangents={})
        found = _compared(hypothesis, record, own, observed(output, hypothesis))
        if found is not None and found.seen:
            return found
    return _compared(hypothesis, record, own, observed(reference, hypothesis))


def _compared(
    hypothesis: Hypothesis, record: Recorded, own: Numbers, other: Numbers | None
) -> _Tried | None:
    if other is None:
        return None
    precision = hypothesis.trap.precision
    found = [
        _judgement(name, record, own[name], other[name], precision) for name in own if name in other
    ]
    labels = ("different", "precision") if precision else ("different",)
    return _Tried(
        any(judgement.label in labels for judgement in found),
        max((j.double / j.floor for j in found if j.floor), default=0.0),
    )


def _judgement(
    name: str, record: Recorded, own: np.ndarray, other: np.ndarray, precision: bool
) -> Judgement:
    if own.dtype.kind not in "f" or own.shape != other.shape:
        return judge(own, None, other, None, site=name)
    torch, torch64 = record.torch.get(name), record.torch64.get(name)
    with np.errstate(over="ignore", invalid="ignore"):
        if torch is None or torch64 is None or torch.shape != own.shape:
            torch = own.astype(np.float32)
        else:  # with the rounding of the torch program
            torch = (own + (torch - torch64)).astype(np.float32)
        if precision:
            return judge(torch, own, other, own, site=name)
        rounded = (other + (torch - own)).astype(np.float32)
    return judge(torch, own, rounded, other, site=name)


def _reason(hypothesis: Hypothesis, references: Sequence[Any]) -> str:
    """What would show a mistake; "" if nothing does."""
    for reference in references:
        for words, other in probes(reference):
            own = observed(other)
            if own is None:
                continue
            found = _compared(hypothesis, Recorded(other), own, observed(other, hypothesis))
            if found is not None and found.seen:
                return words
    return ""


def parts(trace: Trace, report: Report) -> dict[str, list[Recorded]]:
    """The records that were compared of all parts that are built again, by place."""
    found: dict[str, list[Recorded]] = {}
    layered = {int(number) for number in report.coverage["steps"].seen}
    judged = [r for r in report.results if r.level == "layer"]
    weak = {r.place for r in judged if phase_of(r.site) == "forward" and _is_narrow(r)}
    compared = set(report.coverage["modules"].seen) - weak

    def add(place: str, made: Callable[[], Recorded], counts: bool) -> None:
        if counts and len(found.get(place, [])) == _RECORDS:
            return
        try:
            record = made()
        except ValueError:  # a class of the user's own: what it calls is tried
            return
        records = found.setdefault(place, [])
        if counts:
            records.append(record)

    for step in trace.steps:
        if not step.full:
            continue
        inside = {call.parent for call in step.calls}
        for i, call in enumerate(step.calls):
            if i not in inside:
                add(
                    call.module or "the model",
                    partial(_of_call, trace, step, call),
                    step.index in layered and call.module in compared,
                )
        for function in step.functions:
            parent = function.parent
            add(
                f"{function.function} {function.where}",
                partial(_of_function, step, function),
                step.index in layered and (parent is None or step.calls[parent].module in compared),
            )
    seen = tuple(step for step in trace.steps if step.index in layered)
    losses = loss_references(dataclasses.replace(trace, steps=seen))
    if not losses and loss_references(trace):
        found["loss"] = []
    for number, loss in enumerate(losses):
        add("loss" if not number else f"loss {number}", partial(Recorded, loss), True)
    made = {
        (r.site.partition(":")[2], r.step)
        for r in judged
        if phase_of(r.site) == "update" and not _is_narrow(r)
    }
    steps = sorted({step for _, step in made})
    for group in trace.optimizers:
        names = {name for each in group["groups"] for name in each["params"]}
        records = found.setdefault(f"{group['class']} optimizer", [])
        # From torch's state, and from the program's own, which goes on from the first step.
        for carried in (False, True) if steps == [*range(len(steps))] else (False,):
            for name, update in list(updates(trace, carried).items())[:_RECORDS]:
                kept = tuple(r for r in update.records if (name, r.step) in made)
                if name in names and kept:
                    records.append(Recorded(dataclasses.replace(update, records=kept)))
    return found


def _is_narrow(result: SiteResult) -> bool:
    return result.judgement.evidence == "float32"


def _of_call(trace: Trace, step: Step, call: Call) -> Recorded:
    return Recorded(of_call(trace, step, call), *recorded_numbers(trace, step, call))


def _of_function(step: Step, function: Function) -> Recorded:
    return Recorded(of_function_call(step, function))
