"""What a report is about: checksums of the sources, the data and the trace, and the versions."""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.nnx
import jax
import numpy as np

import jaxnet
from jaxnet.parity import _sources
from jaxnet.parity._trace import Trace

_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


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


def notes(trace: Trace, which: str = "") -> list[str]:
    """What the reader of a report should know of the recording, in sentences.

    It is what the recording itself noted, that it changed the program's bits or that these are
    others in each run, and what of the recorded program is another than it was.

    Args:
        trace: The trace.
        which: "first " or "second " of two traces.
    """
    self_check = trace.about.get("self_check", {})
    said = [*trace.about.get("notes", ())]
    said += [self_check["words"]] if self_check.get("verdict") == "different" else []
    changes = _sources.changed(_recorded(trace))
    return [
        *(f"the {which}recording: {words}" for words in said),
        *(f"since the {which}trace was recorded, {words}" for words in changes),
    ]


def environment(trace: Trace) -> dict[str, dict[str, Any]]:
    """The versions and devices of both programs."""
    device = jax.devices()[0]
    ours = {
        **versions(),
        "device": device.platform,
        "device kind": device.device_kind,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    theirs = {
        name: trace.about[name]
        for name in ("torch", "device", "python", "platform", "machine", "threads", "seed")
        if name in trace.about
    }
    program = trace.about.get("program") or trace.about.get("argv")
    theirs |= {"program": " ".join(program)} if program else {}
    return {"torch": theirs | dict(trace.about.get("flags", {})), "jax": ours}


def versions() -> dict[str, str]:
    """What is installed of jaxnet and of the libraries that the checked program is computed by."""
    libraries = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"jaxnet": jaxnet.__version__, **libraries}


def with_paths(subject: Mapping[str, Any], convert: Callable[[str], str]) -> dict[str, Any]:
    """A report's subject with other paths of its files."""
    found = dict(subject)
    for side in ("torch", "jax"):
        if side in subject:
            found[side] = {convert(file): names for file, names in subject[side].items()}
    if "trace" in subject:
        found["trace"] = {**subject["trace"], "path": convert(subject["trace"]["path"])}
    return found


def relative(subject: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """With paths from the certificate's folder: they lead to the same files in another checkout."""
    start = folder.resolve()
    return with_paths(subject, lambda path: Path(os.path.relpath(path, start)).as_posix())


def absolute(subject: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Undoes `relative`."""
    return with_paths(subject, lambda path: os.path.normpath(folder.resolve() / path))


def unchecked(subject: Mapping[str, Any]) -> list[str]:
    """What `changed` cannot look at, in sentences: the recorded program may be elsewhere."""
    files = subject.get("torch", {})
    return [
        *(f"torch: {file} is not there" for file in files if not Path(file).exists()),
        *(
            f"{name}: the certificate has {what}"
            for name, what in (
                ("torch", "no sources, which were not there when it was made"),
                ("jax", "no sources"),
                ("trace", "none"),
            )
            if not subject.get(name)
        ),
    ]


def changed(subject: Mapping[str, Any], environment: Mapping[str, Any]) -> list[str]:
    """What is no longer as it was when the report was made, in sentences; none if all is.

    Args:
        subject: The result of `subject`, as the certificate has it.
        environment: The versions at the time, by the names of `versions`.
    """
    there = {file: names for file, names in subject.get("torch", {}).items() if Path(file).exists()}
    found = [
        f"{side}: {words}"
        for side, files in (("torch", there), ("jax", subject.get("jax", {})))
        for words in _sources.changed(files)
    ]
    found += [
        f"{name}: {version} is installed, and it was {environment[name]}"
        for name, version in versions().items()
        if environment.get(name, version) != version
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
