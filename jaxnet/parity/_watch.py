"""The calls of the checked program, met with the recorded ones while it is traced.

torch's arguments, outputs and gradients take the place of the program's own here, and torch's
random draws that of its generator's.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxnet._intercept import Call
from jaxnet._names import dotted, is_module
from jaxnet.parity._draws import Replay, described, zeros
from jaxnet.parity._foreign_calls import ForeignCall, Partners
from jaxnet.parity._foreign_model import class_of
from jaxnet.parity._jax_draws import PLAIN, supplied
from jaxnet.parity._layouts import SAME, View
from jaxnet.parity._loops import one_by_one
from jaxnet.parity._notes import Notes
from jaxnet.parity._program import joined
from jaxnet.parity._recurrent import is_recurrent
from jaxnet.parity._sites import at
from jaxnet.parity._taps import replaced_input, replaced_output, tapped
from jaxnet.parity._trace import Call as Recorded
from jaxnet.parity._trace import Module, Step
from jaxnet.parity._tree import from_json, keys_of
from jaxnet.parity._user_lines import caller


class Plan:
    """The recorded calls of a step, as the checked program meets them.

    Args:
        step: The recorded step.
        modules: The recorded modules by name.
    """

    def __init__(self, step: Step, modules: Mapping[str, Module] = MappingProxyType({})) -> None:
        self.step, self.modules = step, modules
        roots = [_root(step.calls, i) for i in range(len(step.calls))]
        # An evaluation between two updates is part of the step in which it happened, but the
        # training step of the program does not make it.
        outermost = {i: call for i, call in enumerate(step.calls) if call.parent is None}
        models = {call.module for call in outermost.values() if call.training}
        trained = {i for i, c in outermost.items() if c.training or c.module not in models}
        self.calls: dict[str, list[Recorded]] = {}
        for call, root in zip(step.calls, roots, strict=True):
            if root in trained:
                self.calls.setdefault(call.module, []).append(call)
        # The numbers of the updates before which the program computes gradients.
        self.beginnings = {0}
        updates = 0
        for event, last in zip(step.events[1:], step.events, strict=False):
            updates += last == "step"
            if last == "step" and event != "step":
                self.beginnings.add(updates)
        inside = {number for call in step.calls for number in call.draws}
        self.loose = tuple(n for n in range(len(step.draws)) if n not in inside)

    def is_inside(self, replay: Replay) -> Callable[[], bool]:
        """A function that says whether a recurrent layer made the draw that was taken last."""
        inside = {
            number
            for call in self.step.calls
            if is_recurrent(self.modules.get(call.module))
            for number in (*call.draws, *call.elsewhere)
        }
        return lambda: bool(replay.taken) and replay.taken[-1] in inside

    def call(self, module: str, number: int) -> Recorded | None:
        calls = self.calls.get(module, [])
        return calls[number] if number < len(calls) else None

    def unused(self, call: Recorded) -> bool:
        """Whether an output of a call that has no recorded gradient is one that torch leaves."""
        return is_recurrent(self.modules.get(call.module)) and any(
            at(f"grad:{call.name}", path) in self.step for path in keys_of(call.output)
        )

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
            for path, key in keys_of(call.output).items():
                names[at(f"grad:{call.name}", path)] = names[_gradient_of(key)] = None
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
        partners: Partners | None = None,
    ) -> None:
        self.plan, self.notes, self.forced = plan, notes, forced
        self.partners = partners
        self.recorded, self.draws, self.count = recorded, draws, count
        self.taps: Mapping[str, Any] = {}
        self.noted: dict[str, Any] = {}
        self.seen: set[str] = set()
        self.unfed: set[str] = set()
        self.made: dict[int, tuple[str, Any]] = {}  # with the array, so that no id is used again
        self.level: Any = None
        self.met: Counter[str] | None = None  # while a function is tried: the modules it calls

    @contextmanager
    def begin(self, taps: Mapping[str, Any]) -> Iterator[None]:
        """The function that is differentiated is traced inside, and its calls are met."""
        self.taps, self.level = taps, _level()
        with one_by_one(self._calls):
            yield
        for name in self.notes.within:
            if any(call.draws for call in self.plan.calls.get(name, ())[self.count[name] :]):
                raise ValueError(
                    f"{name} draws random numbers inside of a loop that JAX traces once"
                )

    def _calls(self, function: Callable[[], Any], times: int) -> bool:
        """Whether a function that is called some times calls modules as often as torch does."""
        self.met = Counter()
        try:
            with supplied(zeros, self.partners is not None):
                function()
            left = {n: len(self.plan.calls.get(n, ())) - self.count[n] for n in self.met}
            return bool(left) and all(self.met[n] * times <= left[n] for n in left if left[n] > 0)
        finally:
            self.met = None

    def of(self, model: str) -> Callable[[Call, Callable[..., Any]], Any]:
        def watch(call: Call, proceed: Callable[..., Any]) -> Any:
            foreign = None if self.partners is None else self.partners.get(call.name)
            if self.partners is not None and foreign is None:
                return proceed(*call.args, **call.kwargs)
            own = call.name if foreign is None else foreign.module
            name = joined(model, own)
            if self.met is not None:
                self.met[name] += 1
                return proceed(*call.args, **call.kwargs)
            number = self.count[name]
            self.count[name] += 1
            there = self.plan.call(name, number)
            if there is None:
                self.notes.unpaired.append(f"{name}#{number}")
                return proceed(*call.args, **call.kwargs)
            if _level() != self.level:
                # Its arrays are of an inner trace, and are unknown outside of it.
                self.notes.within.add(name)
                with self.replaying("", there.draws):
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
        notes.where[name] = f"{class_of(call.module).__name__} {caller()}"
        mode = getattr(call.module, "training", there.training)
        if foreign is not None and hasattr(call.module, "use_running_average"):
            mode = not call.module.use_running_average
        if mode != there.training:
            notes.modes[name] = f"training={mode}; torch's training={there.training}"
        args, kwargs = self._arguments(there, call, foreign)
        output = None
        try:
            whole = foreign is not None and foreign.layout == "whole"  # whose draws are all others'
            with nullcontext() if whole else self.replaying(name, there.draws):
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
        layouts = PLAIN if self.partners is None else self.partners.layouts
        inside = self.plan.is_inside(replay)
        with supplied(replay.take, self.partners is not None, layouts, inside):
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
                return view.model(replaced_input(own, recorded.astype(own.dtype), tap))
            return view.model(recorded.astype(own.dtype))

        given = dict(zip(by_position, call.args, strict=True))
        given |= {by_name[name]: value for name, value in call.kwargs.items()}
        theirs = {key.split(".")[0] for key in keys}
        if absent := theirs - {k for k, v in given.items() if v is not None}:
            if foreign is None or not foreign.some:
                self.notes.absent[there.name] = tuple(sorted(absent))
                left = (path for path in keys if path.split(".")[0] in absent)
                self.unfed |= {f"input:{there.name}.{path}" for path in left}
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
        back: Callable[[Any], Any] = lambda formed: formed  # noqa: E731
        if foreign is not None:
            used = [p for p in keys if at(f"grad:{there.name}", p) in self.recorded]
            output, back = foreign.formed(output, used)
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
            view = _view(foreign, own, recorded, path=where)
            own = view.torch(own)
            self.noted[site] = own
            floating = jnp.issubdtype(own.dtype, jnp.floating)
            gradient_site = at(f"grad:{there.name}", where)
            tap = self.taps.get(gradient_site)
            alike = recorded.shape == own.shape
            if not floating or not (self.forced or alike):
                return view.model(recorded.astype(own.dtype) if self.forced else own)
            if not alike:  # what follows is given torch's; no gradient fits the program's own
                own = jnp.zeros(recorded.shape, own.dtype)
            tap = jnp.zeros(own.shape, own.dtype) if tap is None else tap.astype(own.dtype)
            if not self.forced:
                return view.model(tapped(own, tap))
            gradient = self.recorded.get(gradient_site)
            if gradient is None and foreign is not None and foreign.layout == "whole":
                gradient = self.recorded.get(_gradient_of(key))  # the last layer's output
            if gradient is None and self.plan.unused(there):
                gradient = jnp.zeros(own.shape, own.dtype)
            gradient = None if gradient is None else gradient.astype(own.dtype)
            made = view.model(replaced_output(own, recorded.astype(own.dtype), gradient, tap))
            made = checkpoint_name(made, at(there.name, where))
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
        return back(output)


def _gradient_of(key: str) -> str:
    """The name of the gradient that arrives at an output, by the output's own name."""
    return key.replace("forward:", "grad:", 1)


def _level() -> Any:
    """The function that is being traced."""
    return jax.extend.core.get_opaque_trace_state(convention="nnx")


def _view(
    foreign: ForeignCall | None, own: Any, recorded: Any, given: bool = False, path: str = ""
) -> View:
    """The view of an argument or an output in torch's layout."""
    return SAME if foreign is None else foreign.view(own.shape, recorded.shape, given, path)


def _argument_names(call: Call, there: Recorded) -> tuple[list[str], dict[str, str]]:
    """torch's names of a call's arguments, by position and by keyword.

    torch's is the number of an argument by position and the name of one by keyword; the two
    programs need not agree in which they use.
    """
    theirs = there.inputs.get("dict", {})
    own = list(inspect.signature(class_of(call.module).__call__).parameters)[1:]
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
