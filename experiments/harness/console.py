"""The console that a command writes to, which may be narrow, closed, or of few characters."""

import contextlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from typing import Any

_LEAST_COLUMNS = 20  # in less, the text of --help finds no line to break at, and never ends


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """Lets a command finish whatever becomes of its console, and unwind when it is stopped.

    A character that standard output does not have is escaped. What cannot be written, since
    the reader has gone (`| head -1`) or the disk is full, is lost, and the run goes on: its
    record is in its folder. SIGTERM leaves the command as an exception does, with exit code
    143, so that half-written folders are removed.
    """
    if shutil.get_terminal_size().columns < _LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(_LEAST_COLUMNS)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_tolerant(stream) for stream in before)
    handler = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _tolerant(stream: Any) -> Any:
    """A text stream that writes to the file of another one and raises no error."""
    if stream is None:  # it was closed before Python began
        return open(os.devnull, "w", encoding="utf-8")
    stream.flush()
    raw = io.BufferedWriter(_Lossy(stream.fileno(), "w", closefd=False))
    lines = stream.isatty() or stream is sys.stderr
    return io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=lines)


class _Lossy(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _leave(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)
