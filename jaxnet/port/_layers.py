"""The parts of a model that its class makes, each for itself alone."""

import re
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._nodes import code, is_self, parts_of
from jaxnet.port._steps import root_of

if TYPE_CHECKING:
    from jaxnet.port._source import Source

_MOVES = {"to", "double", "float", "cuda", "cpu", "train"}
_HOLDERS = {"Sequential", "ModuleList"}
_WITHOUT = {
    "ReLU", "LeakyReLU", "ELU", "Tanh", "Sigmoid", "GELU", "SiLU", "Softmax", "LogSoftmax",
    "Identity", "Flatten", "Unflatten", "Dropout", "Dropout1d", "Dropout2d", "MaxPool1d",
    "MaxPool2d", "AvgPool1d", "AvgPool2d", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "Upsample",
}  # fmt: skip
"""Layers that have no parameters."""

_KEEPS = re.compile("Transformer|Dict|List|Parallel|Module")
"""Classes that may keep layers that they are given."""

_MORE = {
    "add_module", "register_module", "register_parameter", "__setattr__", "apply", "named_modules",
    "modules", "children", "named_children", "__dict__", "load_state_dict",
}  # fmt: skip


def parts_with_parameters(source: "Source", made: Any) -> set[str] | None:
    """The attributes of a model that have parameters, or None where that is not known.

    They are known where the model's class and those of its layers are in the file, inherit from
    nn.Module alone, and make each layer where they give it its name: then no two share anything.

    Args:
        source: The file.
        made: The expression that makes the model.
    """
    while isinstance(made, cst.Call) and isinstance(made.func, cst.Attribute):
        if made.func.attr.value not in _MOVES or not isinstance(made.func.value, cst.Call):
            return None
        made = made.func.value
    if not isinstance(made, cst.Call):
        return None
    classes = {o.name.value: o for o in source.whole_tree.body if isinstance(o, cst.ClassDef)}
    if code(made.func) not in classes:
        return None
    return _Reader(source, classes).attributes(code(made.func), ())


