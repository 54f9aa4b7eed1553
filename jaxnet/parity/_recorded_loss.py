"""The loss of a recorded program as a function of a model and a batch, from its recorded calls.

What a torch program computes around its model, from the model's outputs to the value that
backward() is called on, is in the trace: calls of torch's functions, of criteria, and of the model,
each with the sites that its arguments are. Here these calls are made again with jaxnet. The batch
of such a loss is what none of the calls gives: the arrays that the program had as data.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from jaxnet._names import few, named_variables
from jaxnet.parity._port import SubjectError
from jaxnet.parity._reference import of_function, of_module
from jaxnet.parity._sites import call_of, phase_of
from jaxnet.parity._trace import Call, Function, Step, Trace
from jaxnet.parity._tree import from_json, keys_of, leaves, renamed

# Arguments of torch's functions that say nothing of what is computed.
_SILENT = ("size_average", "reduce", "_stacklevel", "inplace")
# `loss += x` is what a trace has as a function of the name iadd.
_IN_PLACE = {f"i{name}": name for name in ("add", "sub", "mul", "div", "truediv", "pow", "matmul")}


@dataclasses.dataclass(frozen=True)
class _Node:
    """One call, whose arguments are other nodes ("n3" or "n3.PATH"), data ("d0"), or variables.

    Attributes:
        kind: "call" of a module, or "function".
        name: The module's or function's name.
        inputs: The form of the arguments by position and by name.
        draws: The data that the function draws.
        training: Whether the module was in training mode.
    """

    kind: str
    name: str
    inputs: Any
    draws: tuple[str, ...] = ()
    training: bool = True


@dataclasses.dataclass(frozen=True)
class _Graph:
    """The calls that lead to the losses of a step, in an order in which they can be made.

    Attributes:
        nodes: The calls.
        losses: The nodes whose sum is the loss: backward() adds up their gradients.
        data: The sites of the data.
    """

    nodes: tuple[_Node, ...]
    losses: tuple[str, ...]
    data: tuple[str, ...]

    @functools.cached_property
    def key(self) -> str:
        """What steps of the same calls have in common."""
        return json.dumps([[dataclasses.astuple(node) for node in self.nodes], self.losses])


class _UnknownError(ValueError):
    """Something that a trace does not say how to compute."""


class _Builder:
    """Finds what a loss is computed from in one step."""

    def __init__(self, trace: Trace, step: Step) -> None:
        self.trace, self.step = trace, step
        self.calls = {c.name: c for c in step.calls}
        self.functions = {f.name: f for f in step.functions}
        self.data: dict[str, str] = {}
        self.nodes: list[_Node] = []
        self.numbers: dict[str, str] = {}

    def graph(self) -> _Graph:
        sites = self.step.loss_of
        if not sites:
            raise _UnknownError(
                "the trace is of an earlier version of jaxnet; record the program again"
            )
        events = " ".join(self.step.events)
        between = events.partition("backward")[2].rpartition("backward")[0]
        if "step" in between or "zero_grad" in between:
            raise _UnknownError("the program uses the gradients of one loss before it has the next")
        for number, site in enumerate(sites):
            if not site:
                raise _UnknownError("backward() was called on a value that no recorded call gives")
            if self.step[f"loss:{number}"].size != 1:
                raise _UnknownError("backward() was called on an array of several elements")
        needed = set(self._behind(sites))
        for call in self.step.calls:  # in their order, since they may change buffers
            site = f"forward:{call.name}"
            if call.parent is None and (site in needed or self._trains(call)):
                self._visit(site)
        found = tuple(self._reference(site) for site in sites)
        return _Graph(tuple(self.nodes), found, tuple(self.data))

    def _behind(self, sites: Sequence[str]) -> Iterator[str]:
        """The calls and functions that sites are computed from."""
        left, seen = [*sites], set()
        while left:
            site = _whole(left.pop())
            if site in seen:
                continue
            seen.add(site)
            yield site
            left += self._arguments(site).values()

    def _known(self, site: str) -> Call | Function | None:
        """The outermost call that gives a site; None for data.

        Raises:
            _UnknownError: The site is of a call within another one.
        """
        phase = phase_of(site)
        if phase not in ("forward", "function"):
            return None
        known: Any = (self.calls if phase == "forward" else self.functions).get(call_of(site))
        if known is None or known.parent is not None:
            raise _UnknownError(f"the loss is computed from {site}, which a model computes inside")
        return known

    def _arguments(self, site: str) -> dict[str, str]:
        """The sites of the arguments of the call that gives a site, as the call names them."""
        known = self._known(site)
        if known is None:
            return {}
        keys = {key: path for path, key in keys_of(known.inputs).items()}
        origins = self.step.origins.get(_whole(site), {})
        found = {key: origins.get(path, key) for key, path in keys.items()}
        if "" in found.values():
            raise _UnknownError(
                f"an argument of {known.name} ({known.where}) was computed in a way that was not "
                "recorded"
            )
        return found

    def _trains(self, call: Call) -> bool:
        """Whether a call is one of the training's, though its output may not reach the loss."""
        prefix = f"{call.module}." if call.module else ""
        return call.training and any(name.startswith(prefix) for name in self.trace.parameters)

    def _visit(self, site: str) -> None:
        """Adds a call after all that its arguments need."""
        left = [_whole(site)]
        while left:
            one = left[-1]
            below = [_whole(s) for s in self._arguments(one).values()]
            new = [s for s in below if self._known(s) is not None and s not in self.numbers]
            if one not in self.numbers and new:
                left += new
                continue
            left.pop()
            if one not in self.numbers:
                self._add(one)

    def _add(self, site: str) -> None:
        known = self._known(site)
        assert known is not None
        arguments = self._arguments(site)
        if "text" in _kinds(known.inputs):
            raise _UnknownError(
                f"{known.name} ({known.where}) was given what is no array or number"
            )
        form = renamed(known.inputs, lambda key: self._reference(arguments[key]))
        if isinstance(known, Function):
            draws = tuple(self._reference(f"draw:{n}") for n in known.draws)
            node = _Node("function", known.function, form, draws)
        else:
            node = _Node("call", known.module, form, (), known.training)
        self.numbers[site] = f"n{len(self.nodes)}"
        self.nodes.append(node)

    def _reference(self, site: str) -> str:
        """The name of a site in the graph."""
        phase, _, place = site.partition(":")
        if phase in ("before", "buffer_before"):
            return f"v:{place}"
        if self._known(site) is None:
            return self.data.setdefault(site, f"d{len(self.data)}")
        whole = _whole(site)
        if whole not in self.numbers:
            self._visit(whole)
        return self.numbers[whole] + site.removeprefix(whole)


