"""The functions and methods of a program, and what is known of the names in each."""

import dataclasses
from typing import Any

import libcst as cst

from jaxnet.port._classes import methods
from jaxnet.port._source import Definition, Source


@dataclasses.dataclass(frozen=True)
class Unit:
    """A function, or a method of a class."""

    definition: Definition
    method: str = ""

    @property
    def node(self) -> cst.FunctionDef:
        found = methods(self.definition)[self.method] if self.method else self.definition.node
        return found  # type: ignore[no-any-return]


@dataclasses.dataclass
class Scope:
    """What is known of the names in a unit."""

    source: Source
    owner: Definition | None
    parameters: set[str]
    assigned: dict[str, Any]
    defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
    host: bool = False  # whether it is run as it is, and not within a compiled step

    @classmethod
    def of(cls, source: Source, owner: Definition | None, node: Any) -> "Scope":
        scope = cls(source, owner, set(), {})

        class Names(cst.CSTVisitor):
            def visit_Param(self, node: cst.Param) -> None:
                scope.parameters.add(node.name.value)
                if isinstance(node.default, cst.Name):
                    scope.defaults[node.name.value] = node.default

            def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
                scope.assigned[node.name.value] = node

            def visit_Assign(self, node: cst.Assign) -> None:
                for target in node.targets:
                    if isinstance(target.target, cst.Name):
                        scope.assigned[target.target.value] = node.value

            def visit_For(self, node: cst.For) -> None:
                self._bind(node.target)

            def visit_CompFor(self, node: cst.CompFor) -> None:
                self._bind(node.target)

            def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
                if isinstance(node.target, cst.Tuple):
                    self._bind(node.target)

            def _bind(self, target: Any) -> None:
                if isinstance(target, cst.Name):
                    scope.assigned.setdefault(target.value, None)
                elif isinstance(target, cst.Tuple | cst.List):
                    for element in target.elements:
                        self._bind(element.value)

        node.body.visit(Names())
        node.params.visit(Names())
        return scope

    def inside(self, node: Any) -> "Scope":
        """The scope of a function in the function, which sees the names around it."""
        scope = Scope.of(self.source, self.owner, node)
        scope.parameters |= self.parameters
        scope.assigned = self.assigned | scope.assigned
        scope.host = self.host
        return scope

    def is_local(self, name: str) -> bool:
        return name in self.parameters or name in self.assigned
