"""What the other files ask of a syntax tree."""

from collections.abc import Iterator
from typing import Any

import libcst as cst


def code(node: Any) -> str:
    """The source of an expression."""
    return cst.Module([]).code_for_node(node)


def dotted_name(node: Any) -> str | None:
    """The text of a name and its attributes, as of `self.fc.weight`, without `.data`."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        if node.attr.value != "data":
            parts.insert(0, node.attr.value)
        node = node.value
    return ".".join([node.value, *parts]) if isinstance(node, cst.Name) else None


def is_data(node: Any) -> bool:
    """Whether an expression is `x.data`."""
    return isinstance(node, cst.Attribute) and node.attr.value == "data"


def read_names(node: Any) -> set[str]:
    """The names that a part of a program reads."""
    found: set[str] = set()

    class Names(cst.CSTVisitor):
        def visit_Attribute(self, node: cst.Attribute) -> bool:
            node.value.visit(self)
            return False

        def visit_Arg(self, node: cst.Arg) -> bool:
            node.value.visit(self)
            return False

        def visit_Name(self, node: cst.Name) -> None:
            found.add(node.value)

    node.visit(Names())
    return found


def parts_of(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A part of a program, and all that it is made of."""
    yield node
    for child in node.children:
        yield from parts_of(child)


def is_name(node: Any, *names: str) -> bool:
    """Whether an expression is one of some names."""
    return isinstance(node, cst.Name) and node.value in names


def is_self(node: Any) -> bool:
    """Whether an expression is `self`."""
    return is_name(node, "self")


def is_super(node: Any) -> bool:
    """Whether an expression is super() or super(Net, self)."""
    return isinstance(node, cst.Call) and is_name(node.func, "super")


def is_none(node: Any) -> bool:
    """Whether an expression is None."""
    return is_name(node, "None")


def is_partial(node: Any) -> bool:
    """Whether an expression is a call of functools.partial."""
    if not isinstance(node, cst.Call):
        return False
    name = cst.helpers.get_full_name_for_node(node.func)
    return name in ("partial", "functools.partial")


class Variables(cst.CSTTransformer):
    """Tells the variables of a part of a program from the names of attributes and arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.words: set[int] = set()  # the names that are no variables

    def visit_Attribute(self, node: cst.Attribute) -> bool | None:
        self.words.add(id(node.attr))
        return None

    def visit_Arg(self, node: cst.Arg) -> bool | None:
        self.words.add(id(node.keyword))
        return None


class Targets(cst.CSTVisitor):
    """Tells `bound` each name that a part of a program binds, but for definitions and imports."""

    def bound(self, name: str) -> None:
        raise NotImplementedError

    def visit_Param(self, node: cst.Param) -> None:
        self.bound(node.name.value)

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        self._bind(node.target)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        self._bind(node.target)

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self._bind(node.target)

    def visit_NamedExpr(self, node: cst.NamedExpr) -> None:
        self._bind(node.target)

    def visit_For(self, node: cst.For) -> None:
        self._bind(node.target)

    def visit_CompFor(self, node: cst.CompFor) -> None:
        self._bind(node.target)

    def visit_AsName(self, node: cst.AsName) -> None:
        self._bind(node.name)

    def _bind(self, target: Any) -> None:
        if isinstance(target, cst.Name):
            self.bound(target.value)
        elif isinstance(target, cst.Tuple | cst.List):
            for element in target.elements:
                self._bind(element.value)


def has_generator(call: cst.Call) -> bool:
    """Whether a call is given a generator of its own."""
    return any(a.keyword is not None and a.keyword.value == "generator" for a in call.args)
