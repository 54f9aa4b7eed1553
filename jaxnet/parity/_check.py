"""Whether a JAX program is the recorded one."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxnet._names import few, join
from jaxnet.parity import _provenance
from jaxnet.parity._batches import batch_findings
from jaxnet.parity._buffers import UNKEPT, buffers_of, unkept
from jaxnet.parity._consequences import folded, settled
from jaxnet.parity._coverage import Compared
from jaxnet.parity._draws import DrawsError
from jaxnet.parity._evidence import StepEvidence
from jaxnet.parity._findings import findings_of
from jaxnet.parity._flatten import orders, rows_note
from jaxnet.parity._flow import Flow, flow_of
from jaxnet.parity._force import Layers
from jaxnet.parity._free_run import FreeRun, apart_in, drift, horizon_of
from jaxnet.parity._layer_causes import explain_finding
from jaxnet.parity._model_forms import code_of
from jaxnet.parity._names_file import Names, with_flattened
from jaxnet.parity._notes import Notes
from jaxnet.parity._pairing import name_sums
from jaxnet.parity._perturbed import NOTE
from jaxnet.parity._plant import add_plantings
from jaxnet.parity._port import load_port, module_of
from jaxnet.parity._power import power as power_of
from jaxnet.parity._preflight import beginning, settings, with_effects
from jaxnet.parity._recorded import is_recorded, recorded
from jaxnet.parity._result import Coverage, Finding, Horizon, Report, SiteResult, Verdict
from jaxnet.parity._site_results import SiteResults
from jaxnet.parity._sites import module_name, phase_of
from jaxnet.parity._steps import StepRuns, Steps
from jaxnet.parity._subject import Subject, is_ours, make_subject
from jaxnet.parity._trace import Step, Trace, TraceError, generic_trace, read
from jaxnet.parity._training_causes import Training
from jaxnet.parity._update_causes import changed_besides
from jaxnet.parity._user_lines import raised
from jaxnet.train._several import named_states

_log = logging.getLogger(__name__)
Weights = Literal["own", "copy"]

# Of how many steps that differ the updates are kept, to look for their causes.
KEPT = 16


def check(
    trace: str | Path | Trace,
    model: Any = None,
    loss: Any = None,
    optimizer: Any = None,
    *,
    step: Any = None,
    state: Any = None,
    batches: Iterable[Any] | None = None,
    steps: Sequence[int] | int | None = None,
    weights: Weights = "own",
    names: Names | None = None,
    power: bool = False,
    generic: str | Path | Trace | None = None,
    plant: int = 0,
) -> Report:
    """Compares a JAX program with a recorded PyTorch program; torch is not needed.

    Each layer is computed from what torch's layer got, each step from torch's state before it, in
    float32 and in float64. So a difference is found where it is made and nowhere else, several
    differences are found at once, and no tolerance has to be chosen: what float64 leaves of a
    difference is a difference of the programs, and what it does not is rounding.

    Args:
        trace: The trace, or its folder.
        model: The model: one of jaxnet or flax.nnx, (module, variables) of flax.linen, an equinox
            module or (module, state), (transformed, params) of haiku or with a state, (function,
            params) of a function (params, inputs). Or the text "port.py:make" for a function that
            returns (model, loss, optimizer), or these and the batches, or (step, state). Or
            "model_jax.py" for a file that has the recorded model's classes, as `jaxnet port`
            writes it, and "model_jax.py:Net(hidden=32)" for one of its models: the model is built
            as torch's was, and the loss and the optimizer are those of the trace.
        loss: What `train.make_train_step` is given: a function `(model, batch)` of the user's
            own, or a criterion of outputs and targets from a library.
        optimizer: The optimizer, with clipping and schedule. Without one no updates are compared,
            and the report says so.
        step: In place of these three the training step `(state, batch) -> (state, metrics)`.
        state: The state before its first step, from `train.create`, or one of the user's own.
        batches: The batches of the program's own loader, in order, to compare them with those
            that torch's program took; all else is computed from torch's. None compares no batches.
        steps: The numbers of the steps to check, or how many of them from the first; by default
            all recorded ones.
        weights: "own" compares the program's initial weights with torch's. "copy" gives it
            torch's, as does a trace that was recorded with generic weights.
        names: Which layer of a plain flax model is which of torch's, where names, shapes and calls
            do not show it: the path of a names.toml, or its content.
        power: Whether to plant each known mistake in each recorded layer, to see which of them
            this trace would show. It takes some seconds a layer.
        generic: A second trace of the torch program, recorded with weights="generic", with which
            the program is compared too: what weights of zero or one hide shows there.
        plant: Into a program that is the same so many known mistakes are really planted, one
            after the other, chosen from those that this trace excludes; each is checked as the
            program was. It takes as long as so many checks.

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
    second = None if generic is None else generic_trace(generic)
    given: dict[str, Any] = {
        "model": model, "loss": loss, "optimizer": optimizer, "step": step, "state": state,
        "batches": batches,
    }  # fmt: skip
    source = {name: value for name, value in given.items() if name != "batches"}
    program, found = model, None
    if isinstance(model, str) and is_recorded(model):
        found = recorded(trace, model)
        given |= {"model": found.model, "loss": found.loss, "optimizer": found.optimizer}
        trace, program, copy = found.trace, found.module, copy or found.copied
        steps = found.steps if steps is None else steps
    elif isinstance(model, str):
        given = load_port(model)
        program = module_of(model)
    batches = given.pop("batches", None)
    make = functools.partial(make_subject, trace, **given, copy=copy)
    subject = make(names=names)
    if turned := orders(subject, copy):
        subject = make(names=with_flattened(names, turned))
    trace = subject.trace
    report = _Check(trace, subject, batches).run(_chosen(trace, steps))
    if subject.pairing is not None:
        report.notes[:0] = [subject.pairing.summary(), *map(rows_note, turned.items())]
        report.subject["layers"] = subject.pairing.lines()
        name_sums(report, subject.pairing)
    objects = [code_of(program), loss, optimizer, step, *(part.loss for part in subject.parts)]
    report.subject |= _provenance.subject(trace, objects)
    if found is not None:
        report.notes[:0] = found.notes
        # A schedule that is torch's own, as far as the recorded steps say it, needs no warning.
        report.settings = [
            one
            for one in report.settings
            if one.kind != "learning rate" or one.effect.startswith("see")
        ]
        report.coverage[f"classes and functions of {Path(str(program.__file__)).name}"] = (
            found.coverage
        )
    report.environment = _provenance.environment(trace)
    report.notes += _provenance.notes(trace)
    if power:
        report.power = power_of(trace, report)
    if plant:
        chosen = _chosen(trace, steps)
        add_plantings(trace, subject, report, lambda one: _Check(trace, one).run(chosen), plant)
    if second is not None:
        _log.info("the same with generic weights")
        report.add_generic(check(second, **source, names=names, power=power))
    return report


