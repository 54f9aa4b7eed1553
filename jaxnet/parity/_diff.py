"""The differences between two recorded PyTorch programs, such as one under two versions of torch.

Both programs ran by themselves, so that a difference goes on to all that comes after it. Where a
call got the same inputs in both, its outputs tell whether it is a cause; where it got others, and
in steps that began with other numbers, jaxnet's own layer, built as the first program's, is fed
the second program's inputs, and has to give the second program's outputs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.parity import _provenance
from jaxnet.parity._attribute import attribute
from jaxnet.parity._evidence import Evidence
from jaxnet.parity._flow import needs
from jaxnet.parity._judge import judge
from jaxnet.parity._judgement import gradient_scale
from jaxnet.parity._layer_causes import describe
from jaxnet.parity._rebuilt import of_call, of_function_call, recorded_numbers
from jaxnet.parity._result import Coverage, Finding, Level, Report, SiteResult, Verdict
from jaxnet.parity._sites import call_of, module_name, phase_of
from jaxnet.parity._starts import START, only_in_one, starts
from jaxnet.parity._trace import Call, Step, Trace, read
from jaxnet.parity._updates import chosen, updates

# What is said of the two programs beside a difference.
_ENVIRONMENT = ("torch", "python", "platform", "machine", "threads", "git", "seed", "flags")
Four = tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]


def diff(a: str | Path | Trace, b: str | Path | Trace) -> Report:
    """Compares two recorded PyTorch programs, such as one program under two versions of torch.

    Neither torch nor the programs are needed. Configurations, hyperparameters, batches, initial
    weights and random draws are compared first. Of the layers those are named that make a
    difference, and not those that hand one on.

    Args:
        a: The first trace, or its folder.
        b: The second.

    Returns:
        The report, in which the first program is called torch and the second one jax. Its verdict
        is "same" if nothing differs but by rounding, which is measured by the float64 runs in
        both traces.

    Raises:
        TraceError: A trace cannot be read.
    """
    first, second = (each if isinstance(each, Trace) else read(each) for each in (a, b))
    return _Diff(first, second).run()


class _Diff:
    """A comparison under way: what has been found so far."""

    def __init__(self, a: Trace, b: Trace) -> None:
        self.a, self.b = a, b
        self.results: list[SiteResult] = []
        self.findings: dict[str, Finding] = {}
        self.notes: list[str] = []
        self.downstream: dict[str, None] = {}
        self.seen: dict[str, None] = {}
        self.missing: dict[str, str] = {}
        self._rules = updates(a), updates(b)

    def run(self) -> Report:
        self._programs()
        pairs = list(zip(self.a.steps, self.b.steps, strict=False))
        last: tuple[Step, Step] | None = None  # the steps before, if nothing was found in them
        if len(self.a.steps) != len(self.b.steps):
            counts = f"{len(self.a.steps)} and {len(self.b.steps)}"
            self.notes.append(
                f"the traces have {counts} steps; the first {len(pairs)} are compared"
            )
        for one, other in pairs:
            self._hyperparameters(one, other)
            equal = self._start(one, other, last)
            failed = self._step(one, other) if equal else None
            last = None if failed is None or failed else (one, other)
            if one.full and other.full:
                self._calls(one, other, failed)
            if not equal:
                self._updates(one, other)
            one.forget()
            other.forget()
        if self.downstream:
            first = next(iter(self.downstream))
            count = len(self.downstream)
            self.notes.append(f"downstream of these: {count} arrays, the first of them {first}")
        for which, trace in (("first ", self.a), ("second ", self.b)):
            self.notes += _provenance.notes(trace, which)
        verdict: Verdict = "different" if self.findings else "same"
        if not self.findings and not self.results:
            verdict = "not comparable"
            self.notes.append("no step begins with the same numbers, and no layer could be rebuilt")
        missing = {name: why for name, why in self.missing.items() if name not in self.seen}
        return Report(
            verdict,
            findings=sorted(self.findings.values(), key=lambda each: each.level != "preflight"),
            results=self.results,
            notes=self.notes,
            coverage={"modules": Coverage(tuple(self.seen), missing)},
            environment={
                side: {key: trace.about[key] for key in _ENVIRONMENT if key in trace.about}
                for side, trace in (("torch", self.a), ("jax", self.b))
            },
        )

    # Before any arithmetic.

    def _programs(self) -> None:
        for key in _ENVIRONMENT:
            ours, theirs = self.a.about.get(key), self.b.about.get(key)
            if ours != theirs:
                self.notes.append(f"{key}: {ours} and {theirs}")
        kinds: tuple[tuple[str, Mapping[str, Any], Mapping[str, Any]], ...] = (
            ("module", self.a.modules, self.b.modules),
            ("parameter", self.a.parameters, self.b.parameters),
            ("buffer", self.a.buffers, self.b.buffers),
        )
        for kind, ours, theirs in kinds:
            for name in {**ours, **theirs}:
                if name not in ours or name not in theirs:
                    which = "first" if name in ours else "second"
                    self._preflight(name, f"only the {which} program has the {kind} {name}")
        for name, module in self.a.modules.items():
            other = self.b.modules.get(name)
            if other is not None:
                self._changes(
                    name,
                    f"{name or 'the model'} ({module.cls})",
                    {"class": module.cls, **module.config},
                    {"class": other.cls, **other.config},
                )
        for what in ("optimizers", "schedulers"):
            ours, theirs = getattr(self.a, what), getattr(self.b, what)
            if [each["class"] for each in ours] != [each["class"] for each in theirs]:
                names = [", ".join(e["class"] for e in each) or "none" for each in (ours, theirs)]
                self._preflight(what, f"{what}: {names[0]}; the second program has {names[1]}")
                continue
            if what == "schedulers":  # what the optimizers have is compared in each step
                for one, other in zip(ours, theirs, strict=True):
                    self._changes(what, one["class"], one["config"], other["config"])

    def _hyperparameters(self, one: Step, other: Step) -> None:
        counts = [[len(groups) for groups in step.groups] for step in (one, other)]
        if counts[0] != counts[1]:
            words = " and ".join(", ".join(map(str, each)) or "none" for each in counts)
            self._preflight("groups", f"the numbers of groups of the optimizers are {words}")
        for ours, theirs in zip(one.groups, other.groups, strict=False):
            for i, (group, changed) in enumerate(zip(ours, theirs, strict=False)):
                words = f"group {i} of the optimizer, in step {one.index}"
                self._changes(f"group {i}", words, group, changed, one.index)

    def _changes(
        self,
        place: str,
        what: str,
        ours: Mapping[str, Any],
        theirs: Mapping[str, Any],
        step: int = 0,
    ) -> None:
        for key in {**ours, **theirs}:
            one, other = ours.get(key), theirs.get(key)
            if one != other:
                message = f"{what}: {key} is {one!r}, the second program's is {other!r}"
                self._preflight(f"{place}.{key}".lstrip("."), message, step)

    def _preflight(
        self, place: str, message: str, step: int = 0, results: Sequence[SiteResult] = ()
    ) -> None:
        finding = Finding(place, step, "preflight", "preflight", message, results=list(results))
        self.findings.setdefault(f"preflight:{place}", finding)

    def _start(self, one: Step, other: Step, last: tuple[Step, Step] | None) -> bool:
        """Whether a step begins with the same bits in both programs."""
        equal, found = starts(one, other, last)
        for phase, message in found.items():
            self._preflight(phase, message, one.index)
        if not equal and one.index:
            self.notes.append(
                f"step {one.index} begins with other numbers in the two programs: its layers and "
                "updates are compared by jaxnet's own, other code is not"
            )
        return equal

    # The steps.

    def _step(self, one: Step, other: Step) -> set[str]:
        """Compares a step that begins with the same bits; returns the sites that differ."""
        failed: dict[str, SiteResult] = {}
        results, rest = only_in_one(one, other)
        for site, message in results.items():
            self._preflight(site, message, one.index)
        self.notes += [words for words in rest if words not in self.notes]
        for site in one.sites:
            if phase_of(site) in START or site not in other:
                continue
            result = self._judged(one, site, "chain", _four(one, other, site))
            if result.judgement.failed:
                failed[site] = result
        for site, result in failed.items():
            if any(need in failed for need in needs(one, site)):
                self.downstream[site] = None
                continue
            origin = self._found(one, result)
            function = next((f for f in one.functions if site == f"function:{f.name}"), None)
            if function is not None:
                try:
                    reference = of_function_call(one, function)
                except ValueError:
                    continue
                runs = [{"output": x} for x in _four(one, other, site) if x is not None]
                if len(runs) == 4:
                    self._explain(origin, reference, Evidence(*runs))
        return set(failed)

    def _calls(self, one: Step, other: Step, failed: set[str] | None) -> None:
        """Compares the calls that got other inputs by jaxnet's own layers.

        Args:
            one: The step of the first program.
            other: That of the second one.
            failed: The sites that differ; None if the step began with other numbers.
        """
        theirs = {call.name: call for call in other.calls}
        parents = {call.parent for call in one.calls}
        for index, call in enumerate(one.calls):
            if call.name not in theirs:
                self._preflight(call.module, f"only the first program calls {call.name}")
            elif failed is not None and not any(call_of(site) == call.name for site in failed):
                self.seen[call.module] = None
            elif index not in parents:
                self._layer(one, other, call, theirs[call.name])
        for name in theirs.keys() - {call.name for call in one.calls}:
            self._preflight(theirs[name].module, f"only the second program calls {name}")

    def _layer(self, one: Step, other: Step, call: Call, twin: Call) -> None:
        """Compares a call with the first program's layer, fed the second one's inputs."""
        try:
            mine, theirs = of_call(self.a, one, call), of_call(self.b, other, twin)
            given = ("inputs", "parameters", "buffers", "draws", "cotangents")
            fed: Any = {name: getattr(theirs, name) for name in given}
            reference = dataclasses.replace(mine, **fed)
            own, numbers = mine.observe(), reference.observe()
        except (ValueError, TypeError) as error:
            self.missing[call.module] = f"jaxnet's own cannot be built: {error}"
            return
        narrow, wide = recorded_numbers(self.a, one, call)
        for name in narrow.keys() & own.keys():
            if judge(narrow[name], wide[name], narrow[name], own[name], site=name).failed:
                self.missing[call.module] = f"jaxnet's own gives another {name} than torch's"
                return
        self.seen[call.module] = None
        jax, jax64 = recorded_numbers(self.b, other, twin)
        names = [name for name in numbers if name in jax]
        # With the rounding of the second program, because the first never had these inputs.
        torch = {n: (numbers[n] + (jax[n] - jax64[n])).astype(jax[n].dtype) for n in names}
        for name in names:
            four = torch[name], numbers[name], jax[name], jax64[name]
            result = self._judged(one, _site(call, name), "layer", four)
            if result.judgement.failed:
                origin = self._found(one, result)
                self._explain(origin, reference, Evidence(torch, numbers, jax, jax64))

    def _updates(self, one: Step, other: Step) -> None:
        """Compares the updates by the first program's rule with the second one's gradients."""
        ours, theirs = self._rules
        for name in ours.keys() & theirs.keys():
            first = {record.step: record for record in ours[name].records}
            second = {record.step: record for record in theirs[name].records}
            index = one.index
            if index not in first or index not in second:
                continue
            record = dataclasses.replace(second[index], config=first[index].config)
            rule = dataclasses.replace(ours[name], records=(record,))
            key, before = f"{index}:change", chosen(other.double(f"before:{name}"))
            jax64 = chosen(other.double(f"update:{name}")) - before
            jax = chosen(other[f"update:{name}"]).astype(np.float64) - before
            torch64 = rule.observe()[key]
            four = torch64 + (jax - jax64), torch64, jax, jax64
            four = four[0].astype(np.float32), torch64, jax.astype(np.float32), jax64
            result = self._judged(one, f"update:{name}", "layer", four)
            if result.judgement.failed:
                self._found(one, result)

    def _judged(self, step: Step, site: str, level: Level, four: Four) -> SiteResult:
        phase, _, place = site.partition(":")
        scale = gradient_scale(step, place) if phase in ("param_grad", "clipped") else None
        judgement = judge(*four, site=site, scale=scale)
        name = call_of(site)
        call = next((each for each in step.calls if each.name == name), None)
        where = ""
        if call is not None:
            module = self.a.modules.get(call.module)
            where = f"{module.cls if module else ''} {call.where}".strip()
        result = SiteResult(step.index, site, level, judgement, place, where)
        self.results.append(result)
        return result

    def _explain(self, origin: str, reference: Any, evidence: Evidence) -> None:
        """Adds the cause to a finding, once."""
        finding = self.findings[origin]
        if not finding.tried:
            describe(finding, attribute(reference, evidence))

    def _found(self, step: Step, result: SiteResult) -> str:
        """Adds a result to the finding of its cause, and returns the finding's key."""
        origin, words = _origin(result.site)
        if origin == "optimizer":  # which another learning rate explains
            origin = next((key for key in self.findings if "preflight:group" in key), origin)
        known = self.findings.get(origin)
        if known is None:
            when = f" from step {step.index} on" if step.index else ""
            note = f": {result.judgement.note}" if result.judgement.note else ""
            known = Finding(
                result.site,
                step.index,
                result.level,
                result.judgement.label,
                f"{words}{when}{note}",
                torch_where=result.torch_where,
            )
            self.findings[origin] = known
        known.results.append(result)
        return origin


