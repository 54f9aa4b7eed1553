"""Which expressions show an array that has another name, and which calls change one in place."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet import ops
from jaxnet.port._classes import is_module, lineage, methods, torch_layer
from jaxnet.port._kinds import ARRAYS, Kinds
from jaxnet.port._nodes import code, dotted_name, is_partial
from jaxnet.port._scopes import Scope, Unit
from jaxnet.port._tensors import FILLS

if TYPE_CHECKING:
    from jaxnet.port._sharing import Sharing

Shown = frozenset[tuple[str, bool]]
"""The arrays that a value shows, and whether it is the array itself and no part of it."""

VIEWS = {
    "T", "mT", "H", "mH", "real", "imag", "view", "view_as", "view_as_complex", "view_as_real",
    "reshape", "reshape_as", "transpose", "t", "permute", "swapaxes", "swapdims", "movedim",
    "moveaxis", "adjoint", "squeeze", "unsqueeze", "flatten", "unflatten", "ravel", "expand",
    "expand_as", "broadcast_to", "broadcast_tensors", "narrow", "select", "diagonal", "unfold",
    "as_strided", "chunk", "split", "tensor_split", "hsplit", "vsplit", "dsplit", "unbind",
    "detach", "contiguous", "to", "type", "type_as", "float", "double", "half", "cpu", "cuda",
    "as_tensor", "asarray", "Variable", "atleast_1d", "atleast_2d", "atleast_3d",
    "unsafe_chunk", "unsafe_split", "numpy", "requires_grad_",
}  # fmt: skip
"""Methods and functions whose result may show what they are given."""

SHAPES = {
    "shape", "dtype", "device", "ndim", "size", "dim", "numel", "nelement", "ndimension", "layout",
    "is_cuda", "requires_grad", "element_size", "stride", "is_floating_point", "is_complex",
    "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "zero_grad", "data_ptr",
}  # fmt: skip
"""Methods and attributes that read no values."""

CONTAINER = {"append", "extend", "insert", "add", "update", "setdefault", "appendleft"}
"""Methods that put something into a list, a set or a dict."""

GIVES = {
    "list", "tuple", "reversed", "zip", "enumerate", "iter", "next", "sorted", "dict", "set",
    "filter", "max", "min",
}  # fmt: skip
"""Python's functions that hand on what they are given."""

HOLDS = (
    cst.Tuple | cst.List | cst.Set | cst.Dict | cst.BooleanOperation | cst.Await
)  # fmt: skip
"""Expressions whose value shows what their parts show."""

_NO_CHANGE = {"requires_grad_", "share_memory_"}
_FILLS = FILLS | {"set_"}
_IN_PLACE = {
    # the place of the argument inplace of a function; that of the layer is one less
    "relu": 1, "relu6": 1, "silu": 1, "mish": 1, "hardswish": 1, "hardsigmoid": 1, "selu": 1,
    "celu": 2, "elu": 2, "leaky_relu": 2, "hardtanh": 3, "threshold": 3, "rrelu": 4,
    "dropout": 3, "dropout1d": 3, "dropout2d": 3, "dropout3d": 3, "alpha_dropout": 3,
    "feature_alpha_dropout": 3,
}  # fmt: skip
_LAYERS = {
    **{name.replace("_", ""): place - 1 for name, place in _IN_PLACE.items()},
    "dropout": 1, "dropout1d": 1, "dropout2d": 1, "dropout3d": 1, "alphadropout": 1,
    "featurealphadropout": 1, "rrelu": 2,
}  # fmt: skip
_LISTS = ("Sequential", "ModuleList", "ModuleDict")
_SHOWING = {"Identity", "Flatten", "Unflatten"}
_MASKS = {
    "isnan", "isinf", "isfinite", "logical_not", "logical_and", "logical_or", "logical_xor", "eq",
    "ne", "lt", "le", "gt", "ge", "bool", "isclose", "signbit",
}  # fmt: skip


def changes_in_place(kinds: Kinds, node: cst.Call) -> bool:
    """Whether a call is one of a tensor's methods that change it, such as `x.add_(1)`."""
    if not isinstance(node.func, cst.Attribute):
        return False
    name, receiver = node.func.attr.value, node.func.value
    if not name.endswith("_") or name.startswith("_") or name in _NO_CHANGE:
        return False
    if kinds.outside(node.func) is not None:
        return False
    kind = kinds(receiver)
    known = name[:-1] in ops.__all__ or name in _FILLS
    return kind in ARRAYS or (kind is None and known)


