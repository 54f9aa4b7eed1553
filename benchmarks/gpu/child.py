"""The worker as the main program sees it: started, asked, cut off, killed."""

import contextlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

__all__ = ["Child", "EndedError"]

_MEMORY = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"  # JAX takes one of them

_GONE = 2.0  # seconds that it may take to end once its pipes are closed


def _environment() -> dict[str, str]:
    """The user's own, with what jax and torch need to share a card."""
    ours = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    if not any(name in os.environ for name in _MEMORY):
        ours[_MEMORY[0]] = "0.55"  # JAX keeps what it once took; the rest is PyTorch's
    if importlib.util.find_spec("platformdirs") is None:  # a machine without network
        ours["JAXNET_CACHE"] = str(Path(tempfile.gettempdir()) / "jaxnet-gpu-cache")
    return ours | dict(os.environ)


class EndedError(Exception):
    """The worker has ended without being asked to; the text says how."""


class Child:
    """A worker in a process group of its own.

    Args:
        arguments: of `python -m benchmarks.gpu.worker`.
        log: what it and its libraries print is added to this file.
    """

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("ab") as file:
            self._from = file.seek(0, os.SEEK_END)  # what is before is of other processes
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for the main program, which ends this in order
                env=_environment(),
            )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe(self._process.stdout), selectors.EVENT_READ)
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None  # Popen was told to make it
        return pipe

    def ask(self, task: str, seconds: float) -> None:
        """Lets it begin a task.

        Raises:
            EndedError: it is not there any more.
        """
        pipe = self._pipe(self._process.stdin)
        try:
            pipe.write(json.dumps({"task": task, "seconds": seconds}).encode() + b"\n")
            pipe.flush()
        except OSError:
            raise self._ended() from None

    def event(self, until: float) -> dict[str, Any] | None:
        """The next line, or None if there is none until that time (`time.monotonic`).

        Raises:
            EndedError: the worker is gone and all its lines are read.
        """
        while b"\n" not in self._rest:
            wait = until - time.monotonic()
            if wait <= 0 or not self._selector.select(wait):
                return None
            more = os.read(self._pipe(self._process.stdout).fileno(), 2**16)
            if not more:
                raise self._ended()
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return json.loads(line)

    def _ended(self) -> EndedError:
        # Its pipes close a little before it is gone: a kill now would hide how it ended.
        try:
            status = self._process.wait(_GONE)
        except subprocess.TimeoutExpired:
            self.kill()
            return EndedError(
                f"the process closed its pipes, did not end and was killed; the end of its log: "
                f"{self._last_words()}"
            )
        self.kill()  # what it started
        how = f"exit status {status}"
        if status < 0:
            how = f"signal {-status} ({signal.Signals(-status).name})"
        return EndedError(f"the process ended by {how}; the end of its log: {self._last_words()}")

    def _last_words(self) -> str:
        with self.log.open("rb") as file:
            file.seek(self._from)
            lines = file.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[-600:] or "nothing"

    def cut_off(self) -> None:
        """Asks it to end the running task now."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self, seconds: float = 5.0) -> None:
        """Lets it end, and kills it if it does not."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._pipe(self._process.stdin).close()
            self._process.wait(seconds)
        self.kill()
        self._selector.close()
        self._pipe(self._process.stdout).close()
