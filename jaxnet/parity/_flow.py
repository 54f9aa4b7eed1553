"""What lies between the calls of a step: which outputs an argument was computed from, and how."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from jaxnet.parity._evidence import StepEvidence
from jaxnet.parity._sites import at, call_of, module_name, phase_of
from jaxnet.parity._trace import Function, Step
from jaxnet.parity._tree import keys_of


@dataclasses.dataclass(frozen=True)
class Path:
    """How an array was computed from outputs of calls.

    Attributes:
        functions: The calls of functions between, in their order.
        calls: The calls whose outputs went in, with the parts ("lstm#0.1.0").
    """

    functions: tuple[Function, ...]
    calls: tuple[str, ...]

    @property
    def name(self) -> str:
        """The functions' names: "view#0, log_softmax#0"."""
        return ", ".join(function.name for function in self.functions)


@dataclasses.dataclass(frozen=True)
class Flow:
    """The flow of numbers in a step.

    Attributes:
        paths: For each argument ("input:fc2#0.0"), and each output of a call with calls inside
            ("forward:#0"), how torch computed it.
        consumers: For each output ("ln#0") the calls that the checked program gives it unchanged.
        roots: The outputs of the outermost calls, which the loss gets.
    """

    paths: Mapping[str, Path]
    consumers: Mapping[str, tuple[str, ...]]
    roots: frozenset[str]

    def after(self, output: str) -> list[str]:
        """The sites of what was computed from an output."""
        return [site for site, path in self.paths.items() if output in path.calls]


def flow_of(evidence: StepEvidence) -> Flow:
    """The flow of a step. An array is known by its bits, so the step has to be in memory."""
    step = evidence.step
    outer = {step.calls[call.parent].name for call in step.calls if call.parent is not None}
    # Two arrays may have the same bits, as the last output of an LSTM and its hidden state do.
    outputs: dict[str, list[str]] = {}
    for call in step.calls:
        if call.name in outer:  # the same array as that of the last call inside
            continue
        for path, key in keys_of(call.output).items():
            if key in step:
                outputs.setdefault(_print(step[key]), []).append(at(call.name, path))
    made: dict[str, list[Function]] = {}
    for function in step.functions:
        for key in keys_of(function.output).values():
            if key in step:
                made.setdefault(_print(step[key]), []).append(function)
    paths: dict[str, Path] = {}
    for call in step.calls:
        for path, key in keys_of(call.inputs).items():
            if key in step:
                paths[f"input:{call.name}.{path}"] = _path(step, key, outputs, made)
        if call.name in outer:
            for path, key in keys_of(call.output).items():
                if key in step:
                    paths[at(f"forward:{call.name}", path)] = _path(step, key, outputs, made)
    roots = {
        at(call.name, path)
        for call in step.calls
        if call.parent is None
        for path in keys_of(call.output)
    }
    # The output of the last call inside may be that of the outermost one.
    same = [paths.get(f"forward:{output}") for output in roots]
    roots |= {call for path in same if path and not path.functions for call in path.calls}
    return Flow(paths, evidence.consumers, frozenset(roots))


def _path(
    step: Step, key: str, outputs: Mapping[str, list[str]], made: Mapping[str, list[Function]]
) -> Path:
    functions: dict[str, Function] = {}
    calls: dict[str, None] = {}
    left = [key]
    while left:
        mark = _print(step[left.pop()])
        if mark in outputs:
            calls.update(dict.fromkeys(outputs[mark]))
            continue
        for function in made.get(mark, ()):
            if function.name not in functions:
                functions[function.name] = function
                left += [k for k in keys_of(function.inputs).values() if k in step]
    order = {function.name: i for i, function in enumerate(step.functions)}
    ordered = sorted(functions.values(), key=lambda each: order[each.name])
    return Path(tuple(ordered), tuple(calls))


def _print(array: np.ndarray) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16)
    return f"{array.shape} {array.dtype} {digest.hexdigest()}"


def needs(step: Step, site: str) -> Iterator[str]:
    """The sites that an array is computed from; if one of them differs the array is no cause."""
    phase, _, place = site.partition(":")
    if phase == "function":
        function = next((f for f in step.functions if f.name == place), None)
        if function is not None:
            yield from keys_of(function.inputs).values()
            return
    calls = {call.name: i for i, call in enumerate(step.calls)}
    atomic = {*range(len(step.calls))} - {call.parent for call in step.calls}
    if phase in ("update", "state"):
        name = place if phase == "update" else place.rpartition(".")[0]
        yield from (f"param_grad:{name}", f"clipped:{name}")
    elif phase == "clipped":
        yield from (s for s in step.sites if s.startswith("param_grad:"))
    elif phase in ("param_grad", "buffer"):
        module = place.rpartition(".")[0]
        phases = ("input", "grad") if phase == "param_grad" else ("input",)
        for each in step.sites:
            if phase_of(each) in phases and module_name(call_of(each)) == module:
                yield each
    elif phase == "forward" and calls.get(call_of(site)) in atomic:
        yield from (s for s in step.sites if s.startswith(f"input:{call_of(site)}."))
    else:
        yield from step.sites[: step.sites.index(site)]
