"""Decoded arrays, kept in the user's cache so that they are decoded once."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxnet.files import cache_folder

__all__ = ["cached"]

_Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def cached(name: str, files: Sequence[Path], read: Callable[[], _Arrays]) -> _Arrays:
    """What `read` gives, from the cache if it was read before from the same files.

    A changed file (path, size or time) is read anew; a damaged cache file too.
    A cache that cannot be written costs time, not the result.
    """
    file = cache_folder() / "decoded" / f"{name}-{_fingerprint(files)}.npz"
    try:
        with open(file, "rb") as raw, np.load(raw) as kept:
            return kept["images"], kept["labels"], tuple(kept["classes"].tolist())
    except FileNotFoundError:
        pass
    except Exception as error:  # NumPy and zipfile raise many kinds on damaged bytes
        print(f"{file}: damaged ({error}); decoding again", file=sys.stderr)
    images, labels, classes = read()
    try:
        _write(file, images=images, labels=labels, classes=np.array(classes))
    except OSError as error:
        print(f"{file}: not kept for the next start ({error})", file=sys.stderr)
    return images, labels, classes


def _fingerprint(files: Sequence[Path]) -> str:
    resolved = sorted(file.resolve() for file in files)
    facts = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in resolved]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _write(file: Path, **arrays: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
