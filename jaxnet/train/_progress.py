"""What is seen of a run while it goes on, and the cache of compiled programs."""

import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from jaxnet._files import cache_folder
from jaxnet._processes import is_first

_log = logging.getLogger(__name__)
_notices = logging.getLogger("jaxnet")


class Progress:
    """A bar over the rows of a run, or a line an epoch where no one watches.

    Of several processes only the first shows anything.

    While it is open, the notices of `logging.getLogger("jaxnet")` are shown between its lines.

    Args:
        quiet: Whether there are lines only, and no bar; None shows a bar on a terminal.
        log: A function that takes the lines; by default they are printed.
        first: The name of the metric that is shown first.
    """

    def __init__(
        self,
        quiet: bool | None = None,
        log: Callable[[str], None] | None = None,
        first: str | None = None,
    ) -> None:
        self._silent = not is_first()  # of several processes one speaks
        self._quiet = self._silent or (not sys.stderr.isatty() if quiet is None else quiet)
        self._log, self._first = log, first
        self._last: dict[str, Any] = {}  # the monitored metric of the last epoch
        self._bar: Any = None
        self._task: Any = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Shows notices as lines, and takes the bar away at the end."""
        _handler.begin(self.write)
        try:
            yield
        finally:
            _handler.end(self.write)
            self.close()

    def start(self, total: int | None, done: int) -> None:
        """Begins the bar, over the rows of the whole run (None: not known), some of them done."""
        if self._quiet or self._bar is not None:
            return
        from rich.console import Console

        from jaxnet.train._bar import Bar

        self._bar = Bar(console=Console(stderr=True))
        self._task = self._bar.add_task("compiling", total=total, completed=done, metrics=[])
        self._bar.start()

    def write(self, text: str) -> None:
        """Writes a line, above the bar if there is one."""
        if self._silent:
            return
        if self._log is not None:
            self._log(text)
        elif self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def advance(self, rows: int, what: str, metrics: Mapping[str, Any]) -> None:
        """Says that some rows are done."""
        if self._bar is not None:
            shown = _shown({**self._last, **metrics}, self._first)
            self._bar.update(self._task, advance=rows, description=what, metrics=shown)

    def epoch(self, epoch: str, metrics: Mapping[str, Any], rate: float, seconds: float) -> None:
        """Writes the line of an epoch."""
        pairs = _shown(metrics, self._first)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
        self._last = {name: metrics[name] for name in metrics if name == self._first}
        if self._bar is not None:
            self._bar.update(self._task, metrics=pairs)
        self.write(f"epoch {epoch}: {shown}, {rate:,.0f} samples/s, {seconds:.2f} s")

    def close(self) -> None:
        """Takes the bar away; what it showed last stays."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Handler(logging.Handler):
    """Shows notices as lines of the run that began last, as long as there is one.

    The handlers of the program get what they would get without it, and no line twice that
    they did not ask for.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._writes: list[Callable[[str], None]] = []
        self._before: tuple[int, bool, int] = logging.NOTSET, True, logging.WARNING

    def begin(self, write: Callable[[str], None]) -> None:
        with _lock:  # runs in several threads end in any order
            if not self._writes:
                level = _notices.getEffectiveLevel()
                self._before = _notices.level, _notices.propagate, level
                _notices.setLevel(min(level, logging.INFO))
                _notices.propagate = False
                _notices.addHandler(self)
            self._writes.append(write)

    def end(self, write: Callable[[str], None]) -> None:
        with _lock:
            self._writes.remove(write)
            if not self._writes:
                _notices.removeHandler(self)
                level, _notices.propagate, _ = self._before
                _notices.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        if self._writes:
            self._writes[-1](record.getMessage())
        _, propagates, level = self._before
        if propagates and record.levelno >= level and logging.root.handlers:
            logging.root.handle(record)


def _shown(metrics: Mapping[str, Any], first: str | None) -> list[tuple[str, float]]:
    """The metrics that are one number each, one of them first."""
    found = [(name, value) for name, value in metrics.items() if isinstance(value, float | int)]
    return sorted(found, key=lambda pair: pair[0] != first)  # stable: the others keep their order


_handler = _Handler()
_lock = threading.Lock()


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` at the first SIGINT or SIGTERM; a second one does what it always did.

    In a thread, where Python takes no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def once(number: int, frame: Any) -> None:
        signal.signal(number, before[number])
        stop()

    for number in before:
        signal.signal(number, once)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def use_compilation_cache() -> Path | None:
    """Keeps compiled programs in the user's cache, so that the next start does not compile.

    A folder that `jax_compilation_cache_dir` names already stays. The log says it once a
    process.

    Returns:
        The folder, or None if it cannot be written.
    """
    from jax.experimental.compilation_cache import compilation_cache

    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if folder is None:
        folder = str(cache_folder() / "compiled")
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            _once(f"compiled programs are not kept: {error}")
            return None
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        compilation_cache.reset_cache()  # it may have looked before, and found it was off
    _once(f"compiled programs are kept in {folder}")
    return Path(folder)


@functools.cache  # once a process
def _once(text: str) -> None:
    _log.info(text)
