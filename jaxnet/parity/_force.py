"""The layers of one step, each computed from what torch's layer before it gave.

In the forced program every call of a module gets the arguments that torch's module got, and
gives on what torch's module gave; the backward pass gets torch's gradient at every output. So
each number depends on one layer, or on what lies between two, and a fault shows where it is
made and nowhere else. In the chained program nothing is replaced.
"""

import dataclasses
import inspect
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxnet
from jaxnet._intercept import Call, intercept
from jaxnet._keys import Check, taking_draws
from jaxnet._names import dotted, join
from jaxnet.parity._subject import Part, Subject, inner, precision
from jaxnet.parity._trace import Call as Recorded
from jaxnet.parity._trace import Step, Trace
from jaxnet.parity._tree import from_json, leaves
from jaxnet.precision import full_float32
from jaxnet.train._loss import entered, with_metrics, with_step
from jaxnet.train._several import map_states, named_states, state_of, with_state
from jaxnet.train._state import split
from jaxnet.train._step import noting_steps


@dataclasses.dataclass(frozen=True)
class FourRuns:
    """One array of the four runs; the arrays of JAX are None where the program has none."""

    torch: np.ndarray | None
    torch64: np.ndarray | None
    jax: np.ndarray | None
    jax64: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class StepEvidence:
    """What was computed of one step.

    Attributes:
        trace: The trace; `trace.modules[name].config` has the arguments of a module.
        step: The recorded step, with its calls and arrays.
        forced: The isolated arrays by site ("forward:fc1#0", "param_grad:fc1.weight",
            "buffer:bn.running_var", "update:fc1.weight", ...), each computed from torch's
            numbers.
        chained: The same sites, computed from what the program itself computed before.
        input_grads: The gradients of the loss by the arguments of calls ("fc1#0.0"), computed by
            the call's backward pass from torch's gradient of its output; torch's are not known.
        consumers: For an output ("conv1#0") the calls that got it unchanged as an argument.
        where: The file and line, in the program that is checked, of each call ("fc1#0").
        errors: What went wrong at a call instead of giving a number ("drop1#0": "...").
        subject: The program (`_subject.Subject`).
    """

    trace: Trace
    step: Step
    forced: dict[str, FourRuns]
    chained: dict[str, FourRuns]
    input_grads: dict[str, FourRuns]
    consumers: Mapping[str, tuple[str, ...]]
    where: Mapping[str, str]
    errors: Mapping[str, str]
    subject: Subject


@dataclasses.dataclass
class Notes:
    """What is known of a program once it has been traced, beside its numbers.

    Attributes:
        where, consumers, errors: As in `StepEvidence`.
        draws: The numbers of the recorded draws in the order in which the program takes them.
        modes: The calls whose module is in another mode than torch's.
        unpaired: Calls that the program makes and torch does not.
        absent: The arguments by torch's names that torch gives a call and the program does not.
        seen: The recorded calls that the program makes.
        narrow: The sites whose arrays are float32 in the float64 program.
    """

    where: dict[str, str] = dataclasses.field(default_factory=dict)
    consumers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)
    draws: list[int] = dataclasses.field(default_factory=list)
    modes: dict[str, str] = dataclasses.field(default_factory=dict)
    unpaired: list[str] = dataclasses.field(default_factory=list)
    absent: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    seen: set[str] = dataclasses.field(default_factory=set)
    narrow: set[str] = dataclasses.field(default_factory=set)


# A program that runs a few times takes longer to be optimised than to run.
QUICK = {"xla_backend_optimization_level": 0}


class _Key(str):
    """The name of an array in the trace, as a leaf of a recorded value."""


class DrawsError(ValueError):
    """The program draws other random numbers than torch's, which is a difference of the two."""


