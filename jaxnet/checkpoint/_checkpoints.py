"""Saving and restoring: the public class over the folder and the files in it."""

import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from jaxnet._names import named_leaves
from jaxnet.checkpoint._about import as_json, read_about, write_about
from jaxnet.checkpoint._arrays import (
    DamagedError,
    Part,
    Reader,
    description,
    parts_of,
    text_of,
    write_parts,
)
from jaxnet.checkpoint._folder import FORMAT, Folder

_log = logging.getLogger(__name__)
_FIELDS = {"format", "step", "metrics", "config", "host", "arrays"}


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back.

    Attributes:
        state: A pytree like the one that was asked for.
        step: The number that it was saved under.
        metrics: The metrics that `save` was given.
        config: The configuration that `save` was given.
        host: The further values that `save` was given.
        arrays: The further arrays that `save` was given, by name, as numpy arrays.
    """

    state: Any
    step: int
    metrics: dict[str, float]
    config: Any
    host: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Checkpoints:
    """A folder of checkpoints, each a folder `step_0000000012` of three files.

    `arrays-00000.safetensors` holds the arrays, `about.json` all else, `SHA256SUMS` the
    checksums of both. A checkpoint is written beside the others under a hidden name,
    flushed to the disk, and renamed: a process killed at any moment leaves the last one
    whole. The checksums are compared before anything is read.

    An array that is sharded over several devices is saved part by part, and restored to the
    sharding of the pytree that `restore` is given, which may be another one.

    Args:
        folder: The folder, made by the first `save`. One that holds other things is refused.
        keep: How many of the newest checkpoints stay.
        best: A name among the metrics; the checkpoint with the best one stays too.
        mode: Which way a metric is better, "min" or "max".

    Raises:
        ValueError: An argument is out of range, or the folder is not one of checkpoints.

    >>> import jax.numpy as jnp, tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Checkpoints(folder + "/run") as run:
    ...     run.save(3, {"w": jnp.arange(2)}, metrics={"loss": 0.5})
    ...     run.wait()
    ...     back = run.restore({"w": jnp.zeros(2, int)})
    >>> back.step, back.state["w"].tolist(), back.metrics
    (3, [0, 1], {'loss': 0.5})
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 3,
        best: str | None = None,
        mode: str = "min",
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep: {keep!r}; accepted is an integer, at least 1")
        if mode not in ("min", "max"):
            raise ValueError(f"mode: {mode!r}; accepted are 'min' and 'max'")
        self._folder = Folder(folder)
        self.folder = self._folder.path
        self.keep, self.best, self.mode = keep, best, mode
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="jaxnet-checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception as late:
            if error is None:
                raise
            error.add_note(f"and the last checkpoint failed: {late}")

    def steps(self) -> list[int]:
        """The numbers of the checkpoints that are there, oldest first."""
        return self._folder.steps()

    def best_step(self) -> int | None:
        """The checkpoint with the best metric, the earliest of equals; None if none has it."""
        measured = []
        for step in self.steps():
            try:
                about = read_about(self._folder.of(step), only_this_file=True)
                value = about["metrics"].get(self.best)
            except (DamagedError, LookupError, AttributeError):
                continue
            if isinstance(value, float) and value == value:
                measured.append((value if self.mode == "min" else -value, step))
        return min(measured)[1] if measured else None

    def claim(self) -> None:
        """Makes the folder ready for this process to write, and clears what a killed one left.

        Raises:
            OSError: The folder cannot be made or written.
            ValueError: Another process writes there, or the folder is not one of checkpoints.
        """
        self._folder.claim()

    def close(self) -> None:
        """Waits for the last checkpoint and lets others write."""
        try:
            self.wait()
        finally:
            self._folder.release()

    def save(
        self,
        step: int,
        state: Any,
        *,
        metrics: Mapping[str, Any] | None = None,
        config: Any = None,
        host: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Any] | None = None,
    ) -> None:
        """Copies the state to the host and writes it in the background.

        Waits for the checkpoint before it, so that at most one is on its way.

        Args:
            step: The number that it gets, at least 0; one that is there is replaced.
            state: A pytree of arrays, random keys among them.
            metrics: Numbers by name, one of which may be `best`.
            config: Anything that JSON takes.
            host: Values by name that JSON takes, or bytes: the order of the data and the like.
            arrays: Further arrays by name, which `restore` gives back whatever their shape.

        Raises:
            OSError: This checkpoint or the one before could not be written.
            TypeError: `config` or `host` holds what JSON does not take.
            ValueError: A number below 0, or as `claim`.
        """
        step = int(step)
        if step < 0:
            raise ValueError(f"step: {step}; accepted is an integer, at least 0")
        self.wait()
        self.claim()
        described: dict[str, Any] = {}
        parts: dict[str, list[Part]] = {}
        for group, named in (("state", named_leaves(state)), ("arrays", dict(arrays or {}))):
            for name, leaf in named.items():
                described[f"{group}/{name}"] = description(leaf)
                parts[f"{group}/{name}"] = parts_of(name, leaf)
        about = {
            "format": FORMAT,
            "step": step,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "metrics": {name: float(np.asarray(value)) for name, value in (metrics or {}).items()},
            "config": as_json(config),
            "host": as_json(host or {}),
            "arrays": described,
        }
        self._pending = self._writer.submit(self._write, step, parts, about)

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk; raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, step: int, parts: dict[str, list[Part]], about: dict[str, Any]) -> None:
        try:
            with self._folder.filling(step) as folder:
                # One file for each process, so that several can write side by side one day.
                entries = write_parts(folder / "arrays-00000.safetensors", parts)
                for name, described in about["arrays"].items():
                    described["parts"] = entries[name]
                write_about(folder, about)
            steps = self.steps()
            stay = {*steps[-self.keep :], self.best_step() if self.best is not None else None}
            for old in steps:
                if old not in stay:
                    self._folder.drop(old)
        except OSError as error:
            raise self._folder.unwritable(error) from error

    # restoring

    def restore(self, like: Any, step: int | None = None) -> Restored:
        """Reads a checkpoint back.

        Args:
            like: A pytree of arrays (or `jax.ShapeDtypeStruct`s) with the shapes, dtypes
                and shardings that the result shall have, such as `train.create(...)`.
            step: The number of the checkpoint; None means the newest one that is whole.
                Newer ones that are damaged are named in the log.

        Raises:
            FileNotFoundError: There is no checkpoint (of that number).
            DamagedError: The one asked for, or every one, is damaged.
            ValueError: It is of another model or optimizer, and every array that differs is
                named; or of another format.
        """
        self._folder.check()
        self.wait()
        steps = self.steps()
        if step is not None and step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise FileNotFoundError(f"{self.folder}: no checkpoint of step {step}; there: {there}")
        if not steps:
            raise FileNotFoundError(f"{self.folder}: holds no checkpoint")
        faults = []
        for number in [step] if step is not None else reversed(steps):
            try:
                return self._read(number, like)
            except DamagedError as error:
                faults.append(str(error))
                if step is None:
                    _log.warning("%s; looking for an older one", error)
        way_out = "" if step is not None else f"; remove {self.folder} to begin anew"
        raise DamagedError("; ".join(faults) + way_out)

    def _read(self, step: int, like: Any) -> Restored:
        path = self._folder.of(step)
        about = read_about(path)
        if about.get("format") != FORMAT:
            raise ValueError(
                f"{path}: a checkpoint of format {about.get('format')!r}; this jaxnet reads "
                f"format {FORMAT}"
            )
        if lacking := sorted(_FIELDS - set(about)):
            raise DamagedError(f"{path}: damaged: about.json lacks {', '.join(lacking)}")
        held, wanted = about["arrays"], named_leaves(like)
        _check_same(path, {k[6:]: v for k, v in held.items() if k[:6] == "state/"}, wanted)
        reader = Reader(path, held)
        try:
            leaves = [reader.like(f"state/{name}", leaf) for name, leaf in wanted.items()]
            arrays = {k[7:]: reader.host(k) for k in held if k[:7] == "arrays/"}
        except (OSError, LookupError) as error:  # lost since the checksums were compared
            raise DamagedError(f"{path}: damaged: {error}") from error
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        fields = {name: about[name] for name in ("step", "metrics", "config", "host")}
        return Restored(state=state, arrays=arrays, **fields)


def _check_same(path: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError with every array that differs from the one asked for."""
    asked = {name: description(leaf) for name, leaf in wanted.items()}
    lines = [f"not in the checkpoint: {name}" for name in asked if name not in held]
    lines += [f"only in the checkpoint: {name}" for name in held if name not in asked]
    for name, described in asked.items():
        there = held.get(name)
        if there and {key: there[key] for key in described} != described:
            lines.append(
                f"{name}: {text_of(there)} in the checkpoint, {text_of(described)} asked for"
            )
    if lines:
        raise ValueError(
            f"{path}: a checkpoint of another model or optimizer:\n  "
            + "\n  ".join(lines)
            + "\ngive the state that it was saved from, or another folder"
        )
