"""Names of a program that the output needs for jaxnet's modules, such as a variable `ops`.

In the functions that bind such a name it is set aside before anything is looked up, and put back
when the output is written, where jaxnet's module then has another name.
"""

from typing import Any

import libcst as cst

from jaxnet.port._nodes import Targets, Variables

NEEDED = {"ops", "nn", "jax", "jnp", "nnx", "math", "typing", "partial", "Any", "Final", "Array"}
"""The names that the output imports."""

_MARK = "__of_program"


def set_aside(tree: cst.Module) -> cst.Module:
    """A program whose functions have other names for what is called like jaxnet's modules."""
    new = tree.visit(_Aside())
    assert isinstance(new, cst.Module)
    return new


def put_back(code: str) -> str:
    """The text of an output in which the program's names are its own again."""
    taken = {name for name in NEEDED if f"{name}{_MARK}" in code}
    if taken:
        code = cst.parse_module(code).visit(_Renamed(taken)).code  # type: ignore[union-attr]
    return restored(code)


def restored(text: str) -> str:
    """A text with the names as the program has them; `rngs` is jaxnet's wherever it is taken."""
    for name in NEEDED:
        text = text.replace(f"{name}{_MARK}", name)
    return text.replace(f"rngs{_MARK}", "rngs_of_program")


class _Aside(Variables):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[frozenset[str]] = [frozenset()]

    def _open(self, node: Any) -> None:
        self.names.append(self.names[-1] | (_bound(node) & (NEEDED | {"rngs"})))

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.words.add(id(node.name))
        self._open(node)

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: Any) -> Any:
        self.names.pop()
        outer = original_node.name.value in self.names[-1]
        name = cst.Name(f"{original_node.name.value}{_MARK}")
        return updated_node.with_changes(name=name) if outer else updated_node

    def visit_Lambda(self, node: cst.Lambda) -> None:
        self._open(node)

    def leave_Lambda(self, original_node: cst.Lambda, updated_node: Any) -> Any:
        self.names.pop()
        return updated_node

    # What is said of a parameter, and of a function, is outside of it.

    def _outside(self) -> None:
        self.names.append(self.names[-2] if len(self.names) > 1 else frozenset())

    def visit_Param_default(self, node: cst.Param) -> None:
        self._outside()

    def leave_Param_default(self, node: cst.Param) -> None:
        self.names.pop()

    def visit_Param_annotation(self, node: cst.Param) -> None:
        self._outside()

    def leave_Param_annotation(self, node: cst.Param) -> None:
        self.names.pop()

    def visit_FunctionDef_decorators(self, node: cst.FunctionDef) -> None:
        self._outside()

    def leave_FunctionDef_decorators(self, node: cst.FunctionDef) -> None:
        self.names.pop()

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        known = id(original_node) not in self.words and original_node.value in self.names[-1]
        return cst.Name(f"{original_node.value}{_MARK}") if known else updated_node


def _bound(function: Any) -> frozenset[str]:
    """The names that a function binds, without those of imports."""
    found: set[str] = set()

    class Bound(Targets):
        def bound(self, name: str) -> None:
            found.add(name)

        def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
            if node is not function:
                found.add(node.name.value)
            return node is function

        def visit_Lambda(self, node: cst.Lambda) -> bool:
            return node is function

        def visit_ClassDef(self, node: cst.ClassDef) -> bool:
            return False

        def visit_ImportAlias(self, node: cst.ImportAlias) -> bool:
            return False

    function.visit(Bound())
    return frozenset(found)


class _Renamed(Variables):
    """Gives jaxnet's modules other names."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        return isinstance(node.names, tuple | list)

    def visit_ImportFrom_module(self, node: cst.ImportFrom) -> None:
        self.words |= {id(part) for part in _names(node.module)}

    def visit_ImportAlias(self, node: cst.ImportAlias) -> bool:
        return False

    def leave_ImportAlias(self, original_node: Any, updated_node: cst.ImportAlias) -> Any:
        name = updated_node.evaluated_alias or updated_node.evaluated_name
        if name not in self.names:
            return updated_node
        space = cst.SimpleWhitespace(" ")
        return updated_node.with_changes(
            asname=cst.AsName(cst.Name(f"jaxnet_{name}"), space, space)
        )

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        known = id(original_node) not in self.words and original_node.value in self.names
        return cst.Name(f"jaxnet_{original_node.value}") if known else updated_node


def _names(node: Any) -> list[Any]:
    found = []
    while isinstance(node, cst.Attribute):
        found.append(node.attr)
        node = node.value
    return [*found, node]
