"""What torch's names are in jaxnet, looked up in jaxnet itself."""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from jaxnet import data, nn, ops, optim
from jaxnet.nn import functional

_MODULES: dict[str, tuple[str, str]] = {
    # torch's module: jaxnet's, as the import says it, and as the program says it
    "torch.nn.functional": ("jaxnet.nn.functional", "nn.functional"),
    "torch.nn.init": ("jaxnet.nn.init", "nn.init"),
    "torch.nn.utils.rnn": ("jaxnet.nn.utils.rnn", "nn.utils.rnn"),
    "torch.nn.utils.parametrizations": (
        "jaxnet.nn.utils.parametrizations",
        "nn.utils.parametrizations",
    ),
    "torch.nn.utils.parametrize": ("jaxnet.nn.utils.parametrize", "nn.utils.parametrize"),
    "torch.nn.utils": ("jaxnet.nn.utils", "nn.utils"),
    "torch.nn": ("jaxnet.nn", "nn"),
    "torch.optim.lr_scheduler": ("jaxnet.optim", "optim"),
    "torch.optim": ("jaxnet.optim", "optim"),
    "torch.utils.data": ("jaxnet.data", "data"),
    "torch.linalg": ("jaxnet.ops.linalg", "ops.linalg"),
    "torch.fft": ("jaxnet.ops.fft", "ops.fft"),
    "torch.special": ("jaxnet.ops.special", "ops.special"),
    "torch": ("jaxnet.ops", "ops"),
}
DRAWS = {
    "bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like", "randn",
    "randn_like", "randperm",
}  # fmt: skip
"""torch's functions that draw from its generator."""

_SUBMODULES = ("torch.nn.modules.", "torch.nn.parameter.")
_TYPINGS = ("torch.jit.annotations.", "torch.types.")  # which hand on names of typing

_OTHERS = {
    "torch.Tensor": "jax.Array",
    "torch.Size": "tuple",
    "torch.dtype": "ops.DType",
    "torch.pi": "math.pi",
    "torch.e": "math.e",
    "torch.inf": "math.inf",
    "torch.nan": "math.nan",
    "torch.asarray": "ops.tensor",
    "torch.inverse": "ops.linalg.inv",
    "torch.pinverse": "ops.linalg.pinv",
    "torch.arctan2": "ops.atan2",
    "torch.utils.checkpoint.checkpoint": "nn.checkpoint",
    "torch.nn.functional.upsample": "nn.functional.interpolate",
    "torch.jit.Final": "typing.Final",
    "torch.autograd.Variable": "ops.tensor",
    "torch.Generator": "Generator",
}
TRAINING = (
    "training is written with jaxnet.train: see docs/pages/from-pytorch.md for the words of a loop"
)
"""What is said of an optimizer whose loop is not ported."""

SCHEDULERS = "torch.optim.lr_scheduler."
NOTHING_KNOWN = "jaxnet has nothing for it"
"""What is said of a name of which nothing is known."""

_CONVOLUTIONS = ("nn.Conv1d", "nn.Conv2d", "nn.Conv3d")
_TRANSPOSED = ("nn.ConvTranspose1d", "nn.ConvTranspose2d", "nn.ConvTranspose3d")
FAMILIES = {
    "torch.nn.modules.batchnorm._BatchNorm": (
        "nn.BatchNorm1d", "nn.BatchNorm2d", "nn.BatchNorm3d", "nn.SyncBatchNorm",
    ),
    "torch.nn.modules.instancenorm._InstanceNorm": (
        "nn.InstanceNorm1d", "nn.InstanceNorm2d", "nn.InstanceNorm3d",
    ),
    "torch.nn.modules.conv._ConvNd": (*_CONVOLUTIONS, *_TRANSPOSED),
    "torch.nn.modules.conv._ConvTransposeNd": _TRANSPOSED,
}  # fmt: skip
"""The classes that have a private class of torch's as theirs, for isinstance(x, ...)."""

