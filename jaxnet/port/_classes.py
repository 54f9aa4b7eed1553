"""What the classes and functions of a program are: modules or not, their methods and attributes."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import libcst as cst

from jaxnet import nn
from jaxnet.port._nodes import code, is_self
from jaxnet.port._source import Definition, Source


def bases(definition: Definition) -> Iterator[tuple[Definition | None, str]]:
    """The bases of a class: the definition in the project, or the dotted name."""
    if not isinstance(definition.node, cst.ClassDef):
        return
    for base in definition.node.bases:
        found = definition.source.definition(base.value)
        yield found, definition.source.qualified(base.value) or ""


@cache
def lineage(definition: Definition) -> tuple[Definition, ...]:
    """A class and those of the project that it inherits from, nearest first."""
    found = [definition]
    for base, _ in bases(definition):
        if base is not None and base != definition:
            found += [one for one in lineage(base) if one not in found]
    return tuple(found)


@cache
def layer_of(definition: Definition) -> str | None:
    """The class of torch.nn that a class inherits from, such as "Module", or None."""
    for base, dotted in bases(definition):
        name = torch_layer(dotted) if base is None else layer_of(base)
        if name is not None:
            return name
    return None


@cache
def layers_of(definition: Definition) -> frozenset[str]:
    """The classes of torch.nn that a class inherits from."""
    found: set[str] = set()
    for base, dotted in bases(definition):
        name = torch_layer(dotted)
        found |= layers_of(base) if base is not None else {name} if name else set()
    return frozenset(found)


def is_module(definition: Definition | None) -> bool:
    """Whether a definition is a class of modules."""
    return definition is not None and layer_of(definition) is not None


def torch_layer(dotted: str | None) -> str | None:
    """The name in torch.nn of a class that is named in any of torch's ways, or None."""
    if dotted is None or not dotted.startswith(("torch.nn.", "torch.nn.modules.")):
        return None
    name = dotted.rpartition(".")[2]
    known = name[:1].isupper() and dotted.count(".") in (2, 4, 3) and ".functional." not in dotted
    return name if known else None


@cache
def layer_takes_rngs(name: str) -> bool:
    """Whether a layer of jaxnet draws initial weights."""
    layer: Any = getattr(nn, name, None) if name in nn.__all__ else None
    if not isinstance(layer, type):
        return False
    import inspect

    return "rngs" in inspect.signature(layer.__init__).parameters  # type: ignore[misc]


@cache
def methods(definition: Definition) -> dict[str, cst.FunctionDef]:
    """The methods that a class defines itself."""
    node = definition.node
    if not isinstance(node, cst.ClassDef):
        return {}
    return {s.name.value: s for s in node.body.body if isinstance(s, cst.FunctionDef)}


def method(definition: Definition, name: str) -> Definition | None:
    """The class that a class has a method from, or None."""
    return next((one for one in lineage(definition) if name in methods(one)), None)


@cache
def attributes(definition: Definition) -> dict[str, str]:
    """What the attributes of a module hold, by name.

    The kinds are "module", "param", "buffer", "tensor", "given" (an argument of the constructor),
    "list", "value" and "unknown".
    """
    found: dict[str, str] = {}
    for one in reversed(lineage(definition)):
        for function in methods(one).values():
            found.update(_assigned(one.source, function, not is_module(definition)))
    return found


def _assigned(source: Source, function: cst.FunctionDef, plain: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    given = {p.name.value for p in (*function.params.params, *function.params.kwonly_params)}

    class Assigned(cst.CSTVisitor):
        def _note(self, target: Any, value: Any, annotation: Any = None) -> None:
            if not isinstance(target, cst.Attribute) or not is_self(target.value):
                return
            kind = value_kind(source, value)
            if kind is None and annotation is not None:
                text = code(annotation.annotation)
                kind = "tensor" if "Tensor" in text else None
            if kind is None and plain and _is_of_torch(source, value):
                kind = "tensor"  # of a data set
            if kind is None and isinstance(value, cst.Name) and value.value in given:
                kind = "given"
            name = target.attr.value
            if plain and kind is None and code(value).startswith(f"self.{name}."):
                return  # self.x = self.x.double()
            if kind == "value" and name in found:
                return  # self.bn = None in one branch, a layer in the other
            found[name] = kind or "unknown"

        def visit_Assign(self, node: cst.Assign) -> None:
            for target in node.targets:
                self._note(target.target, node.value)
                pair = target.target, node.value  # self.a, self.b = nn.Linear(2, 3), nn.ReLU()
                if all(isinstance(one, cst.Tuple) for one in pair):
                    elements = (one.elements for one in pair)  # type: ignore[attr-defined]
                    for place, value in zip(*elements, strict=False):
                        self._note(place.value, value.value)

        def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
            if node.value is not None:
                self._note(node.target, node.value, node.annotation)

        def visit_Call(self, node: cst.Call) -> None:
            if isinstance(node.func, cst.Attribute) and is_self(node.func.value) and node.args:
                kinds = {
                    "register_buffer": "buffer",
                    "register_parameter": "param",
                    "add_module": "module",
                }
                kind = kinds.get(node.func.attr.value)
                name = node.args[0].value
                if kind and isinstance(name, cst.SimpleString):
                    found[str(name.evaluated_value)] = kind

    function.visit(Assigned())
    return found


def _is_of_torch(source: Source, value: Any) -> bool:
    """Whether an expression is made from what a function of torch gives."""
    if isinstance(value, cst.BinaryOperation):
        return _is_of_torch(source, value.left) or _is_of_torch(source, value.right)
    if isinstance(value, cst.Comparison):
        return _is_of_torch(source, value.left)
    if isinstance(value, cst.Subscript):
        return _is_of_torch(source, value.value)
    if not isinstance(value, cst.Call):
        return False
    dotted = source.qualified(value.func) or ""
    if dotted.startswith("torch."):
        return dotted.count(".") == 1 and dotted.rpartition(".")[2][0].islower()
    return isinstance(value.func, cst.Attribute) and _is_of_torch(source, value.func.value)


def value_kind(source: Source, value: Any) -> str | None:
    """What an expression makes: "module", "param", "buffer", "value", "list", or None."""
    if isinstance(value, cst.IfExp):
        return value_kind(source, value.body) or value_kind(source, value.orelse)
    if isinstance(value, cst.Call):
        layer = torch_layer(source.qualified(value.func))
        if layer == "Parameter":
            return "param"
        if layer == "Buffer":
            return "buffer"
        return "module" if layer or is_module(source.definition(value.func)) else None
    if isinstance(value, cst.List | cst.ListComp | cst.Dict | cst.Tuple):
        return "list"
    if isinstance(value, cst.Integer | cst.Float | cst.SimpleString | cst.FormattedString):
        return "value"
    if isinstance(value, cst.Name) and value.value in ("None", "True", "False"):
        return "value"
    return None
