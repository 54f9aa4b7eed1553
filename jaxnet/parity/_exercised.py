"""Which lines of the checked file a recorded run reaches, so that a reader knows what was not."""

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from jaxnet.parity._result import Coverage

_Function = ast.FunctionDef | ast.AsyncFunctionDef


@contextmanager
def lines_run(file: Path) -> Iterator[set[int]]:
    """The lines of a file that Python runs inside, added as it runs them."""
    lines: set[int] = set()
    name = str(file)

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        lines.add(frame.f_lineno)
        return line

    def call(frame: FrameType, event: str, arg: Any) -> Any:
        return line if frame.f_code.co_filename == name else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield lines
    finally:
        sys.settrace(before)


def exercised(file: Path, lines: set[int]) -> Coverage:
    """The classes and functions of a file that were run whole, and what of the others was not.

    Args:
        file: The file.
        lines: What `lines_run` gave.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    seen: list[str] = []
    missing: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, _Function)]
            if methods and not any(lines & {*_statements(method)} for method in methods):
                missing[node.name] = f"line {node.lineno}: nothing of it is called"
                continue
            for method in methods:
                _add(f"{node.name}.{method.name}", method, lines, seen, missing)
        elif isinstance(node, _Function):
            _add(node.name, node, lines, seen, missing)
    return Coverage(tuple(seen), missing)


def _add(
    name: str, function: _Function, lines: set[int], seen: list[str], missing: dict[str, str]
) -> None:
    statements = _statements(function)
    left = {first: text for first, text in statements.items() if first not in lines}
    if not left:
        seen.append(name)
    elif len(left) == len(statements):
        marked = sum(text.startswith("raise NotImplementedError(") for text in left.values())
        lines_of = f", and {marked} of its lines are marked as not supported" if marked else ""
        missing[name] = f"line {function.lineno}: it is not called{lines_of}"
    else:
        first, *others = left.items()
        more = f", and {len(others)} more" if others else ""
        missing[name] = f"line {first[0]} is not reached: {first[1]}{more}"


def _statements(function: _Function) -> dict[int, str]:
    """The first lines of the statements of a function by their numbers; not its docstring."""
    body = function.body[ast.get_docstring(function) is not None :]
    found: dict[int, str] = {}
    for node in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(node, ast.stmt) and not _runs_nothing(node):
            found[node.lineno] = ast.unparse(node).partition("\n")[0]
    return found


def _runs_nothing(node: ast.stmt) -> bool:
    """Whether Python has no code for a statement, as for one that is a text alone."""
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, ast.Pass | ast.Global | ast.Nonlocal)
