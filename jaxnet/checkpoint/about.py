"""about.json of a checkpoint: all that is not an array, and the checksum of every file."""

import base64
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.checkpoint.arrays import DamagedError, one_line

__all__ = ["as_text", "read_about", "write_about"]

_FILE = "about.json"


def as_text(about: Mapping[str, Any]) -> str:
    """What JSON takes, and bytes, as text.

    Raises:
        TypeError: something that JSON does not take.
    """
    return json.dumps(_packed(about))


def write_about(folder: Path, text: str) -> None:
    """Writes the text of `as_text`, with checksums of it and of the files that are there."""
    sums = {"about": zlib.crc32(text.encode()), "files": _checksums(folder)}
    (folder / _FILE).write_text(json.dumps({"sums": sums, "about": text}))


def read_about(path: Path, files_too: bool = False) -> dict[str, Any]:
    """What was given to `as_text`, compared with its checksum, and the files with theirs.

    Raises:
        DamagedError: something is not as it was written.
    """
    try:
        outer = json.loads((path / _FILE).read_text())
        text, sums = outer["about"], outer["sums"]
        if zlib.crc32(text.encode()) != sums["about"]:
            raise ValueError("about.json is not what was saved")
        # A broken file must not reach tensorstore, which has threads that outlive an error.
        found = _checksums(path) if files_too else {}
        wrong = [name for name, crc in sums["files"].items() if found.get(name) != crc]
        if files_too and wrong:
            raise ValueError(f"{', '.join(wrong)} not as written")
        return _unpacked(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged: {one_line(error)}") from error


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file below."""
    sums = {}
    for root, _, files in os.walk(folder):
        for name in files:
            path, crc = Path(root) / name, 0
            with open(path, "rb") as file:
                while piece := file.read(2**20):
                    crc = zlib.crc32(piece, crc)
            sums[path.relative_to(folder).as_posix()] = crc
    return sums


def _packed(value: Any) -> Any:
    """The same as JSON takes it, bytes as base64."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(key): _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"base64"}:
            return base64.b64decode(value["base64"])
        return {key: _unpacked(item) for key, item in value.items()}
    return [_unpacked(item) for item in value] if isinstance(value, list) else value
