"""The first half of the way to plain flax.nnx: jaxnet's source, with jaxnet's whole names."""

from typing import Any

import libcst as cst

from jaxnet.port._classes import lineage, methods
from jaxnet.port._kinds import ARRAYS
from jaxnet.port._nodes import code, is_none, is_self, parts_of
from jaxnet.port._shares import assigned_to
from jaxnet.port._source import Definition
from jaxnet.port._statements import Rewriter

_VARIABLES = ("param", "buffer")
_MODULES = {"torch.nn": "nn", "torch.nn.functional": "nn.functional", "torch.nn.init": "nn.init"}


class Canonical(Rewriter):
    """Rewrites one definition; the arguments are those of `Expressions`.

    Attributes:
        lines: The line in the source of each node that is returned, by its id.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other node has their ids
        self._bare: set[int] = set()  # parameters and buffers that are not read

    def spelled(self, node: Any, dotted: str) -> str:
        return _MODULES.get(dotted, dotted)

    def on_leave(self, original_node: Any, updated_node: Any) -> Any:
        new = super().on_leave(original_node, updated_node)
        line = self.source.lines.get(id(original_node))
        if line is not None:
            for one in new.nodes if isinstance(new, cst.FlattenSentinel) else [new]:
                self.lines[id(one)] = line
                self._kept.append(one)
        return new

    # An nnx.Variable is read as x[...], and is given a new value so.

    def visit_Comparison(self, node: cst.Comparison) -> None:
        if any(is_none(c.comparator) for c in node.comparisons):
            self._bare.add(id(node.left))

    def visit_Subscript(self, node: cst.Subscript) -> None:
        self._bare.add(id(node.value))

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        self._bare |= {id(part) for part in parts_of(node)}

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self._bare.add(id(node.target))

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        going = super().visit_Attribute(node)
        self._bare.add(id(node.value))  # of self.weight.shape
        return going

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> Any:
        new = super().leave_Attribute(original_node, updated_node)
        if new is not updated_node or id(original_node) in self._bare | self.words:
            return new
        if self._is_variable_of(original_node):
            return cst.parse_expression(f"{code(new)}[...]")
        return new

    def _is_variable_of(self, node: cst.Attribute) -> bool:
        """Whether an attribute that is read while a module computes is surely a variable."""
        here = self.here
        name, owner = node.attr.value, self.scope.owner
        if here is None or not here.kinds.computing:
            return False
        if not is_self(node.value):
            return name == "weight" and here.kinds(node) == "param"
        if owner is None or _may_be_none(owner, name):
            return False
        inherited = name == "weight" and name not in here.kinds.fields
        return inherited or here.kinds(node) in _VARIABLES

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> Any:
        """`self.mean = x` gives a buffer a new value, and does not take its place."""
        here, target = self.here, original_node.targets[0].target
        if here is None or not here.kinds.computing or not isinstance(target, cst.Attribute):
            return updated_node
        known = is_self(target.value) and here.kinds(target) in _VARIABLES
        if not known or here.kinds(original_node.value) not in (*ARRAYS, "number", None):
            return updated_node
        place: Any = cst.parse_expression(f"{code(target)}[...]")
        return updated_node.with_changes(targets=[cst.AssignTarget(place)])


def _may_be_none(owner: Definition, name: str) -> bool:
    """Whether an attribute of a module may hold nothing."""
    family = lineage(owner)
    values = [v for one in family for f in methods(one).values() for v in assigned_to(f, name)]
    for one in family:
        for function in methods(one).values():
            for call in parts_of(function):
                if isinstance(call, cst.Call) and len(call.args) > 1:
                    first = call.args[0].value
                    if isinstance(first, cst.SimpleString) and first.evaluated_value == name:
                        values.append(call.args[1].value)
    if not values:  # a layer's of torch
        return name == "bias"
    return any(is_none(part) for value in values for part in parts_of(value))
