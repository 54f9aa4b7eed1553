"""Whether a JAX program is the recorded one."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxnet._names import join
from jaxnet.parity import _provenance
from jaxnet.parity._findings import findings_of
from jaxnet.parity._flow import Flow, flow_of
from jaxnet.parity._force import DrawsError, FourRuns, Layers, Notes, StepEvidence, raised
from jaxnet.parity._judge import Judgement, gradient_scale, judge, null
from jaxnet.parity._port import module_of
from jaxnet.parity._power import power as power_of
from jaxnet.parity._result import Coverage, Finding, Horizon, Level, Report, SiteResult, Verdict
from jaxnet.parity._sites import explain_finding
from jaxnet.parity._steps import FreeRun, StepRuns, Steps
from jaxnet.parity._subject import Subject, is_ours, make_subject
from jaxnet.parity._trace import Step, Trace, read
from jaxnet.parity._training import Training
from jaxnet.train._several import named_states

_log = logging.getLogger(__name__)
Weights = Literal["own", "copy"]

# Of how many steps that differ the updates are kept, to look for their causes.
KEPT = 16
# Beyond this share of the way from the start two float32 runs say nothing about each other.
HORIZON = 1e-2
# How much further from float64 than the program's own float32 run torch's may be.
RUNS = 16


def check(
    trace: str | Path | Trace,
    model: Any = None,
    loss: Any = None,
    optimizer: Any = None,
    *,
    step: Any = None,
    state: Any = None,
    steps: Sequence[int] | int | None = None,
    weights: Weights = "own",
    power: bool = False,
) -> Report:
    """Compares a JAX program with a recorded PyTorch program; torch is not needed.

    Each layer is computed from what torch's layer got, each step from torch's state before it, in
    float32 and in float64. So a difference is found where it is made and nowhere else, several
    differences are found at once, and no tolerance has to be chosen: what float64 leaves of a
    difference is a difference of the programs, and what it does not is rounding.

    Args:
        trace: The trace, or its folder.
        model: The model. Or the text "port.py:make" for a function that returns (model, loss,
            optimizer) or (step, state).
        loss: What `train.make_train_step` is given: a function `(model, batch)` of the user's
            own, or a criterion of outputs and targets from a library.
        optimizer: The optimizer, with clipping and schedule.
        step: In place of these three the training step `(state, batch) -> (state, metrics)`.
        state: The state before its first step, from `train.create`.
        steps: The numbers of the steps to check, or how many of them from the first; by default
            all recorded ones.
        weights: "own" compares the program's initial weights with torch's. "copy" gives it
            torch's, as does a trace that was recorded with generic weights.
        power: Whether to plant each known mistake in each recorded layer, to see which of them
            this trace would show. It takes some seconds a layer.

    Returns:
        The report. Its verdict is "same" if nothing differs but by rounding.

    Raises:
        TraceError: The trace cannot be read.
        SubjectError: The program has other parameters than the recorded one.
        TypeError: An argument is missing or of another kind.
    """
    if weights not in ("own", "copy"):
        raise ValueError(f'check: weights: {weights!r}; accepted are "own" and "copy"')
    trace = trace if isinstance(trace, Trace) else read(trace)
    copy = weights == "copy" or trace.about.get("weights") == "generic"
    subject = make_subject(trace, model, loss, optimizer, step=step, state=state, copy=copy)
    report = _Check(trace, subject).run(_chosen(trace, steps))
    program = module_of(model) if isinstance(model, str) else model
    objects = [program, loss, optimizer, step, *(part.loss for part in subject.parts)]
    report.subject = _provenance.subject(trace, objects)
    report.environment = _provenance.environment(trace)
    report.notes += _provenance.since_recorded(trace)
    if power:
        report.power = power_of(trace)
    return report


def _chosen(trace: Trace, steps: Sequence[int] | int | None) -> list[Step]:
    numbers = range(len(trace.steps))
    if isinstance(steps, int):
        numbers = numbers[:steps]
    chosen = list(numbers) if steps is None or isinstance(steps, int) else sorted(steps)
    if not chosen or not set(chosen) <= set(range(len(trace.steps))):
        raise ValueError(
            f"check: steps: {steps!r}; the trace has the steps 0 to {len(trace.steps) - 1}"
        )
    return [trace.steps[number] for number in chosen]


class _Check:
    """A check under way: what has been found so far."""

    def __init__(self, trace: Trace, subject: Subject) -> None:
        self.trace, self.subject = trace, subject
        self.layers, self.steps = Layers(trace, subject), Steps(trace, subject)
        self.results: list[SiteResult] = []
        self.preflight: list[Finding] = []
        self.notes: dict[str, None] = {}
        self.missing: dict[str, str] = {}
        self.seen: dict[str, None] = {}
        self.evidence: dict[int, StepEvidence] = {}
        self.flows: dict[int, Flow] = {}
        self.nulls: dict[str, np.ndarray] = {}
        self.narrow: set[str] = set()
        self.raised: set[str] = set()  # the modules whose calls raised an error
        self.broken = ""  # the error of a program that does not run, outside of all calls
        self.blamed: set[str] = set()
        self.kept = 0
        ours = all(is_ours(part.optimizer) for part in subject.parts)
        self.training = Training(trace, carried=not (subject.parts and ours))

    def run(self, steps: Sequence[Step]) -> Report:
        self._preflight(steps[0])
        consecutive = [step.index for step in steps] == list(range(len(steps)))
        free = FreeRun(self.steps, steps[0]) if consecutive else None
        for number, step in enumerate(steps, 1):
            _log.info("checking step %d of %d", number, len(steps))
            states, errors = self.steps.before(step)
            evidence = None
            if step.full and self.subject.parts:
                evidence = self._layers(step, states)
            runs = self.steps.run(step, states, errors)
            if self.broken and "step" in runs.errors:
                break  # what else it computes says nothing
            if self.broken:
                self.notes[f"the layers could not be compared: {self.broken}"] = None
                self.broken = ""
            self._step(step, runs)
            if evidence is not None and self._unexplained(step):
                evidence = self._chain(step, states, evidence)
            if free is not None:
                free = self._advanced(free, step)
            self._remember(step, evidence, runs)
            step.forget()
        horizon = None if free is None or not free.torch else _horizon(free)
        findings = [
            *self.preflight,
            *findings_of(self.trace, self.results, self.flows),
        ]
        findings = [f for f in findings if not all(map(self._is_in_error, f.results))]
        for number, finding in enumerate(findings, 1):
            _log.info("looking for the cause of difference %d of %d", number, len(findings))
            self._explain(finding)
        findings = [each for finding in findings for each in self._explained(finding)]
        self.notes |= dict.fromkeys(self.training.notes)
        if not findings and horizon is not None and (apart := _apart(horizon)) is not None:
            findings.append(_drift(apart, horizon))
        return self._report(findings, horizon, steps)

    def _preflight(self, first: Step) -> None:
        """Compares the initial weights and buffers."""
        apart = []
        for name, one in named_states(self.subject.state).items():
            model = self.subject.models[name]
            for phase, arrays in (("before", one.params), ("buffer_before", one.buffers)):
                own = {join(model, key): array for key, array in arrays.items()}
                for place, site in first.of(phase).items():
                    if not hasattr(own.get(place), "dtype"):
                        continue
                    judgement = _initial(first[site], np.asarray(own[place]))
                    result = SiteResult(first.index, site, "preflight", judgement, place)
                    self.results.append(result)
                    if judgement.failed:
                        apart.append(result)
                        self.training.start[0][place] = first[site]
                        self.training.start[1][place] = np.asarray(own[place])
        if apart:
            names = ", ".join(result.place for result in apart[:4])
            more = f" and {len(apart) - 4} more" if len(apart) > 4 else ""
            self.preflight.append(
                Finding(
                    site=apart[0].site,
                    step=first.index,
                    level="preflight",
                    kind="preflight",
                    message=f"the initial numbers of {names}{more} are others than torch's",
                    fix="load torch's weights, or build the layers in torch's order from "
                    'jaxnet.random.Generator(seed); weights="copy" compares all else',
                    results=apart,
                )
            )

    def _layers(self, step: Step, states: Mapping[bool, Any]) -> StepEvidence | None:
        try:
            evidence, notes = self.layers.forced(step, states)
        except DrawsError as error:
            self._failed(step, "loss:0", f"{type(error).__name__}: {error}", "layer")
            return None
        except Exception as error:
            self.broken = raised(error)
            return None
        self._note(step, notes)
        self._judge(step, evidence.forced, "layer", evidence)
        failed = {r.site for r in self.results if r.step == step.index and r.judgement.failed}
        for call, names in notes.absent.items():
            if any(s == f"forward:{call}" or s.startswith(f"forward:{call}.") for s in failed):
                self.notes[
                    f"{call} is called without {', '.join(names)}; torch's is called with it"
                ] = None
        for call, message in evidence.errors.items():
            self.raised.add(call.rpartition("#")[0])
            self._failed(step, f"forward:{call}", message, "layer", evidence)
        if any(r.step == step.index and r.judgement.failed for r in self.results):
            self.flows[step.index] = flow_of(evidence)
        return evidence

    def _is_in_error(self, result: SiteResult) -> bool:
        """Whether an array is inside a call that raised an error, so that it was not computed."""
        phase = result.site.partition(":")[0]
        return phase in ("input", "forward", "grad", "param_grad", "buffer") and any(
            result.place != name and f"{result.place}.".startswith(f"{name}." if name else "")
            for name in self.raised
        )

    def _unexplained(self, step: Step) -> bool:
        """Whether the whole step differs and no isolated part of it does."""
        failed = {r.level for r in self.results if r.step == step.index and r.judgement.failed}
        return failed == {"step"}

    def _chain(
        self, step: Step, states: Mapping[bool, Any], evidence: StepEvidence
    ) -> StepEvidence:
        try:
            chained = self.layers.chained(step, states)
        except Exception as error:
            self.notes[f"the program does not run by itself: {type(error).__name__}: {error}"] = (
                None
            )
            return evidence
        evidence = dataclasses.replace(evidence, chained=chained)
        self._judge(step, chained, "chain", evidence)
        return evidence

    def _note(self, step: Step, notes: Notes) -> None:
        self.steps.order = tuple(notes.draws)
        self.narrow |= notes.narrow
        if notes.narrow:
            places = sorted({site.partition(":")[2].partition("#")[0] for site in notes.narrow})
            self.notes[
                f"float32 evidence: {', '.join(places[:4])} compute float32 in a float64 program "
                "(a fixed dtype?), so that small differences cannot be told from rounding there, "
                "in gradients and in whole steps"
            ] = None
        recorded = {call.name: call for call in step.calls}
        for name, call in recorded.items():
            kind = self.trace.modules[call.module].cls if call.module in self.trace.modules else ""
            if name in notes.seen:
                self.seen[call.module] = None
            elif call.parent is None and not _has_parameters(self.trace, call.module):
                continue  # a criterion, which the loss of the program is compared with
            elif call.module not in self.seen:
                self.missing[call.module] = f"the program does not call it ({kind} {call.where})"
        within = {call.parent for call in step.calls}
        whole = {call.module for i, call in enumerate(step.calls) if i not in within}
        for name in notes.unpaired:
            if name.rpartition(".")[0] in whole:
                continue  # torch computes it without a call, as the projection of an attention
            self.notes[f"the program calls {name}, which torch's does not call"] = None
        for name, words in notes.modes.items():
            self.notes[f"{name}: {words}"] = None

    def _step(self, step: Step, runs: StepRuns) -> None:
        self._judge(step, runs.rates, "layer", None)
        self._judge(step, runs.update, "layer", None)
        self._judge(step, runs.own, "step", None)
        for what, message in runs.errors.items():
            if what == "float64":
                self.notes[f"float32 evidence: the program has no float64: {message}"] = None
            elif what == "step":
                self._failed(step, "loss:0", message, "step")
            elif what == "update":
                self._failed(step, "update:", message, "layer")
            else:
                self._failed(step, "state_before:", message, "layer")

    def _judge(
        self,
        step: Step,
        found: Mapping[str, FourRuns],
        level: Level,
        evidence: StepEvidence | None,
    ) -> None:
        for site, four in found.items():
            assert four.torch is not None
            assert four.jax is not None
            torch, torch64, jax, jax64 = four.torch, four.torch64, four.jax, four.jax64
            if site in step and not step.has_double(site):
                torch64 = None
            phase, _, place = site.partition(":")
            ignore = None
            if phase in ("update", "state"):
                name = place if phase == "update" else place.rpartition(".")[0]
                ignore = self._null(step, name, torch.shape)
            if phase == "update" and jax64 is not None and jax.shape == torch.shape:
                # What is compared is the change: the parameter itself would hide it.
                start = step[f"before:{place}"]
                wide = start.astype(np.float64)
                torch, jax = torch - start, jax - start
                torch64 = None if torch64 is None else torch64 - wide
                jax64 = jax64 - wide
            judgement = judge(
                torch,
                torch64,
                jax,
                None if self._is_weak(site, level) else jax64,
                site=site,
                scale=gradient_scale(step, place) if phase in ("param_grad", "clipped") else None,
                ignore=ignore,
                isolated=level != "chain" and level != "step",
            )
            self._add(step, site, level, judgement, evidence)

    def _is_weak(self, site: str, level: Level) -> bool:
        """Whether the float64 of an array comes from float32 numbers of the program."""
        if not self.narrow or site in self.narrow:
            return site in self.narrow
        phase = site.partition(":")[0]
        own = ("input", "forward", "update", "state", "lr")
        return level != "layer" or phase not in own

    def _null(self, step: Step, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """The elements of a parameter that had a gradient of nothing but rounding, until now."""
        site = f"param_grad:{name}"
        if site not in step or step[site].shape != shape:
            return None
        now = null(step[site], step.double(site), gradient_scale(step, name))
        self.nulls[name] = now | self.nulls.get(name, np.False_)
        return self.nulls[name]

    def _failed(
        self,
        step: Step,
        site: str,
        message: str,
        level: Level,
        evidence: StepEvidence | None = None,
    ) -> None:
        infinite = float("inf")
        judgement = Judgement(
            "different", 0.0, 0.0, infinite, infinite, 0.0, infinite, note=message
        )
        self._add(step, site, level, judgement, evidence)

    def _add(
        self,
        step: Step,
        site: str,
        level: Level,
        judgement: Judgement,
        evidence: StepEvidence | None,
    ) -> None:
        place = site.partition(":")[2]
        call = place
        while evidence is not None and call not in evidence.where and "." in call:
            call = call.rpartition(".")[0]
        there = next((c for c in step.calls if c.name == call), None) if evidence else None
        torch_where = ""
        if there is not None and there.module in self.trace.modules:
            torch_where = f"{self.trace.modules[there.module].cls} {there.where}"
        jax_where = evidence.where.get(call, "") if evidence else ""
        self.results.append(
            SiteResult(
                step.index, site, level, judgement, place.partition("#")[0], torch_where, jax_where
            )
        )

    def _advanced(self, free: FreeRun, step: Step) -> FreeRun | None:
        try:
            free.advance(step)
        except Exception as error:
            self.notes[f"no free run: {type(error).__name__}: {error}"] = None
            return None
        return free

    def _remember(self, step: Step, evidence: StepEvidence | None, runs: StepRuns) -> None:
        """Keeps the numbers that causes are looked for in: those of a few steps that differ."""
        failed = {
            f"{result.level}:{result.place}"
            for result in self.results
            if result.step == step.index and result.judgement.failed
        }
        if evidence is not None and failed - self.blamed:
            self.evidence[step.index] = evidence
            self.blamed |= failed
        if (failed and self.kept < KEPT) or step.index < KEPT // 2:
            self.kept += bool(failed)
            self.training.keep(step, evidence, runs)
        else:  # the learning rates alone
            self.training.keep(step, None, dataclasses.replace(runs, update={}, own={}))

    def _explain(self, finding: Finding) -> None:
        """Adds the program's float64 array of the site, and the cause in a layer."""
        steps = [r.step for r in finding.results if r.level == "layer"]
        evidence = next((self.evidence[n] for n in steps if n in self.evidence), None)
        if evidence is None:
            return
        if finding.site in evidence.forced:
            finding.jax64 = evidence.forced[finding.site].jax64
        try:
            explain_finding(finding, evidence)
        except Exception as error:
            self._no_cause(finding, error)
        evidence.step.forget()

    def _explained(self, finding: Finding) -> list[Finding]:
        """The finding with its cause in the loss, the optimizer or the schedule."""
        try:
            return self.training.explain(finding)
        except Exception as error:
            self._no_cause(finding, error)
            return [finding]

    def _no_cause(self, finding: Finding, error: Exception) -> None:
        words = f"the cause at {finding.site} could not be looked for"
        self.notes[f"{words}: {type(error).__name__}: {error}"] = None

    def _report(
        self, findings: list[Finding], horizon: Horizon | None, steps: Sequence[Step]
    ) -> Report:
        verdict: Verdict = "different" if findings else "same"
        if self.broken:
            verdict = "not comparable"
            self.notes[f"the program does not run: {self.broken}"] = None
        elif findings and all(finding.kind == "undecided" for finding in findings):
            verdict = "not comparable"
        elif not findings and not any(result.level == "layer" for result in self.results):
            verdict = "not comparable"
            self.notes["no step was recorded in full, and nothing of the optimizer"] = None
        missing = {name: why for name, why in self.missing.items() if name not in self.seen}
        full = [str(step.index) for step in steps if step.full]
        part = {
            str(step.index): "activations were not recorded: only the whole step was compared"
            for step in steps
            if not step.full
        }
        compared = {result.place: None for result in self.results if _is_parameter(result)}
        return Report(
            verdict,
            findings=findings,
            results=self.results,
            notes=[*self.notes],
            exclusions=[f"{name}: {why}" for name, why in missing.items()],
            coverage={
                "modules": Coverage(tuple(self.seen), missing),
                "parameters": Coverage(
                    tuple(compared),
                    {
                        name: "the program does not run"
                        if self.broken
                        else "torch has no gradient of it"
                        for name in self.trace.parameters
                        if name not in compared
                    },
                ),
                "steps": Coverage(tuple(full), part),
            },
            horizon=horizon,
            trace_about=dict(self.trace.about),
        )