def torch_changes_first(dotted: str, node: cst.Call) -> bool:
    """Whether a call of a function of torch changes its first argument."""
    if not dotted.startswith("torch.") or dotted.startswith("torch.nn.init."):
        return False
    last = dotted.rpartition(".")[2]
    if last[:1].isupper():
        return False
    if last.endswith("_") and not last.endswith("__"):
        return True
    return _says_in_place(node, _IN_PLACE.get(last), {})


def _says_in_place(node: cst.Call, place: int | None, defaults: dict[str, Any]) -> bool:
    for index, arg in enumerate(node.args):
        named = arg.keyword is not None and arg.keyword.value == "inplace"
        if named or (arg.keyword is None and index == place):
            value = arg.value
            if isinstance(value, cst.Name) and value.value in defaults:
                value = defaults[value.value]
            return isinstance(value, cst.Name) and value.value == "True"
    return False


def index_is_basic(kinds: Kinds, node: cst.Subscript) -> bool:
    """Whether a part of an array is taken by numbers and slices, which give a view in torch."""
    return all(_is_basic(kinds, element.slice) for element in node.slice)


def _is_basic(kinds: Kinds, part: Any) -> bool:
    if isinstance(part, cst.Slice):
        return True
    value = part.value
    if isinstance(value, cst.Ellipsis | cst.Integer):
        return True
    return kinds(value) == "number"


def is_copied(kinds: Kinds, scope: Scope, node: cst.Subscript) -> bool:
    """Whether a part of an array is taken by a mask, a list or an array, which copies in torch."""
    if kinds(node.value) not in ARRAYS:
        return False
    for element in node.slice:
        part: Any = element.slice
        if isinstance(part, cst.Slice):
            continue
        given = isinstance(part.value, cst.Name) and part.value.value in scope.parameters
        array = kinds(part.value) == "tensor" and not given
        if array or is_mask(scope, part.value) or isinstance(part.value, cst.List):
            return True
    return False


def is_mask(scope: Scope, node: Any) -> bool:
    """Whether an expression is an array of truth values, as far as it says so."""
    if isinstance(node, cst.Comparison):
        words = cst.Is | cst.IsNot | cst.In | cst.NotIn
        return not any(isinstance(part.operator, words) for part in node.comparisons)
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.BitInvert):
        return is_mask(scope, node.expression)
    if isinstance(node, cst.BinaryOperation):
        bits = isinstance(node.operator, cst.BitAnd | cst.BitOr | cst.BitXor)
        return bits and is_mask(scope, node.left) and is_mask(scope, node.right)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        name = node.func.attr.value
        casts = name == "to" and any(code(arg.value) == "torch.bool" for arg in node.args)
        return name in _MASKS or casts
    if isinstance(node, cst.Name) and node.value not in scope.parameters:
        value = scope.assigned.get(node.value)
        return value is not None and not isinstance(value, cst.Name) and is_mask(scope, value)
    return False


# layers


def layer_effect(
    sharing: "Sharing", scope: Scope, unit: Unit, called: Any, paths: set[str]
) -> tuple[bool, bool]:
    """Whether a layer changes what it is given in place, and whether its result may show it.

    Args:
        sharing: What the program's own classes do.
        scope: The names of the function that calls.
        unit: The function that calls.
        called: The expression that is called.
        paths: The attributes that hold what is called, such as "self.relu".
    """
    if isinstance(called, cst.Call):
        return _made(sharing, scope, unit.node, called, whole=True)
    changes = shows = False
    for path in paths:
        if scope.owner is None or not path.startswith("self."):
            continue
        name = path.split(".")[1]
        known = called
        if isinstance(called, cst.Name):  # relu = self.relu, and not for relu in self.relus
            known = scope.assigned.get(called.value)
        whole = known is not None and dotted_name(known) == path
        for source_scope, function, value in _makers(sharing, scope, name):
            whole_layer = whole and not _is_list(source_scope, value)
            one = _made(sharing, source_scope, function, value, whole_layer)
            changes, shows = changes or one[0], shows or one[1]
    return changes, shows


def _makers(
    sharing: "Sharing", scope: Scope, name: str
) -> Iterator[tuple[Scope, cst.FunctionDef, Any]]:
    """The values that the methods of a class give an attribute."""
    assert scope.owner is not None
    for one in lineage(scope.owner):
        for title, function in methods(one).items():
            known = sharing.needs.units.get(Unit(one, title))
            if known is None:
                continue
            for value in assigned_to(function, name):
                yield known, function, value