class Plan:
    """The recorded calls of a step, as the checked program meets them.

    Args:
        step: The recorded step.
        model: The name of a recorded model, whose calls are meant.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        roots = [_root(step.calls, i) for i in range(len(step.calls))]
        # An evaluation between two updates is part of the step in which it happened, but the
        # training step of the program does not make it.
        trained = {i for i, call in enumerate(step.calls) if call.parent is None and call.training}
        self.calls: dict[str, list[Recorded]] = {}
        for call, root in zip(step.calls, roots, strict=True):
            if not trained or root in trained:
                self.calls.setdefault(call.module, []).append(call)
        inside = {number for call in step.calls for number in call.draws}
        self.loose = tuple(n for n in range(len(step.draws)) if n not in inside)

    def call(self, module: str, number: int) -> Recorded | None:
        calls = self.calls.get(module, [])
        return calls[number] if number < len(calls) else None

    def losses(self, count: int) -> list[str]:
        """The sites of the losses: "loss:0+1" of one that is the sum of two of torch's."""
        if count == len(self.step.losses):
            return list(self.step.losses)
        groups: list[list[int]] = [[]]
        backward = 0
        for event in self.step.events:
            if event == "backward":
                groups[-1].append(backward)
                backward += 1
            elif event == "step":
                groups.append([])
        groups = [group for group in groups if group]
        if len(groups) != count:
            groups = [[*range(len(self.step.losses))]]
        names = [f"loss:{'+'.join(map(str, group))}" for group in groups]
        return [*names, *(f"loss:more{i}" for i in range(count - len(names)))]

    def arrays(self, updated: bool = False) -> list[str]:
        """The names of all arrays that the program is given.

        Args:
            updated: Whether the parameters after the step are among them.
        """
        names: dict[str, None] = dict.fromkeys(self.step.of("update").values() if updated else ())
        for call in (call for calls in self.calls.values() for call in calls):
            for form in (call.inputs, call.output):
                names.update(dict.fromkeys(keys_of(form).values()))
            for path in keys_of(call.output):
                names[at(f"grad:{call.name}", path)] = None
        return [name for name in names if name in self.step]


def _root(calls: Sequence[Recorded], index: int) -> int:
    while (parent := calls[index].parent) is not None:
        index = parent
    return index


def at(call: str, path: str) -> str:
    """The site of a part of a value; the path "" is that of the whole value."""
    return f"{call}.{path}" if path else call


def keys_of(form: Any) -> dict[str, str]:
    """The names of the arrays in a recorded value by their paths."""
    found = leaves(from_json(form, _Key))
    return {path: leaf for path, leaf in found if isinstance(leaf, _Key)}


@jax.custom_vjp
def _output(own: Any, recorded: Any, gradient: Any, noted: Any) -> Any:
    """torch's output; its gradient, as it arrives, is that of `noted`, and is replaced."""
    return recorded


_output.defvjp(
    lambda own, recorded, gradient, noted: (recorded, gradient),
    lambda gradient, ct: (ct if gradient is None else gradient, None, None, ct),
)


@jax.custom_vjp
def _given(own: Any, recorded: Any, noted: Any) -> Any:
    """torch's argument; the gradient goes to the program's own, and is that of `noted` too."""
    return recorded


_given.defvjp(
    lambda own, recorded, noted: (recorded, None),
    lambda _, ct: (ct, None, ct),
)


@jax.custom_vjp
def _tapped(own: Any, noted: Any) -> Any:
    """The array itself, whose gradient is that of `noted` too."""
    return own


_tapped.defvjp(lambda own, noted: (own, None), lambda _, ct: (ct, ct))


