"""One command's run: tasks given to a child process in turn, and the results on disk.

Imports neither jax nor torch: the child alone touches the card, and can be killed.
"""

import argparse
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.gpu import machine, plan, report
from benchmarks.gpu.child import Child, EndedError

__all__ = ["Run"]

_GRACE = 6.0  # seconds between asking a task to end and killing it
_AT_END = 12.0  # seconds kept for that and for the picture
_START = 90.0  # seconds that a child may take to import everything and find the card


def _files() -> ModuleType:
    """jaxnet/_files.py without the package around it, which imports jax."""
    path = Path(__file__).parents[2] / "jaxnet" / "_files.py"
    spec = importlib.util.spec_from_file_location("jaxnet_files", path)
    assert spec is not None  # it is a file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Run:
    """The tasks of one command and what came of them.

    Args:
        options: of the command line.
        earlier: results to go on from; None begins anew.

    Attributes:
        results: all that the files hold.
    """

    def __init__(self, options: argparse.Namespace, earlier: Mapping[str, Any] | None) -> None:
        self.options = options
        self._began = time.monotonic()
        self._earlier = earlier
        self._write = _files().write_text
        self._saved = self._was_ready = False
        self._child: Child | None = None
        self._at_end = min(_AT_END, options.seconds / 4)
        self.results: dict[str, Any] = {
            "began": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": sys.argv[1:],
            "limit": options.seconds,
            "used": 0.0,
            "ended": None,
            "tiny": options.tiny,
            "machine": machine.facts(),
            "device": {},
            "notes": [],
            "missing_parts": {},
            "tasks": {},
        }
        if earlier is not None and _made_of(earlier) == _made_of(self.results):
            # Until the card is known they are taken for its own, so that nothing gets lost.
            self.results |= {"device": earlier["device"], "tasks": dict(earlier["tasks"])}

    @property
    def used(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds that tasks may still take."""
        return self.options.seconds - self._at_end - self.used

    def go(self) -> None:
        """Runs the tasks until all are done or the time is over.

        Raises:
            CommandLineError: the command line names tasks that are not there.
            EndedError: no child starts.
        """
        waiting = self._begin()
        mine, left_out = list(waiting), 0
        while waiting:
            name = plan.following(waiting, self._used_by_right(), self.options.seconds)
            waiting.remove(name)
            seconds = plan.limit(name, self.left, self.options.tiny)
            if seconds is None:
                self._leave_out(name, "there was no time")
                left_out += 1
                continue
            try:
                if self._child is None:
                    self._start()
            except EndedError as error:
                for each in (name, *waiting):
                    self._leave_out(each, "no child process starts any more")
                raise error
            self._one(name, min(seconds, max(self.left, 1.0)))
        if left_out:
            self.say(f"{left_out} tasks are left out, for there is no time")
        over = left_out or any(_wants_time(self.results["tasks"][name]) for name in mine)
        self.results["ended"] = "the time was over" if over else "all tasks are done"

    def _begin(self) -> list[str]:
        """Starts the first child; the names of what is to be done."""
        ready = self._start()
        if not ready["tasks"]:
            raise EndedError(f"no part can be imported; its log is {self.options.out}/worker.log")
        names = plan.chosen(ready["tasks"], self.options.only, self.options.precision)
        if self._earlier is None:
            return names
        if _where(self._earlier) != _where(self.results):
            self.results["tasks"] = {}
            self._note("the earlier results are of another card, other versions, other source, "
                       "other XLA_FLAGS or other sizes: all is measured anew")  # fmt: skip
            return names
        done = {name for name, record in self.results["tasks"].items() if _whole(record)}
        self._note(f"{len(done)} tasks are taken from the run of {self._earlier['began']}")
        return [name for name in names if name not in done]

    def _used_by_right(self) -> float:
        tasks = self.results["tasks"].items()
        return sum(record["seconds"] for name, record in tasks if name.startswith("right:"))

    def _start(self) -> dict[str, Any]:
        options = self.options
        arguments = ["--parts", *options.parts, "--out", str(options.out)]
        arguments += ["--tiny"] * options.tiny
        arguments += ["--data", str(options.data)] if options.data else []
        log = options.out / "worker.log"
        self._child = child = Child(arguments, log)
        ready = child.event(time.monotonic() + min(_START, max(self.left, 1.0)))
        if ready is None:
            self.stop()
            raise EndedError(f"the child process was not ready in time; its log is {log}")
        if not self._was_ready:
            self._was_ready = True
            self.results |= {"device": ready["device"], "missing_parts": ready["missing"]}
            for note in machine.notes(ready["device"], self.results["machine"], options.tiny):
                self._note(note)
            for part, why in ready["missing"].items():
                self.say(f"part {part} is left out: {why}")
        return ready

    def _one(self, name: str, seconds: float) -> None:
        """Runs one task to its end, whatever that is."""
        child = self._child
        assert child is not None  # `go` has started it
        began = time.monotonic()
        until, asked = began + seconds, False
        result: dict[str, Any] | None = None
        status, why = "cut off", "stopped by a signal"
        self.results["tasks"].pop(name, None)  # an earlier run's, not whole
        try:
            child.ask(name, seconds)
            while True:
                event = child.event(until)
                if event is None and not asked:
                    child.cut_off()
                    until, asked = until + _GRACE, True
                elif event is None:
                    why = f"its {seconds:.0f} s were over, and it did not end when asked to"
                    child.kill()
                    break
                elif event["event"] == "so far":
                    result = event["result"]
                    self.results["tasks"][name] = {
                        "status": "cut off",
                        "seconds": round(time.monotonic() - began, 1),
                        "why": "still running",
                        "result": result,
                    }
                    self.save()
                else:
                    status, why = event["event"], event.get("why", "")
                    result = event.get("result", result)
                    break
        except EndedError as error:
            status, why = "failed", str(error)
        finally:
            more: dict[str, Any] = {} if result is None else {"result": result}
            more |= {"why": why} if status != "done" else {}
            if status != "done":
                self.stop()  # the next task gets a fresh process
            self._record(name, status, time.monotonic() - began, **more)

    def _record(self, name: str, status: str, seconds: float, **more: Any) -> None:
        record = {"status": status, "seconds": round(seconds, 1), **more}
        self.results["tasks"][name] = record
        self.save()  # first: whatever may be wrong with the words, the figures are kept
        self.say(report.line(name, record))

    def _leave_out(self, name: str, why: str) -> None:
        # What an earlier run found, a failure too, says more.
        record = {"status": "left out", "seconds": 0.0, "why": why}
        if self.results["tasks"].get(name, record)["status"] == "left out":
            self.results["tasks"][name] = record

    def _note(self, text: str) -> None:
        self.results["notes"].append(text)
        self.say(text)

    def say(self, text: str) -> None:
        """A line on the screen, with the time."""
        print(f"[{self.used:4.0f}/{self.options.seconds:.0f} s] {text}", flush=True)

    def save(self) -> None:
        """Writes both files, each whole or not at all."""
        folder = self.options.out
        self.results["used"] = round(self.used, 1)
        text = json.dumps(self.results, indent=1, allow_nan=False)
        if not self._saved:
            _put_aside(folder)
            self._saved = True
        self._write(folder / "results.json", text + "\n")
        self._write(folder / "GPU.md", report.page(self.results, (folder / "ratios.png").exists()))

    def stop(self) -> None:
        """Ends the child, at once."""
        if self._child is not None:
            self._child.close(1.0)
            self._child = None

    def picture(self) -> None:
        """Draws ratios.png in a process of its own, for it takes jax and matplotlib."""
        if not any(name.startswith("fast:") for name in self.results["tasks"]):
            return
        command = [sys.executable, "-m", "benchmarks.gpu.report", str(self.options.out)]
        seconds = max(self.options.seconds - self.used - 1.0, 3.0)
        try:
            subprocess.run(
                command, timeout=seconds, check=True, capture_output=True, encoding="utf-8"
            )
        except subprocess.TimeoutExpired:
            self.say(f"no time for the picture; {' '.join(command[1:])} draws it")
        except subprocess.CalledProcessError as error:
            words = error.stderr.strip().splitlines() or [f"exit status {error.returncode}"]
            self.say(f"no picture: {words[-1]}")


def _whole(record: Mapping[str, Any]) -> bool:
    """Whether there is nothing of a task left to do."""
    return record["status"] == "done" and not record["result"].get("unfinished")


def _wants_time(record: Mapping[str, Any]) -> bool:
    """Whether a task has not all that it would have with more time."""
    result = record.get("result") or {}
    unfinished = result.get("unfinished") and not result.get("needs")
    return record["status"] in ("left out", "cut off") or bool(unfinished)


def _made_of(results: Mapping[str, Any]) -> tuple[Any, ...]:
    """What has to be the same for figures to stand in one table, as far as no card is asked."""
    machine = results["machine"]
    kept = (machine.get(key) for key in ("versions", "source", "XLA_FLAGS"))
    return (results["tiny"], *kept)


def _where(results: Mapping[str, Any]) -> tuple[Any, ...]:
    """The same, and the card."""
    device = results["device"]
    return (device.get("platform"), device.get("kind"), *_made_of(results))


def _put_aside(folder: Path) -> None:
    """Renames what an earlier run left, so that no run takes another's results away."""
    file = folder / "results.json"
    if file.exists():
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(file.stat().st_mtime))
        os.replace(file, folder / f"results_{stamp}.json")
    for name in ("GPU.md", "ratios.png"):  # benchmarks.gpu.report makes them again
        (folder / name).unlink(missing_ok=True)
