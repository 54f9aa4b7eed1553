"""What a run leaves behind: one folder that appears whole or not at all."""

import dataclasses
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax

from jaxnet import files as atomic
from jaxnet.train.values import plain

__all__ = ["Run", "environment"]


class Run:
    """A run's folder, filled under a hidden name and shown when the run is done.

    Use it as a context manager. Leaving it normally writes `record.json` and
    renames the folder to its final name, `out/NAME/DATE_TIME`; leaving it through
    an exception (Ctrl-C too) removes what was written.

    Args:
        out: folder of all runs; made if it is not there.
        name: of the experiment.
        config: what the run was asked to do; a dataclass or a mapping.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(
        self, out: str | os.PathLike[str], name: str, config: Mapping[str, Any] | Any
    ) -> None:
        self.name = name
        self.metrics: dict[str, Any] = {}
        self._config = config if isinstance(config, Mapping) else dataclasses.asdict(config)
        self._began = datetime.datetime.now().astimezone()
        self._clock = time.perf_counter()
        stamp = self._began.strftime("%Y-%m-%d_%H-%M-%S")
        home = Path(out) / name
        home.mkdir(parents=True, exist_ok=True)
        self.folder = home / f".{stamp}.{os.getpid()}.partial"
        self._final = home / stamp
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(atomic.filling(self.folder))
        self._stack.push(self._finish)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _finish(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self._write()

    def _write(self) -> None:
        record = {
            "name": self.name,
            "began": self._began.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 3),
            "command": [Path(sys.executable).name, *sys.orig_argv[1:]],
            "config": self._config,
            "environment": environment(),
            "metrics": self.metrics,
        }
        text = json.dumps(plain(record), indent=2, allow_nan=False) + "\n"
        (self.folder / "record.json").write_text(text, encoding="utf-8")
        final, i = self._final, 1
        while final.exists():  # two runs within one second
            i += 1
            final = self._final.with_name(f"{self._final.name}_{i}")
        os.replace(self.folder, final)
        self.folder = final


def environment() -> dict[str, Any]:
    """Versions and machine, as every record states them."""
    device = jax.devices()[0]
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in packages},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