def assigned_to(function: cst.FunctionDef, name: str) -> list[Any]:
    """The values that a method gives an attribute of `self`."""
    found: list[Any] = []

    class Assigned(cst.CSTVisitor):
        def visit_Assign(self, node: cst.Assign) -> None:
            for target in node.targets:
                if dotted_name(target.target) == f"self.{name}":
                    found.append(node.value)

    function.visit(Assigned())
    return found


def _is_list(scope: Scope, value: Any) -> bool:
    layer = torch_layer(scope.source.qualified(value.func)) if isinstance(value, cst.Call) else None
    return layer in ("ModuleList", "ModuleDict") or not isinstance(value, cst.Call | cst.IfExp)


def _made(
    sharing: "Sharing", scope: Scope, function: cst.FunctionDef, value: Any, whole: bool
) -> tuple[bool, bool]:
    """What a layer does with its argument, by the expression that makes it.

    Args:
        whole: Whether the layer itself is called, and not one of the layers that it holds.
    """
    if isinstance(value, cst.IfExp):
        sides = [_made(sharing, scope, function, v, whole) for v in (value.body, value.orelse)]
        return any(s[0] for s in sides), any(s[1] for s in sides)
    if isinstance(value, cst.Name) and value.value in scope.assigned:
        inner = scope.assigned[value.value]
        if inner is not None and inner is not value and not isinstance(inner, cst.Name):
            return _made(sharing, scope, function, inner, whole)
    if not isinstance(value, cst.Call):
        return _any(sharing, scope, function, value), False
    params = function.params
    defaults = {p.name.value: p.default for p in (*params.params, *params.kwonly_params)}
    layer = torch_layer(scope.source.qualified(value.func))
    if layer in _LISTS:
        inside = [part for arg in value.args for part in _held(function, arg.value)]
        if whole and layer == "Sequential":
            return _made(sharing, scope, function, inside[0], True) if inside else (False, False)
        return any(_any(sharing, scope, function, part) for part in inside), False
    if layer is not None:
        place = _LAYERS.get(layer.lower())
        return _says_in_place(value, place, defaults), layer in _SHOWING
    found = scope.source.definition(value.func)
    if found is not None and is_module(found):
        return _own(sharing, found)
    return not is_partial(value) and _says_in_place(value, None, defaults), False


def _held(function: cst.FunctionDef, node: Any) -> list[Any]:
    """The layers that an argument of nn.Sequential stands for: one, or those of a list."""
    if isinstance(node, cst.List | cst.Tuple):
        return [element.value for element in node.elements]
    if isinstance(node, cst.ListComp | cst.GeneratorExp):
        return [node.elt]
    if not isinstance(node, cst.Name):
        return [node]
    found: list[Any] = []

    class Parts(cst.CSTVisitor):
        def visit_Assign(self, assign: cst.Assign) -> None:
            if any(dotted_name(target.target) == node.value for target in assign.targets):
                self._add(assign.value)

        def visit_AugAssign(self, assign: cst.AugAssign) -> None:
            if dotted_name(assign.target) == node.value:
                self._add(assign.value)

        def visit_Call(self, call: cst.Call) -> None:
            name = call.func
            if isinstance(name, cst.Attribute) and dotted_name(name.value) == node.value:
                for arg in call.args:
                    self._add(arg.value)

        def _add(self, value: Any) -> None:
            found.extend([] if isinstance(value, cst.Name) else _held(function, value))

    function.body.visit(Parts())
    return found


def _own(sharing: "Sharing", definition: Any) -> tuple[bool, bool]:
    for one in lineage(definition):
        for name in ("forward", "__call__"):
            unit = Unit(one, name)
            effect = sharing.effect(unit) if name in methods(one) else None
            if effect is not None:
                first = [p.name.value for p in unit.node.params.params][1:2]
                return bool(effect.changed & {*first}), bool(effect.shown & {*first})
    return False, False


def _any(sharing: "Sharing", scope: Scope, function: cst.FunctionDef, node: Any) -> bool:
    """Whether one of the layers that are made in a part of a function changes its argument."""
    found = False

    class Calls(cst.CSTVisitor):
        def visit_Call(self, call: cst.Call) -> None:
            nonlocal found
            layer = torch_layer(scope.source.qualified(call.func))
            if not is_partial(call) and layer not in _LISTS:
                found = found or _made(sharing, scope, function, call, whole=True)[0]

    node.visit(Calls())
    return found
