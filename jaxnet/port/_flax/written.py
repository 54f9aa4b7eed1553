"""Copies of the functions and classes of this folder, for outputs that need them."""

import ast
import importlib
import inspect
import re
from functools import cache
from typing import Any

import libcst as cst

from jaxnet.port._nodes import Variables

FILES = (
    "layers", "norms", "activations", "pools", "functions", "spaces", "attention", "recurrent",
    "losses", "init", "modules",
)  # fmt: skip


@cache
def _sources() -> dict[str, tuple[str, Any, frozenset[str]]]:
    """The text, the object and the other definitions that it needs, of each by its name."""
    found: dict[str, tuple[str, Any, frozenset[str]]] = {}
    needs: dict[str, set[str]] = {}
    for file in FILES:
        module = importlib.import_module(f"jaxnet.port._flax.{file}")
        text = inspect.getsource(module)
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.ClassDef | ast.FunctionDef):
                segment = _without_types(ast.get_source_segment(text, statement) or "")
                parts = [*ast.walk(statement)]
                names = {n.id for n in parts if isinstance(n, ast.Name)}
                own = {n.arg for n in parts if isinstance(n, ast.arg)} | {statement.name}
                needs[statement.name] = names - own
                found[statement.name] = segment, getattr(module, statement.name), frozenset()
    return {
        name: (text, value, frozenset(needs[name] & found.keys()))
        for name, (text, value, _) in found.items()
    }


def written(name: str) -> Any:
    """The function or the class of a name, or None."""
    found = _sources().get(name)
    return None if found is None else found[1]


def layer_takes_rngs(name: str) -> bool:
    """Whether a layer needs random numbers, for its weights or while it computes."""
    layer = written(name)
    if not isinstance(layer, type):
        return False
    rngs = parameters_of(layer).get("rngs")
    return rngs is not None and rngs.default is rngs.empty


def parameters_of(value: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or of the constructor of a layer without `self`.

    A class of flax's has a signature of its own, which says nothing.
    """
    if not isinstance(value, type):
        return dict(inspect.signature(value).parameters)
    found = dict(inspect.signature(_constructor(value)).parameters)
    found.pop("self")
    return found


def _constructor(layer: type) -> Any:
    return next(one.__dict__["__init__"] for one in layer.__mro__ if "__init__" in one.__dict__)


def copies(names: set[str], taken: set[str]) -> tuple[dict[str, str], list[str]]:
    """The definitions that some names need.

    Args:
        names: The names.
        taken: The names of the program, which a copy must not have.

    Returns:
        The name of each copy, and their texts, in an order in which each knows those before it.
    """
    sources = _sources()
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += sources[name][2]
    order = [name for name in sources if name in needed]
    shown = {name: _free(name, taken) for name in order}
    changed = {name: new for name, new in shown.items() if name != new}
    texts = [sources[name][0] for name in order]
    return shown, [_rewritten(text, _Renamed(changed)) if changed else text for text in texts]


def _free(name: str, taken: set[str]) -> str:
    """A name that the program has not."""
    while name in taken:
        name = f"Torch{name}" if name[0].isupper() else f"torch_{name}"
    return name


def _rewritten(text: str, transformer: cst.CSTTransformer) -> str:
    return cst.parse_module(text).visit(transformer).code  # type: ignore[union-attr]


def _without_types(text: str) -> str:
    """A definition without annotations, as the programs are for which it is copied."""
    text = re.sub(r"  # (type: ignore\[[\w,-]*\]|fmt: skip)$", "", text, flags=re.MULTILINE)
    return _rewritten(text, _WithoutTypes())


class _WithoutTypes(cst.CSTTransformer):
    def leave_Param(self, original_node: cst.Param, updated_node: cst.Param) -> cst.Param:
        return updated_node.with_changes(annotation=None)

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        return updated_node.with_changes(returns=None)

    def leave_AnnAssign(self, original_node: cst.AnnAssign, updated_node: cst.AnnAssign) -> Any:
        if updated_node.value is None:
            return updated_node  # a field of a tuple
        return cst.Assign([cst.AssignTarget(updated_node.target)], updated_node.value)


class _Renamed(Variables):
    """Gives definitions other names; a parameter of the same name stays."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self.names = names
        self.local: list[set[str]] = [set()]
        self.inside = 0  # functions and classes that are open

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        params = node.params
        every = [*params.params, *params.kwonly_params]
        self.words |= {id(p.name) for p in every}
        self.words.add(id(node.name))
        self.inside += 1
        self.local.append(self.local[-1] | {p.name.value for p in every})

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: Any) -> Any:
        self.local.pop()
        self.inside -= 1
        name = self.names.get(original_node.name.value)
        if self.inside or name is None:
            return updated_node
        return updated_node.with_changes(name=cst.Name(name))

    def visit_Decorator(self, node: cst.Decorator) -> None:
        if isinstance(node.decorator, cst.Attribute):  # of `@x.setter`, whose x is the class's own
            self.words.add(id(node.decorator.value))

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self.inside += 1

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: Any) -> Any:
        self.inside -= 1
        return updated_node

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        free = id(original_node) not in self.words and original_node.value not in self.local[-1]
        if not free:
            return updated_node
        return cst.Name(self.names.get(original_node.value, original_node.value))
