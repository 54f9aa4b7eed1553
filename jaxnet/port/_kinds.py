"""What expressions hold, as far as the source says: arrays, shapes, modules, numbers.

A method such as `x.split(2)` is one of an array or of a text. Annotations, torch's functions and
the attributes of the class tell, in the order of the source. What nothing tells is taken for an
array in the methods of modules that compute and in what `forward` calls, and is unknown elsewhere.
"""

from collections.abc import Mapping
from typing import Any

import libcst as cst
import numpy as np

from jaxnet import nn, ops
from jaxnet.port._classes import attributes, is_module, torch_layer, value_kind
from jaxnet.port._nodes import code, is_name, is_none, is_super
from jaxnet.port._scopes import Scope

ARRAYS = ("tensor", "param", "buffer")
"""The kinds that are arrays: those of a program, and those that belong to a module."""

NO_ARRAYS = {"number", "text", "dtype", "device", "shape", "package", "ndarray"}
"""The kinds that are no arrays of torch, and hold none."""

_CONTAINERS = {name for kind in (str, list, dict, set) for name in dir(kind)}
_PYTHON = _CONTAINERS | set(dir(np.ndarray))
ONLY_ARRAYS = (set(ops.__all__) | {"view", "cuda", "cpu", "size"}) - _PYTHON - set(dir(nn.Module))
ONLY_ARRAYS |= {"size", "expand", "view", "numel", "dim"}
"""Methods that nothing but a tensor has."""

LIKELY = set(ops.__all__) - _CONTAINERS - set(dir(nn.Module))
"""Methods that what is unknown has in `forward`, where it is taken for a tensor."""

_NUMBERS = {"len", "int", "float", "bool", "round", "abs", "max", "min", "sum"}
_NO_ARRAYS = (
    "torch.finfo", "torch.iinfo", "torch.jit", "torch.Size", "torch.device", "torch.get",
    "torch.Generator", "torch.utils.data.", "torch.optim.", "torch.manual_seed", "torch.load",
    "torch.save",
)  # fmt: skip
DTYPES = {
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool",
    "long", "int", "float", "double", "half", "complex64", "complex128", "short",
}  # fmt: skip
_SEVERAL = {"chunk", "split", "unbind", "tensor_split", "meshgrid", "topk", "sort", "max", "min"}


