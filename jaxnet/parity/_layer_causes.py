"""The cause of a difference at a site of a trace: in a layer, or in the code between layers."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxnet.parity._attribute import Cause, attribute
from jaxnet.parity._evidence import Evidence, FourRuns, StepEvidence
from jaxnet.parity._judgement import label_of
from jaxnet.parity._rebuilt import of_call
from jaxnet.parity._reference import Layer
from jaxnet.parity._region import arriving, region_of
from jaxnet.parity._result import Finding
from jaxnet.parity._sites import at
from jaxnet.parity._trace import Call
from jaxnet.parity._traps import Trap, traps_of
from jaxnet.parity._tree import keys_of

MOST_ALTERNATIVES = 8


def explain_finding(finding: Finding, evidence: StepEvidence) -> None:
    """Adds the cause to a finding, where one is found in a layer or between layers.

    Args:
        finding: The finding, which is changed.
        evidence: The numbers of its step.
    """
    kind, _, name = finding.origin.partition(":")
    sites = [result.site for result in finding.results if result.step == evidence.step.index]
    if kind == "module" or kind == "after":
        causes = _of_module(evidence, name, sites)
    elif kind == "between":
        causes = _of_sites(evidence, dict.fromkeys((name, *sites)))
    elif kind == "before":
        causes = _of_sites(evidence, sites)
    else:
        return
    for cause in causes:
        if cause.precision and _in_float64(finding):
            cause = dataclasses.replace(cause, proven=())  # it is of another array
        describe(finding, cause)
        if cause.proven:
            break


def _in_float64(finding: Finding) -> bool:
    """Whether what differs does so in float64, which no rounding of float32 explains."""
    judgements = (result.judgement for result in finding.results)
    return any(
        label_of(j.double, j.left * max(j.torch, j.jax), j.scale) == "different"
        for j in judgements
        if j.evidence == "float64"
    )


def describe(finding: Finding, cause: Cause) -> None:
    """Adds to a finding what was found of its cause."""
    words, fixes = cause.words, cause.fixes
    if not words and cause.symptoms and cause.symptoms[0] not in finding.message:
        finding.message = f"{finding.message}. {' '.join(cause.symptoms)}"
    finding.cause = words[0] if words else None
    finding.proof = cause.proof
    finding.fix = fixes[0] if fixes else finding.fix
    finding.alternatives = words[1 : 1 + MOST_ALTERNATIVES]
    finding.tried += cause.tried


def _of_module(evidence: StepEvidence, name: str, sites: Sequence[str]) -> Iterator[Cause]:
    """The causes of the calls of a module, the first that differs first."""
    calls = [call for call in evidence.step.calls if call.module == name]
    outputs = {f"forward:{call.name}" for call in calls}
    differing = [c for c in calls if any(_is_part(s, f"forward:{c.name}") for s in sites)]
    for call in differing or calls[:1]:
        try:
            layer = of_call(evidence.trace, evidence.step, call)
        except ValueError:
            break
        numbers = of_layer(evidence, call, layer, alone=len(calls) == 1)
        yield attribute(layer, numbers, rows_of(layer))
    # A module of the user's own, or one that holds others: what it computes by itself.
    yield from _of_sites(evidence, [s for s in sites if any(_is_part(s, o) for o in outputs)])


def rows_of(layer: Layer) -> tuple[Trap, ...]:
    """The rows for a layer: those of its kind, and those of all layers."""
    return (*traps_of(layer.kind), *traps_of("layer"))


def _is_part(site: str, whole: str) -> bool:
    return site == whole or site.startswith(whole + ".")


def _of_sites(evidence: StepEvidence, sites: Iterable[str]) -> Iterator[Cause]:
    """The causes of arrays that functions compute from what modules gave."""
    for site in sites:
        four = evidence.forced.get(site)
        if four is None or not _is_whole(four):
            continue
        region = region_of(evidence.step, site)
        cause = attribute(region, _evidence({"output": four}), region.rows())
        yield cause if cause.proven else arriving(evidence.step, site, four.jax64, cause)


def of_layer(evidence: StepEvidence, call: Call, layer: Layer, alone: bool) -> Evidence:
    """The numbers of both programs of one call, by the names of `Layer.observe`.

    Args:
        evidence: The numbers of the step.
        call: The call.
        layer: The reference. Torch's gradients of the inputs are not recorded, as each is a part
            of a sum; they are the reference's if its outputs are torch's.
        alone: Whether the module is called once, so that its parameters' gradients and its
            buffers are of this call.
    """
    fours: dict[str, FourRuns | None] = {}
    for path, key in keys_of(call.output).items():
        site = at(f"forward:{call.name}", path)
        met = call.name in evidence.where
        fours[at("output", path)] = evidence.forced.get(site) if met else _given(evidence, key)
    prefix = f"{call.module}." if call.module else ""
    if alone:
        for kind, phase, names in (
            ("param_grad", "param_grad", layer.parameters),
            ("buffer", "buffer", layer.buffers),
        ):
            for name in names:
                fours[f"{kind}:{name}"] = evidence.forced.get(f"{phase}:{prefix}{name}")
    arrived: dict[str, list[FourRuns]] = {}
    for path in keys_of(call.inputs):
        if four := evidence.input_grads.get(f"{call.name}.{path}"):
            arrived.setdefault(layer.same.get(path, path), []).append(four)
    own: dict[str, np.ndarray] = {}
    if arrived:
        try:
            own = layer.observe()
        except (ValueError, TypeError):
            own = {}
    for path, parts in arrived.items():
        torch = own.get(f"input_grad:{path}")
        if torch is not None and all(_is_computed(part) for part in parts):
            jax32, jax64 = (np.sum([getattr(p, n) for p in parts], 0) for n in ("jax", "jax64"))
            fours[f"input_grad:{path}"] = FourRuns(torch, torch, jax32, jax64)
    return _evidence(fours)


def _given(evidence: StepEvidence, key: str) -> FourRuns | None:
    """The numbers of an output of a call that the program does not make, where they are given on.

    Args:
        evidence: The numbers of the step.
        key: The name of the recorded output.
    """
    step = evidence.step
    if key not in step:
        return None
    keys = {
        f"input:{call.name}.{path}": name
        for call in step.calls
        for path, name in keys_of(call.inputs).items()
    }
    for site, four in evidence.forced.items():
        name = keys.get(site, "")
        if name in step and np.array_equal(step[name], step[key]):
            return four
    return None


def _is_computed(four: FourRuns) -> bool:
    return four.jax is not None and four.jax64 is not None


def _is_whole(four: Any) -> bool:
    runs = () if four is None else (four.torch, four.torch64, four.jax, four.jax64)
    return bool(runs) and all(array is not None for array in runs)


def _evidence(fours: dict[str, Any]) -> Evidence:
    whole = {name: four for name, four in fours.items() if _is_whole(four)}
    return Evidence(
        {name: four.torch for name, four in whole.items()},
        {name: four.torch64 for name, four in whole.items()},
        {name: four.jax for name, four in whole.items()},
        {name: four.jax64 for name, four in whole.items()},
    )
