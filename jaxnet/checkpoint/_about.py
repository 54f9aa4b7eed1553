"""The two small files of a checkpoint: the values that are not arrays, and the checksums.

`SHA256SUMS` has the form that the command `sha256sum -c SHA256SUMS` reads.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet._files import awaited, write_text
from jaxnet.checkpoint._arrays import DamagedError

ABOUT = "about.json"
SUMS = "SHA256SUMS"
_BYTES = "__base64__"
_ENTRIES = "entries-{:05d}.json"


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes both files into a folder that has all other files already.

    Args:
        folder: Folder of the checkpoint.
        about: The values that are not arrays, as `as_json` returns them.
    """
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8", newline="\n")
    # The checksums come last, so that they cover every other file.
    lines = [f"{_sum(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def write_entries(folder: Path, number: int, entries: Mapping[str, Any]) -> None:
    """Leaves what a process wrote, for the first one: what `write_parts` returned.

    Args:
        folder: Folder of the checkpoint, not yet whole.
        number: The number of the process.
        entries: The entries of its file, for each array.
    """
    write_text(folder / _ENTRIES.format(number), json.dumps(entries))


def read_entries(folder: Path, number: int) -> dict[str, Any]:
    """Takes what another process left by `write_entries`, when it has.

    Raises:
        OSError: It does not come.
    """
    file = folder / _ENTRIES.format(number)
    awaited(file, f"the arrays of process {number}")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return found


def read_about(folder: Path, *, only_this_file: bool = False) -> dict[str, Any]:
    """The values that are not arrays, after the files were compared with their checksums.

    Args:
        folder: Folder of the checkpoint.
        only_this_file: Whether to leave the files of the arrays unread, which takes less
            time but does not find damage in them.

    Raises:
        DamagedError: A file is missing or is not as it was written.
    """
    try:
        # Read as bytes, since text mode would hide a changed end of line, which is damage too.
        lines = (folder / SUMS).read_bytes().decode("ascii").split("\n")
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines[:-1])}
        if lines[-1] or ABOUT not in sums:
            raise ValueError(f"{SUMS} is not as written")
        wrong = [
            name
            for name, digest in sums.items()
            if (name == ABOUT or not only_this_file) and _sum(folder / name) != digest
        ]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not as written")
        about = _unpacked(json.loads((folder / ABOUT).read_text(encoding="utf-8")))
        if not isinstance(about, dict):
            raise ValueError(f"{ABOUT} holds no checkpoint")
        return about
    except (OSError, TypeError, ValueError) as error:  # of decoding and of JSON among them
        reason = " ".join(str(error).split())[:300]
        raise DamagedError(f"{folder}: damaged: {reason}") from error


def _sum(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def as_json(value: Any) -> Any:
    """A value in the types of JSON: bytes become base64, numpy's numbers Python's.

    Args:
        value: None, bool, int, float, str or bytes, or lists, tuples and mappings of them.

    Raises:
        TypeError: The value contains something that JSON does not take.
    """
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        if _BYTES in value:
            raise TypeError(f"the name {_BYTES!r} stands for bytes; give another one")
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} {value!r:.100} cannot be saved; JSON does not take it")


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if _BYTES in value:
            return base64.b64decode(value[_BYTES])
        return {key: _unpacked(item) for key, item in value.items()}
    return [_unpacked(item) for item in value] if isinstance(value, list) else value
