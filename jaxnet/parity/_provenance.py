"""What a report is about: checksums of the sources, the data and the trace, and the versions."""

import ast
import hashlib
import importlib.metadata
import inspect
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.nnx
import jax
import numpy as np

from jaxnet.parity._trace import Trace

# Whoever changes these packages has another version of them, which the environment says.
_LIBRARIES = ("jaxnet", "flax", "jax", "jaxlib", "numpy", "optax", "torch", "builtins")


def subject(trace: Trace, objects: Iterable[Any] = ()) -> dict[str, Any]:
    """What was compared.

    Args:
        trace: The trace.
        objects: The model, the functions and the classes of the checked program.

    Returns:
        "torch" and "jax", the sources of the user's classes and functions by name, each with its
        file and checksum; "trace", the folder and its checksum; "weights" and "data", the
        checksums of the first step's parameters and of all batches; "batch", the size of the
        first batch.
    """
    recorded = {
        module.qualname: {"file": module.where.rpartition(":")[0], "sha256": module.sha256}
        for module in trace.modules.values()
        if module.sha256
    }
    first = trace.steps[0]
    batches = [(step, site) for step in trace for site in step.of("batch").values()]
    sizes = [array.shape[0] for step, site in batches[:1] if (array := step[site]).ndim]
    return {
        "torch": recorded,
        "jax": dict(sources(objects)),
        "trace": {"path": str(trace.path.resolve()), "sha256": folder_checksum(trace.path)},
        "weights": _checksum(first[site] for site in first.of("before").values()),
        "data": _checksum(step[site] for step, site in batches),
        **({"batch": sizes[0]} if sizes else {}),
    }


def environment(trace: Trace) -> dict[str, dict[str, Any]]:
    """The versions and devices of both programs."""
    device = jax.devices()[0]
    versions = {
        name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")
    }
    ours = {
        **versions,
        "device": device.platform,
        "device kind": device.device_kind,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return {"torch": dict(trace.about.get("environment", {})), "jax": ours}


def sources(objects: Iterable[Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """The sources of the classes and functions that the user wrote: name, file and checksum."""
    seen = set()
    for each in objects:
        for code in _code_of(each):
            name = f"{code.__module__}.{code.__qualname__}"
            if code.__module__.partition(".")[0] in _LIBRARIES or name in seen:
                continue
            seen.add(name)
            try:
                file = inspect.getsourcefile(code)
            except TypeError:
                continue
            text = source_text(Path(file), code.__qualname__) if file else None
            if text is not None:
                yield name, {"file": str(Path(str(file)).resolve()), "sha256": sha256(text)}


def _code_of(value: Any) -> Iterator[Any]:
    if isinstance(value, flax.nnx.Module):
        for _, module in flax.nnx.iter_modules(value):
            yield from type(module).__mro__
    elif inspect.isclass(value) or inspect.isfunction(value):
        yield value
    elif inspect.ismethod(value):
        yield value.__func__
    elif hasattr(value, "__wrapped__"):  # functools.wraps, jax.jit
        yield from _code_of(value.__wrapped__)
    elif callable(value):
        yield type(value)


def source_text(file: Path, qualname: str) -> str | None:
    """The source of a class or function as its file has it now; None if it is not there."""
    try:
        text = file.read_text(encoding="utf-8")
        body: list[ast.stmt] = ast.parse(text).body
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    node: ast.stmt | None = None
    for name in qualname.replace(".<locals>", "").split("."):
        node = next((each for each in _defined(body) if each.name == name), None)
        if node is None:
            return None
        body = node.body
    assert isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    # As inspect.getsource has it, so that both give one checksum.
    return "".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno])


def _defined(
    body: Iterable[ast.AST],
) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """The classes and functions of a block, those under `if` and `try` too."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        elif isinstance(node, ast.stmt):
            yield from _defined(ast.iter_child_nodes(node))


def changed(subject: Mapping[str, Any]) -> list[str]:
    """What is no longer as it was when the report was made, in sentences; none if all is.

    Args:
        subject: The result of `subject`, as the certificate has it.
    """
    found = []
    for side in ("torch", "jax"):
        for name, source in subject.get(side, {}).items():
            # The first words of a name are the module's, however many they are.
            words, file = name.split("."), Path(source["file"])
            texts = (source_text(file, ".".join(words[i:])) for i in range(len(words)))
            now = next((text for text in texts if text is not None), None)
            if now is None:
                found.append(f"{side}: {name} is not in {source['file']}")
            elif sha256(now) != source["sha256"]:
                found.append(f"{side}: {name} in {source['file']} is another")
    trace = subject.get("trace")
    if trace is not None:
        path = Path(trace["path"])
        if not path.exists():
            found.append(f"trace: there is no folder {path}")
        elif folder_checksum(path) != trace["sha256"]:
            found.append(f"trace: {path} is another")
    return found


def folder_checksum(folder: Path) -> str:
    """The SHA-256 of the names and contents of all files of a folder."""
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(str(file.relative_to(folder)).encode())
        with open(file, "rb") as content:
            whole.update(hashlib.file_digest(content, "sha256").digest())
    return whole.hexdigest()


def _checksum(arrays: Iterable[np.ndarray]) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype}{array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def sha256(text: str) -> str:
    """The checksum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
