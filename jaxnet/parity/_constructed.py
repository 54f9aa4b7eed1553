"""How the models of a recorded program were built: their constructors' arguments, as Python.

The text is what `jaxnet check trace/ model_jax.py` builds the ported model by. It has names of
the program's own classes, and of torch's under the names that jaxnet has for them.
"""

import ast
import base64
import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

from jaxnet.parity._bare import checksum


class UnwrittenError(ValueError):
    """An argument for which there is no Python text."""


@dataclasses.dataclass(frozen=True)
class Constructed:
    """The construction of one module that is no part of another.

    Attributes:
        call: The constructor's call, "Net(hidden=32)"; "" where an argument has no text.
        unwritten: That argument, and what it is.
        generator: The state of torch's generator before it, in base 64, as
            `jaxnet.random.Generator.set_state` takes it.
        checksums: The CRC32 of each parameter after it, by name: a program may give a model
            other weights before it trains it.
    """

    call: str
    unwritten: str
    generator: str
    checksums: Mapping[str, int]


class Constructions:
    """The constructions that a recording has seen, outermost ones only."""

    def __init__(self, recorder: Any) -> None:
        self.recorder, self.torch = recorder, recorder.torch
        self._found: dict[int, tuple[Any, Constructed]] = {}
        self._under_way: list[Any] = []

    def of(self, module: Any) -> Constructed | None:
        """How a module was built; None where that was not seen, or within another one."""
        reference, found = self._found.get(id(module), (lambda: None, None))
        return found if reference() is module else None

    def run(self, init: Callable[..., None], module: Any, args: Any, kwargs: Any) -> None:
        """Runs a constructor, which may be one that a module's own constructor calls."""
        if self._under_way:
            init(module, *args, **kwargs)
            return
        call = unwritten = ""
        try:
            call = self._call(type(module), init, module, args, kwargs)
        except UnwrittenError as error:
            unwritten = str(error)
        with self.recorder.quiet():
            state = self.torch.default_generator.get_state().numpy().tobytes()
        self._under_way.append(module)
        try:
            init(module, *args, **kwargs)
        finally:
            self._under_way.pop()
        with self.recorder.quiet():
            sums = {
                name: checksum(self.torch, parameter)
                for name, parameter in module.named_parameters()
                if not self.torch.nn.parameter.is_lazy(parameter)
            }
        found = Constructed(call, unwritten, base64.b64encode(state).decode(), sums)
        self._found[id(module)] = weakref.ref(module), found

    def _call(self, cls: Any, init: Any, module: Any, args: Any, kwargs: Any) -> str:
        try:
            signature = inspect.signature(init)
            bound = signature.bind(module, *args, **kwargs)
        except TypeError as error:  # which the constructor itself will raise
            raise UnwrittenError(str(error)) from error
        texts: list[str] = []
        several = [n for n, p in signature.parameters.items() if p.kind is p.VAR_POSITIONAL]
        by_position = any(bound.arguments.get(name) for name in several)
        for name, value in [*bound.arguments.items()][1:]:
            parameter = signature.parameters[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                texts += [self._text(name, each) for each in value]
            elif parameter.kind is parameter.VAR_KEYWORD:
                texts += [f"{key}={self._text(key, each)}" for key, each in value.items()]
            elif parameter.kind is parameter.POSITIONAL_ONLY or (
                by_position and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            ):
                texts.append(self._text(name, value))
            elif not _same(value, parameter.default) and not self._is_device(value):
                texts.append(f"{name}={self._text(name, value)}")
        return f"{self._name(cls.__name__, cls)}({', '.join(texts)})"

    def _is_device(self, value: Any) -> bool:
        """Whether it says where arrays lie, which no ported constructor is told."""
        return isinstance(value, self.torch.device)

    def _text(self, name: str, value: Any) -> str:
        """The Python text of an argument.

        Raises:
            UnwrittenError: There is none.
        """
        text = functools.partial(self._text, name)
        if value is None or type(value) in (bool, int, str):
            return repr(value)
        if type(value) is float and value == value and abs(value) != float("inf"):
            return repr(value)
        if type(value) is list:
            return f"[{', '.join(map(text, value))}]"
        if type(value) is tuple or isinstance(value, self.torch.Size):
            return f"({', '.join(map(text, value))}{',' * (len(value) == 1)})"
        if type(value) is dict:
            return "{" + ", ".join(f"{text(k)}: {text(v)}" for k, v in value.items()) + "}"
        if isinstance(value, self.torch.dtype):
            return str(value).replace("torch.", "ops.")
        if isinstance(value, self.torch.nn.Module) and (found := self.of(value)) is not None:
            if not found.call:
                raise UnwrittenError(f"{name}: of its {type(value).__name__} {found.unwritten}")
            return found.call
        if isinstance(value, functools.partial):
            given = [text(value.func), *map(text, value.args)]
            given += [f"{key}={text(each)}" for key, each in value.keywords.items()]
            return f"partial({', '.join(given)})"
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return self._name(name, value)
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
            given = [f"{key}={text(each)}" for key, each in fields.items()]
            return f"{self._name(name, type(value))}({', '.join(given)})"
        if isinstance(value, SimpleNamespace) or type(value).__name__ == "Namespace":
            given = [f"{key}={text(each)}" for key, each in vars(value).items()]
            return f"SimpleNamespace({', '.join(given)})"
        raise UnwrittenError(f"{name}: {type(value).__module__}.{type(value).__qualname__}")

    def _name(self, argument: str, value: Any) -> str:
        """The name of a class or function, as the ported program has it."""
        name = value.__name__
        for module, ours in (
            (self.torch.nn, "nn"),
            (self.torch.nn.functional, "F"),
            (self.torch, "ops"),
        ):
            if getattr(module, name, None) is value:
                return f"{ours}.{name}"
        if not name.isidentifier() or value.__qualname__ != name:
            raise UnwrittenError(f"{argument}: {value.__qualname__}, which a module does not have")
        return str(name)


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    plain = (bool, int, float, str, tuple, list)
    return type(value) is type(default) and type(value) in plain and bool(value == default)


_ALLOWED = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Attribute, ast.Constant, ast.keyword,
    ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.USub,
)  # fmt: skip


def only_constructs(call: str, own: Mapping[str, Any]) -> bool:
    """Whether a text from a trace, which is data, does no more than build things.

    Args:
        call: The text.
        own: The classes and functions of the ported program.
    """
    try:
        tree = ast.parse(call, mode="eval")
    except SyntaxError:
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            return False
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("nn", "F", "ops")
        ):
            return False
        names = ("nn", "F", "ops", "partial", "SimpleNamespace")
        if isinstance(node, ast.Name) and node.id not in own and node.id not in names:
            return False
    return True
