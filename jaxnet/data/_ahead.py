"""Reading batches in threads, and sending them to a device, before the program needs them."""

import atexit
import collections
import queue
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np

END: Any = object()
"""The value that a `read` function returns at the end of the data."""

_Task = tuple[Future[Any], Any]

# The seconds that a program waits at its end for a read that does not return.
_PATIENCE = 5.0

_running: "weakref.WeakSet[ReadAhead]" = weakref.WeakSet()
_threads: "weakref.WeakSet[threading.Thread]" = weakref.WeakSet()


class ReadAhead(Iterator[Any]):
    """An iterator over batches that threads read in advance; the batches come in order.

    If reading a batch fails, `next` raises the error when that batch is due. As in torch, the
    batches after it still come.

    Args:
        jobs: The jobs, one for each batch, such as lists of row numbers. As in torch, the
            first ones are drawn here and not with the first batch.
        read: The function that makes the batch of a job, or returns `END`. It runs in the
            threads.
        workers: The number of threads.
        ahead: The number of batches that are read in advance at any time.
        timeout: The seconds to wait for a batch; 0 waits for ever.
        begin: The function that each thread calls with its number before it reads.

    Raises:
        RuntimeError: (In `next`) A batch did not come in time, `begin` failed, or reading the
            first batch drew from the generators that all threads share.
    """

    def __init__(
        self,
        jobs: Iterator[Any],
        read: Callable[[Any], Any],
        workers: int,
        ahead: int,
        timeout: float = 0,
        begin: Callable[[int], None] | None = None,
    ) -> None:
        self._jobs = jobs
        self._timeout = timeout
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._waiting: collections.deque[Future[Any]] = collections.deque()
        self._workers = 0
        self._asked = threading.Event()  # for the first batch, which is read alone
        alone = threading.Event()
        _running.add(self)
        for _ in range(ahead):
            self._submit()
        for number in range(workers):
            # Daemon threads, because a read that never returns must not stop the program from
            # ending.
            arguments = (self._tasks, read, begin, number, self._asked, alone)
            thread = threading.Thread(
                target=_work, args=arguments, name=f"jaxnet-loader-{number}", daemon=True
            )
            _threads.add(thread)
            thread.start()
            self._workers += 1

    def _submit(self) -> None:
        future: Future[Any] = Future()
        try:
            job = next(self._jobs, END)
        except Exception as error:  # A sampler's error comes after the batches drawn before it.
            future.set_exception(error)
        else:
            if job is END:
                return
            self._tasks.put((future, job))
        self._waiting.append(future)

    def __next__(self) -> Any:
        self._asked.set()
        if not self._waiting:
            self.close()
            raise StopIteration
        try:
            self._waiting[0].exception(self._timeout or None)
        except FutureTimeoutError as error:
            raise RuntimeError(f"timeout: no batch came within {self._timeout} seconds") from error
        future = self._waiting.popleft()
        self._submit()
        batch = future.result()
        if batch is END:
            self.close()
            raise StopIteration
        return batch

    def close(self) -> None:
        """Discards the batches that are left, and lets the threads end."""
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._jobs = iter(())
        self._asked.set()
        for _ in range(self._workers):
            self._tasks.put(None)
        self._workers = 0

    def __del__(self) -> None:
        self.close()


def _work(
    tasks: "queue.SimpleQueue[_Task | None]",
    read: Callable[[Any], Any],
    begin: Callable[[int], None] | None,
    number: int,
    asked: threading.Event,
    first_done: threading.Event,
) -> None:
    """Reads batches in a thread until a task is None.

    The first batch is read by the first thread while all others wait, the program in `next`
    among them: what draws from a shared generator then is the reading.

    It has no reference to the `ReadAhead`, whose deletion ends the thread.
    """
    (asked if number == 0 else first_done).wait()
    failed: Exception | None = None
    try:
        if begin is not None:
            begin(number)
    except Exception as error:
        failed = error
    while (task := tasks.get()) is not None:
        future, job = task
        if future.set_running_or_notify_cancel():
            try:
                if failed is not None:
                    raise RuntimeError(f"worker_init_fn: it raised {failed!r}") from failed
                before = None if first_done.is_set() else _shared_generators()
                batch = read(job)
                if before is not None and (drawn := _differing(before)):
                    raise RuntimeError(
                        f"num_workers: reading a row draws from the generator of {drawn}, which "
                        "the worker threads share, so that the rows would differ from run to run "
                        "(the workers of torch are processes); give num_workers=0, or draw from "
                        "a generator of the row's own, such as np.random.default_rng(row)"
                    )
                future.set_result(batch)
            except StopIteration as error:  # To the caller it would be the end of the data.
                reason = RuntimeError("dataset: reading a row raised StopIteration")
                reason.__cause__ = error
                future.set_exception(reason)
            except BaseException as error:  # Also SystemExit, which would end the thread.
                future.set_exception(error)
        first_done.set()
        del task, future, job  # Otherwise the last batch would stay in memory.


def _shared_generators() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and, if it is loaded, torch."""
    of_numpy: Any = np.random.get_state()
    numbers, place = of_numpy[1].tobytes(), of_numpy[2:]
    states: dict[str, Any] = {"Python": random.getstate(), "NumPy": (numbers, place)}
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].default_generator.get_state().numpy().tobytes()
    return states


def _differing(before: dict[str, Any]) -> str:
    now = _shared_generators()
    return " and of ".join(name for name in before if before[name] != now[name])


@atexit.register
def _end() -> None:
    """Ends the threads when the program ends, so that none reads while Python shuts down."""
    for batches in list(_running):
        batches.close()
    until = time.monotonic() + _PATIENCE
    for thread in list(_threads):
        thread.join(max(0.0, until - time.monotonic()))


class SendAhead(Iterator[Any]):
    """An iterator over batches that are sent to a device in advance.

    Errors are as in `ReadAhead`.

    Args:
        batches: The batches to send.
        send: The function that starts sending a batch and returns the batch on the device.
        ahead: The number of later batches that are being sent when `next` returns a batch.
    """

    def __init__(self, batches: Iterator[Any], send: Callable[[Any], Any], ahead: int) -> None:
        self._batches, self._send, self._ahead = batches, send, ahead
        self._sent: collections.deque[tuple[Any, Exception | None]] = collections.deque()

    def __next__(self) -> Any:
        while len(self._sent) <= self._ahead:
            try:
                self._sent.append((self._send(next(self._batches)), None))
            except StopIteration:
                break
            except Exception as error:
                self._sent.append((None, error))
        if not self._sent:
            raise StopIteration
        batch, failed = self._sent.popleft()
        if failed is not None:
            raise failed
        return batch

    def close(self) -> None:
        """Discards the batches that are left."""
        self._sent.clear()
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
