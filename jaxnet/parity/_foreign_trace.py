"""A trace as a model with fewer modules sees it: what it has no module for is a function.

Plain flax has no modules for activations, pools and the like, and its blocks need not be torch's.
So only the calls that are the model's too stay calls, and those of torch's own modules without
parameters become calls of the functions that they are: a fault in them is then found between two
layers, like one of F.gelu.
"""

import dataclasses
import inspect
import json
from collections import Counter
from collections.abc import Callable, Set
from functools import cache
from typing import Any

import numpy as np

from jaxnet import ops
from jaxnet.nn import functional
from jaxnet.parity._trace import Call, Function, Step, Trace
from jaxnet.parity._tree import keys_of, to_json


def as_seen(trace: Trace, modules: Set[str]) -> Trace:
    """The trace with the calls of some modules only.

    Args:
        trace: The trace.
        modules: The names of the modules that the model has.
    """
    owners = {
        name.rpartition(".")[0]
        for known in (trace.parameters, trace.buffers)
        for first, about in known.items()
        for name in about.get("names", (first,))
    }
    return dataclasses.replace(
        trace, steps=tuple(_seen(trace, step, modules, owners) for step in trace.steps)
    )


def as_whole(trace: Trace) -> Trace:
    """The trace as a model without layers sees it: the calls of the model itself alone."""

    def whole(step: Step) -> Step:
        outermost = (call for call in step.calls if call.parent is None)
        calls = tuple(_named_as_inside(step, _left(call, None)) for call in outermost)
        functions = tuple(function for function in step.functions if function.parent is None)
        step.forget()
        return dataclasses.replace(step, calls=calls, functions=functions)

    return dataclasses.replace(trace, steps=tuple(map(whole, trace.steps)))


def _named_as_inside(step: Step, call: Call) -> Call:
    """A call whose output has the name of the layer's that made it, with which its gradient is."""
    form = call.output
    for key in keys_of(form).values():
        if key.replace("forward:", "grad:", 1) in step or key not in step:
            continue
        own = step[key]
        for inner in reversed(step.calls):
            names = keys_of(inner.output).values() if inner.parent is not None else ()
            for name in names:
                graded = name.replace("forward:", "grad:", 1) in step
                if graded and name in step and np.array_equal(step[name], own, equal_nan=True):
                    text = json.dumps(form).replace(json.dumps(key), json.dumps(name))
                    return dataclasses.replace(call, output=json.loads(text))
    return call


def _seen(trace: Trace, step: Step, modules: Set[str], owners: Set[str]) -> Step:
    """A step as in `as_seen`; `owners` are the modules with parameters or buffers of their own."""
    inside = {call.parent for call in step.calls}
    calls: list[Call] = []
    functions: list[Function] = list(step.functions)
    kept: dict[int | None, int | None] = {None: None}
    count = Counter(function.function for function in functions)
    for i, call in enumerate(step.calls):
        module = trace.modules.get(call.module)
        parent = kept[call.parent]
        kept[i] = parent
        if call.parent is None or call.module in modules:
            kept[i] = len(calls)
            # What a call draws is for whoever comes, if the model has no such call.
            own = dataclasses.replace(call, parent=parent)
            calls.append(own if call.module in modules else _left(call, parent))
        elif i not in inside and module and module.qualname.startswith("torch.nn."):
            name = None if call.module in owners else function_of(module.cls)
            if module.cls == "Identity":
                continue
            if name is None:
                kept[i] = len(calls)
                calls.append(_left(call, parent))
                continue
            given = {**module.config, "training": call.training}
            accepted = inspect.signature(_functions()[name]).parameters
            more = {
                key: to_json(value, lambda path, leaf: None)
                for key, value in given.items()
                if key in accepted and key != "inplace"
            }
            inputs = {"dict": {**call.inputs.get("dict", {}), **more}}
            functions.append(
                Function(name, count[name], parent, inputs, call.output, call.where, call.draws)
            )
            count[name] += 1
    moved = [
        dataclasses.replace(function, parent=kept.get(function.parent, function.parent))
        if i < len(step.functions)
        else function
        for i, function in enumerate(functions)
    ]
    order = {site: i for i, site in enumerate(step.sites)}

    def position(function: Function) -> int:
        return min(
            (order[key] for key in keys_of(function.output).values() if key in order), default=0
        )

    return dataclasses.replace(
        step, calls=tuple(calls), functions=tuple(sorted(moved, key=position))
    )


def _left(call: Call, parent: int | None) -> Call:
    """A call that the program does not make."""
    return dataclasses.replace(call, parent=parent, draws=(), elsewhere=call.draws)


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    """jaxnet's functions by their names."""
    return {
        name: function
        for home in (ops, functional)
        for name, function in vars(home).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }


@cache
def function_of(cls: str) -> str | None:
    """The name of the function that a module without parameters computes; None for none."""
    return next((n for n in _functions() if n.replace("_", "") == cls.lower()), None)
