"""Questions about torch that have one answer in jaxnet: is it compiled, has it a function?"""

import importlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._calls import HANDLED
from jaxnet.port._names import jaxnet_name
from jaxnet.port._nodes import Targets

if TYPE_CHECKING:
    from jaxnet.port._source import Source

CONSTANTS = {
    "torch.jit.is_scripting": "False",
    "torch.jit.is_tracing": "False",
    "torch._jit_internal.is_scripting": "False",
    "torch.compiler.is_compiling": "False",
    "torch.compiler.is_dynamo_compiling": "False",
    "torch.compiler.is_exporting": "False",
    "torch.overrides.has_torch_function": "False",
    "torch.overrides.has_torch_function_unary": "False",
    "torch.overrides.has_torch_function_variadic": "False",
    "torch.cuda.is_available": "False",
    "torch.accelerator.is_available": "False",
    "torch.backends.mps.is_available": "False",
    "torch.is_autocast_enabled": "False",
    "torch.is_autocast_cpu_enabled": "False",
    "torch.onnx.is_in_onnx_export": "False",
}
"""Questions of torch that have one answer in jaxnet."""


class Bindings(Targets):
    """The functions, methods and classes of a file, and how often each name is bound."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.counts: Counter[str] = Counter()

    def bound(self, name: str) -> None:
        self.counts[name] += 1

    def once(self) -> set[str]:
        """The names that stand for one thing all over the file."""
        return {name for name, count in self.counts.items() if count == 1}

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        self.names.add(node.name.value)
        self.bound(node.name.value)

    def visit_ClassDef(self, node: cst.ClassDef) -> None:
        self.names.add(node.name.value)
        self.bound(node.name.value)

    def visit_ImportAlias(self, node: cst.ImportAlias) -> None:
        if node.asname is None:
            self.bound(node.evaluated_name.partition(".")[0])


def is_text(statement: Any) -> bool:
    """Whether a statement is a docstring."""
    return isinstance(statement, cst.SimpleStatementLine) and all(
        isinstance(part, cst.Expr) and isinstance(part.value, cst.SimpleString)
        for part in statement.body
    )


def answer_of(statement: Any) -> bool | None:
    """What a statement returns, where it is `return True` or `return False`."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    part = statement.body[0]
    if isinstance(part, cst.Return) and isinstance(part.value, cst.Name):
        return {"True": True, "False": False}.get(part.value.value)
    return None


def has(module: str, name: str) -> bool | None:
    """Whether jaxnet has a name of a module of torch's; None for what is no module of it."""
    if module.partition(".")[0] != "torch" or not module.replace(".", "").islower():
        return None
    ours = {"torch": "ops", "torch.nn": "nn", "torch.nn.functional": "nn.functional"}.get(module)
    if ours is None:
        return False
    return hasattr(importlib.import_module(f"jaxnet.{ours}"), name)


def without_fallbacks(source: "Source", node: cst.Try) -> Any:
    """`try: from torch import f` and what there is without it: one of both, as jaxnet has f or not.

    Args:
        source: The file, whose imports will say what is decided here.
        node: The statement.
    """
    lines = [s for s in node.body.body if isinstance(s, cst.SimpleStatementLine)]
    parts = [part for line in lines for part in line.body]
    imports = [part for part in parts if isinstance(part, cst.ImportFrom)]
    others = any(isinstance(part, cst.Import) for part in parts)
    if others or not imports or len(node.handlers) != 1 or node.finalbody is not None:
        return node
    names: dict[str, str] = {}
    for part in imports:
        origin = source.absolute(part)
        if origin.partition(".")[0] != "torch" or isinstance(part.names, cst.ImportStar):
            return node
        for alias in part.names:
            name = alias.evaluated_alias or alias.evaluated_name
            names[name] = f"{origin}.{alias.evaluated_name}"
    block = node.handlers[0].body
    missing = [name for name, dotted in names.items() if not _is_known(dotted, name)]
    if not missing:
        source.imports.update(names)
        rest = [] if node.orelse is None else list(node.orelse.body.body)
        whole = node.body.with_changes(body=[*node.body.body, *rest])
        return flat(whole, node.leading_lines)
    bindings = Bindings()
    block.visit(bindings)
    if not all(bindings.counts[name] for name in missing):
        return node
    for name, dotted in names.items():
        if source.imports.get(name) == dotted and bindings.counts[name]:
            del source.imports[name]
    return flat(block, node.leading_lines)


def _is_known(dotted: str, spelled: str) -> bool:
    """Whether jaxnet has a name of torch's, or does something of its own with it."""
    known = dotted in HANDLED or dotted in CONSTANTS
    return known or not jaxnet_name(dotted, spelled).problem


def flat(block: Any, leading: Any) -> Any:
    """The statements of a block, in the place of the statement that has it."""
    statements = [s for s in block.body if not is_pass(s)]
    if not statements:
        return cst.RemoveFromParent()
    first = statements[0].with_changes(leading_lines=[*leading, *statements[0].leading_lines])
    return cst.FlattenSentinel([first, *statements[1:]])


def is_pass(statement: Any) -> bool:
    """Whether a statement does nothing."""
    return isinstance(statement, cst.SimpleStatementLine) and all(
        isinstance(part, cst.Pass) for part in statement.body
    )
