"""Files and folders that are there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["filling", "flush", "flush_entry", "hidden", "write_text"]


def hidden(path: Path) -> Path:
    """The name beside a file under which it is written."""
    return path.with_name(f".{path.name}")


def write_text(path: Path, text: str) -> None:
    """Writes a file under a hidden name, then puts it in the place of what is there."""
    try:
        hidden(path).write_text(text)
        os.replace(hidden(path), path)
    except BaseException:
        hidden(path).unlink(missing_ok=True)
        raise


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Makes a new folder to be filled and then renamed; an error removes it.

    Raises:
        OSError: it is there already, or cannot be made.
    """
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def flush(path: Path) -> None:
    """Makes sure that a file, or all below a folder, is on the disk, not only in memory."""
    if path.is_dir():
        for entry in path.iterdir():
            flush(entry)
    flush_entry(path)


def flush_entry(path: Path) -> None:
    """The same for a file, or for the names in a folder, alone."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
