"""Ctrl-C that lets a run end in order."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["interruptible"]


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` at the first SIGINT or SIGTERM; a second one does what it always did.

    In a thread, where Python takes no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def once(number: int, frame: Any) -> None:
        signal.signal(number, kept[number])
        stop()

    for number in kept:
        signal.signal(number, once)
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
