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
