"""What a report is about: checksums of the sources, the data and the trace, and the versions."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.nnx
import jax
import numpy as np

from jaxnet.parity import _sources
from jaxnet.parity._trace import Trace


def subject(trace: Trace, objects: Sequence[Any] = ()) -> dict[str, Any]:
    """What was compared.

    Args:
        trace: The trace.
        objects: The model, the functions and the modules of Python of the checked program.

    Returns:
        "torch" and "jax", the checksums of the user's sources, as `_sources.sources` has them;
        "trace", the folder and its checksum; "weights" and "data", the checksums of the first
        step's parameters and of all batches; "batch", the size of the first batch.
    """
    classes = [
        type(module)
        for each in objects
        if isinstance(each, flax.nnx.Module)
        for _, module in flax.nnx.iter_modules(each)
    ]
    first = trace.steps[0]
    batches = [(step, site) for step in trace for site in step.of("batch").values()]
    sizes = [array.shape[0] for step, site in batches[:1] if (array := step[site]).ndim]
    return {
        "torch": _recorded(trace),
        "jax": _sources.sources([*objects, *classes]),
        "trace": {"path": str(trace.path.resolve()), "sha256": folder_checksum(trace.path)},
        "weights": _checksum(first[site] for site in first.of("before").values()),
        "data": _checksum(step[site] for step, site in batches),
        **({"batch": sizes[0]} if sizes else {}),
    }


def _recorded(trace: Trace) -> dict[str, dict[str, str]]:
    """The checksums of the recorded program's sources that are here; a trace may be alone."""
    recorded = trace.about.get("sources", {})
    return {file: names for file, names in recorded.items() if Path(file).exists()}


def since_recorded(trace: Trace) -> list[str]:
    """What of the recorded program is another than it was, in sentences."""
    return [
        f"since the trace was recorded, {words}" for words in _sources.changed(_recorded(trace))
    ]


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
    theirs = {
        name: trace.about[name]
        for name in ("torch", "device", "python", "platform", "machine", "threads")
        if name in trace.about
    }
    return {"torch": theirs | dict(trace.about.get("flags", {})), "jax": ours}


def changed(subject: Mapping[str, Any]) -> list[str]:
    """What is no longer as it was when the report was made, in sentences; none if all is.

    Args:
        subject: The result of `subject`, as the certificate has it.
    """
    found = [
        f"{side}: {words}"
        for side in ("torch", "jax")
        for words in _sources.changed(subject.get(side, {}))
    ]
    trace = subject.get("trace")
    if trace is not None:
        path = Path(trace["path"])
        if not path.exists():
            found.append(f"trace: {path} is not there")
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
