"""What a task and the program that runs it tell each other.

A task is a function without arguments. The worker opens `running` around it; a task that is
called in any other way has all the time, keeps nothing on the way and no files.
"""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["CutOff", "TooLong", "at_most", "data_file", "folder", "running", "seconds_left",
           "so_far"]  # fmt: skip


class CutOff(BaseException):
    """Raised in a task whose time is over; what `so_far` was told is kept.

    No Exception, so that no library takes it for a fault of its own.
    """


class TooLong(BaseException):
    """Raised by `at_most` in what takes too long."""


@dataclasses.dataclass
class _Running:
    until: float = math.inf
    folder: Path | None = None
    data: Path | None = None
    keep: Callable[[dict[str, Any]], None] | None = None


_now = _Running()


@contextmanager
def running(
    seconds: float,
    folder: Path | None = None,
    data: Path | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[None]:
    """What the functions below answer while a task runs.

    Args:
        seconds: that the task has from now on.
        folder: where it may leave files.
        data: the packed images, see `benchmarks.gpu.document`.
        keep: gets the task's result so far, whenever there is one.
    """
    global _now
    before, _now = _now, _Running(time.monotonic() + seconds, folder, data, keep)
    try:
        yield
    finally:
        _now = before


def seconds_left() -> float:
    """Until the task is cut off; infinite if it never is."""
    return _now.until - time.monotonic()


def folder() -> Path | None:
    """Where the task may leave files, if anywhere."""
    return _now.folder


def data_file() -> Path | None:
    """The file of packed images, if one was named."""
    return _now.data


def so_far(result: dict[str, Any]) -> None:
    """Hands over what the task would return if it were cut off now."""
    if _now.keep is not None:
        _now.keep(result)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TooLong inside after so many seconds; in a thread, where it cannot, never.

    Only Python code can be interrupted: a library's C++ has to come back first.
    """
    if not math.isfinite(seconds) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise TooLong(f"more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
