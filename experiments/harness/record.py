"""The folder of a run, which is complete or absent, and the record in it."""

import dataclasses
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp

import jaxnet
from experiments.harness.settings import Settings
from experiments.harness.unfinished import Unfinished
from jaxnet import _files as files
from jaxnet._processes import is_first
from jaxnet.train._values import plain


class Run:
    """The folder of a run, filled under a hidden name and renamed when the run is done.

    The registry uses it as a context manager around an experiment. At the end it writes
    `record.json` and renames the folder to its final name, OUT/NAME/DATE_TIME; after an
    exception (Ctrl-C too) it removes the folder.

    Args:
        out: Path of the folder of all runs, which is made if it does not exist.
        name: The name of the experiment.
        config: The settings of the run.

    Attributes:
        folder: The folder for the pictures and files of the experiment.
        metrics: The measurements of the experiment by name. A list of mappings with a
            "verdict" ("ok", "OFF", "not run", "-") is a table of judged figures.
        result: The result in a few words, for the page's summary.
        unfinished: The checkpoint folders, which outlive a run that was stopped or killed.

    Raises:
        OSError: The folder cannot be made or written.
    """

    def __init__(self, out: str | os.PathLike[str], name: str, config: Settings) -> None:
        self.name = name
        self.config = config
        self.metrics: dict[str, Any] = {}
        self.result = ""
        self.unfinished = Unfinished(Path(out), name)
        self._stack = ExitStack()
        if not is_first():  # of several processes the first one's folder stays
            out = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._began = datetime.datetime.now().astimezone()
        self._clock = time.perf_counter()
        stamp = self._began.strftime("%Y-%m-%d_%H-%M-%S")
        home = Path(out) / name
        home.mkdir(parents=True, exist_ok=True)
        self.folder = home / f".{stamp}.{os.getpid()}.partial"
        self._final = home / stamp

    def __enter__(self) -> Self:
        # The exits run in reverse order. The checkpoints are removed last: until the record is
        # written, the run can be finished again from them.
        self._stack.enter_context(self.unfinished)
        self._stack.enter_context(files.filling(self.folder))
        self._stack.push(self._finish)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def failed(self) -> int:
        """The number of judged figures that are off."""
        return verdicts(self.metrics).count("OFF")

    def _finish(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self._write()

    def _write(self) -> None:
        record = {
            "name": self.name,
            "began": self._began.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 3),
            "command": [Path(sys.executable).name, *sys.orig_argv[1:]],
            "config": dataclasses.asdict(self.config),
            "changed": self.config.changed(),
            "environment": environment(),
            "result": self.result,
            "metrics": self.metrics,
        }
        # JSON has no nan; `plain` writes it as text, which `values` reads again.
        text = json.dumps(plain(record), indent=2, allow_nan=False) + "\n"
        (self.folder / "record.json").write_text(text, encoding="utf-8")
        final, i = self._final, 1
        while final.exists():  # two runs within one second
            i += 1
            final = self._final.with_name(f"{self._final.name}_{i}")
        os.replace(self.folder, final)
        self.folder = final


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """All verdicts in the judged tables of a record.

    Args:
        metrics: The measurements by name.
    """
    return [
        row["verdict"]
        for rows in metrics.values()
        if isinstance(rows, list)
        for row in rows
        if isinstance(row, Mapping) and "verdict" in row
    ]


def environment() -> dict[str, Any]:
    """The versions of the packages, and the machine, as every record has them."""
    (device,) = jnp.zeros(()).devices()  # that of --device, if it was given
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    commit = _commit()
    return {
        "jaxnet": jaxnet.__version__,
        **({"commit": commit} if commit else {}),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
    }


def _commit() -> str:
    """The commit of this checkout, with "-dirty" after changes; empty without a repository."""
    root = Path(__file__).parents[2]
    # Git would also find the repository of a folder further up, in which a copy may lie.
    if shutil.which("git") is None or not (root / ".git").exists():
        return ""
    words = ["git", "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"]
    done = subprocess.run(words, cwd=root, capture_output=True, encoding="utf-8", check=False)
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