def _whole(site: str) -> str:
    """The site of a call's whole output: "forward:lstm#0" of "forward:lstm#0.1.0"."""
    call = call_of(site)
    return f"{phase_of(site)}:{call}" if phase_of(site) in ("forward", "function") else site


def _kinds(form: Any) -> set[str]:
    """The kinds of values in a form of `to_json`."""
    ((kind, content),) = form.items()
    inner = content.values() if kind == "dict" else content if kind in ("tuple", "list") else ()
    return {kind}.union(*map(_kinds, inner))


@dataclasses.dataclass(frozen=True)
class RecordedLoss:
    """The loss of a recorded program.

    Attributes:
        function: The loss `(model, batch)`.
        trace: The trace, whose steps have one batch each, which is what the loss takes: the data
            of all that a step computes, under the name of that computation.
        steps: The numbers of the steps that can be compared.
        missing: Why others cannot, by their numbers.
    """

    function: Callable[[Any, Any], jax.Array]
    trace: Trace
    steps: tuple[int, ...]
    missing: Mapping[int, str]


def recorded_loss(trace: Trace, modules: Callable[[str], Any]) -> RecordedLoss:
    """The loss of a recorded program, and its steps with the batches that it takes.

    Args:
        trace: The trace.
        modules: A function of the name of a recorded module that is none of the model's and none
            of torch's, such as a loss of the program's own, which gives that of the port.

    Raises:
        SubjectError: The trace does not say how it is computed.
    """
    graphs: dict[int, _Graph] = {}
    missing = {step.index: step.obstacle for step in trace.steps if step.obstacle}
    for step in trace.steps:
        try:
            if step.index not in missing:
                graphs[step.index] = _Builder(trace, step).graph()
        except _UnknownError as error:
            missing[step.index] = str(error)
    if not graphs:
        raise SubjectError(
            f"{trace.path}: the loss cannot be computed from the trace: "
            f"{next(iter(missing.values()))}. Write a function make() that returns the ported "
            "model, its loss and its optimizer, and name it in the place of the file: "
            f"jaxnet check {trace.path} FILE.py:make"
        )
    names = {key: str(i) for i, key in enumerate(dict.fromkeys(g.key for g in graphs.values()))}
    steps = []
    for step in trace.steps:
        graph = graphs.get(step.index)
        if graph is not None:
            if lost := [site for site in graph.data if site not in step.sites]:
                missing[step.index] = f"the trace does not have {few(lost)} of it"
            data = {"list": [{"array": site} for site in graph.data]}
            batches = ({"dict": {names[graph.key]: data}},)
            step = dataclasses.replace(step, batches=batches)
        steps.append(dataclasses.replace(step, obstacle=missing.get(step.index, "")))
    known = {names[graph.key]: graph for graph in graphs.values()}
    return RecordedLoss(
        _Loss(known, trace, modules),
        dataclasses.replace(trace, steps=tuple(steps)),
        tuple(step.index for step in steps if not step.obstacle),
        missing,
    )


