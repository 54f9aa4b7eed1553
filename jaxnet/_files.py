"""Files and folders that are complete or absent, and the folder of the cache.

Neither jaxnet nor JAX is imported here, so that a script can load this file alone.
"""

import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """The folder for compiled kernels and prepared data, which would take time to make again.

    Returns:
        The folder that the environment variable JAXNET_CACHE names, or jaxnet's folder in
        the user's cache (`~/.cache/jaxnet` on Linux). It need not exist yet.
    """
    if os.environ.get("JAXNET_CACHE"):
        return Path(os.environ["JAXNET_CACHE"]).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("jaxnet", appauthor=False))


def write_text(path: Path, text: str, *, flushed: bool = True) -> None:
    """Writes a text file (UTF-8) completely or not at all; flushed as in `replacing`."""
    with replacing(path, flushed=flushed) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a binary file completely or not at all, and flushes it to the disk."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """Gives a new empty file in the same folder; when it is filled it is renamed to the path.

    The new file gets the access rights of the file that it replaces. An error removes the
    new file and leaves the old one as it was.

    Args:
        path: Path of the file to be written. Its folder must exist.
        flushed: Whether it is flushed to the disk, so that it is whole after a power cut too, and
            not only after the end of the process. Files that are written one after the other
            are flushed faster together, by `flush`.
    """
    # Every writer has a name of its own, so that two at the same time do not mix their bytes.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    with open(temporary, "xb"):
        pass
    try:
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        yield temporary
        # The content has to be on the disk before the name: after a power cut, the path must
        # not lead to a file whose content was never written.
        if flushed:
            _flush_file(temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        if flushed:
            flush_names(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Makes a new folder, which the caller fills and then renames; an error removes it.

    Args:
        folder: Path of the folder.

    Raises:
        OSError: The folder exists already, or cannot be made.
    """
    folder.mkdir()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def flush(path: Path) -> None:
    """Makes sure that a file, or a folder with everything in it, is on the disk."""
    if not path.is_dir():
        _flush_file(path)
        return
    for entry in path.iterdir():
        flush(entry)
    flush_names(path)


def _flush_file(path: Path) -> None:
    # Windows flushes only files that are open for writing.
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def awaited(path: Path, what: str, seconds: float = 300) -> None:
    """Waits until another process has made a file or folder.

    Args:
        path: Its path.
        what: What it is, for the error.
        seconds: How long to wait at most; folders of a network show a new name late.

    Raises:
        TimeoutError: It is not there then.
    """
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path}: {what} did not come within {seconds:.0f} s")
        time.sleep(0.02)


def flush_names(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk."""
    if sys.platform == "win32":  # a folder cannot be opened there; the system flushes names itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lock(path: Path, *, wait: bool) -> int:
    """Locks a file against other processes until the handle is closed or this process ends.

    A child process that is forked while the lock is taken does not inherit the lock. Within
    one process the lock excludes nobody.

    Args:
        path: Path of the file, which is made if it does not exist.
        wait: Whether to wait for another process that has the lock.

    Returns:
        The handle of the open file; `os.close` releases the lock.

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

            # A lock of flock would last as long as any forked child; one of lockf does not.
            fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except PermissionError as error:  # some systems say so that another process has the lock
        os.close(handle)
        raise BlockingIOError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        os.close(handle)
        raise
    return handle
