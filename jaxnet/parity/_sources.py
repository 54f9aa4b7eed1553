"""Checksums of the user's sources, by which it is seen that a program has changed since."""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# Whoever changes one of these has another version of it, which the environment says.
_LIBRARIES = Path(sysconfig.get_path("stdlib")).resolve(), Path(__file__).resolve().parents[1]
_INSTALLED = {"site-packages", "dist-packages"}

Checksums = Mapping[str, Mapping[str, str]]


def sources(objects: Iterable[Any]) -> dict[str, dict[str, str]]:
    """The checksums of all files of the user's that some objects are made of.

    Args:
        objects: Modules of Python, and classes, functions and instances. The files are theirs,
            those of their base classes, and those of what these files import, inside of functions
        too. What such a function imports is seen once it has been called.

    Returns:
        By file the checksums of its classes and functions by name, and under "" that of the
        lines outside of them. Lines that are empty or have only a comment do not count there.
    """
    files: dict[str, dict[str, str]] = {}
    seen: set[int] = set()
    waiting = [module for each in objects for module in _modules_of(each)]
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        file = _file(module)
        if file is None or str(file) in files:
            continue
        text, tree = _parsed(file)
        files[str(file)] = _checksums(text, tree)
        for value in [*vars(module).values()]:
            waiting += _modules_of(value)
        waiting += _imported(module, tree)
    return {file: files[file] for file in sorted(files) if files[file]}


def _modules_of(value: Any) -> Iterator[ModuleType]:
    """The module of a value and, of an instance, those of its class and its base classes."""
    while isinstance(value, functools.partial):
        value = value.func
    with contextlib.suppress(Exception):  # an object may answer any attribute, or fail with it
        value = inspect.unwrap(value)  # jax.jit, functools.wraps
    if isinstance(value, ModuleType):
        yield value
        return
    if inspect.isroutine(value):
        names = [getattr(value, "__module__", None)]
    else:
        cls = value if inspect.isclass(value) else type(value)
        names = [each.__module__ for each in cls.__mro__]
    for name in names:
        if isinstance(name, str) and name in sys.modules:
            yield sys.modules[name]


def _imported(module: ModuleType, tree: ast.Module) -> Iterator[ModuleType]:
    """The loaded modules that the statements of a file import: vars() has none of a function's."""
    package = getattr(module, "__package__", None) or ""
    for node in _statements(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError):  # it leads out of the package
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                names = [base, *(f"{base}.{each.name}" for each in node.names)]
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):  # the packages around it run, too
                if isinstance(found := sys.modules.get(".".join(parts[:end])), ModuleType):
                    yield found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a file, those within others too; most of a tree are expressions."""
    for field in ("body", "handlers", "cases", "orelse", "finalbody"):
        for each in getattr(node, field, ()):
            yield each
            yield from _statements(each)


def _file(module: ModuleType) -> Path | None:
    """The file of a module that is the user's own; None for a library's and for one without."""
    name = getattr(module, "__file__", None)
    return _users(os.path.abspath(name)) if isinstance(name, str) else None


@functools.cache  # by the whole path: "main.py" is another file in another folder
def _users(name: str) -> Path | None:
    file = Path(name).resolve()
    installed = _INSTALLED & {*file.parts} or any(file.is_relative_to(f) for f in _LIBRARIES)
    return None if installed or file.suffix != ".py" else file


def _parsed(file: Path) -> tuple[str | None, ast.Module]:
    """A file's text and its tree; None and an empty one if it is not there or is no Python."""
    try:
        about = file.stat()
        return _parsed_at(file, about.st_mtime_ns, about.st_size)
    except (OSError, SyntaxError, ValueError):
        return None, ast.Module([], [])


@functools.lru_cache(1024)
def _parsed_at(file: Path, modified: int, size: int) -> tuple[str, ast.Module]:
    """The text and the tree of a file that was modified then."""
    text = file.read_text(encoding="utf-8")
    return text, ast.parse(text)


def _checksums(text: str | None, tree: ast.Module) -> dict[str, str]:
    """The checksums of what `_parsed` gave; none of a file that is not there or is no Python."""
    if text is None:
        return {}
    lines = text.splitlines()
    texts: dict[str, list[str]] = {}
    for node in reversed(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            # One that is defined twice has both texts.
            texts[node.name] = lines[first : node.end_lineno] + texts.get(node.name, [])
            del lines[first : node.end_lineno]
    texts[""] = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {
        name: hashlib.sha256("\n".join(part).encode()).hexdigest() for name, part in texts.items()
    }


def changed(before: Checksums) -> list[str]:
    """What of some sources is another than it was, in sentences; none if nothing is.

    Args:
        before: The result of `sources` at the time.
    """
    found = []
    for file, checksums in before.items():
        now = _checksums(*_parsed(Path(file)))
        if not now:
            found.append(f"{file} is not there or is no Python")
            continue
        names = [name for name, checksum in checksums.items() if now.get(name) != checksum]
        names += [name for name in now if name not in checksums]
        found += [
            f"{file}: {name} is new"
            if name not in checksums
            else f"{file}: {name} is gone"
            if name not in now
            else f"{file}: {name or 'what stands outside of classes and functions'} is another"
            for name in names
        ]
    return found
