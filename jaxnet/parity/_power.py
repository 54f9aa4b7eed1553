"""What a trace can show: each known mistake is planted in the recorded program, and judged.

A check that finds no difference excludes the mistakes that would have changed the recorded
numbers, and no others: an epsilon beside a large variance, a bias that is zero, a dropout that
drops nothing, a prompt that is too short for its rotations to differ. For a mistake that is not
excluded, the inputs and weights are changed one by one until it shows.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity._attribute import observed
from jaxnet.parity._generic import numbers, weight
from jaxnet.parity._judge import judge
from jaxnet.parity._judgement import Judgement
from jaxnet.parity._losses import Loss, loss_references
from jaxnet.parity._rebuilt import of_call, of_function_call, recorded_numbers
from jaxnet.parity._reference import Layer, filled
from jaxnet.parity._result import Alternative
from jaxnet.parity._trace import Trace
from jaxnet.parity._traps import Hypothesis, Reference, Trap, traps_of
from jaxnet.parity._tree import leaves
from jaxnet.parity._updates import Update, updates

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


def power(trace: Trace) -> list[Alternative]:
    """The mistakes that a check with this trace would see, and those that it would not.

    Args:
        trace: The trace.

    Returns:
        For each layer, function, loss and optimizer the known mistakes that could be made there.
        Of a mistake with a constant, as another epsilon, the nearest usual value is taken.
    """
    found: list[Alternative] = []
    for place, records in _parts(trace).items():
        found += alternatives(place, records)
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
        for words, other in _probes(reference):
            own = observed(other)
            if own is None:
                continue
            found = _compared(hypothesis, Recorded(other), own, observed(other, hypothesis))
            if found is not None and found.seen:
                return words
    return ""


def _probes(reference: Any) -> Iterator[tuple[str, Any]]:
    """Other inputs and weights for a part of a program, each with what is said if they help."""
    if isinstance(reference, Layer):
        yield from _layer_probes(reference)
    elif isinstance(reference, Loss):
        yield from _loss_probes(reference)
    elif isinstance(reference, Update):
        yield "larger gradients show it", _larger_gradients(reference, 1e3)


def _layer_probes(layer: Layer) -> Iterator[tuple[str, Layer]]:
    for name, array in {**layer.parameters, **layer.buffers}.items():
        if array.dtype.kind == "f" and array.size and np.all(array == array.flat[0]):
            words = f'its {name} is {array.flat[0]:.6g} throughout; weights="generic" shows it'
            other: Any = {name: weight(array, name)}
            if name in layer.parameters:
                yield words, dataclasses.replace(layer, parameters={**layer.parameters, **other})
            else:
                yield words, dataclasses.replace(layer, buffers={**layer.buffers, **other})
    inputs = {p: a for p, a in leaves(dict(layer.inputs)) if isinstance(a, np.ndarray)}
    for path, array in inputs.items():
        for words, other in _arrays(array, path):
            name = "the input" if path in ("0", "input") else f"the input {path}"
            changed = filled(layer.inputs, {path: other})
            yield f"{name} hides it; {words} show it", dataclasses.replace(layer, inputs=changed)
    mode = "evaluation" if layer.training else "training"
    yield f"only {mode} mode shows it", dataclasses.replace(layer, training=not layer.training)
    if len(inputs) == 1:
        ((path, array),) = inputs.items()
        for axis, size in enumerate(array.shape):
            more = [numbers(array, path), np.take(numbers(array, "more"), [0], axis)]
            longer = filled(layer.inputs, {path: np.concatenate([array, *more], axis)})
            words = f"axis {axis} of the input has the size {size}; {2 * size + 1} shows it"
            yield words, dataclasses.replace(layer, inputs=longer, cotangents={})


def _arrays(array: np.ndarray, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Other arrays of a shape and dtype, and how they are called."""
    if array.dtype.kind in "fb":
        drawn = numbers(array, name)
        yield "random numbers of the same shape", drawn
        if array.dtype.kind == "f":
            yield "larger numbers", 30 * drawn
            yield "numbers far from zero", 30 + drawn


def _loss_probes(loss: Loss) -> Iterator[tuple[str, Loss]]:
    for name, array in loss.records[0].arguments.items():
        if not isinstance(array, np.ndarray) or not array.size:
            continue
        if name == "target" and array.dtype.kind == "i":
            index = loss.config["ignore_index"]
            words = f"no target is {index}; some that are ignored show it"
            yield words, _with_argument(loss, name, np.where(array % 2 == 0, index, array))
        for words, other in _arrays(array, name):
            yield f"{name} hides it; {words} show it", _with_argument(loss, name, other)


def _with_argument(loss: Loss, name: str, array: np.ndarray) -> Loss:
    """The first record of a loss with another argument."""
    first = loss.records[0]
    changed = dataclasses.replace(first, arguments={**first.arguments, name: array}, rest=())
    return dataclasses.replace(loss, records=(changed,))


def _larger_gradients(update: Update, factor: float) -> Update:
    records = tuple(
        dataclasses.replace(
            record,
            gradient=factor * record.gradient,
            raw=factor * record.raw,
            clip=dataclasses.replace(
                record.clip,
                norm=factor * record.clip.norm,
                own=factor * record.clip.own,
                units=factor * record.clip.units,
            ),
        )
        for record in update.records
    )
    return dataclasses.replace(update, records=records)


def _parts(trace: Trace) -> dict[str, list[Recorded]]:
    """The records of all parts of a program that are built again, by place."""
    found: dict[str, list[Recorded]] = {}

    def add(place: str, record: Recorded) -> None:
        records = found.setdefault(place, [])
        if len(records) < _RECORDS:
            records.append(record)

    for step in trace.steps:
        if not step.full:
            continue
        inside = {call.parent for call in step.calls}
        atomic = [call for i, call in enumerate(step.calls) if i not in inside]
        for call in atomic:
            try:
                reference = of_call(trace, step, call)
            except ValueError:  # a class of the user's own: what it calls is tried
                continue
            add(
                call.module or "the model",
                Recorded(reference, *recorded_numbers(trace, step, call)),
            )
        for function in step.functions:
            try:
                add(
                    f"{function.function} {function.where}",
                    Recorded(of_function_call(step, function)),
                )
            except ValueError:
                continue
    for number, loss in enumerate(loss_references(trace)):
        add("loss" if not number else f"loss {number}", Recorded(loss))
    for group in trace.optimizers:
        names = {name for each in group["groups"] for name in each["params"]}
        for carried in (False, True):  # from torch's state, and from the program's own
            for name, update in list(updates(trace, carried).items())[:_RECORDS]:
                if name in names:
                    records = found.setdefault(f"{group['class']} optimizer", [])
                    records.append(Recorded(update))
    return found