class _Watch:
    """The interceptor of a model's calls in one traced program.

    Args:
        plan: The recorded calls.
        notes: What is noted while tracing.
        forced: Whether torch's numbers replace the program's own.
        recorded: torch's arrays by name.
        draws: The recorded draws by number.
        count: How often each module was called in the step so far.

    Attributes:
        taps: Arrays of zeros by site, whose gradients are those that arrive there.
        noted: The arrays of the calls, by site.
        seen: The calls that were made.
    """

    def __init__(
        self,
        plan: Plan,
        notes: Notes,
        forced: bool,
        recorded: Mapping[str, Any],
        draws: Mapping[str, Any],
        count: Counter[str],
    ) -> None:
        self.plan, self.notes, self.forced = plan, notes, forced
        self.recorded, self.draws, self.count = recorded, draws, count
        self.taps: Mapping[str, Any] = {}
        self.noted: dict[str, Any] = {}
        self.seen: set[str] = set()
        self.made: dict[int, tuple[str, Any]] = {}  # with the array, so that no id is used again

    def of(self, model: str) -> Callable[[Call, Callable[..., Any]], Any]:
        def watch(call: Call, proceed: Callable[..., Any]) -> Any:
            name = join(model, call.name) if call.name else model
            number = self.count[name]
            self.count[name] += 1
            there = self.plan.call(name, number)
            if there is None:
                self.notes.unpaired.append(f"{name}#{number}")
                return proceed(*call.args, **call.kwargs)
            return self._watched(there, call, proceed)

        return watch

    def _watched(self, there: Recorded, call: Call, proceed: Callable[..., Any]) -> Any:
        name, notes = there.name, self.notes
        notes.seen.add(name)
        self.seen.add(name)
        notes.where[name] = f"{type(call.module).__name__} {_caller()}"
        mode = getattr(call.module, "training", there.training)
        if mode != there.training:
            notes.modes[name] = f"training={mode}; torch's training={there.training}"
        args, kwargs = self._arguments(there, call)
        output = None
        try:
            with self.replaying(name, there.draws):
                output = proceed(*args, **kwargs)
        except Exception as error:
            if not self.forced:
                raise
            notes.errors[name] = f"{type(error).__name__}: {error}"
            return from_json(there.output, lambda key: jnp.asarray(self.recorded[key]))
        return self._outputs(there, output)

    @contextmanager
    def replaying(self, name: str, numbers: Sequence[int]) -> Iterator[None]:
        """Supplies the recorded draws of a call, the first that fits first."""
        left = list(numbers)

        def take(owner: str, shapes: tuple[tuple[int, ...], ...], check: Check) -> Any:
            for number in left:
                array = self.draws[str(number)]
                if array.shape in shapes:
                    left.remove(number)
                    self.notes.draws.append(number)
                    return array
            shown = [
                f"{self.plan.step.draws[n].kind} of shape {self.draws[str(n)].shape}" for n in left
            ]
            raise DrawsError(
                f"{owner} draws random numbers of shape {shapes[0]}; torch's draws here "
                f"{', '.join(shown) or 'none'}"
            )

        with taking_draws(take):
            yield
        if left and name:
            first = self.plan.step.draws[left[0]]
            self.notes.errors[name] = (
                f"torch's draws {len(numbers)} times random numbers here, the program "
                f"{len(numbers) - len(left)} times; the first left over is {first.kind}"
                f"({', '.join(f'{k}={v}' for k, v in first.arguments.items())})"
            )

    def _arguments(self, there: Recorded, call: Call) -> tuple[Any, dict[str, Any]]:
        """torch's arguments in place of the program's own."""
        if not self.forced:
            return call.args, call.kwargs
        keys = keys_of(there.inputs)
        by_position, by_name = _argument_names(call, there)

        def replaced(path: Any, own: Any) -> Any:
            where = dotted(path)
            key = keys.get(where)
            if key is None or key not in self.recorded or not hasattr(own, "dtype"):
                return own
            if made := self.made.get(id(own)):
                consumers = self.notes.consumers.setdefault(made[0], [])
                consumers.append(there.name)
            recorded = self.recorded[key]
            own, recorded = _masks(own, recorded)
            self.noted[f"input:{there.name}.{where}"] = own
            if jnp.issubdtype(own.dtype, jnp.floating) and recorded.shape == own.shape:
                tap = self.taps.get(f"input:{there.name}.{where}")
                tap = jnp.zeros(own.shape, own.dtype) if tap is None else tap.astype(own.dtype)
                return _given(own, recorded.astype(own.dtype), tap)
            return recorded.astype(own.dtype)

        given = dict(zip(by_position, call.args, strict=True))
        given |= {by_name[name]: value for name, value in call.kwargs.items()}
        theirs, ours = (
            {key.split(".")[0] for key in keys},
            {k for k, v in given.items() if v is not None},
        )
        if absent := theirs - ours:
            self.notes.absent[there.name] = tuple(sorted(absent))
        new = jax.tree_util.tree_map_with_path(replaced, given, is_leaf=_is_module)
        kwargs = {name: new[by_name[name]] for name in call.kwargs}
        return tuple(new[name] for name in by_position), kwargs

    def _outputs(self, there: Recorded, output: Any) -> Any:
        """The output, noted, and torch's in its place."""
        keys = keys_of(there.output)
        found = set()

        def replaced(path: Any, own: Any) -> Any:
            where = dotted(path)
            key = keys.get(where)
            if key is None or key not in self.recorded or not hasattr(own, "dtype"):
                return own
            found.add(where)
            site = at(f"forward:{there.name}", where)
            self.noted[site] = own
            recorded = self.recorded[key]
            floating = jnp.issubdtype(own.dtype, jnp.floating)
            gradient_site = at(f"grad:{there.name}", where)
            tap = self.taps.get(gradient_site)
            if not floating or recorded.shape != own.shape:
                return recorded.astype(own.dtype) if self.forced else own
            tap = jnp.zeros(own.shape, own.dtype) if tap is None else tap.astype(own.dtype)
            if not self.forced:
                return _tapped(own, tap)
            gradient = self.recorded.get(gradient_site)
            gradient = None if gradient is None else gradient.astype(own.dtype)
            made = _output(own, recorded.astype(own.dtype), gradient, tap)
            self.made[id(made)] = (there.name, made)
            return made

        output = jax.tree_util.tree_map_with_path(replaced, output)
        if missing := [path for path in keys if path not in found and keys[path] in self.recorded]:
            self.notes.errors.setdefault(
                there.name, f"the outputs {missing} of torch's are not among the program's"
            )
        return output


