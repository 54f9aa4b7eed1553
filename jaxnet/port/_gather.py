"""Which definitions a program needs, in the order in which the output has them."""

from typing import Any

import libcst as cst

from jaxnet.port._classes import is_module
from jaxnet.port._source import Definition, Source

_LEFT_BEHIND = ("_Weights", "WeightsEnum", "Weights", "_log_api_usage_once")


def gather(source: Source, name: str | None) -> list[Definition]:
    """The definitions of a file, or one of them, with all of the project that they need.

    Args:
        source: The file.
        name: The name of one definition; None for all.
    """
    names = [name] if name is not None else [n for n in source.statements if _is_ported(source, n)]
    found: dict[Definition, list[Definition]] = {}
    waiting = [Definition(source, one) for one in names]
    while waiting:
        one = waiting.pop()
        if one not in found and not one.name.endswith(_LEFT_BEHIND):
            found[one] = references(one)
            waiting += found[one]
            waiting += [Definition(one.source, key) for key in one.source.later.get(one.name, ())]
    order: list[Source] = []
    _visit(source, found, order, set())
    result = []
    for each in order:
        kept = {d.name for d in found if d.source is each}
        seen: set[int] = set()
        for statement_name, node in each.statements.items():
            if statement_name in kept and id(node) not in seen:
                seen.add(id(node))
                result.append(Definition(each, statement_name))
    return result


def _is_ported(source: Source, name: str) -> bool:
    if name.endswith(_LEFT_BEHIND):
        return False
    definition = Definition(source, name)
    return is_module(definition) or not name.startswith("__")


def _visit(
    source: Source,
    found: dict[Definition, list[Definition]],
    order: list[Source],
    seen: set[Source],
) -> None:
    """Puts a file behind those that it needs."""
    seen.add(source)
    for definition, others in found.items():
        if definition.source is source:
            for other in others:
                if other.source not in seen:
                    _visit(other.source, found, order, seen)
    order.append(source)


def references(definition: Definition) -> list[Definition]:
    """The definitions of the project that a definition names."""
    source = definition.source
    found: dict[Definition, None] = {}

    class References(cst.CSTVisitor):
        def visit_Attribute(self, node: cst.Attribute) -> bool:
            dotted = source.qualified(node)
            if dotted is None:
                return True
            self._note(dotted)
            return False

        def visit_Name(self, node: cst.Name) -> None:
            if node.value in source.imports or node.value in source.statements or source.stars:
                dotted = source.qualified(node)
                if dotted is not None:
                    self._note(dotted)

        def visit_Arg(self, node: cst.Arg) -> bool:
            node.value.visit(self)
            return False

        def visit_Param(self, node: cst.Param) -> bool:
            for part in (node.annotation, node.default):
                if part is not None:
                    part.visit(self)
            return False

        def _note(self, dotted: str) -> None:
            one: Any = source.project.find(dotted)
            if one is not None and one[0] != definition:
                found[one[0]] = None

    definition.node.visit(References())
    return list(found)
