"""The layers of one step, each computed from what torch's layer before it gave.

In the forced program every call of a module gets the arguments that torch's module got, and
gives on what torch's module gave; the backward pass gets torch's gradient at every output. So
each number depends on one layer, or on what lies between two, and a fault shows where it is
made and nowhere else. In the chained program nothing is replaced.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet._names import dotted, is_module, join
from jaxnet.parity import _recurrent
from jaxnet.parity._dependencies import dependencies
from jaxnet.parity._draws import drawn
from jaxnet.parity._evidence import FourRuns, StepEvidence
from jaxnet.parity._foreign import watching
from jaxnet.parity._notes import Notes
from jaxnet.parity._outside import Outside
from jaxnet.parity._perturbed import perturbed, spread
from jaxnet.parity._sites import at, call_of
from jaxnet.parity._subject import Part, Subject, inner, part_of, precision
from jaxnet.parity._taps import reached
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._tree import keys_of
from jaxnet.parity._watch import Plan, Watch
from jaxnet.precision import full_float32
from jaxnet.train._loss import entered, with_metrics, with_step
from jaxnet.train._several import map_states, named_states, state_of, with_state
from jaxnet.train._state import split
from jaxnet.train._step import noting_steps

# A program that runs a few times takes longer to be optimised than to run.
QUICK = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced step of layers, loss and gradients: what it computes, and what it noted.

    Attributes:
        run: The compiled function of (state, batches, recorded arrays, draws).
        notes: What was noted when it was traced, which is when it ran first.
    """

    run: Callable[..., dict[str, Any]]
    notes: Notes


def make_program(subject: Subject, plan: Plan, forced: bool) -> Program:
    """The program of a step's forward and backward passes, without the optimizers.

    Its result has by site: the inputs and outputs of all calls, the gradients that arrive at
    them, the losses, the gradients of the parameters, and the buffers.
    """
    notes = Notes()

    def run(state: Any, batches: Any, recorded: Any, draws: Any) -> dict[str, Any]:
        count: Counter[str] = Counter()
        found: dict[str, Any] = {}
        losses: list[jax.Array] = []
        updates = _updates(subject, plan, state, batches, recorded, draws, count)
        for part, its_state, its_batches in updates:
            watch = Watch(plan, notes, forced, recorded, draws, count, subject.partners)
            sites, values = _gradients(subject, part, watch, its_state, its_batches)
            found |= sites
            losses += values
        return found | dict(zip(plan.losses(len(losses)), losses, strict=True))

    return Program(jax.jit(run, compiler_options=QUICK), notes)


def _updates(
    subject: Subject,
    plan: Plan,
    state: Any,
    batches: Any,
    recorded: Any,
    draws: Any,
    count: Counter[str],
) -> Iterator[tuple[Part, Any, Any]]:
    """The updates of a step, each with the state and the batches that it is given.

    `count` is set to the number of calls of each module before the update.
    """
    if not subject.composed:
        yield subject.parts[0], state, batches
        return
    # The function is run for what it hands to its steps. What torch's update gave replaces what
    # theirs gave, so that a fault of one update is none of the next.
    watch = Watch(plan, Notes(), False, recorded, draws, Counter(), subject.partners)
    every = range(len(plan.step.draws))
    first = {name: one.params for name, one in named_states(state).items()}
    outside = Outside(subject.models)
    with watch.replaying("", every), noting_steps() as noted, outside.noting(state, noted):
        for batch in batches:
            state, _ = inner(subject.step)(state, batch)
    done: set[str] = set()
    before = count.copy()
    for number, (called, given, batch) in enumerate(noted):
        part = part_of(called)
        name = "" if part.model is None else str(part.model)
        if name in done:
            raise ValueError(
                f"the step updates the model {name!r} several times, and the parameters between "
                "the updates are not recorded"
            )
        named = {id(one): name for name, one in named_states(given).items()}

        def put(one: Any, named: Mapping[int, str] = named) -> Any:
            name = named[id(one)]
            places = {k: f"update:{join(subject.models[name], k)}" for k in one.params}
            if name not in done or all(one.params[k] is p for k, p in first[name].items()):
                return one
            params = {k: recorded.get(places[k], v) for k, v in one.params.items()}
            return one.replace(params={k: v.astype(one.params[k].dtype) for k, v in params.items()})

        # Several optimizers may use the gradients of one backward pass.
        if number in plan.beginnings:
            before = count + outside.before(number, plan.calls)
        count.clear()
        count.update(before)
        yield part, map_states(put, given), [batch]
        done.add(name)