class _Reader:
    """Reads the constructors of the classes of a file."""

    def __init__(self, source: "Source", classes: dict[str, cst.ClassDef]) -> None:
        self.source, self.classes = source, classes

    def attributes(self, name: str, above: tuple[str, ...]) -> set[str] | None:
        """The attributes of a class that have parameters, or None."""
        node = self.classes[name]
        bases = [self.source.imported(base.value) for base in node.bases]
        if bases != ["torch.nn.Module"] or name in above or node.decorators:
            return None
        found: set[str] = set()
        for part in node.body.body:
            if isinstance(part, cst.FunctionDef):
                more = self._of_method(part, (*above, name))
                if more is None:
                    return None
                found |= more
            elif not _is_quiet(part):
                return None
        return found

    def _of_method(self, method: cst.FunctionDef, above: tuple[str, ...]) -> set[str] | None:
        first = method.name.value == "__init__"
        numbers = _numbers(method) if first else set()
        known: set[int] = set()
        found: set[str] = set()
        for part in parts_of(method.body):
            if isinstance(part, cst.Attribute) and part.attr.value in _MORE:
                return None
            if isinstance(part, cst.Name) and part.value in ("setattr", "vars", "exec"):
                return None
            if isinstance(part, cst.Call) and method.name.value not in ("forward", "__call__"):
                hands_on = any(_reads_self(arg) for arg in part.args)
                torchs = self.source.imported(part.func).startswith("torch.")
                if hands_on and not torchs and code(part.func) != "super":
                    return None
            other = cst.AugAssign | cst.AnnAssign | cst.NamedExpr
            if isinstance(part, other) and root_of(part.target) == "self":
                return None
            if isinstance(part, cst.Assign):
                pairs = _pairs(part)
                if pairs is None:
                    return None
                for target, value in pairs:
                    if root_of(target) != "self":
                        if isinstance(target, cst.Attribute):
                            return None
                        continue
                    known.add(id(target))
                    plain = isinstance(target, cst.Attribute) and is_self(target.value)
                    has = self._made(value, numbers, above) if first and plain else None
                    if has is None:
                        return None
                    if has:
                        found.add(target.attr.value)
        for part in parts_of(method.body):
            if isinstance(part, cst.AssignTarget | cst.For | cst.WithItem | cst.Del):
                target = getattr(part, "target", None) or getattr(part, "asname", None)
                for inner in [] if target is None else parts_of(target):
                    own = isinstance(inner, cst.Attribute) and is_self(inner.value)
                    if own and id(inner) not in known:
                        return None
        return found

    def _made(self, value: Any, numbers: set[str], above: tuple[str, ...]) -> bool | None:
        """Whether what an attribute is given has parameters; None where that is not known."""
        if not isinstance(value, cst.Call):
            return False if _is_number(value, numbers) else None
        name = self.source.imported(value.func)
        last = name.rpartition(".")[2]
        if name.startswith("torch.nn.") and last in _HOLDERS:
            items: list[Any] = []
            for arg in value.args:
                one = arg.value
                if isinstance(one, cst.List):
                    items += [element.value for element in one.elements]
                elif isinstance(one, cst.ListComp | cst.GeneratorExp):
                    items.append(one.elt)
                else:
                    items.append(one)
            if not all(isinstance(one, cst.Call) for one in items):
                return None
            every = [self._made(one, numbers, above) for one in items]
            return None if None in every else any(every)
        if last == "Parameter" and name.startswith("torch.nn."):
            return True
        inner = [p for arg in value.args for p in parts_of(arg) if isinstance(p, cst.Call)]
        if any(self._makes(call) for call in inner) or _reads_self(value):
            return None
        if name.startswith("torch.nn.") and last[:1].isupper():
            if _KEEPS.search(last):
                return None
            return last not in _WITHOUT and not last.endswith("Loss")
        if code(value.func) in self.classes:
            own = self.attributes(code(value.func), above)
            return None if own is None else bool(own)
        return None

    def _makes(self, call: cst.Call) -> bool:
        name = self.source.imported(call.func)
        return name.startswith("torch.nn.") or code(call.func) in self.classes


def _pairs(assign: cst.Assign) -> list[tuple[Any, Any]] | None:
    """The targets and values of an assignment; None where parts of the model may be shared."""
    if len(assign.targets) > 1:
        inner = [part for target in assign.targets for part in parts_of(target)]
        return None if any(isinstance(part, cst.Attribute) for part in inner) else []
    target, value = assign.targets[0].target, assign.value
    if not isinstance(target, cst.Tuple):
        return [(target, value)]
    if isinstance(value, cst.Tuple) and len(value.elements) == len(target.elements):
        return [(a.value, b.value) for a, b in zip(target.elements, value.elements, strict=True)]
    inside = any(isinstance(part, cst.Attribute) for part in parts_of(target))
    return None if inside else []


def _numbers(method: cst.FunctionDef) -> set[str]:
    """The parameters of a constructor that are numbers or texts."""
    found = set()
    for param in (*method.params.params, *method.params.kwonly_params):
        words = "" if param.annotation is None else code(param.annotation.annotation)
        if words in ("int", "float", "str", "bool") or _is_number(param.default, set()):
            found.add(param.name.value)
    return found


def _is_number(value: Any, numbers: set[str]) -> bool:
    """Whether an expression is one of numbers and texts."""
    if isinstance(value, cst.Integer | cst.Float | cst.SimpleString):
        return True
    if isinstance(value, cst.Name):
        return value.value in numbers | {"True", "False"}
    if isinstance(value, cst.BinaryOperation):
        return _is_number(value.left, numbers) and _is_number(value.right, numbers)
    return isinstance(value, cst.UnaryOperation) and _is_number(value.expression, numbers)


def _reads_self(value: Any) -> bool:
    return any(is_self(part) for part in parts_of(value))


def _is_quiet(part: Any) -> bool:
    """Whether a statement of a class is a docstring or `pass`."""
    if not isinstance(part, cst.SimpleStatementLine):
        return False
    return all(isinstance(one, cst.Pass | cst.Expr) for one in part.body)
