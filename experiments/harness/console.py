"""The console that a command writes to, which may be narrow, closed, or of few characters."""

import contextlib
import errno
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

    A character that standard output does not have is escaped. What cannot be written is lost,
    and the run goes on: its record is in its folder. If it is lost because the disk is full,
    and not because the reader has gone (`| head -1`), an error says so at the end, and the
    exit code is not 0. SIGTERM leaves the command as an exception does, with exit code 143,
    so that half-written folders are removed.

    Raises:
        SystemExit: Output was lost, and the command ended with exit code 0.
    """
    if shutil.get_terminal_size().columns < _LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(_LEAST_COLUMNS)
    before = sys.stdout, sys.stderr
    files = [
        _Tolerant(stream.fileno(), "w", closefd=False) if stream else None for stream in before
    ]
    sys.stdout, sys.stderr = (_text(*pair) for pair in zip(before, files, strict=True))
    handler = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        sys.stdout.flush()
        faults = [file.fault for file in files if file is not None and file.fault is not None]
        if faults:
            print(
                f"error: output was lost: {faults[0].strerror}; records and results are in their "
                "folders, as far as they could be written",
                file=sys.stderr,
            )
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
        end = sys.exception()
        if faults and not getattr(end, "code", end):
            raise SystemExit(2)


def _text(stream: Any, file: "_Tolerant | None") -> Any:
    """A text stream like another one, on a file that raises no error."""
    if file is None:  # the stream was closed before Python began
        return open(os.devnull, "w", encoding="utf-8")
    stream.flush()
    lines = stream.isatty() or stream is sys.stderr
    raw = io.BufferedWriter(file)
    return io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=lines)


class _Tolerant(io.FileIO):
    """A file that raises no error, and keeps the first one that is not a reader's leaving."""

    fault: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EBADF) and self.fault is None:
                self.fault = error
            return memoryview(data).nbytes


def _leave(*_: Any) -> None:
    raise SystemExit(128 + signal.SIGTERM)
