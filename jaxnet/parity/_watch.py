"""The calls of the checked program, met with the recorded ones while it is traced.

torch's arguments, outputs and gradients take the place of the program's own here, and torch's
random draws that of its generator's.
"""

import dataclasses
import inspect
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx

import jaxnet
from jaxnet._intercept import Call
from jaxnet._names import dotted, join
from jaxnet.parity import _exchange as exchange
from jaxnet.parity._draws import Replay, described
from jaxnet.parity._foreign_calls import ForeignCall
from jaxnet.parity._jax_draws import supplied
from jaxnet.parity._layouts import SAME, View
from jaxnet.parity._sites import at
from jaxnet.parity._trace import Call as Recorded
from jaxnet.parity._trace import Step
from jaxnet.parity._tree import from_json, keys_of


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


class Watch:
    """The interceptor of a model's calls in one traced program.

    Args:
        plan: The recorded calls.
        notes: What is noted while tracing.
        forced: Whether torch's numbers replace the program's own.
        recorded: torch's arrays by name.
        draws: The recorded draws by number.
        count: How often each module was called in the step so far.
        partners: The layers of a plain flax model by name; None for a model of jaxnet.

    Attributes:
        taps: Arrays of zeros by site, whose gradients are those that arrive there.
        noted: The arrays of the calls, in torch's layout, by site.
        seen: The calls that were made.
        unfed: The sites of arguments that torch gives a call and the program does not.
    """

    def __init__(
        self,
        plan: Plan,
        notes: Notes,
        forced: bool,
        recorded: Mapping[str, Any],
        draws: Mapping[str, Any],
        count: Counter[str],
        partners: Mapping[str, ForeignCall] | None = None,
    ) -> None:
        self.plan, self.notes, self.forced = plan, notes, forced
        self.partners = partners
        self.recorded, self.draws, self.count = recorded, draws, count
        self.taps: Mapping[str, Any] = {}
        self.noted: dict[str, Any] = {}
        self.seen: set[str] = set()
        self.unfed: set[str] = set()
        self.made: dict[int, tuple[str, Any]] = {}  # with the array, so that no id is used again

    def of(self, model: str) -> Callable[[Call, Callable[..., Any]], Any]:
        def watch(call: Call, proceed: Callable[..., Any]) -> Any:
            foreign = None if self.partners is None else self.partners.get(call.name)
            if self.partners is not None and foreign is None:
                return proceed(*call.args, **call.kwargs)
            own = call.name if foreign is None else foreign.module
            name = join(model, own) if own else model
            number = self.count[name]
            self.count[name] += 1
            there = self.plan.call(name, number)
            if there is None:
                self.notes.unpaired.append(f"{name}#{number}")
                return proceed(*call.args, **call.kwargs)
            return self._watched(there, call, proceed, foreign)

        return watch

    def _watched(
        self,
        there: Recorded,
        call: Call,
        proceed: Callable[..., Any],
        foreign: ForeignCall | None,
    ) -> Any:
        name, notes = there.name, self.notes
        notes.seen.add(name)
        self.seen.add(name)
        notes.where[name] = f"{type(call.module).__name__} {_caller()}"
        mode = getattr(call.module, "training", there.training)
        if foreign is not None and hasattr(call.module, "use_running_average"):
            mode = not call.module.use_running_average
        if mode != there.training:
            notes.modes[name] = f"training={mode}; torch's training={there.training}"
        args, kwargs = self._arguments(there, call, foreign)
        output = None
        try:
            with self.replaying(name, there.draws):
                output = proceed(*args, **kwargs)
        except Exception as error:
            if not self.forced:
                raise
            notes.errors[name] = f"{type(error).__name__}: {error}"
            given = from_json(there.output, lambda key: jnp.asarray(self.recorded[key]))
            if foreign is None:
                return given
            first = next(leaf for leaf in jax.tree.leaves(given) if hasattr(leaf, "dtype"))
            return _view(foreign, first, first).model(first)
        return self._outputs(there, output, foreign)

    @contextmanager
    def replaying(self, name: str, numbers: Sequence[int]) -> Iterator[None]:
        """Supplies the recorded draws of a call."""
        arrays = {number: self.draws[str(number)] for number in numbers}
        replay = Replay(self.plan.step.draws, arrays, list(numbers), self.notes.draws)
        with supplied(replay.take, foreign=self.partners is not None):
            yield
        if replay.left and name:
            self.notes.errors[name] = (
                f"torch's draws {len(numbers)} times random numbers here, the program "
                f"{len(numbers) - len(replay.left)} times; the first left over is "
                f"{described(self.plan.step.draws[replay.left[0]])}"
            )

    def _arguments(
        self, there: Recorded, call: Call, foreign: ForeignCall | None
    ) -> tuple[Any, dict[str, Any]]:
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
            view = _view(foreign, own, recorded, given=True)
            own, recorded = _masks(view.torch(own), recorded)
            self.noted[f"input:{there.name}.{where}"] = own
            if jnp.issubdtype(own.dtype, jnp.floating) and recorded.shape == own.shape:
                tap = self.taps.get(f"input:{there.name}.{where}")
                tap = jnp.zeros(own.shape, own.dtype) if tap is None else tap.astype(own.dtype)
                return view.model(exchange.given(own, recorded.astype(own.dtype), tap))
            return view.model(recorded.astype(own.dtype))

        given = dict(zip(by_position, call.args, strict=True))
        given |= {by_name[name]: value for name, value in call.kwargs.items()}
        theirs = {key.split(".")[0] for key in keys}
        if absent := theirs - {k for k, v in given.items() if v is not None}:
            if foreign is None or not foreign.some:
                self.notes.absent[there.name] = tuple(sorted(absent))
            else:  # one argument is several of torch's, and its gradient the sum of theirs
                self.unfed |= {f"input:{there.name}.{path}" for path in keys}
        new = jax.tree_util.tree_map_with_path(replaced, given, is_leaf=is_module)
        kwargs = {name: new[by_name[name]] for name in call.kwargs}
        return tuple(new[name] for name in by_position), kwargs

    def _outputs(self, there: Recorded, output: Any, foreign: ForeignCall | None) -> Any:
        """The output, noted, and torch's in its place."""
        keys = keys_of(there.output)
        found = set()
        names: Mapping[str, str] = {}
        if foreign is not None:
            paths = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(output)]
            names = foreign.outputs(tuple(paths), keys)

        def replaced(path: Any, own: Any) -> Any:
            where = names.get(dotted(path), dotted(path))
            key = keys.get(where)
            if key is None or key not in self.recorded or not hasattr(own, "dtype"):
                return own
            found.add(where)
            site = at(f"forward:{there.name}", where)
            recorded = self.recorded[key]
            view = _view(foreign, own, recorded)
            own = view.torch(own)
            self.noted[site] = own
            floating = jnp.issubdtype(own.dtype, jnp.floating)
            gradient_site = at(f"grad:{there.name}", where)
            tap = self.taps.get(gradient_site)
            if not floating or recorded.shape != own.shape:
                return view.model(recorded.astype(own.dtype) if self.forced else own)
            tap = jnp.zeros(own.shape, own.dtype) if tap is None else tap.astype(own.dtype)
            if not self.forced:
                return view.model(exchange.tapped(own, tap))
            gradient = self.recorded.get(gradient_site)
            gradient = None if gradient is None else gradient.astype(own.dtype)
            made = view.model(exchange.output(own, recorded.astype(own.dtype), gradient, tap))
            self.made[id(made)] = (there.name, made)
            return made

        output = jax.tree_util.tree_map_with_path(replaced, output)
        missing = [path for path in keys if path not in found and keys[path] in self.recorded]
        if foreign is not None:  # a layer of flax's gives less; what torch does not use is no loss
            used = [p for p in missing if at(f"grad:{there.name}", p) in self.recorded]
            missing = used if found else missing
        if missing:
            self.notes.errors.setdefault(
                there.name, f"the outputs {missing} of torch's are not among the program's"
            )
        return output


def _view(foreign: ForeignCall | None, own: Any, recorded: Any, given: bool = False) -> View:
    """The view of an argument or an output in torch's layout."""
    return SAME if foreign is None else foreign.view(own.shape, recorded.shape, given)


def is_module(x: Any) -> bool:
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


def raised(error: BaseException) -> str:
    """An error of the user's program: its first line, and the line that was reached last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith((*_LIBRARIES, "<"))]
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}{where}"


def _caller() -> str:
    """File and line of the user's program that called a module."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        file = frame.f_code.co_filename
        if not file.startswith((*_LIBRARIES, "<")) and "contextlib" not in file:
            return f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