class Kinds(cst.CSTVisitor):
    """The kinds of the expressions in one function.

    Args:
        scope: The names of the function.
        node: The function.
        computing: Whether the function computes, and does not only make layers.
        assumes: Whether what nothing tells is taken for an array.
        given: The kinds of parameters that the calls of the function tell.
    """

    def __init__(
        self,
        scope: Scope,
        node: Any,
        computing: bool,
        assumes: bool = True,
        given: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.of_calls = given or {}
        self.assumes = assumes
        self.scope = scope
        self.source = scope.source
        self.computing = computing
        self.names: dict[str, str | None] = {}
        self.found: dict[int, str | None] = {}
        self.fields = {} if scope.owner is None else attributes(scope.owner)
        program = self.source.program if scope.host else None
        self.given: dict[str, str] = {} if program is None else program.kinds
        self._parameters(node)
        node.body.visit(self)

    def __call__(self, node: Any) -> str | None:
        """The kind of an expression of the function."""
        if id(node) not in self.found:
            self.found[id(node)] = self._kind(node)
        return self.found[id(node)]

    def outside(self, function: Any) -> str | None:
        """What a function is called that is imported or one of the program's, dotted."""
        first = function
        while isinstance(first, cst.Attribute):
            first = first.value
        if not isinstance(first, cst.Name) or self.scope.is_local(first.value):
            return None
        return self.source.qualified(function)

    def _parameters(self, node: cst.FunctionDef) -> None:
        called, other = _uses(node.body)
        for parameter in (*node.params.params, *node.params.kwonly_params):
            name = parameter.name.value
            if name in ("self", "cls"):
                continue
            if name in self.of_calls and parameter.annotation is None:
                self.names[name] = self.of_calls[name]
            elif self.scope.host:
                self.names[name] = "batches" if "loader" in name else self.given.get(name)
                if parameter.annotation is not None and self.names[name] is None:
                    self.names[name] = _annotated(code(parameter.annotation.annotation))
            if name in self.of_calls or self.scope.host:
                continue
            annotation, default = parameter.annotation, parameter.default
            if annotation is not None:
                self.names[name] = _annotated(code(annotation.annotation))
            elif default is not None and not is_none(default):
                self.names[name] = self._kind(default)
            elif name in called and self.computing:
                self.names[name] = "module"
            else:
                # A function that `forward` does not call may be given anything.
                array = self.computing and name not in other and self.assumes
                self.names[name] = "tensor" if array else None

    # assignments, in the order of the source

    def leave_Assign(self, original_node: cst.Assign) -> None:
        for target in original_node.targets:
            self._bind(target.target, original_node.value)

    def leave_AnnAssign(self, original_node: cst.AnnAssign) -> None:
        if isinstance(original_node.target, cst.Name):
            text = code(original_node.annotation.annotation)
            kind = _annotated(text)
            self.names[original_node.target.value] = kind or self(original_node.value)

    def leave_NamedExpr(self, original_node: cst.NamedExpr) -> None:
        self._bind(original_node.target, original_node.value)

    def visit_For(self, node: cst.For) -> bool:
        self._bind_items(node.target, node.iter)
        return True

    def visit_CompFor(self, node: cst.CompFor) -> bool:
        self._bind_items(node.target, node.iter)
        return True

    def visit_ListComp(self, node: cst.ListComp) -> bool:
        node.for_in.visit(self)
        return True

    def visit_GeneratorExp(self, node: cst.GeneratorExp) -> bool:
        node.for_in.visit(self)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        super().on_leave(original_node)
        if isinstance(original_node, cst.BaseExpression):
            self(original_node)

    def _bind(self, target: Any, value: Any) -> None:
        if isinstance(target, cst.Name):
            self.names[target.value] = self(value)
        elif isinstance(target, cst.Tuple | cst.List):
            values = value.elements if isinstance(value, cst.Tuple) else None
            whole = self(value)
            parts = {"shape": "number", "tensors": "tensor", "tensor": "tensor"}
            for index, element in enumerate(target.elements):
                if values is not None and index < len(values):
                    self._bind(element.value, values[index].value)
                else:
                    fallback = "tensor" if self.computing and whole is None else None
                    self._spread(element.value, parts.get(whole or "", fallback))

    def _spread(self, target: Any, kind: str | None) -> None:
        if isinstance(target, cst.Name):
            self.names[target.value] = kind
        elif isinstance(target, cst.Tuple | cst.List):
            for element in target.elements:
                self._spread(element.value, kind)

    def _bind_items(self, target: Any, items: Any) -> None:
        of = {"tensors": "tensor", "tensor": "tensor", "modules": "module", "shape": "number"}
        if self.scope.host and self._gives_batches(items):
            self._bind_batches(target, items)
            return
        if isinstance(items, cst.Call) and is_name(items.func, "enumerate", "zip"):
            inner = [of.get(self(a.value) or "") for a in items.args]
            kinds = ["number", *inner] if is_name(items.func, "enumerate") else inner
            if isinstance(target, cst.Tuple):
                for element, kind in zip(target.elements, kinds, strict=False):
                    if isinstance(element.value, cst.Name):
                        self.names[element.value.value] = kind
            return
        kind = of.get(self(items) or "")
        if isinstance(items, cst.Call) and is_name(items.func, "range"):
            kind = "number"
        if isinstance(items, cst.Attribute | cst.Name) and self(items) == "module":
            kind = "module"
        if isinstance(target, cst.Name):
            self.names[target.value] = kind
        elif isinstance(target, cst.Tuple):
            for element in target.elements:
                if isinstance(element.value, cst.Name):
                    self.names[element.value.value] = None

    def _gives_batches(self, items: Any) -> bool:
        """Whether what a loop outside of steps goes over gives batches of a loader."""
        if isinstance(items, cst.Call):  # enumerate, tqdm
            return bool(items.args) and self._gives_batches(items.args[0].value)
        return self(items) == "batches" or (
            isinstance(items, cst.Name) and "loader" in items.value and self(items) is None
        )

    def _bind_batches(self, target: Any, items: Any) -> None:
        numbered = isinstance(items, cst.Call) and is_name(items.func, "enumerate")
        if numbered and isinstance(target, cst.Tuple) and len(target.elements) == 2:
            self._spread(target.elements[0].value, "number")
            self._spread(target.elements[1].value, "tensor")
        else:
            self._spread(target, "tensor")

    # expressions

    def _kind(self, node: Any) -> str | None:
        if isinstance(node, cst.Name):
            if node.value in ("True", "False", "None"):
                return "number"
            if node.value in self.source.imports and not self.scope.is_local(node.value):
                return "package"
            return self.names.get(node.value) or self.given.get(node.value)
        if isinstance(node, cst.Integer | cst.Float):
            return "number"
        if isinstance(node, cst.SimpleString | cst.FormattedString | cst.ConcatenatedString):
            return "text"
        if isinstance(node, cst.Attribute):
            return self._attribute(node)
        if isinstance(node, cst.Call):
            return self._call(node)
        if isinstance(node, cst.Subscript):
            return self._subscript(node)
        if isinstance(node, cst.BinaryOperation | cst.Comparison):
            sides = [node.left]
            sides += (
                [node.right]
                if isinstance(node, cst.BinaryOperation)
                else [target.comparator for target in node.comparisons]
            )
            kinds = [self(side) for side in sides]
            if isinstance(node, cst.Comparison) and any(
                isinstance(t.operator, cst.Is | cst.IsNot | cst.In | cst.NotIn)
                for t in node.comparisons
            ):
                return "number"
            if any(kind in ARRAYS for kind in kinds):
                return "tensor"
            if "ndarray" in kinds and isinstance(node, cst.BinaryOperation):
                return "ndarray"
            return kinds[0] if len(set(kinds)) == 1 else None
        if isinstance(node, cst.UnaryOperation):
            kind = self(node.expression)
            return "tensor" if kind in ARRAYS else kind
        if isinstance(node, cst.IfExp):
            return self(node.body) or self(node.orelse)
        if isinstance(node, cst.List | cst.Tuple):
            kinds = [self(element.value) for element in node.elements]
            return "tensors" if "tensor" in kinds else "list"
        if isinstance(node, cst.ListComp | cst.GeneratorExp):
            return "tensors" if self(node.elt) in ARRAYS else "list"
        if isinstance(node, cst.Dict):
            return "dict"
        return None

    def _attribute(self, node: cst.Attribute) -> str | None:
        name = node.attr.value
        if is_name(node.value, "self") and self.scope.owner is not None:
            kind = self.fields.get(name)
            kinds = {"value": "number", "list": "list", "given": None, "unknown": None}
            return kinds.get(kind or "", kind) if kind != "tensor" else "tensor"
        dotted = self.source.qualified(node)
        if dotted is not None and dotted.startswith("torch."):
            return "dtype" if name in DTYPES else None
        if name in ("weight", "bias"):
            return "param"
        if name in ("running_mean", "running_var"):
            return "buffer"
        kind = self(node.value)
        if name in ("shape", "dtype", "device"):
            return name
        if name in ("ndim",):
            return "number"
        if kind in ARRAYS and name in ("T", "mT", "H", "mH", "data", "real", "imag", "grad"):
            return kind if name == "data" else "tensor"
        if name == "data" and self(node.value) in ("param", "buffer", None):
            return "param" if self(node.value) is None else self(node.value)
        return None

    def _call(self, node: cst.Call) -> str | None:
        name = node.func
        if isinstance(name, cst.Name):
            if name.value in _NUMBERS and not self.scope.is_local(name.value):
                arguments = [self(a.value) for a in node.args]
                arrays = name.value in ("abs", "sum") and arguments[:1] in (["tensor"], ["tensors"])
                return "tensor" if arrays else "number"
            if name.value in ("list", "tuple", "reversed"):
                return self(node.args[0].value) if node.args else "list"
            if name.value == "getattr":
                return "module" if self.computing else None
        if isinstance(name, cst.Name) and self.given.get(name.value) == "module":
            return "tensor"
        dotted = self.source.qualified(name)
        if dotted is not None and not (
            isinstance(name, cst.Name) and self.scope.is_local(name.value)
        ):
            last = dotted.rpartition(".")[2]
            if torch_layer(dotted):
                return value_kind(self.source, node)
            if dotted.startswith("torch."):
                if dotted == "torch.get_default_dtype":
                    return "dtype"
                if dotted == "torch.utils.data.DataLoader":
                    return "batches"
                if dotted.startswith(_NO_ARRAYS) or last.startswith("is_"):
                    return None
                return "tensors" if last in _SEVERAL - {"max", "min"} else "tensor"
            if dotted.startswith("math."):
                return "number"
            if dotted.startswith("numpy."):
                return "ndarray"
            found = self.source.definition(name)
            if found is not None and is_module(found):
                return "module"
            return None
        kind = self(name)
        if kind == "module":
            return "tensor" if self.computing or self.scope.host else None
        if self.scope.host and isinstance(name, cst.Name) and name.value in self.scope.parameters:
            return "tensor" if any(self(a.value) == "tensor" for a in node.args) else None
        if isinstance(name, cst.Attribute):
            attr, of = name.attr.value, self(name.value)
            if attr == "size":
                return "number" if node.args else "shape"
            if attr in ("dim", "numel", "item", "nelement"):
                return "number"
            if attr in ("modules", "children"):
                return "modules"
            if of == "text":
                return "text"
            if of in ARRAYS or (of is None and attr in ONLY_ARRAYS):
                if attr in _SEVERAL and not (attr in ("max", "min") and not node.args):
                    return "tensors"
                return "tensor"
            if is_name(name.value, "self") or is_super(name.value):
                return "tensor" if self.computing and attr.startswith(("forward", "_fo")) else None
        return None

    def _subscript(self, node: cst.Subscript) -> str | None:
        kind = self(node.value)
        sliced = any(isinstance(e.slice, cst.Slice) for e in node.slice)
        if kind == "shape":
            return "shape" if sliced else "number"
        if kind in ARRAYS:
            return "tensor"
        if kind == "tensors":
            return "tensors" if sliced else "tensor"
        if kind in ("module", "modules"):
            return "module"
        return None


_OF_MODULES = set(dir(nn.Module)) - set(ops.__all__) - _PYTHON
_ONLY_CONTAINERS = _CONTAINERS - set(ops.__all__) - set(dir(np.ndarray))


def _uses(body: Any) -> tuple[set[str], set[str]]:
    """The names that are used as modules are, and those that are used as dicts and texts are."""
    called: set[str] = set()
    other: set[str] = set()

    class Uses(cst.CSTVisitor):
        def visit_Call(self, node: cst.Call) -> None:
            function: Any = node.func
            if isinstance(function, cst.Attribute) and function.attr.value in _OF_MODULES:
                function = function.value
            if isinstance(function, cst.Name):
                called.add(function.value)
            elif isinstance(function, cst.Attribute) and function.attr.value in _ONLY_CONTAINERS:
                other.add(getattr(function.value, "value", ""))

        def visit_Subscript(self, node: cst.Subscript) -> None:
            part: Any = node.slice[0].slice
            text = isinstance(part, cst.Index) and isinstance(part.value, cst.SimpleString)
            if text and isinstance(node.value, cst.Name):
                other.add(node.value.value)

    body.visit(Uses())
    return called, other


def _single(kinds: set[str | None]) -> str | None:
    return next(iter(kinds)) if len(kinds) == 1 else None


def _members(text: str) -> list[str]:
    """The types that an annotation allows, such as Union[Tensor, int] or Tensor | None."""
    if text.startswith("Union[") and text.endswith("]"):
        text = text[6:-1]
    found, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in ")]")
        if depth == 0 and letter in "|,":
            found.append("")
        else:
            found[-1] += letter
    return [member.strip() for member in found if member.strip() not in ("None", "")]


def _annotated(text: str) -> str | None:
    """The kind that an annotation says."""
    text = text.strip("\"' ")
    if text.startswith("Optional["):
        text = text[9:].removesuffix("]")
    members = _members(text)
    if len(members) > 1:
        kinds = {_annotated(member) for member in members}
        several = "tensor" in kinds and kinds & {"dict", "tensors", "list", "text"}
        return None if several else "tensor" if "tensor" in kinds else _single(kinds)
    if text.lower().startswith(("dict", "mapping", "ordereddict")):
        return "dict"
    lists = ("list", "tuple", "sequence", "iterable")
    if "Tensor" in text:
        outer, _, inner = text.lower().partition("[")
        if not outer.startswith(lists):
            return "tensor"
        return "list" if any(f"{word}[" in inner for word in (*lists, "dict")) else "tensors"
    words = {"int": "number", "float": "number", "bool": "number", "str": "text"}
    if text in words:
        return words[text]
    if text.endswith("Module") and "Callable" not in text and "ype[" not in text:
        return "module"
    if text.lower().startswith(lists):
        return "list"
    return None
