"""`jaxnet launch`: one program in several processes of this machine, which end together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_LINES = 25  # of the output of a process that failed
_TOGETHER = 0.3  # seconds between failures, or signals, that count as one
_PATIENCE = 20.0  # seconds that the others have to end by themselves, before they are killed


class LaunchError(Exception):
    """The program could not be started."""


def launch(program: Sequence[str], processes: int, output: Path | None = None) -> int:
    """Runs a program in several processes, which find one another by `train.init_processes`.

    The first process has this terminal. What the others print goes into files, and is shown if
    one of them is the first that fails. A signal (SIGINT, SIGTERM, SIGHUP) is given on to all; a
    second one kills all at once, also those that wait for one another in JAX, where no handler of
    Python's runs. Signals that come together count as one.

    Args:
        program: The words of the command. A file of Python that is no program itself runs with
            this Python.
        processes: The number of processes.
        output: Path of a folder for the output of the others, `process_1.txt` and so on; None
            for a temporary one.

    Returns:
        0 if all ended well; else the status of the first that failed, which is 128 and the number
        of the signal where it was killed.

    Raises:
        LaunchError: There is no such program, or the folder cannot be written.
    """
    words = list(program)
    if words[0].endswith(".py"):
        words.insert(0, sys.executable)
    with tempfile.TemporaryDirectory(prefix="jaxnet-launch-") as temporary:
        folder = Path(temporary) if output is None else output
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return _Processes(words, processes, folder).wait()
        except OSError as error:
            raise LaunchError(f"{error.filename or words[0]}: {error.strerror or error}") from error


class _Processes:
    def __init__(self, words: list[str], count: int, folder: Path) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._count, self._signalled = count, 0.0  # when the first signal came
        self._files = {i: folder / f"process_{i}.txt" for i in range(1, count)}
        port = str(_free_port())
        # A signal is given on to all of them. They are in sessions of their own, so that Ctrl-C
        # in the terminal does not reach them twice.
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            given_on = getattr(signal, name, None)  # Windows has no SIGHUP, nohup ignores it
            if given_on is not None and signal.getsignal(given_on) is not signal.SIG_IGN:
                signal.signal(given_on, self._give_on)
        try:
            for i in range(count):
                given = {
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                    "WORLD_SIZE": str(count),
                    "RANK": str(i),
                    "LOCAL_RANK": str(i),
                }
                # One GPU for each process, as with torchrun; a CPU has no such numbers.
                environment = {"JAX_LOCAL_DEVICE_IDS": str(i), **os.environ, **given}
                self._running[i] = self._started(words, environment, self._files.get(i))
        except BaseException:
            self._end(0)
            raise

    def _started(
        self, words: list[str], environment: dict[str, str], file: Path | None
    ) -> "subprocess.Popen[bytes]":
        if file is None:
            return subprocess.Popen(words, env=environment, start_new_session=True)
        with open(file, "wb") as opened:
            return subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _give_on(self, number: int, frame: FrameType | None) -> None:
        again = self._signalled > 0
        if again and time.monotonic() - self._signalled < _TOGETHER:
            return  # a shell that ends, and `timeout`, send it twice
        self._signalled = self._signalled or time.monotonic()
        for process in self._running.values():
            # Not by the process's own methods, which ask first whether it has ended: `_ended` does.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL if again else number)

    def wait(self) -> int:
        """Waits for all; ends all as soon as one fails."""
        while self._running:
            i, status = self._ended()
            del self._running[i]
            if status != 0:
                self._failed(i, status)
                return status if status > 0 else 128 - status
        return 0

    def _ended(self) -> tuple[int, int]:
        """Waits until a process has ended: the first, whose end the others follow at once."""
        while True:
            first: list[int] = []
            if hasattr(os, "waitid"):  # returns with the first end; Windows has only to ask again
                end = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
                first = [i for i, p in self._running.items() if end and p.pid == end.si_pid]
            if not first:
                time.sleep(0.05)
            for i in first or self._running:
                status = self._running[i].poll()
                if status is not None:
                    return i, status

    def _failed(self, i: int, status: int) -> None:
        # Another may have failed at the same time, and be the cause.
        time.sleep(_TOGETHER)
        failed = [i, *(n for n, process in self._running.items() if process.poll())]
        others = len(self._running)
        self._end(_PATIENCE)
        for n in sorted(set(failed) & self._files.keys()):
            lines = self._files[n].read_text(encoding="utf-8", errors="replace").splitlines()
            _say(*(f"[process {n}] {line}" for line in lines[-_LINES:]))
        how = f"ended with status {status}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        ended = f"; the other{'s were' if others > 1 else ' was'} stopped" if others else ""
        _say(f"jaxnet launch: process {i} of {self._count} {how}{ended}")
        if not self._signalled:
            _say("a run with checkpoints goes on from the newest: give the same command again")

    def _end(self, patience: float) -> None:
        """Ends all that still run, by force after some seconds."""
        for process in self._running.values():
            process.terminate()
        end = time.monotonic() + patience
        for process in self._running.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _say(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
