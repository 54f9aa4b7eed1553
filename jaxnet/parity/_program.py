"""What a recorded PyTorch program consists of: models, parameters, optimizers, and their names."""

import contextlib
import dataclasses
import gc
import hashlib
import importlib
import inspect
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jaxnet.parity._sources import sources
from jaxnet.parity._trace import Module

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
        self.loose: dict[str, Any] = {}  # parameters that belong to no module
        self.apart: dict[str, Any] = {}  # modules that belong to no model, as a loss
        self.optimizers: list[Any] = []
        self.looked = False
        self.description: tuple[Any, dict[str, Any]] | None = None
        self.described: dict[int, Any] = {}  # optimizers by id; the schedulers under 0
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
        root = Root(outer, variable or type(outer).__name__)
        self._add(root)
        return root

    def _owner(self, module: Any) -> Root | None:
        mark = self._names.get(id(module), "")
        return self.roots[int(mark[1 : mark.index("⟩")])] if mark else None

    def _name(self, root: Root) -> None:
        mark = f"⟨{self.roots.index(root)}⟩"
        for name, module in root.module.named_modules():
            self._names.setdefault(id(module), _join(mark, name))

    def name_of(self, module: Any, parent: str, frame: Any) -> str:
        """The name of a called module."""
        if id(module) in self._names:
            return self._names[id(module)]
        name = _join(parent, type(module).__name__)
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
        several = len(self.top()) > 1
        for i, root in reversed([*enumerate(self.roots)]):
            mark = f"⟨{i}⟩"
            if mark not in text:
                continue
            prefix = ""
            while root.inside is not None:
                root, name = root.inside
                prefix = _join(name, prefix)
            prefix = _join(self.model_name(root), prefix) if several else prefix
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
        """The name of one of several models."""
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
        """The number of an optimizer."""
        for i, each in enumerate(self.optimizers):
            if each is optimizer:
                return i
        self.optimizers.append(optimizer)
        return len(self.optimizers) - 1

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

    def _holder(self, parameter: Any, frame: Any) -> Root | None:
        """The outermost module in sight that has a parameter, of a model that is not called."""
        found = None
        while frame is not None:
            for scope in (frame.f_locals, frame.f_globals):
                for name, each in [*scope.items()]:
                    if not isinstance(each, self.torch.nn.Module) or _is_wrapper(each):
                        continue
                    if any(p is parameter for p in each.parameters()):
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

    def changed(self) -> None:
        """The next step may have other modules and parameters."""
        self._state = None

    def parameters(self) -> list[tuple[str, Any]]:
        """The names, marked, and parameters of the program; a tied one has its first name."""
        return self._all()[0]

    def buffers(self) -> list[tuple[str, Any]]:
        """The names, marked, and buffers of the program."""
        return self._all()[1]

    def _all(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        if self._state is None:
            parameters: dict[int, tuple[str, Any]] = {}
            buffers: list[tuple[str, Any]] = []
            for i, root in enumerate(self.roots):
                if root.inside is None:
                    for name, parameter in root.module.named_parameters():
                        parameters.setdefault(id(parameter), (_join(f"⟨{i}⟩", name), parameter))
                    for name, buffer in root.module.named_buffers():
                        buffers.append((_join(f"⟨{i}⟩", name), buffer))
            self._state = [*parameters.values(), *self.loose.items()], buffers
        return self._state


def _join(first: str, second: str) -> str:
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


def describe(recorder: Any) -> dict[str, Any]:
    """All that trace.json says of a program."""
    program = recorder.program
    used = recorder.used_optimizers()
    key = len(program.roots), len(program.loose), len(program.apart), len(used)
    if program.description is None or program.description[0] != key:
        program.description = key, _describe(recorder, used)
    return {
        **program.description[1],
        **recorder.about,
        "notes": recorder.notes,
        "checks": recorder.checks,
    }


def _describe(recorder: Any, used: list[Any]) -> dict[str, Any]:
    program = recorder.program
    plain = program.plain
    modules = {}
    tied: dict[int, list[str]] = {}
    for i, root in enumerate(program.roots):
        mark = f"⟨{i}⟩"
        if root.inside is None:
            for name, module in root.module.named_modules():
                modules[plain(_join(mark, name))] = _module(module)
            for name, p in root.module.named_parameters(remove_duplicate=False):
                tied.setdefault(id(p), []).append(plain(_join(mark, name)))
    for name, module in program.apart.items():
        modules.setdefault(plain(name), _module(module))
    names = {id(p): plain(name) for name, p in program.parameters()}
    several = len(program.top()) > 1
    return {
        **environment(recorder.torch),
        "device": program.devices(),
        "sources": program.sources(),
        "models": [program.model_name(r) if several else "" for r in program.top()],
        "modules": modules,
        "parameters": {
            names[id(p)]: {
                "shape": list(p.shape),
                "dtype": _dtype(p),
                "names": tied.get(id(p), [names[id(p)]]),
                "requires_grad": p.requires_grad,
            }
            for _, p in program.parameters()
        },
        "buffers": {
            plain(name): {"shape": list(b.shape), "dtype": _dtype(b)}
            for name, b in program.buffers()
        },
        "optimizers": [_optimizer(recorder, o, names) for o in used],
        "schedulers": _schedulers(recorder, used),
    }


def _optimizer(recorder: Any, optimizer: Any, names: Mapping[int, str]) -> dict[str, Any]:
    """An optimizer, as it was in its first step."""
    known = recorder.program.described
    if id(optimizer) not in known:
        groups = recorder.program.first_groups[id(optimizer)]
        known[id(optimizer)] = {
            "class": type(optimizer).__name__,
            "defaults": {k: simple(v) for k, v in optimizer.defaults.items()},
            "groups": [
                {"params": [names.get(id(p), "?") for p in group["params"]], **first}
                for group, first in zip(optimizer.param_groups, groups, strict=False)
            ],
        }
    return dict(known[id(optimizer)])


def _schedulers(recorder: Any, used: list[Any]) -> list[dict[str, Any]]:
    known = recorder.program.described
    if 0 not in known:
        base: Any = importlib.import_module("torch.optim.lr_scheduler").LRScheduler
        found = living(base)
        ours = [each for each in found if any(getattr(each, "optimizer", 0) is o for o in used)]
        known[0] = [{"class": type(each).__name__, "config": config_of(each)} for each in ours]
    return list(known[0])


def living(base: type) -> list[Any]:
    """All objects of a class and its subclasses that the program has."""
    kinds: set[type] = set()
    new = [base]
    while new:
        cls = new.pop()
        if cls not in kinds:
            kinds.add(cls)
            new += type.__subclasses__(cls)
    return [each for each in gc.get_objects() if type(each) in kinds]


def hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group of an optimizer, as JSON."""
    return {k: simple(v) for k, v in group.items() if k != "params"}


def simple(value: Any) -> Any:
    """A value as JSON: numbers, texts, and lists of them; anything else as its text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [simple(each) for each in value]
    if isinstance(value, Mapping):
        return {str(k): simple(v) for k, v in value.items()}
    if type(value).__module__.startswith("torch") and hasattr(value, "numel"):
        return value.item() if value.numel() == 1 else value.tolist()
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    return str(value)


def config_of(thing: Any) -> dict[str, Any]:
    """The arguments of an object's constructor, as far as it has them as attributes."""
    found: dict[str, Any] = {}
    for cls in type(thing).__mro__:
        if "__init__" not in vars(cls):
            continue
        with contextlib.suppress(TypeError, ValueError):
            arguments = [*inspect.signature(vars(cls)["__init__"]).parameters.values()][1:]
            for name in (argument.name for argument in arguments):
                if name not in found and hasattr(thing, name) and name not in ("device", "dtype"):
                    found[name] = getattr(thing, name)
            # A constructor of (*args, **kwargs), as LSTM's, has the arguments of its base class.
            if any(a.kind is a.VAR_POSITIONAL for a in arguments):
                continue
        break
    tensors = {k: v for k, v in found.items() if hasattr(v, "requires_grad")}
    plain = {
        k: simple(v)
        for k, v in found.items()
        if k not in tensors and not hasattr(v, "named_modules") and k != "optimizer"
    }
    if "bias" in found and (found["bias"] is None or "bias" in tensors):
        plain["bias"] = found["bias"] is not None  # the argument said whether there is one
    if "weight" in tensors and tensors["weight"].requires_grad is False:
        plain["weight"] = tensors["weight"].tolist()  # of the classes of a loss
    return plain


def _module(module: Any) -> Module:
    cls = type(module)
    own = not cls.__module__.startswith("torch.")
    where = text = ""
    if own:
        with contextlib.suppress(OSError, TypeError):
            lines, number = inspect.getsourcelines(cls)
            text = "".join(lines)
            where = f"{_nearer(inspect.getsourcefile(cls) or '')}:{number}"
    return Module(
        cls=cls.__name__,
        qualname=f"{cls.__module__}.{cls.__qualname__}",
        config=config_of(module),
        text=module.extra_repr(),
        where=where,
        sha256=hashlib.sha256(text.encode()).hexdigest() if text else "",
        training=module.training,
    )


def _nearer(file: str) -> str:
    nearer = os.path.relpath(file) if file else ""
    return file if nearer.startswith("..") else nearer


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def environment(torch: Any) -> dict[str, Any]:
    """Where and under which settings a program runs."""
    cudnn = torch.backends.cudnn
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "argv": [*sys.argv],
        "seed": torch.initial_seed(),
        "flags": {
            "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cudnn_benchmark": cudnn.benchmark,
            "cudnn_deterministic": cudnn.deterministic,
            "mkldnn": torch.backends.mkldnn.enabled,
        },
    }
