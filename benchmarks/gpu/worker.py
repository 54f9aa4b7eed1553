"""The process that runs tasks, one after another; started by `python -m benchmarks.gpu`.

It reads a line of JSON for each task from its standard input ({"task": ..., "seconds": ...})
and writes lines of JSON to its standard output: "ready" with all tasks, then "so far", and
"done", "failed" or "cut off" of each task. What libraries print goes to standard error. A
SIGTERM cuts the running task off. After a task that did not end in order the process ends too,
for memory, threads and the card may be in any state.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu import task
from benchmarks.gpu.plan import PARTS

__all__ = ["Events", "main"]


class Events:
    """Lines to who started this process, never cut by a signal.

    Attributes:
        running: whether a SIGTERM means the task that runs now.
    """

    def __init__(self) -> None:
        # Whatever else writes to standard output must not get between the lines.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.running = False
        self._writing = self._waiting = False

    def write(self, event: str, **more: Any) -> None:
        """One line."""
        self._writing = True
        try:
            self._out.write(json.dumps({"event": event, **more}, default=str) + "\n")
            self._out.flush()
        finally:
            self._writing = False
        if self._waiting:
            self._waiting = False
            self._cut()

    def on_signal(self, number: int, frame: Any) -> None:
        """Cuts the task off, after the line that is being written."""
        if self._writing:
            self._waiting = True
        else:
            self._cut()

    def _cut(self) -> None:
        if self.running:
            self.running = False
            raise task.CutOff("its time is over")


def main(arguments: list[str] | None = None) -> int:
    """Serves until there are no more lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.worker")
    parser.add_argument("--parts", nargs="+", default=PARTS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args(arguments)
    events = Events()
    signal.signal(signal.SIGTERM, events.on_signal)
    known, missing = _tasks(options.parts, options.tiny)
    events.write("ready", tasks=list(known), missing=missing, device=_device())
    for line in sys.stdin:
        asked = json.loads(line)
        if not _run(events, asked["task"], known[asked["task"]], asked["seconds"], options):
            return 1
    return 0


def _tasks(parts: list[str], tiny: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """All tasks by "part: name", and the parts that are not here, with the reason."""
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for part in parts:
        try:
            module = importlib.import_module(f"benchmarks.gpu.{part}")
            tasks = module.tasks(tiny)
        except Exception as error:  # the other parts can do without it
            traceback.print_exc()
            missing[part] = f"{type(error).__name__}: {error}"
            continue
        found |= {f"{part}: {name}": call for name, call in tasks.items()}
    return found, missing


def _device() -> dict[str, Any]:
    import jax

    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "kind": first.device_kind,
        "count": jax.device_count(),
        "backend": str(first.client.platform_version),
    }


def _run(events: Events, name: str, call: Any, seconds: float, options: Any) -> bool:
    """Runs a task and says how it ended; whether another one may follow."""

    def keep(result: dict[str, Any]) -> None:
        events.write("so far", task=name, result=_plain(result))

    try:
        with task.running(seconds, options.out, options.data, keep):
            events.running = True
            result = call()
            events.running = False
        events.write("done", task=name, result=_plain(result))
        return True
    except (task.CutOff, KeyboardInterrupt) as error:  # train.fit turns a SIGTERM into the latter
        events.running = False
        events.write("cut off", task=name, why=str(error) or "its time is over")
    except BaseException as error:
        events.running = False
        traceback.print_exc()
        events.write("failed", task=name, why=f"{type(error).__name__}: {str(error)[:2000]}")
    return False


def _plain(result: Any) -> Any:
    """The same as JSON takes it; floats that JSON has no word for become strings."""
    from jaxnet.train._values import plain

    return plain(result)


if __name__ == "__main__":
    status = main()
    # A library's thread that still compiles must not keep the process.
    sys.stderr.flush()
    os._exit(status)