def _four(one: Step, other: Step, site: str) -> Four:
    four: Four = (
        one[site],
        one.double(site) if one.has_double(site) else None,
        other[site],
        other.double(site) if other.has_double(site) else None,
    )
    phase, _, place = site.partition(":")
    before = f"before:{place}"
    if phase != "update" or before not in one or four[1] is None or four[3] is None:
        return four
    start = one[before]  # the same bits in both; the parameter would hide its change
    return four[0] - start, four[1] - start, four[2] - start, four[3] - start


def _site(call: Call, name: str) -> str:
    """The site of what a layer's `observe` calls by a name."""
    kind, colon, rest = name.partition(":")
    if not colon:
        return f"forward:{call.name}{name.removeprefix('output')}"
    return f"{kind}:{call.module}.{rest}" if call.module else name


def _origin(site: str) -> tuple[str, str]:
    """What makes a difference, as a key and in words."""
    phase, _, place = site.partition(":")
    module = module_name(call_of(site)) or "the model"
    if phase in ("param_grad", "buffer"):
        module = place.rpartition(".")[0] or "the model"
        what = "the gradient of a parameter" if phase == "param_grad" else "a buffer after the call"
        return f"module:{module}", f"{module}: {what} differs though its inputs are the same"
    if phase == "forward":
        return f"module:{module}", f"{module}: the output differs though its inputs are the same"
    if phase == "input":
        return f"before:{module}", f"the code before {module}: its input differs"
    if phase == "grad":
        return f"after:{module}", f"the gradient of what follows {module} differs"
    if phase in ("update", "state", "clipped"):
        return "optimizer", "the update differs though the gradients are the same"
    if phase == "function":
        return site, f"{place.partition('#')[0]}: the output differs though its inputs are the same"
    return site, f"{site} differs"