_ELSEWHERE = {
    "torch.manual_seed": "write rngs = jaxnet.random.Generator(seed), and hand it on",
    "torch.save": "write jaxnet.weights.save(path, state_dict)",
    "torch.load": "write jaxnet.weights.load(path)",
    "torch.cuda": "leave it out: arrays are made on the first GPU where there is one",
    "torch.device": "leave it out: arrays are made on the first GPU where there is one",
    "torch.autograd": "gradients are values: write jax.grad, and jax.custom_vjp for one's own",
}
"""What to write for what has no function of the same name."""


@dataclasses.dataclass(frozen=True)
class Name:
    """What a name of torch is in jaxnet.

    Attributes:
        code: The expression to write, "" where there is none.
        imports: The import statements that it needs.
        value: What it stands for, with which calls are checked.
        problem: Why there is nothing, and what to write.
    """

    code: str
    imports: tuple[str, ...] = ()
    value: Any = None
    problem: str = ""


_IMPORTS = {
    "nn": "from jaxnet import nn",
    "ops": "from jaxnet import ops",
    "math": "import math",
    "jax": "import jax",
    "typing": "import typing",
    "optim": "from jaxnet import optim",
    "data": "from jaxnet import data",
    "Generator": "from jaxnet.random import Generator",
}


def jaxnet_name(dotted: str, spelled: str, taken: frozenset[str] = frozenset()) -> Name:
    """What a name of torch is in jaxnet.

    Args:
        dotted: The name, such as "torch.nn.functional.relu".
        spelled: How the program says it, such as "F.relu" or "relu": the output says it alike.
        taken: Other names of the program, which the output must not use for jaxnet's modules.
    """
    if dotted in _OTHERS or tensor_type(dotted) is not None:
        code = _OTHERS.get(dotted, "jax.Array")
        if code == "jax.Array" and "." not in spelled and "Array" not in taken:
            return Name("Array", ("from jax import Array",))
        if code in taken:  # a class Generator, as GANs have
            return Name(f"jaxnet.random.{code}", ("import jaxnet.random",))
        first = code.partition(".")[0]
        if first == "typing":
            return Name("Final", ("from typing import Final",))
        value = jaxnet_value(code) if first in ("nn", "ops") else None
        return Name(code, (_IMPORTS[first],) if first in _IMPORTS else (), value)
    if dotted.startswith(_TYPINGS) and hasattr(typing, dotted.rpartition(".")[2]):
        name = dotted.rpartition(".")[2]
        if "." in spelled or name in taken:
            return Name(f"typing.{name}", ("import typing",))
        return Name(name, (f"from typing import {name}",))
    for submodule in _SUBMODULES:
        if dotted.startswith(submodule):
            dotted = f"torch.nn.{dotted.rpartition('.')[2]}"
    for elsewhere, words in _ELSEWHERE.items():
        if dotted == elsewhere or dotted.startswith(f"{elsewhere}."):
            return Name("", problem=words)
    module = next((m for m in _MODULES if dotted == m or dotted.startswith(f"{m}.")), None)
    if module is None:
        return Name("", problem=NOTHING_KNOWN)
    rest = dotted[len(module) + 1 :]
    imported, said = _MODULES[module]
    if not rest:  # the module itself
        return Name(spelled if spelled != "torch" else "ops", (_module_import(imported, spelled),))
    if module == "torch":
        if rest in functional.__all__ and rest not in ops.__all__:
            module, (imported, said) = "torch.nn.functional", _MODULES["torch.nn.functional"]
        elif rest in ops.linalg.__all__ and rest not in ops.__all__:
            module, (imported, said) = "torch.linalg", _MODULES["torch.linalg"]
    if rest.endswith("_") and not _has(said, rest) and _has(said, rest[:-1]):
        rest = rest[:-1]  # F.relu_(x)
    elif module == "torch" and rest.endswith("_") and _has("nn.functional", rest[:-1]):
        rest, (imported, said) = rest[:-1], _MODULES["torch.nn.functional"]
    prefix, _, _ = spelled.rpartition(".")
    of_data = module == "torch.utils.data" and "." not in rest and _has(said, rest)
    if of_data and (not prefix or "." in prefix) and rest not in taken:
        # torch.utils.data.DataLoader: `data` is a name that programs have for their own.
        return Name(rest, (f"from {imported} import {rest}",), jaxnet_value(f"{said}.{rest}"))
    moved = not dotted.startswith(f"{module}.")  # torch.conv2d, which is nn.functional's
    if not prefix and spelled == rest.partition(".")[0] and spelled not in taken:
        if not _has(said, rest):
            return Name("", problem=_why(said, rest))
        return Name(rest, (f"from {imported} import {rest}",), jaxnet_value(f"{said}.{rest}"))
    if not _has(said, rest):
        return Name(f"{said}.{rest}", (_IMPORTS[said.partition(".")[0]],), None, _why(said, rest))
    own = prefix and "." not in prefix and prefix not in ("torch", "nn") and module != "torch"
    if own and not moved:  # F.relu, init.normal_
        line = _module_import(imported, prefix)
        return Name(f"{prefix}.{rest}", (line,), jaxnet_value(f"{said}.{rest}"))
    code = f"{said}.{rest}"
    return Name(code, (_IMPORTS[said.partition(".")[0]],), jaxnet_value(code))