def _objective(
    subject: Subject, part: Part, watch: Watch, batches: Sequence[Any]
) -> Callable[..., tuple[jax.Array, Any]]:
    """The function of (parameters, taps, state) whose gradients are taken in one update.

    It gives the loss, and with it that of each batch, the arrays of the calls, and the buffers.
    """
    call, mean = with_step(part.loss), subject.accumulation_is_mean

    def objective(params: Any, taps: Any, state: Any) -> tuple[jax.Array, Any]:
        values: list[jax.Array] = []
        with watch.begin(taps), watch.replaying("", watch.plan.loose):
            for batch in batches:
                own = state_of(state, part.model)
                now = with_state(state, part.model, own.replace(params=params))
                with ExitStack() as stack:
                    inside = entered(now, batch, own.key, part.compute_dtype, training=True)
                    models, given = stack.enter_context(inside)
                    for key, model in _models(models).items():
                        stack.enter_context(watching(model, watch.of(subject.models[key])))
                    value, _ = with_metrics(call(models, given, own.step))
                state = map_states(lambda one, m: one.replace(buffers=split(m)[2]), state, models)
                values.append(value / len(batches) if mean else value)
        buffers = {
            f"buffer:{join(subject.models[key], place)}": array
            for key, one in named_states(state).items()
            for place, array in one.buffers.items()
        }
        total = sum(values[1:], values[0])
        total = reached(total, [array for _, array in watch.made.values()])
        return total, (values, watch.noted, buffers)

    return objective


def _gradients(
    subject: Subject, part: Part, watch: Watch, state: Any, batches: Sequence[Any]
) -> tuple[dict[str, Any], list[jax.Array]]:
    """What one update computes before its optimizer, by site, and the loss of each batch."""
    objective = _objective(subject, part, watch, batches)
    own = state_of(state, part.model)
    taps = _taps(watch.plan, watch.recorded, watch.forced)
    with full_float32():
        (gradients, arriving), (values, noted, buffers) = jax.grad(
            objective, argnums=(0, 1), has_aux=True
        )(own.params, taps, state)
    model = subject.models["" if part.model is None else str(part.model)]
    sites = {**noted, **{f"param_grad:{join(model, place)}": g for place, g in gradients.items()}}
    for site, gradient in arriving.items():
        # Nothing arrives at a call that is not made.
        if call_of(site) in watch.seen and site not in watch.unfed:
            sites[site.replace("input:", "input_grad:", 1)] = gradient
    return {**sites, **buffers}, values


def forward_inputs(subject: Subject, step: Step) -> dict[str, np.ndarray]:
    """The arguments of all calls in float32, in torch's layouts, by site.

    Args:
        subject: A program of one update.
        step: A step that was recorded in full, of which the program's own numbers are begun with.
    """
    plan, part = Plan(step, subject.trace.modules), subject.parts[0]

    def run(state: Any, batch: Any, recorded: Any, draws: Any) -> dict[str, Any]:
        watch = Watch(plan, Notes(), True, recorded, draws, Counter(), subject.partners)
        _objective(subject, part, watch, [batch])(state.params, {}, state)
        return watch.noted

    recorded = {name: step[name] for name in plan.arrays()}
    draws = {str(n): step[f"draw:{n}"] for n in range(len(step.draws))}
    program = jax.jit(run, compiler_options=QUICK)
    found: dict[str, np.ndarray] = jax.device_get(
        program(subject.state, step.batch(), recorded, draws)
    )
    return found