def _has_parameters(trace: Trace, module: str) -> bool:
    return any(name.startswith(f"{module}." if module else "") for name in trace.parameters)


def _is_parameter(result: SiteResult) -> bool:
    return result.site.startswith("param_grad:")


def _initial(torch: np.ndarray, jax: np.ndarray) -> Judgement:
    """Whether two initial arrays are the same but for the last digits."""
    if torch.shape != jax.shape or not np.issubdtype(torch.dtype, np.floating):
        return judge(torch, None, jax.astype(torch.dtype), None, site="before:")
    apart = np.abs(torch.astype(np.float64) - jax.astype(np.float64))
    scale = float(np.max(np.abs(torch), initial=0.0))
    same = float(apart.max(initial=0.0)) <= 4 * np.finfo(np.float32).eps * scale
    size = float(np.sqrt(np.mean(np.square(apart)))) if apart.size else 0.0
    return Judgement("same" if same else "different", 0.0, 0.0, size, size, scale)


def _horizon(free: FreeRun) -> Horizon:
    beyond = [
        i for i, (e, m) in enumerate(zip(free.torch, free.moved, strict=True)) if e > HORIZON * m
    ]
    equal = 0
    for torch, jax in zip(free.torch, free.jax, strict=True):
        if torch > RUNS * jax:
            break
        equal += 1
    return Horizon(
        tuple(free.torch),
        tuple(free.jax),
        tuple(free.plain),
        tuple(free.moved),
        equal,
        beyond[0] if beyond else None,
    )


def _apart(horizon: Horizon) -> int | None:
    """The first step in which the free runs are apart, though each step by itself is the same."""
    for i, (torch, jax, moved) in enumerate(
        zip(horizon.torch, horizon.jax, horizon.moved, strict=True)
    ):
        if horizon.horizon is not None and i >= horizon.horizon:
            return None
        if torch > RUNS * jax and torch > 1e-4 * moved:
            return i
    return None


def _drift(step: int, horizon: Horizon) -> Finding:
    return Finding(
        site="update:",
        step=step,
        level="run",
        kind="different",
        message="each step from torch's state is torch's, but the run of all steps is not: what "
        "one step hands on to the next differs",
        proof=f"after step {step} torch's parameters are {horizon.torch[step]:.1e} from the "
        f"program's in float64, those of its own float32 {horizon.jax[step]:.1e}",
    )