def _chosen(trace: Trace, steps: Sequence[int] | int | None) -> list[Step]:
    numbers = range(len(trace.steps))
    if isinstance(steps, int):
        if steps < 1:
            raise ValueError(f"check: steps: {steps}; accepted is a number of steps of at least 1")
        numbers = numbers[:steps]
    chosen = list(numbers) if steps is None or isinstance(steps, int) else sorted(steps)
    if not chosen or not set(chosen) <= set(range(len(trace.steps))):
        raise ValueError(
            f"check: steps: {steps!r}; the trace has the steps 0 to {len(trace.steps) - 1}"
        )
    for number in chosen:
        if obstacle := trace.steps[number].obstacle:
            raise TraceError(f"{trace.path}: step {number} cannot be compared: {obstacle}")
    return [trace.steps[number] for number in chosen]


def _first(array: np.ndarray) -> str:
    """The first number of an array, for a message."""
    return f"{float(array.flat[0]):.6g}"


def _shapes(step: Step) -> str:
    """What a step is given, with dtypes and shapes in place of the arrays."""
    batch = jax.tree.map(lambda x: f"{np.asarray(x).dtype} {np.shape(x)}", step.batch())
    step.forget()
    return str(batch).replace("'", "")


class _Check:
    """A check under way: what has been found so far."""

    def __init__(
        self, trace: Trace, subject: Subject, batches: Iterable[Any] | None = None
    ) -> None:
        self.trace, self.subject, self.batches = trace, subject, batches
        self.layers, self.steps = Layers(trace, subject), Steps(trace, subject)
        self.results = SiteResults(trace, self.steps.restored())
        self.preflight: list[Finding] = []
        self.notes: dict[str, None] = {}
        foreign = subject.partners is not None
        self.compared = Compared(trace, bool(subject.parts), foreign, subject.unseen)
        self.evidence: dict[int, StepEvidence] = {}
        self.flows: dict[int, Flow] = {}
        self.raised: set[str] = set()  # the modules whose calls raised an error
        self.broken = ""  # the error of a program that does not run, outside of all calls
        self.blamed: set[str] = set()
        self.kept = 0
        self.unclear = subject.pairing.unclear if subject.pairing is not None else ()
        self.buffers = buffers_of(subject.models, subject.state)
        self.buffers |= {each.name for each in self.unclear}
        ours = all(is_ours(part.optimizer) for part in subject.parts)
        self.training = Training(trace, carried=not (subject.parts and ours))

    def run(self, steps: Sequence[Step]) -> Report:
        self.settings = settings(self.trace, self.subject)
        if self.batches is not None:
            self.preflight += batch_findings(self.trace, self.batches)
            self.results.all += [r for finding in self.preflight for r in finding.results]
        self._preflight(self.trace.steps[0])
        if steps[0].index:
            self.trace.steps[0].forget()
        free: FreeRun | None = None
        consecutive = [step.index for step in steps] == list(range(len(steps)))
        for number, step in enumerate(steps, 1):
            _log.info("checking step %d of %d", number, len(steps))
            states, errors = self.steps.before(step)
            self.compared.step(step)
            if consecutive and number == 1 and self.subject.updated:
                free = FreeRun(self.steps, step, states)
            evidence = None
            if step.full and self.subject.parts:
                evidence = self._layers(step, states)
            runs = self.steps.run(step, states, errors, bool(self.results.narrow))
            if self.broken and "step" in runs.errors:
                break  # what else it computes says nothing
            if self.broken:
                self.notes[f"the layers could not be compared: {self.broken}"] = None
                self.compared.no_layers(step, self.broken)
                self.broken = ""
            self._step(step, runs)
            if evidence is not None and self._unexplained(step):
                evidence = self._chain(step, states, evidence)
            if free is not None:
                free = self._advanced(free, step, runs)
            self._remember(step, evidence, runs)
            step.forget()
        horizon = None if free is None or not free.torch else horizon_of(free)
        return self._report(self._findings(horizon), horizon, steps)

    def _findings(self, horizon: Horizon | None) -> list[Finding]:
        """The independent differences with their causes, and what follows from each."""
        self._drop_updates()
        found = findings_of(self.trace, self.results.all, self.flows)
        found = folded([*self.preflight, *found], self.evidence, self.raised)
        found = settled(self.trace, self.results.all, found, ())
        for number, finding in enumerate(found, 1):
            _log.info("looking for the cause of difference %d of %d", number, len(found))
            self._explain(finding)
        found = [each for finding in found for each in self._explained(finding)]
        self.notes |= dict.fromkeys(self.training.notes)
        # Nothing is lost: what differs is in a finding, follows from one, or is rounding.
        found = settled(self.trace, self.results.all, found, self.training.rounding)
        if not found and horizon is not None and (apart := apart_in(horizon)) is not None:
            found.append(drift(apart, horizon))
        return found

    def _drop_updates(self) -> None:
        """Drops updates by the optimizer alone where torch's program does more, and ours too."""
        every = self.results.all
        whole = {(r.step, r.site): r.judgement.failed for r in every if r.level == "step"}
        alone = [
            r
            for r in every
            if r.level == "layer" and r.judgement.failed and phase_of(r.site) == "update"
            if whole.get((r.step, r.site)) is False
        ]
        names = changed_besides(self.trace) if alone else frozenset()
        dropped = {id(r): r.site.partition(":")[2] for r in alone}
        dropped = {i: name for i, name in dropped.items() if name in names}
        if dropped:
            words = "torch's program changes them besides its optimizer, as clamp_ does, so that "
            words += "their updates were compared in whole steps"
            self.notes[f"{few([*dict.fromkeys(dropped.values())])}: {words}"] = None
            self.results.all = [r for r in every if id(r) not in dropped]

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
                    result = self.results.start(first, site, np.asarray(own[place]))
                    if result.judgement.failed:
                        apart.append(result)
                        self.training.start[0][place] = first[site]
                        self.training.start[1][place] = np.asarray(own[place])
        self._begun(first)
        if apart:
            names = few([result.place for result in apart])
            self._at_start(
                apart,
                "preflight",
                f"the initial numbers of {names} are others than torch's",
                "load torch's weights, or build the layers in torch's order from "
                'jaxnet.random.Generator(seed); weights="copy" compares all else',
            )

    def _at_start(
        self, apart: list[SiteResult], kind: str, message: str, fix: str, origin: str = ""
    ) -> None:
        """Adds a finding of what the programs begin with."""
        self.preflight.append(
            Finding(
                site=apart[0].site,
                step=apart[0].step,
                level="preflight",
                kind=kind,
                message=message,
                fix=fix,
                results=apart,
                origin=origin,
            )
        )

    def _begun(self, first: Step) -> None:
        """Compares what the optimizer begins with: in all that follows it is given torch's."""
        apart = []
        values = ""
        for site, own in beginning(self.subject).items():
            place = site.partition(":")[2]
            step = f"state_before:{place.rpartition('.')[0]}.step"
            if site not in first or step not in first or first[step].any():
                continue  # torch makes the state with the first update, or it had one before
            result = self.results.start(first, site, own)
            if result.judgement.failed:
                apart.append(result)
                values = values or f"{place} is {_first(own)}; torch's is {_first(first[site])}"
        if apart:
            self._at_start(
                apart,
                "different",
                f"the optimizer begins with another state than torch's: {values}",
                "the hyperparameters of the torch program's optimizer",
                "optimizer",
            )

    def _layers(self, step: Step, states: Mapping[bool, Any]) -> StepEvidence | None:
        try:
            evidence, notes = self.layers.forced(step, states)
        except DrawsError as error:
            self.results.fail(step, "loss:0", f"{type(error).__name__}: {error}", "layer")
            self.compared.no_layers(step, str(error))
            return None
        except Exception as error:
            self.broken = raised(error)
            return None
        self._note(step, notes)
        self.results.judge(step, evidence.forced, "layer", evidence)
        failed = {result.site for result in self.results.failed(step)}
        for call, names in notes.absent.items():
            if any(s == f"forward:{call}" or s.startswith(f"forward:{call}.") for s in failed):
                words = f"{call} is called without {', '.join(names)}; torch's is called with it"
                self.notes[words] = None
        for call, message in evidence.errors.items():
            self.raised.add(module_name(call))
            self.results.fail(step, f"forward:{call}", message, "layer", evidence)
        if self.results.failed(step):
            own = self.layers.dependencies(step, states[False])
            self.flows[step.index] = flow_of(evidence, own)
        return evidence

    def _unexplained(self, step: Step) -> bool:
        """Whether the whole step differs, or has no gradients, and no isolated part differs."""
        levels = {result.level for result in self.results.failed(step)}
        return levels == {"step"} or not (levels or self.subject.updated)

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
        self.results.judge(step, chained, "chain", evidence)
        return evidence

    def _note(self, step: Step, notes: Notes) -> None:
        self.steps.order = tuple(notes.draws)
        self.results.narrow |= notes.narrow
        self.compared.calls(step, notes.seen, notes.within)
        self.notes |= dict.fromkeys(notes.sentences(step))

    def _step(self, step: Step, runs: StepRuns) -> None:
        self.results.judge(step, runs.rates, "layer")
        self.results.judge(step, runs.update, "layer")
        self.results.judge(step, runs.own, "step")
        for site in unkept(step, self.buffers).values():
            self.results.fail(step, site, UNKEPT, "layer")
        for what, message in runs.errors.items():
            if what.startswith("float64"):
                which = "update" if what == "float64 update" else "program"
                words = f"float32 evidence: the {which} has no float64: {message}{NOTE}"
                self.notes[words] = None
            elif what == "step":
                self.results.fail(step, "loss:0", message, "step")
            elif what == "update":
                self.results.fail(step, "update:", message, "layer")
            else:
                self.results.fail(step, "state_before:", message, "layer")

    def _advanced(self, free: FreeRun, step: Step, runs: StepRuns) -> FreeRun | None:
        try:
            free.advance(step, runs.own)
        except Exception as error:
            self.notes[f"no free run: {type(error).__name__}: {error}"] = None
            return None
        return free

    def _remember(self, step: Step, evidence: StepEvidence | None, runs: StepRuns) -> None:
        """Keeps the numbers that causes are looked for in: those of a few steps that differ."""
        failed = {f"{result.level}:{result.place}" for result in self.results.failed(step)}
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
            given = f"a step is given {_shapes(steps[0])}"
            self.notes[f"the program does not run: {self.broken}; {given}"] = None
        elif findings and all(finding.kind == "undecided" for finding in findings):
            verdict = "not comparable"
        elif not findings and not {"layer", "step"} & {result.level for result in self.results.all}:
            verdict = "not comparable"
            self.notes["no step was recorded in full, and nothing of the optimizer"] = None
        self.notes |= self.results.notes
        if not self.subject.parts:
            words = "the step is not of train.make_train_step: whole steps were compared, no layers"
            self.notes[words] = None
        coverage = self.compared.coverage(steps, self.results.all, broken=bool(self.broken))
        for what, why in self.subject.uncompared.items():
            coverage[what] = Coverage((), {"all": why})
        return Report(
            verdict,
            findings=findings,
            results=self.results.all,
            settings=with_effects(self.settings, findings, {*coverage["modules"].seen}),
            notes=[*self.notes],
            exclusions=[
                *(f"{name}: {why}" for name, why in coverage["modules"].missing.items()),
                *self.results.exclusions(),
                *(each.words for each in self.unclear),
            ],
            coverage=coverage,
            horizon=horizon,
        )