def _masks(own: Any, recorded: Any) -> tuple[Any, Any]:
    """A boolean mask in the form of the other program's, which adds -inf where it is True.

    torch's TransformerEncoderLayer makes that form of the mask that it is given.
    """

    def added(mask: Any, like: Any) -> Any:
        zero = jnp.zeros((), like.dtype)
        return jnp.where(mask, -jnp.inf, zero)

    if own.dtype == jnp.bool and jnp.issubdtype(recorded.dtype, jnp.floating):
        return added(own, recorded), recorded
    if recorded.dtype == jnp.bool and jnp.issubdtype(own.dtype, jnp.floating):
        return own, added(recorded, own)
    return own, recorded


def _is_module(x: Any) -> bool:
    return isinstance(x, nnx.Module)


def _argument_names(call: Call, there: Recorded) -> tuple[list[str], dict[str, str]]:
    """torch's names of a call's arguments, by position and by keyword.

    torch's is the number of an argument by position and the name of one by keyword; the two
    programs need not agree in which they use.
    """
    theirs = there.inputs.get("dict", {})
    own = list(inspect.signature(type(call.module).__call__).parameters)[1:]
    by_position = [
        own[i] if str(i) not in theirs and i < len(own) and own[i] in theirs else str(i)
        for i in range(len(call.args))
    ]
    by_name = {
        name: str(own.index(name))
        if name not in theirs and name in own and str(own.index(name)) in theirs
        else name
        for name in call.kwargs
    }
    return by_position, by_name


_LIBRARIES = tuple(
    str(Path(module.__file__).parent) for module in (jaxnet, flax, jax) if module.__file__
)


def raised(error: BaseException) -> str:
    """An error of the user's program, with the line of it that was reached last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_LIBRARIES, "<"))]
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"


def _caller() -> str:
    """File and line of the user's program that called a module."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_LIBRARIES, "<")) and "contextlib" not in file:
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


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
        for part, its_state, its_batches in _updates(
            subject, plan, state, batches, recorded, draws
        ):
            watch = _Watch(plan, notes, forced, recorded, draws, count)
            sites, values = _gradients(subject, part, watch, its_state, its_batches)
            found |= sites
            losses += values
        return found | dict(zip(plan.losses(len(losses)), losses, strict=True))

    return Program(jax.jit(run, compiler_options=QUICK), notes)


def _updates(
    subject: Subject, plan: Plan, state: Any, batches: Any, recorded: Any, draws: Any
) -> Iterator[tuple[Part, Any, Any]]:
    """The updates of a step, each with the state and the batches that it is given."""
    if not subject.composed:
        yield subject.parts[0], state, batches
        return
    # The function is run for what it hands to its steps. What torch's update gave replaces what
    # theirs gave, so that a fault of one update is none of the next.
    watch = _Watch(plan, Notes(), False, recorded, draws, Counter())
    with watch.replaying("", range(len(plan.step.draws))), noting_steps() as noted:
        for batch in batches:
            state, _ = inner(subject.step)(state, batch)
    done: set[str] = set()
    for part, (_, given, batch) in zip(subject.parts, noted, strict=True):
        named = {id(one): name for name, one in named_states(given).items()}

        def put(one: Any, named: Mapping[int, str] = named) -> Any:
            name = named[id(one)]
            places = {k: f"update:{join(subject.models[name], k)}" for k in one.params}
            if name not in done:
                return one
            params = {k: recorded.get(places[k], v) for k, v in one.params.items()}
            return one.replace(params={k: v.astype(one.params[k].dtype) for k, v in params.items()})

        yield part, map_states(put, given), [batch]
        done.add("" if part.model is None else str(part.model))


