"""Files and folders that are there whole or not at all, and where the cache lies.

Nothing of jaxnet and of JAX is imported here, so that a script can load this file alone.
"""

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """The folder for what would cost time to make again.

    Returns:
        The folder that the environment variable JAXNET_CACHE names, or jaxnet's in the
        user's cache (`~/.cache/jaxnet` on Linux). It need not be there yet.
    """
    if os.environ.get("JAXNET_CACHE"):
        return Path(os.environ["JAXNET_CACHE"]).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("jaxnet", appauthor=False))


def write_text(path: Path, text: str) -> None:
    """Writes a file of text (UTF-8), wholly or not at all, and flushes it to the disk."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file of bytes, wholly or not at all, and flushes it to the disk."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a new empty file beside a path; when it is filled it takes the path's place.

    The new file has the access rights of the one that it replaces. An error removes the new
    file and leaves the old one as it was.

    Args:
        path: Path of the file to be written. Its folder must be there.
    """
    # A name of its own for every writer: two that write at once must not mix their bytes.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    with open(temporary, "xb"):
        pass
    try:
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        yield temporary
        # The content first, then the name: after a power cut a name that is there
        # must not stand for a file whose content never reached the disk.
        _flush_file(temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        flush_names(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Makes a new folder to be filled and then renamed; an error removes it.

    Raises:
        OSError: The folder is there already, or cannot be made.
    """
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def flush(path: Path) -> None:
    """Makes sure that a file, or a folder with all below it, is on the disk."""
    if not path.is_dir():
        _flush_file(path)
        return
    for entry in path.iterdir():
        flush(entry)
    flush_names(path)


def _flush_file(path: Path) -> None:
    # Windows flushes only what is open for writing.
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def flush_names(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk."""
    if sys.platform == "win32":  # a folder cannot be opened there; the system writes its names
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(path: Path, *, wait: bool) -> int:
    """Locks a file against other processes until the handle is closed or this process ends.

    A child process that is forked while the lock is taken does not inherit it. Within one
    process the lock holds nobody off.

    Args:
        path: Path of the file, made if it is not there.
        wait: Whether to wait for another process that has the lock.

    Returns:
        The handle; `os.close` gives the lock back.

    Raises:
        BlockingIOError: Another process has the lock.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            # lockf and not flock: what flock locks stays locked while a forked child lives.
            fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except PermissionError as error:  # how some systems say that another has it
        os.close(handle)
        raise BlockingIOError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        os.close(handle)
        raise
    return handle