def _module_import(imported: str, alias: str) -> str:
    package, _, last = imported.rpartition(".")
    alias = "ops" if alias == "torch" else alias.rpartition(".")[2]
    return f"from {package} import {last}" + ("" if alias == last else f" as {alias}")


def jaxnet_value(code: str) -> Any:
    """The function or the class of a name such as "nn.functional.relu"."""
    first, *rest = code.split(".")
    value: Any = {"nn": nn, "ops": ops, "optim": optim, "data": data}[first]
    for part in rest:
        value = getattr(value, part)
    return value


def _has(module: str, name: str) -> bool:
    try:
        holder = jaxnet_value(module)
        first = name.partition(".")[0]
        if first not in getattr(holder, "__all__", ()):
            return False
        jaxnet_value(f"{module}.{name}")
    except AttributeError:
        return False
    return True


def _why(module: str, name: str) -> str:
    try:
        jaxnet_value(f"{module}.{name}")
    except AttributeError as error:
        _, found, words = str(error).partition("; in jaxnet, ")
        if found:
            return words
    return NOTHING_KNOWN


_TYPES = {
    "Tensor": "float32", "FloatTensor": "float32", "DoubleTensor": "float64",
    "HalfTensor": "float16", "BFloat16Tensor": "bfloat16", "LongTensor": "int64",
    "IntTensor": "int32", "ShortTensor": "int16", "CharTensor": "int8", "ByteTensor": "uint8",
    "BoolTensor": "bool",
}  # fmt: skip


def tensor_type(dotted: str) -> str | None:
    """The dtype of torch's old classes of tensors, such as torch.LongTensor, or None."""
    module, _, name = dotted.rpartition(".")
    return _TYPES.get(name) if module in ("torch", "torch.cuda") else None


def is_optimizer(name: str) -> bool:
    """Whether a dotted name is that of an optimizer's class."""
    return name.startswith("torch.optim.") and not name.startswith(
        (SCHEDULERS, "torch.optim.swa_utils.")
    )


LEFT_OUT = {"device", "requires_grad", "pin_memory", "memory_format", "non_blocking", "layout",
            "copy"}  # fmt: skip
"""Arguments that say nothing about the numbers."""


def unknown_argument(value: Any, positional: int, keywords: list[str]) -> str | None:
    """What a function or layer of jaxnet does not take of a call, or None.

    Args:
        value: The function or the class.
        positional: The number of arguments without a name.
        keywords: The names of the others.
    """
    if value is None or not callable(value):
        return None
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return None
    return unknown_parameter({p.name: p for p in parameters}, positional, keywords)


def unknown_parameter(
    named: Mapping[str, inspect.Parameter], positional: int, keywords: list[str]
) -> str | None:
    """What a function of some parameters does not take of a call, or None."""
    parameters = named.values()
    kinds = {p.kind for p in parameters}
    names = {p.name for p in parameters if p.kind is not p.VAR_POSITIONAL}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for keyword in keywords:
            if keyword not in names:
                return f"the argument {keyword}= is not there"
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        most = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        if positional > most:
            return f"it takes {most} arguments without a name, and {positional} are given"
    return None
