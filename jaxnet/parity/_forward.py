"""The forward pass of a step that is recorded: the calls of modules and of functions."""

import weakref
from collections.abc import Callable, Container
from typing import Any

import numpy as np

from jaxnet.parity._data import Data
from jaxnet.parity._functions import caller
from jaxnet.parity._sites import at
from jaxnet.parity._torch import tensors_in
from jaxnet.parity._tree import keys_of, leaves, to_json


class ForwardPass:
    """The calls of a step.

    Args:
        data: The batches and draws of the step.
        arrays: The arrays of the step by phase and site, to which those of the calls are added.
        events: What the step did so far, to which the calls of models are added.
        full: Whether activations and their gradients are recorded.

    Attributes:
        calls: The calls of modules, as JSON.
        functions: Those of functions.
        origins: Of each outermost call, by the site of its output, what its arguments were at
            first: their sites by their paths, "" for what was computed and not recorded.
        inputs: What outermost calls were given from outside, by the number of backward() before:
            site, array and its float64 value.
        roots: The outermost modules that were called, likewise.
        stack: The calls that are being run: their indices in `calls`.
        innermost: The module whose call is being run, the innermost one.
        models: The modules of the outermost calls.
    """

    def __init__(
        self, data: Data, arrays: dict[str, dict[str, Any]], events: list[str], full: bool
    ) -> None:
        self.data, self.arrays, self.events, self.full = data, arrays, events, full
        self.tensors, self.recorder = data.tensors, data.tensors.recorder
        self.torch = self.recorder.torch
        self.calls: list[dict[str, Any]] = []
        self.functions: list[dict[str, Any]] = []
        self.origins: dict[str, dict[str, str]] = {}
        self.inputs: dict[int, dict[str, tuple[Any, Any]]] = {}
        self.roots: dict[int, list[str]] = {}
        self.stack: list[int] = []
        self.innermost: Any = None
        self.models: list[Any] = []
        self._counts: dict[str, int] = {}
        self._function_draws: list[str] | None = None

    def draw(self, mark: str) -> None:
        """Adds a draw to the calls that are being run."""
        if self.stack:
            self.calls[self.stack[-1]]["draws"].append(mark)
        if self._function_draws is not None:
            self._function_draws.append(mark)

    def inside_torch(self) -> bool:
        """Whether the innermost call is of a module of torch's own."""
        return bool(self.stack) and self.calls[self.stack[-1]]["builtin"]

    def _number(self, name: str) -> int:
        number = self._counts.get(name, 0)
        self._counts[name] = number + 1
        return number

    def call(self, original: Any, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs a module and records the call."""
        recorder = self.recorder
        parent = self.stack[-1] if self.stack else None
        around = self.calls[parent]["module"] if parent is not None else ""
        frame = caller(recorder.skip) if parent is None else None
        name = recorder.program.name_of(module, around, frame)
        number = self._number(name)
        base = f"{name}#{number}"
        given = {**{str(i): each for i, each in enumerate(args)}, **kwargs}

        def key_of(path: str, leaf: Any) -> str | None:
            if not self.tensors.is_tensor(leaf):
                return None
            site = at(f"input:{base}", path)
            known = self.data.site_of(leaf, parent is not None)
            if parent is None and (known or leaf.requires_grad):
                self.origins.setdefault(f"forward:{base}", {})[path] = known
            data = parent is None and not known and not leaf.requires_grad
            if self.full or data:
                # A tensor that was made of Python's numbers has float64 ones of its own.
                value = self.tensors.copy(leaf)
                self.arrays["forward"][site] = value
                if data:
                    self._add_input(site, value)
                    self.tensors.note(leaf, site)
            elif parent is None:
                made = known.startswith("function:") and not leaf.requires_grad
                self._add_input(known, self.tensors.copy(leaf) if made else None)
            return site

        record = {
            "module": name,
            "number": number,
            "parent": parent,
            "training": module.training,
            "inputs": to_json(given, key_of),
            "output": {"value": None},
            "where": recorder.here(),
            "draws": [],
            "builtin": type(module).__module__.startswith("torch.nn"),
            "state": next(module.parameters(), None) is not None,
        }
        if parent is None and record["state"]:
            self.events.append("forward")
            self.models.append(module)
            self.roots.setdefault(recorder.step.backwards, []).append(name)
        self.stack.append(len(self.calls))
        self.calls.append(record)
        before, self.innermost = self.innermost, module
        outer, self._function_draws = self._function_draws, None
        try:
            output = original(module, *args, **kwargs)
        finally:
            self.stack.pop()
            self._function_draws, self.innermost = outer, before
        inner = self._inner((*args, *kwargs.values()), output) if self.full else ()
        record["output"] = self._output(output, base, "forward", True, inner)
        return output

    def _inner(self, given: Any, output: Any) -> set[int]:
        """The outputs that others are computed from, as the new c of an LSTMCell, of which h is.

        Their gradient is that of both, and not what arrives from outside.
        """
        smooth = [t for t in tensors_in(self.torch, [output]) if t.grad_fn is not None]
        if len(smooth) < 2:
            return set()
        # An operation may have several results: which one it is, is a part of the edge.
        nodes = {(tensor.grad_fn, tensor.output_nr): id(tensor) for tensor in smooth}
        ends = {(t.grad_fn, t.output_nr) for t in tensors_in(self.torch, given)}
        found: set[int] = set()
        for edge, tensor in nodes.items():
            left, seen = [*edge[0].next_functions], ends.copy()
            while left and len(seen) < 1000:
                each = left.pop()
                if each[0] is None or each in seen:
                    continue
                seen.add(each)
                if each in nodes and nodes[each] != tensor:
                    found.add(nodes[each])
                left += each[0].next_functions
        return found

    def _output(
        self, output: Any, base: str, phase: str, hooked: bool, inner: Container[int] = ()
    ) -> Any:
        def key_of(path: str, leaf: Any) -> str | None:
            if not self.tensors.is_tensor(leaf):
                return None
            where = at(base, path)
            site = f"{phase}:{where}"
            if self.full:
                self.arrays["forward"][site] = self.tensors.copy(leaf)
                # What an inner call returned has its gradient there, all of it.
                smooth = (
                    leaf.requires_grad and self.torch.is_grad_enabled() and id(leaf) not in inner
                )
                if hooked and smooth and not self.tensors.site_of(leaf).startswith("forward:"):
                    leaf.register_hook(self._note_gradient(f"grad:{where}"))
            self.tensors.note(leaf, site)
            return site

        return to_json(output, key_of)

    def _note_gradient(self, site: str) -> Callable[[Any], None]:
        own = weakref.ref(self)

        def hook(gradient: Any) -> None:
            me = own()
            # Not what autograd.grad asks for, and not after the step.
            if me is None or not me.recorder.backward or me.recorder.step.forward is not me:
                return
            array, double = me.tensors.copy(gradient)
            before = me.arrays["grad"].get(site)
            if before is not None:  # another backward() that reaches this call
                array = before[0] + array
                known = isinstance(double, np.ndarray) and isinstance(before[1], np.ndarray)
                double = before[1] + double if known else before[1]
            me.arrays["grad"][site] = array, double

        return hook

    def _add_input(self, site: str, value: tuple[Any, Any] | None = None) -> None:
        """Adds what an outermost call was given; without a value, if it was given before."""
        if value is None:
            value = next((each[site] for each in self.inputs.values() if site in each), None)
        if value is not None:
            part = self.inputs.setdefault(self.recorder.step.backwards, {})
            part.setdefault(site, value)

    def given(self) -> list[list[tuple[Any, Any]]]:
        """The batches of a program without a loader: what its models and losses were given.

        Where each backward() is of the same calls with other arrays of the same form, as when
        gradients are accumulated, each has a batch of its own. Otherwise all of it is one batch,
        in the order in which it was used.
        """
        parts = [
            (n, {s: v for s, v in part.items() if s[:9] != "function:" or not self._computed(s)})
            for n, part in self.inputs.items()
        ]
        parts = [(n, part) for n, part in parts if part]
        forms = {
            str([self.roots.get(n), [(a.dtype, a.shape[1:]) for a, _ in part.values()]])
            for n, part in parts
        }
        accumulated = [n for n, _ in parts] == [*range(self.events.count("backward"))]
        updated = "step" in "".join(self.events).rpartition("backward")[0]
        others = {next(iter(part)) for _, part in parts}
        if len(forms) == 1 and len(others) == len(parts) and accumulated and not updated:
            return [[*part.values()] for _, part in parts]
        merged = {site: value for _, part in parts for site, value in part.items()}
        return [[*merged.values()]] if merged else []

    def _computed(self, site: str) -> bool:
        """Whether a model that the step trains has computed an argument, so that it is no data."""
        graded = self.arrays["param_grad"]
        left = [site]
        while left:
            kind, _, name = left.pop().partition(":")
            module = name.partition("#")[0]
            if kind == "forward" and any(g.startswith(f"param_grad:{module}") for g in graded):
                return True
            for each in self.functions if kind == "function" else ():
                if name.startswith(f"{each['function']}#{each['number']}"):
                    left += keys_of(each["inputs"]).values()
        return False

    def function(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs a function and records the call."""
        given = {**{str(i): each for i, each in enumerate(args)}, **kwargs}
        number = self._counts.get(name + "()", 0)
        base = f"{name}#{number}"
        new: dict[str, Any] = {}
        again: list[str] = []

        def key_of(path: str, leaf: Any) -> str | None:
            if not self.tensors.is_tensor(leaf):
                return None
            site = self.data.site_of(leaf, bool(self.stack))
            if site and not self.stack:
                again.append(site)
            if not site:
                site = at(f"function_input:{base}", path)
                data = not self.stack and not leaf.requires_grad
                if not self.stack and not data:
                    self.origins.setdefault(f"function:{base}", {})[path] = ""
                if self.full or data:
                    new[site] = leaf if data else None, self.tensors.copy(leaf)
            return site

        inputs = to_json(given, key_of)
        where = self.recorder.here()
        outer, self._function_draws = self._function_draws, []
        try:
            output = func(*args, **kwargs)
        finally:
            draws, self._function_draws = self._function_draws, outer
        if not any(self.tensors.is_tensor(leaf) for _, leaf in leaves(output)):
            return output
        self._number(name + "()")
        for site, (leaf, value) in new.items():
            self.arrays["forward"][site] = value
            if leaf is not None:
                self._add_input(site, value)
                self.tensors.note(leaf, site)
        for site in again:
            self._add_input(site)
        self.functions.append(
            {
                "function": name,
                "number": number,
                "parent": self.stack[-1] if self.stack else None,
                "inputs": inputs,
                "output": self._output(output, base, "function", False),
                "where": where,
                "draws": draws,
            }
        )
        return output
