"""What a recorded PyTorch program consists of: models, parameters, optimizers, and their names."""

import contextlib
import dataclasses
import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

from jaxnet.parity._functions import refresh_locals
from jaxnet.parity._sources import sources

# Modules around a model that compute nothing of their own.
_WRAPPERS = {
    "OptimizedModule": "torch.compile: the program is recorded as it runs without compiling",
    "DataParallel": "DataParallel: the model inside is recorded",
    "DistributedDataParallel": "DistributedDataParallel: this process alone is recorded",
}


@dataclasses.dataclass
class Root:
    """A model: the outermost module that was called.

    Attributes:
        module: The module.
        variable: The name that the program has for it.
        inside: The root that it turned out to be a part of, and its name there.
    """

    module: Any
    variable: str
    inside: tuple["Root", str] | None = None


class Program:
    """The models and optimizers of a program, as far as they were seen.

    Until the first step is over it is not known whether there are several models, whose names
    begin with their own. Names are therefore made with a mark for the model, "⟨0⟩.fc1", and
    `plain` replaces the mark.
    """

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.roots: list[Root] = []
        self.alone: Root | None = None  # the only model of the first step
        self.loose: dict[str, Any] = {}  # parameters that belong to no module
        self.apart: dict[str, Any] = {}  # modules that belong to no model, as a loss
        self.optimizers: list[Any] = []  # weak references
        self._updates: list[tuple[type, set[int]]] = []  # what they are, and of which parameters
        self.looked = False
        self.touched: set[int] = set()  # parameters of models that ran before a step, by id
        self.description: tuple[Any, dict[str, Any]] | None = None
        self.described: dict[int, Any] = {}  # optimizers by number; the schedulers under -1
        self.last_groups: dict[int, list[dict[str, Any]]] = {}
        self.first_groups: dict[int, list[dict[str, Any]]] = {}
        self._state: Any = None
        self._sources: dict[str, dict[str, str]] = {}
        self._names: dict[int, str] = {}
        self._keys: dict[str, Any] = {}

    def root_of(self, module: Any, frame: Any, inside: bool) -> Root | None:
        """The model that a called module belongs to; None for one that belongs to none.

        Args:
            module: The module.
            frame: The frame of the caller, of an outermost call.
            inside: Whether it is called within another recorded call.
        """
        if id(module) in self._names:
            return self._owner(module)
        if inside:
            for root in self.roots:
                self._name(root)  # a module that was added since
            return self._owner(module)
        outer, variable = module, _variable(module, frame)
        walk = frame
        while walk is not None:
            holder = walk.f_locals.get("self")
            own = isinstance(holder, self.torch.nn.Module) and not _is_wrapper(holder)
            if own and holder is not outer and any(each is module for each in holder.modules()):
                outer, variable = holder, _variable(holder, walk.f_back)
            walk = walk.f_back
        if not any(True for _ in outer.parameters()):
            return None  # a loss, though class weights are a buffer of it
        root = self._holder(outer, frame) or Root(outer, variable or type(outer).__name__)
        self._add(root)
        return root

    def _owner(self, module: Any) -> Root | None:
        mark = self._names.get(id(module), "")
        return self.roots[int(mark[1 : mark.index("⟩")])] if mark else None

    def _name(self, root: Root) -> None:
        mark = f"⟨{self.roots.index(root)}⟩"
        for name, module in root.module.named_modules():
            self._names.setdefault(id(module), joined(mark, name))

    def name_of(self, module: Any, parent: str, frame: Any) -> str:
        """The name of a called module."""
        if id(module) in self._names:
            return self._names[id(module)]
        name = joined(parent, type(module).__name__)
        if not parent:
            name = _variable(module, frame) or name
        same, number = name, 0
        key = type(module), module.extra_repr()
        while self._keys.setdefault(name, key) != key:
            number += 1
            name = f"{same}_{number}"
        self.apart[name] = module
        return name

    def plain(self, text: str) -> str:
        """A name, or a site, with the names of the models in place of their marks."""
        for i, root in reversed([*enumerate(self.roots)]):
            mark = f"⟨{i}⟩"
            if mark not in text:
                continue
            prefix = ""
            while root.inside is not None:
                root, name = root.inside
                prefix = joined(name, prefix)
            prefix = joined(self.model_name(root), prefix)
            text = text.replace(mark + ".", prefix + "." if prefix else "").replace(mark, prefix)
        return text

    def sources(self) -> dict[str, dict[str, str]]:
        """The checksums of the sources of the script and of the models, as they ran."""
        if not self._sources:
            models = [type(m) for root in self.roots for m in root.module.modules()]
            self._sources = sources([sys.modules["__main__"], *models])
        return self._sources

    def devices(self) -> str:
        """The kinds of the devices that the parameters are on, "cuda"."""
        return " and ".join(sorted({p.device.type for _, p in self.parameters()}))

    def top(self) -> list[Root]:
        return [root for root in self.roots if root.inside is None]

    def model_name(self, root: Root) -> str:
        """The name of a model, which is "" for the only one of the first step."""
        if self.alone is None and len(self.top()) == 1:
            return ""
        if root is self.alone:
            return ""
        same = [r for r in self.top() if r.variable == root.variable]
        number = next(i for i, r in enumerate(same) if r is root)
        return f"{root.variable}_{number}" if number else root.variable

    def transparent(self, module: Any, notes: list[str]) -> bool:
        """Whether a module is a wrapper around the one that is to be seen."""
        if not _is_wrapper(module):
            return False
        note = _WRAPPERS[type(module).__name__]
        if note not in notes:
            notes.append(note)
        return True

    def optimizer(self, optimizer: Any) -> int:
        """The number of an optimizer; one made anew has that of the one that it replaces."""
        key = type(optimizer), {id(p) for group in optimizer.param_groups for p in group["params"]}
        for i, each in enumerate(self.optimizers):
            if each() is optimizer:
                self._updates[i] = key
                return i
        same = [i for i, known in enumerate(self._updates) if known == key]
        if any(self.optimizers[i]() is not None for i in same):
            refresh_locals()
            gc.collect()  # torch's first one of a process is in a cycle
        for i in same:
            if self.optimizers[i]() is None:
                self.optimizers[i] = weakref.ref(optimizer)
                return i
        self.optimizers.append(weakref.ref(optimizer))
        self._updates.append(key)
        return len(self.optimizers) - 1

    def living(self) -> list[tuple[int, Any]]:
        """The optimizers that the program still has, with their numbers."""
        found = ((number, each()) for number, each in enumerate(self.optimizers))
        return [(number, each) for number, each in found if each is not None]

    def adopt(self, parameters: Iterator[Any], frame: Any) -> None:
        """Finds the models that parameters belong to, or else names for themselves.

        Args:
            parameters: Parameters of an optimizer, or that a function was called with.
            frame: The frame of the caller.
        """
        known = {id(p) for _, p in self.parameters()}
        for parameter in parameters:
            if id(parameter) in known:
                continue
            root = self._holder(parameter, frame)
            if root is not None:
                self._add(root)
                known.update(id(p) for p in root.module.parameters())
                continue
            name = plain = _variable(parameter, frame) or "parameter"
            while name in self.loose:
                name = f"{plain}_{sum(each.startswith(plain) for each in self.loose)}"
            self.loose[name] = parameter
            self.changed()
            known.add(id(parameter))

    def _holder(self, part: Any, frame: Any) -> Root | None:
        """The outermost module among the variables around a call that has a parameter or module."""
        found = None
        is_module = isinstance(part, self.torch.nn.Module)
        while frame is not None:
            for scope in (frame.f_locals, frame.f_globals):
                for name, each in [*scope.items()]:
                    if not isinstance(each, self.torch.nn.Module) or _is_wrapper(each):
                        continue
                    parts = each.modules() if is_module else each.parameters()
                    if any(one is part for one in parts):
                        larger = found is None or any(m is found.module for m in each.modules())
                        if larger and (found is None or each is not found.module):
                            found = Root(each, "" if name == "self" else name)
            frame = frame.f_back
        if found is not None:
            found.variable = found.variable or type(found.module).__name__
        return found

    def _add(self, root: Root) -> None:
        for other in self.roots:
            for name, each in root.module.named_modules():
                if each is other.module and other.inside is None:
                    other.inside = root, name
        self.roots.append(root)
        self.changed()
        self._name(root)

    def step_ended(self, first: bool) -> None:
        """The names of the models that there are stay from now on.

        Args:
            first: Whether it was the first step.
        """
        if first and len(self.top()) == 1:
            self.alone = self.top()[0]
        self.touched.clear()
        self.changed()

    def changed(self) -> None:
        """The next step may have other modules and parameters."""
        self._state = None

    def parameters(self) -> list[tuple[str, Any]]:
        """The names, marked, and parameters of the program; a tied one has its first name."""
        return self._all()[0]

    def buffers(self) -> list[tuple[str, Any]]:
        """The names, marked, and buffers of the program as they are now.

        A module may put another tensor in the place of a buffer in each of its calls.
        """
        found = ((name, getattr(owner, key, None)) for name, owner, key in self._all()[1])
        return [(name, buffer) for name, buffer in found if buffer is not None]

    def _all(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any, str]]]:
        """The names and parameters, and for each buffer its name, its module and its key there."""
        if self._state is None:
            parameters: dict[int, tuple[str, Any]] = {}
            buffers: list[tuple[str, Any, str]] = []
            for i, root in enumerate(self.roots):
                if root.inside is None:
                    for name, parameter in root.module.named_parameters():
                        parameters.setdefault(id(parameter), (joined(f"⟨{i}⟩", name), parameter))
                    for name, _ in root.module.named_buffers():
                        owner, _, key = name.rpartition(".")
                        module = root.module.get_submodule(owner)
                        buffers.append((joined(f"⟨{i}⟩", name), module, key))
            self._state = [*parameters.values(), *self.loose.items()], buffers
        return self._state


def joined(first: str, second: str) -> str:
    """Two names as one; either may be "", as a model's is within itself."""
    return first + "." + second if first and second else first or second


def _is_wrapper(module: Any) -> bool:
    cls = type(module)
    return cls.__name__ in _WRAPPERS and cls.__module__.startswith("torch.")


def _variable(value: Any, frame: Any) -> str:
    """The name of a variable, or of an attribute of self, that is this object; "" for none."""
    while frame is not None:
        scopes = [frame.f_locals, frame.f_globals]
        with contextlib.suppress(Exception):
            scopes.append(vars(frame.f_locals["self"]))
        for scope in scopes:
            for name, each in scope.items():
                if each is value and not name.startswith("_") and name != "self":
                    return str(name)
        frame = frame.f_back
    return ""