def _taps(plan: Plan, recorded: Mapping[str, Any], forced: bool) -> dict[str, Any]:
    """Zeros, whose gradients are those that arrive at a call's outputs and leave its inputs."""
    shapes: dict[str, Any] = {}
    for call in (call for calls in plan.calls.values() for call in calls):
        for path, key in keys_of(call.output).items():
            shapes[at(f"grad:{call.name}", path)] = recorded.get(key)
        for path, key in keys_of(call.inputs).items() if forced else ():
            shapes[f"input:{call.name}.{path}"] = recorded.get(key)
    return {
        site: jnp.zeros(array.shape, array.dtype)
        for site, array in shapes.items()
        if array is not None and jnp.issubdtype(array.dtype, jnp.floating)
    }


def _models(models: Any) -> dict[str, nnx.Module]:
    found = jax.tree_util.tree_leaves_with_path(models, is_leaf=is_module)
    return {dotted(path): model for path, model in found if is_module(model)}


class Layers:
    """The layers of recorded steps, forced or chained, in both precisions.

    Each program is compiled once for all steps with the same calls and shapes.
    """

    def __init__(self, trace: Trace, subject: Subject) -> None:
        self.trace, self.subject = trace, subject
        self._programs: dict[Any, Program] = {}

    def forced(self, step: Step, states: Mapping[bool, Any]) -> tuple[StepEvidence, Notes]:
        """What each layer computes from torch's numbers.

        Args:
            step: The step, recorded in full.
            states: The state before it, with torch's numbers, in float32 and (True) in float64.
        """
        plan, notes, runs = self._run(step, states, forced=True)
        four = four_runs(plan, *runs)
        if notes.narrow or step.single:
            moved = self._spread(plan, step, states[False], runs[0])
            four = {k: dataclasses.replace(v, spread=moved.get(k)) for k, v in four.items()}
        evidence = StepEvidence(
            trace=self.trace,
            step=step,
            forced=four,
            chained={},
            input_grads=_input_grads(*runs),
            consumers={name: tuple(calls) for name, calls in notes.consumers.items()},
            where=notes.where,
            errors=notes.errors,
            subject=self.subject,
        )
        return evidence, notes

    def dependencies(self, step: Step, state: Any) -> dict[str, frozenset[str]]:
        """The outputs ("ln#0") that the program computes each argument and each output from.

        Args:
            step: The step, recorded in full.
            state: The state before it.
        """
        plan = Plan(step, self.trace.modules)

        def run(state: Any, batches: Any, recorded: Any, draws: Any) -> dict[str, Any]:
            noted: dict[str, Any] = {}
            count: Counter[str] = Counter()
            updates = _updates(self.subject, plan, state, batches, recorded, draws, count)
            for part, its_state, its_batches in updates:
                partners = self.subject.partners
                watch = Watch(plan, Notes(), True, recorded, draws, count, partners)
                own = state_of(its_state, part.model)
                _objective(self.subject, part, watch, its_batches)(own.params, {}, its_state)
                noted |= watch.noted
            return noted

        return dependencies(run, *self._given(plan, state, double=False))

    def _given(self, plan: Plan, state: Any, double: bool) -> tuple[Any, ...]:
        """What a program is given: the state, the batches, the recorded arrays and the draws."""
        step = plan.step
        array_of = step.double if double else step.__getitem__
        batches = [step.batch(i, double) for i in range(len(step.batches))]
        recorded = {name: array_of(name) for name in plan.arrays(self.subject.composed)}
        draws = {str(n): array_of(f"draw:{n}") for n in range(len(step.draws))}
        return state, batches, recorded, draws

    def chained(self, step: Step, states: Mapping[bool, Any]) -> dict[str, FourRuns]:
        """The same arrays, each computed from what the program itself computed before."""
        plan, _, runs = self._run(step, states, forced=False)
        return four_runs(plan, *runs)

    def _spread(
        self, plan: Plan, step: Step, state: Any, own: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """How far one unit in the last place of what it is given moves each array, in float32."""
        program = self._programs[_form(step, forced=True), False]
        given = self._given(plan, state, double=False)
        return spread(own, lambda run: jax.device_get(program.run(*perturbed(given, run))))

    def _run(
        self, step: Step, states: Mapping[bool, Any], forced: bool
    ) -> tuple[Plan, Notes, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        plan, notes = Plan(step, self.trace.modules), Notes()
        runs: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        form = _form(step, forced)
        for double, found in zip((False, True), runs, strict=True):
            key = (form, double)
            if key not in self._programs:
                self._programs[key] = make_program(self.subject, plan, forced)
            program = self._programs[key]
            try:
                with precision(double):
                    found |= jax.device_get(program.run(*self._given(plan, states[double], double)))
            except Exception:
                if not double:
                    raise
                # It has no float64, outside of all calls: all that is known of it is float32.
                return plan, dataclasses.replace(notes, narrow={*runs[0]}), runs
            if double:  # what the program cannot do in float64 alone is no difference
                weak = program.notes.errors.keys() - notes.errors.keys() if forced else set()
                errors = {k: v for k, v in program.notes.errors.items() if k not in weak}
                sites = {s for s in runs[0] if s.startswith("forward:") and call_of(s) in weak}
                notes = dataclasses.replace(
                    notes if weak else program.notes,
                    errors=errors,
                    narrow=program.notes.narrow | sites,
                )
            else:
                notes = program.notes
        notes.narrow |= {
            site
            for site, array in runs[1].items()
            if jnp.issubdtype(array.dtype, jnp.floating)
            and array.dtype != np.float64
            and runs[0][site].dtype == array.dtype
        } | {site for site in runs[0] if runs[1] and site not in runs[1]}
        return plan, notes, runs


def _form(step: Step, forced: bool) -> str:
    """What steps have in common that one program computes."""
    return repr((step.calls, step.batches, drawn(step.draws), forced))


def _input_grads(
    jax32: Mapping[str, np.ndarray], jax64: Mapping[str, np.ndarray]
) -> dict[str, FourRuns]:
    phase = "input_grad:"
    return {
        site.removeprefix(phase): FourRuns(None, None, array, jax64.get(site))
        for site, array in jax32.items()
        if site.startswith(phase)
    }


def four_runs(
    plan: Plan, jax32: Mapping[str, np.ndarray], jax64: Mapping[str, np.ndarray]
) -> dict[str, FourRuns]:
    """The arrays of a step that both programs have, by site in the order of the computation."""
    step = plan.step
    keys = {
        f"input:{call.name}.{path}": key
        for calls in plan.calls.values()
        for call in calls
        for path, key in keys_of(call.inputs).items()
    }
    found = {}
    for site, array in jax32.items():
        if site.startswith("loss:") and "+" in site:
            parts = [f"loss:{i}" for i in site.removeprefix("loss:").split("+")]
            found[site] = FourRuns(
                np.asarray(sum(step[p] for p in parts)),
                np.asarray(sum(step.double(p) for p in parts)),
                array,
                jax64.get(site),
            )
        key = keys.get(site, site)
        if key in step:
            found[site] = FourRuns(step[key], step.double(key), array, jax64.get(site))
    found |= _recurrent.gradients(step, plan.modules, jax32, jax64)
    order = {site: i for i, site in enumerate(step.sites)}

    def position(site: str) -> int:
        return order.get(keys.get(site, site.partition("+")[0]), 0)

    return dict(sorted(found.items(), key=lambda item: position(item[0])))