def _gradients(
    subject: Subject, part: Part, watch: "_Watch", state: Any, batches: Sequence[Any]
) -> tuple[dict[str, Any], list[jax.Array]]:
    """What one update computes before its optimizer, by site, and the loss of each batch."""
    call, mean = with_step(part.loss), subject.accumulation_is_mean

    def objective(params: Any, taps: Any, state: Any) -> tuple[jax.Array, Any]:
        watch.taps = taps
        values: list[jax.Array] = []
        with watch.replaying("", watch.plan.loose):
            for batch in batches:
                own = state_of(state, part.model)
                now = with_state(state, part.model, own.replace(params=params))
                with ExitStack() as stack:
                    inside = entered(now, batch, own.key, part.compute_dtype, training=True)
                    models, given = stack.enter_context(inside)
                    for key, model in _models(models).items():
                        stack.enter_context(intercept(model, watch.of(subject.models[key])))
                    value, _ = with_metrics(call(models, given, own.step))
                state = map_states(lambda one, m: one.replace(buffers=split(m)[2]), state, models)
                values.append(value / len(batches) if mean else value)
        buffers = {
            f"buffer:{join(subject.models[key], place)}": array
            for key, one in named_states(state).items()
            for place, array in one.buffers.items()
        }
        return sum(values[1:], values[0]), (values, watch.noted, buffers)

    own = state_of(state, part.model)
    taps = _taps(watch.plan, watch.recorded, watch.forced)
    with full_float32():
        (gradients, arriving), (values, noted, buffers) = jax.grad(
            objective, argnums=(0, 1), has_aux=True
        )(own.params, taps, state)
    model = subject.models["" if part.model is None else str(part.model)]
    sites = {**noted, **{f"param_grad:{join(model, place)}": g for place, g in gradients.items()}}
    for site, gradient in arriving.items():
        if call_of(site) in watch.seen:  # nothing arrives at a call that is not made
            sites[site.replace("input:", "input_grad:", 1)] = gradient
    return {**sites, **buffers}, values


def call_of(site: str) -> str:
    """The call of a site: "fc1#0" of "input:fc1#0.mask"."""
    name, _, rest = site.partition(":")[2].rpartition("#")
    return f"{name}#{rest.partition('.')[0]}"


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
    found = jax.tree_util.tree_leaves_with_path(models, is_leaf=_is_module)
    return {dotted(path): model for path, model in found if _is_module(model)}


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
        evidence = StepEvidence(
            trace=self.trace,
            step=step,
            forced=four_runs(plan, *runs),
            chained={},
            input_grads=_input_grads(*runs),
            consumers={name: tuple(calls) for name, calls in notes.consumers.items()},
            where=notes.where,
            errors=notes.errors,
            subject=self.subject,
        )
        return evidence, notes

    def chained(self, step: Step, states: Mapping[bool, Any]) -> dict[str, FourRuns]:
        """The same arrays, each computed from what the program itself computed before."""
        plan, _, runs = self._run(step, states, forced=False)
        return four_runs(plan, *runs)

    def _run(
        self, step: Step, states: Mapping[bool, Any], forced: bool
    ) -> tuple[Plan, Notes, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        plan, notes = Plan(step), Notes()
        runs: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
        form = repr((step.calls, step.batches, len(step.draws), forced))
        for double, found in zip((False, True), runs, strict=True):
            key = (form, double)
            if key not in self._programs:
                self._programs[key] = make_program(self.subject, plan, forced)
            program = self._programs[key]
            array_of = step.double if double else step.__getitem__
            with precision(double):
                batches = [step.batch(i, double) for i in range(len(step.batches))]
                recorded = {name: array_of(name) for name in plan.arrays(self.subject.composed)}
                draws = {str(n): array_of(f"draw:{n}") for n in range(len(step.draws))}
                found |= jax.device_get(program.run(states[double], batches, recorded, draws))
            if double:  # what the program cannot do in float64 alone is no difference
                weak = program.notes.errors.keys() - notes.errors.keys() if forced else set()
                errors = {k: v for k, v in program.notes.errors.items() if k not in weak}
                sites = {s for s in runs[0] if s.startswith("forward:") and call_of(s) in weak}
                notes = dataclasses.replace(
                    program.notes, errors=errors, narrow=program.notes.narrow | sites
                )
            else:
                notes = program.notes
        notes.narrow |= {
            site
            for site, array in runs[1].items()
            if array.dtype in (np.float32, np.float16) and runs[0][site].dtype == array.dtype
        }
        return plan, notes, runs


def _input_grads(
    jax32: Mapping[str, np.ndarray], jax64: Mapping[str, np.ndarray]
) -> dict[str, FourRuns]:
    phase = "input_grad:"
    return {
        site.removeprefix(phase): FourRuns(None, None, array, jax64[site])
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
    order = {site: i for i, site in enumerate(step.sites)}

    def position(site: str) -> int:
        return order.get(keys.get(site, site.partition("+")[0]), 0)

    return dict(sorted(found.items(), key=lambda item: position(item[0])))
