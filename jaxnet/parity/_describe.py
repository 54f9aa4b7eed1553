"""What trace.json says of a recorded PyTorch program: modules, optimizers, schedules, settings."""

import contextlib
import gc
import hashlib
import importlib
import inspect
import itertools
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from jaxnet.parity._functions import nearer
from jaxnet.parity._program import joined
from jaxnet.parity._trace import Module


def describe(recorder: Any) -> dict[str, Any]:
    """All that trace.json says of a program."""
    program = recorder.program
    used = [*recorder.stepped]
    key = len(program.roots), len(program.loose), len(program.apart), len(used)
    if program.description is None or program.description[0] != key:
        program.description = key, _describe(recorder, used)
    return {
        **program.description[1],
        **recorder.about,
        "notes": recorder.notes,
        "checks": recorder.checks,
    }


def _describe(recorder: Any, used: list[int]) -> dict[str, Any]:
    program = recorder.program
    plain = program.plain
    modules = {}
    tied: dict[int, list[str]] = {}
    for i, root in enumerate(program.roots):
        mark = f"⟨{i}⟩"
        if root.inside is None:
            for name, module in root.module.named_modules():
                modules[plain(joined(mark, name))] = _module(module)
            for name, p in root.module.named_parameters(remove_duplicate=False):
                tied.setdefault(id(p), []).append(plain(joined(mark, name)))
    for name, module in program.apart.items():
        modules.setdefault(plain(name), _module(module))
    names = {id(p): plain(name) for name, p in program.parameters()}
    return {
        **environment(recorder.torch),
        "device": program.devices(),
        "sources": program.sources(),
        "models": [program.model_name(r) for r in program.top()],
        "constructed": _constructed(recorder),
        "modules": modules,
        "parameters": {
            names[id(p)]: {
                "shape": list(p.shape),
                "dtype": _dtype(p.dtype),
                "names": tied.get(id(p), [names[id(p)]]),
                "requires_grad": p.requires_grad,
            }
            for _, p in program.parameters()
        },
        "buffers": {
            plain(name): {"shape": list(b.shape), "dtype": _dtype(b.dtype)}
            for name, b in program.buffers()
        },
        "optimizers": [_optimizer(recorder, o, names) for o in used],
        "schedulers": _schedulers(recorder, used),
    }


def _constructed(recorder: Any) -> dict[str, Any]:
    """How the models, and the modules that belong to none, were built, by their names."""
    program = recorder.program
    modules = {program.model_name(root): root.module for root in program.top()}
    modules |= {program.plain(name): module for name, module in program.apart.items()}
    found = {name: recorder.constructions.of(module) for name, module in modules.items()}
    return {name: vars(each) for name, each in found.items() if each is not None}


def _optimizer(recorder: Any, number: int, names: Mapping[int, str]) -> dict[str, Any]:
    """An optimizer, as it was in its first step."""
    known = recorder.program.described
    if number not in known:
        optimizer = recorder.program.optimizers[number]()
        groups = recorder.program.first_groups[number]
        known[number] = {
            "class": type(optimizer).__name__,
            "defaults": {k: simple(v) for k, v in optimizer.defaults.items()},
            "groups": [
                {"params": [names.get(id(p), "?") for p in group["params"]], **first}
                for group, first in zip(optimizer.param_groups, groups, strict=False)
            ],
        }
    return dict(known[number])


def _schedulers(recorder: Any, used: list[int]) -> list[dict[str, Any]]:
    known = recorder.program.described
    if -1 not in known:
        base: Any = importlib.import_module("torch.optim.lr_scheduler").LRScheduler
        found = living(base)
        theirs = [optimizer for n, optimizer in recorder.program.living() if n in used]
        ours = [each for each in found if any(getattr(each, "optimizer", 0) is o for o in theirs)]
        known[-1] = [{"class": type(each).__name__, "config": config_of(each)} for each in ours]
    return list(known[-1])


def living(base: type) -> list[Any]:
    """All objects of a class and its subclasses that the program has."""
    kinds: set[type] = set()
    new = [base]
    while new:
        cls = new.pop()
        if cls not in kinds:
            kinds.add(cls)
            new += type.__subclasses__(cls)
    every = gc.get_objects()  # half a million, which a loop of Python's takes long for
    return [*itertools.compress(every, map(kinds.__contains__, map(type, every)))]


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
            where = f"{nearer(inspect.getsourcefile(cls) or '', os.getcwd())}:{number}"
    return Module(
        cls=cls.__name__,
        qualname=f"{cls.__module__}.{cls.__qualname__}",
        config=config_of(module),
        text=module.extra_repr(),
        where=where,
        sha256=hashlib.sha256(text.encode()).hexdigest() if text else "",
        training=module.training,
    )


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


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
            "default_dtype": _dtype(torch.get_default_dtype()),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cudnn_benchmark": cudnn.benchmark,
            "cudnn_deterministic": cudnn.deterministic,
            "mkldnn": torch.backends.mkldnn.enabled,
        },
    }