class _Loss:
    """A recorded loss `(model, batch)`."""

    def __init__(
        self, graphs: Mapping[str, _Graph], trace: Trace, modules: Callable[[str], Any]
    ) -> None:
        self.graphs, self.trace, self.modules = graphs, trace, modules

    def __call__(self, model: Any, batch: Any) -> jax.Array:
        ((name, data),) = batch.items()
        graph = self.graphs[name]
        values: dict[str, Any] = {f"d{i}": array for i, array in enumerate(data)}

        def value(reference: str) -> Any:
            if reference.startswith("v:"):
                return dict(named_variables(model))[reference[2:]][...]
            first, _, path = reference.partition(".")
            return dict(leaves(values[first]))[path] if path else values[first]

        for number, node in enumerate(graph.nodes):
            given = from_json(node.inputs, value)
            if node.kind == "call":
                values[f"n{number}"] = self._called(model, node, given)
            else:
                draws = [value(each) for each in node.draws]
                values[f"n{number}"] = _computed(node.name, given, draws)
        total = sum(value(each).reshape(()) for each in graph.losses[1:])
        return value(graph.losses[0]).reshape(()) + total

    def _called(self, model: Any, node: _Node, given: Mapping[str, Any]) -> Any:
        module = _inside(model, node.name)
        about = self.trace.modules.get(node.name)
        if module is None and about is not None and about.qualname.startswith("torch."):
            with _lenient():
                layer = of_module(about.cls, about.config, {}, {}, given, training=node.training)
                return layer.compute(layer, {}, {}, layer.inputs)[0]
        if module is None:
            module = self.modules(node.name)
        args = [value for name, value in given.items() if name.isdigit()]
        kwargs = {name: value for name, value in given.items() if not name.isdigit()}
        return module(*args, **kwargs)


def _computed(name: str, given: Mapping[str, Any], draws: Sequence[Any]) -> Any:
    """What a function of torch's gives, by jaxnet's."""
    given = {key: value for key, value in given.items() if key not in _SILENT}
    with _lenient():
        layer = of_function(_IN_PLACE.get(name, name), given, draws=draws)
        return layer.compute(layer, layer.parameters, layer.buffers, layer.inputs)[0]


def _inside(model: Any, name: str) -> Any:
    """A module of a model by its dotted name; None where it has none."""
    for part in name.split(".") if name else ():
        inner = getattr(model, part, None)
        if inner is None and part.isdigit():
            try:
                inner = model[int(part)]
            except (IndexError, KeyError, TypeError):
                return None
        model = inner
    return model


@contextmanager
def _lenient() -> Iterator[None]:
    """Python's numbers and arrays of several dtypes may meet, as they do in torch."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
