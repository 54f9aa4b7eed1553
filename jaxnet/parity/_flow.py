"""What lies between the calls of a step: which outputs an argument was computed from, and how."""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from jaxnet.parity._evidence import StepEvidence
from jaxnet.parity._sites import at, call_of, module_name, phase_of
from jaxnet.parity._trace import Call, Function, Step
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
        own: For each site the outputs that the checked program computes it from.
        unmet: For each argument that is what a module gives of which the checked program has no
            partner, the site of that output.
    """

    paths: Mapping[str, Path]
    consumers: Mapping[str, tuple[str, ...]]
    roots: frozenset[str]
    own: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    unmet: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def after_call(self, output: str) -> list[str]:
        """The sites of what torch computes from any output of the call that one is of."""
        name = call_of(f"forward:{output}")
        return [
            site
            for site, path in self.paths.items()
            if any(call_of(f"forward:{call}") == name for call in path.calls)
        ]

    def after(self, output: str) -> list[str]:
        """The sites of what torch or the checked program computes from an output."""
        return [
            site
            for site, path in self.paths.items()
            if output in path.calls or output in self.own.get(site, ())
        ]


def flow_of(
    evidence: StepEvidence, own: Mapping[str, frozenset[str]] = MappingProxyType({})
) -> Flow:
    """The flow of a step. An array is known by its bits, so the step has to be in memory.

    Args:
        evidence: What was computed of the step.
        own: What the checked program computes each site from.
    """
    step = evidence.step
    # What was not met by itself in the checked program is a part of the call around it.
    calls = [call for call in step.calls if call.name in evidence.where] or step.calls
    outer = {step.calls[call.parent].name for call in calls if call.parent is not None}
    made = _Made(step, calls, outer)
    paths: dict[str, Path] = {}
    for call in calls:
        for path, key in keys_of(call.inputs).items():
            if key in step:
                paths[f"input:{call.name}.{path}"] = made.path(key)
        if call.name in outer:
            for path, key in keys_of(call.output).items():
                if key in step:
                    paths[at(f"forward:{call.name}", path)] = made.path(key)
    roots = {
        at(call.name, path)
        for call in calls
        if call.parent is None
        for path in keys_of(call.output)
    }
    # Of an outermost call that the checked program has no partner of, as that of a plain flax
    # model is, what its outputs are computed from: all that follows is one with the loss.
    alone = [call for call in step.calls if call.parent is None and call not in calls]
    keys = [key for call in alone for key in keys_of(call.output).values() if key in step]
    roots |= {output for key in keys for output in made.path(key).calls}
    # The output of the last call inside may be that of the outermost one.
    same = [paths.get(f"forward:{output}") for output in roots]
    roots |= {call for path in same if path and not path.functions for call in path.calls}
    return Flow(paths, evidence.consumers, frozenset(roots), own, _unmet(step, calls))


def _unmet(step: Step, calls: Sequence[Call]) -> dict[str, str]:
    """For each argument of a call the output of another call that it is, as in `Flow.unmet`."""
    met = {call.name for call in calls}
    others = [each for each in step.calls if each.parent is not None and each.name not in met]
    given = {
        _print(step[key]): at(f"forward:{call.name}", path)
        for call in others
        for path, key in keys_of(call.output).items()
        if key in step
    }
    if not given:
        return {}
    found = {
        f"input:{call.name}.{path}": given.get(_print(step[key]), "")
        for call in calls
        for path, key in keys_of(call.inputs).items()
        if key in step
    }
    return {site: output for site, output in found.items() if output}


class _Made:
    """Which calls and functions gave the arrays of a step.

    Args:
        step: The step.
        calls: The calls whose outputs count.
        outer: The names of those with calls inside, whose output may be that of the last of these.
    """

    def __init__(self, step: Step, calls: Sequence[Call], outer: Collection[str]) -> None:
        self.step = step
        self.order = {site: i for i, site in enumerate(step.sites)}
        # By the bits of an array who gave it, in the order of the computation. Two arrays may
        # have the same bits, as the last output of an LSTM and its hidden state do.
        self._by: dict[str, list[tuple[int, str | Function]]] = {}
        inner: set[str] = set()
        for call in sorted(calls, key=lambda call: call.name in outer):
            for path, key in keys_of(call.output).items():
                if key in step:
                    mark = _print(step[key])
                    if call.name not in outer:
                        inner.add(mark)
                    elif mark in inner:
                        continue  # it is what the call inside gave
                    self._add(mark, key, at(call.name, path))
        for function in step.functions:
            for key in keys_of(function.output).values():
                if key in step:
                    self._add(_print(step[key]), key, function)
        for made in self._by.values():
            made.sort(key=lambda each: each[0])

    def _add(self, mark: str, key: str, maker: str | Function) -> None:
        self._by.setdefault(mark, []).append((self.order[key], maker))

    def path(self, key: str) -> Path:
        """How an array was computed from outputs of calls."""
        functions: dict[str, Function] = {}
        calls: dict[str, None] = {}
        left = [(key, self.order[key])]
        while left:
            site, before = left.pop()
            makers = [m for m in self._by.get(_print(self.step[site]), ()) if m[0] < before]
            if outputs := [maker for _, maker in makers if isinstance(maker, str)]:
                calls.update(dict.fromkeys(outputs))
                continue
            for number, function in makers[-1:]:
                assert isinstance(function, Function)
                if function.name not in functions:
                    functions[function.name] = function
                    given = keys_of(function.inputs).values()
                    left += [(k, number) for k in given if k in self.step]
        order = {function.name: i for i, function in enumerate(self.step.functions)}
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
