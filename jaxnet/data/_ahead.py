"""Reading batches in threads, and sending them to a device, before the program needs them."""

import atexit
import collections
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from jaxnet.data._worker import Streams, global_states

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
        streams: The random numbers of the workers. `begin` and the first batch see them in place
            of the global generators. If the first batch draws from these, so does every other,
            and each batch is then read while the program waits for it, by the thread to which
            torch would give it: nothing else may draw meanwhile.

    Raises:
        RuntimeError: (In `next`) A batch did not come in time, `begin` failed, or reading the
            first batch drew from the global generators and there are no streams.
    """

    def __init__(
        self,
        jobs: Iterator[Any],
        read: Callable[[Any], Any],
        workers: int,
        ahead: int,
        timeout: float = 0,
        begin: Callable[[int], None] | None = None,
        streams: Streams | None = None,
    ) -> None:
        self._jobs = jobs
        self._timeout = timeout
        self._crew = _Crew(workers, read, begin, streams)
        self._waiting: collections.deque[Future[Any]] = collections.deque()
        self._next_worker = 1 % workers  # the first batch is the first worker's
        _running.add(self)
        for _ in range(ahead):
            self._submit()
        for number in range(workers):
            # Daemon threads, because a read that never returns must not stop the program from
            # ending.
            thread = threading.Thread(
                target=self._crew.work, args=(number,), name=f"jaxnet-loader-{number}", daemon=True
            )
            _threads.add(thread)
            thread.start()

    def _submit(self) -> None:
        future: Future[Any] = Future()
        try:
            job = next(self._jobs, END)
        except Exception as error:  # A sampler's error comes after the batches drawn before it.
            future.set_exception(error)
        else:
            if job is END:
                return
            self._crew.tasks.put((future, job))
        self._waiting.append(future)

    def __next__(self) -> Any:
        self._crew.asked.set()
        if not self._waiting:
            self.close()
            raise StopIteration
        if self._crew.one_at_a_time and not self._waiting[0].done():
            self._crew.turns[self._next_worker].put(self._crew.tasks.get())
            self._next_worker = (self._next_worker + 1) % len(self._crew.turns)
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
        self._crew.close()

    def __del__(self) -> None:
        self.close()


class _Crew:
    """The threads of a `ReadAhead`, which they do not know, so that its deletion ends them."""

    def __init__(
        self,
        workers: int,
        read: Callable[[Any], Any],
        begin: Callable[[int], None] | None,
        streams: Streams | None,
    ) -> None:
        self.tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        # The tasks of each worker, where batches are read one at a time.
        self.turns: list[queue.SimpleQueue[_Task | None]] = [
            queue.SimpleQueue() for _ in range(workers)
        ]
        self.asked = threading.Event()  # for the first batch, which is read alone
        self.one_at_a_time = False
        self._read, self._begin, self._streams = read, begin, streams
        self._beginning = threading.Lock()
        self._begun = threading.Semaphore(0)
        self._first_done = threading.Event()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self.asked.set()
        for turn in self.turns:
            self.tasks.put(None)
            turn.put(None)

    def work(self, number: int) -> None:
        """Reads batches in a thread until a task is None.

        The first batch is read by the first thread while all others wait, the program in `next`
        among them: what draws from a global generator then is the reading.
        """
        self.asked.wait()
        if self._closed:
            return
        failed: Exception | None = None
        with self._beginning:  # one after another, because all see the global generators
            try:
                if self._begin is not None:
                    with self._drawing(number):
                        self._begin(number)
            except Exception as error:
                failed = error
        self._begun.release()
        if number == 0:
            for _ in self.turns:
                self._begun.acquire()
        else:
            self._first_done.wait()
        while (task := self._tasks_of(number).get()) is not None:
            future, job = task
            if future.set_running_or_notify_cancel():
                try:
                    if failed is not None:
                        raise RuntimeError(f"worker_init_fn: it raised {failed!r}") from failed
                    future.set_result(self._batch(number, job))
                except StopIteration as error:  # To the caller it would be the end of the data.
                    reason = RuntimeError("dataset: reading a row raised StopIteration")
                    reason.__cause__ = error
                    future.set_exception(reason)
                except BaseException as error:  # Also SystemExit, which would end the thread.
                    future.set_exception(error)
            self._first_done.set()
            del task, future, job  # Otherwise the last batch would stay in memory.
        self._first_done.set()

    def _tasks_of(self, number: int) -> "queue.SimpleQueue[_Task | None]":
        return self.turns[number] if self.one_at_a_time else self.tasks

    def _batch(self, number: int, job: Any) -> Any:
        if self._first_done.is_set() and not self.one_at_a_time:
            return self._read(job)
        with self._drawing(number):
            before = global_states()
            try:
                return self._read(job)
            finally:
                now = global_states()
                drawn = [name for name in before if before[name] != now[name]]
                if drawn and self._streams is None:
                    raise RuntimeError(
                        f"num_workers: reading a row draws from the generator of "
                        f"{' and of '.join(drawn)}, which the worker threads share, so that the "
                        "rows would differ from run to run; give the loader rngs=Generator(0), "
                        "from which each worker gets numbers of its own as in torch, or "
                        "num_workers=0, or draw from a generator of the row's own, such as "
                        "np.random.default_rng(row)"
                    )
                self.one_at_a_time |= bool(drawn)

    def _drawing(self, number: int) -> AbstractContextManager[None]:
        return nullcontext() if self._streams is None else self._streams.of(number)


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
