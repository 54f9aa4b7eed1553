"""Saving and restoring: the public class `Checkpoints` and its result `Restored`."""

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

from jaxnet._checks import better
from jaxnet._names import named_leaves
from jaxnet._processes import is_first
from jaxnet.checkpoint._about import (
    as_json,
    read_about,
    read_entries,
    write_about,
    write_entries,
)
from jaxnet.checkpoint._arrays import (
    DamagedError,
    Part,
    Reader,
    check_described,
    description,
    parts_of,
    text_of,
    write_parts,
    writers_of,
)
from jaxnet.checkpoint._folder import FORMAT, Folder

_log = logging.getLogger(__name__)
_FIELDS = {"format", "step", "metrics", "config", "host", "arrays"}


@dataclasses.dataclass(frozen=True)
class Restored:
    """The content of a checkpoint, as `Checkpoints.restore` returns it.

    Attributes:
        state: A pytree like the one that was asked for.
        step: The number that the checkpoint was saved under.
        metrics: The metrics that `save` was given.
        config: The configuration that `save` was given; tuples have become lists.
        host: The further values that `save` was given; tuples have become lists.
        arrays: The further arrays that `save` was given, by name, as numpy arrays.
    """

    state: Any
    step: int
    metrics: dict[str, float]
    config: Any
    host: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Checkpoints:
    """A folder of checkpoints, each of them a folder `step_0000000012` with three files.

    `arrays-00000.safetensors` contains the arrays, `about.json` all other values, and
    `SHA256SUMS` the checksums of both. A checkpoint is written under a hidden name, flushed
    to the disk, and renamed: a process that is killed at any moment leaves the last complete
    checkpoint intact. The checksums are compared before anything is restored. PyTorch has
    `torch.save` for one file and leaves the rest to the program.

    An array that is sharded over several devices is saved part by part, and restored to the
    sharding of the pytree that `restore` is given, which may be another one. Of several
    processes every one calls `save` and `restore` alike, with a folder that all of them see: each
    that has parts of its own writes them in a file of its own, `arrays-00001.safetensors` and so
    on, and the first one makes the checkpoint whole.

    Args:
        folder: Path of the folder, which the first `save` makes. A folder that contains
            other files is refused.
        keep: The number of the newest checkpoints that stay.
        best: The name of a metric; the checkpoint with its best value stays too.
        mode: Whether the lowest value of the metric is the best, "min", or the highest, "max".
            None goes by the metric's name, as in `train.fit`: losses and errors are better low,
            accuracies and the like high.

    Raises:
        ValueError: An argument is out of range, or the folder contains other files.

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
        mode: str | None = None,
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(f"keep: {keep!r}; accepted is an integer, at least 1")
        self._folder = Folder(folder)
        self.folder = self._folder.path
        self.keep, self.best = keep, best
        self.mode = better("loss" if best is None else best, mode)
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
            # The error inside the context is the one to report; this one must not hide it.
            error.add_note(f"and the last checkpoint failed: {late}")

    def steps(self) -> list[int]:
        """The numbers of the checkpoints in the folder, oldest first."""
        return self._folder.steps()

    def best_step(self) -> int | None:
        """The number of the checkpoint with the best metric, the earliest among equals.

        Returns:
            The number, or None if no checkpoint has the metric.
        """
        measured = []
        for step in self.steps():
            try:
                about = read_about(self._folder.of(step), only_this_file=True)
                value = about["metrics"].get(self.best)
            except (DamagedError, LookupError, AttributeError):
                continue
            if isinstance(value, float) and value == value:  # nan differs from itself
                measured.append((value if self.mode == "min" else -value, step))
        return min(measured)[1] if measured else None

    def claim(self) -> None:
        """Reserves the folder for this process, and removes what a killed process left in it.

        `save` does so by itself; calling it earlier shows an error before training begins.

        Raises:
            OSError: The folder cannot be made or written.
            ValueError: Another process writes to the folder, or it contains other files.
        """
        if is_first():
            self._folder.claim()

    def close(self) -> None:
        """Waits for the last checkpoint and lets other processes write to the folder.

        Raises:
            OSError: The last checkpoint could not be written.
        """
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

        It first waits for the checkpoint before, so that at most one is being written. The
        state may be changed or donated as soon as `save` returns.

        Args:
            step: The number of the checkpoint, at least 0. A checkpoint of the same number is
                replaced.
            state: A pytree of arrays, random keys among them.
            metrics: The metrics by name, one of which may be `best`.
            config: A configuration of types that JSON takes.
            host: Further values by name, of types that JSON takes, or bytes: the order of the
                data and the like.
            arrays: Further arrays by name, which `restore` returns whatever their shape.

        Raises:
            OSError: The folder, or the checkpoint before, could not be written. An error of
                this checkpoint is raised by the next `save`, `wait` or `close`.
            TypeError: `config` or `host` contains a type that JSON does not take.
            ValueError: The number is below 0, another process writes to the folder, or the
                folder contains other files.
        """
        array = np.asarray(step)
        if array.shape or array.dtype.kind not in "iu" or array < 0:  # 1.7 would be saved as 1
            raise ValueError(f"step: {step!r}; accepted is an integer, at least 0")
        step = int(array)
        self.wait()
        self.claim()
        _meet((state, arrays))
        # Copied here and not in the background, for the next step may donate the arrays.
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
        writers = writers_of(jax.tree.leaves((state, arrays)))
        if is_first():
            self._pending = self._writer.submit(self._write, step, parts, about, writers)
        elif jax.process_index() in writers:
            self._pending = self._writer.submit(self._write_own, step, parts)

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk.

        In another process than the first one it waits for what this process writes of it.

        Raises:
            OSError: It could not be written.
        """
        # Forgotten before it is asked, so that an error is raised once and not by each call.
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write_own(self, step: int, parts: dict[str, list[Part]]) -> None:
        """Writes the parts of a process that is not the first into the folder that that one makes.

        Processes find one another by their files, since a thread in the background cannot take
        part in what their devices compute together.
        """
        number = jax.process_index()
        try:
            folder = self._folder.awaited_partial(step)
            entries = write_parts(folder / f"arrays-{number:05d}.safetensors", parts)
            write_entries(folder, number, entries)
        except OSError as error:
            raise self._folder.unwritable(error) from error

    def _write(
        self,
        step: int,
        parts: dict[str, list[Part]],
        about: dict[str, Any],
        writers: set[int],
    ) -> None:
        try:
            with self._folder.filling(step) as folder:
                entries = write_parts(folder / "arrays-00000.safetensors", parts)
                for name, described in about["arrays"].items():
                    described["parts"] = entries[name]
                for number in sorted(writers - {0}):
                    for name, more in read_entries(folder, number).items():
                        about["arrays"][name]["parts"] += more
                write_about(folder, about)
            # Old checkpoints go only after the new one is on the disk: there is always one.
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
            step: The number of the checkpoint. None means the newest one that is not damaged;
                the log names the damaged ones that are newer.

        Returns:
            The state in the form of `like`, and all other values of the checkpoint.

        Raises:
            FileNotFoundError: There is no checkpoint, or none of this number.
            DamagedError: The checkpoint of this number, or every checkpoint, is damaged.
            ValueError: The checkpoint is of another model or optimizer (the message names
                every array that differs), or of another format.
        """
        self._folder.check()
        self.wait()
        _meet(like)
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
        try:
            _check_fields(about, step)
        except (TypeError, ValueError) as error:  # TypeError: numpy has no such dtype
            raise DamagedError(f"{path}: damaged: about.json: {error}") from error
        saved, wanted = about["arrays"], named_leaves(like)
        _check_same(path, {k[6:]: v for k, v in saved.items() if k[:6] == "state/"}, wanted)
        reader = Reader(path, saved)
        try:
            leaves = [reader.like(f"state/{name}", leaf) for name, leaf in wanted.items()]
            arrays = {k[7:]: reader.host(k) for k in saved if k[:7] == "arrays/"}
        except DamagedError:
            raise
        # Files that were lost since the checksums were compared, or are not what about.json says.
        except (OSError, LookupError, TypeError, ValueError) as error:
            raise DamagedError(f"{path}: damaged: {error}") from error
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        fields = {name: about[name] for name in ("step", "metrics", "config", "host")}
        return Restored(state=state, arrays=arrays, **fields)


def _meet(tree: Any) -> None:
    """Waits for the other processes, where some arrays are theirs too.

    Then the first process has written what it was writing, and removed what a killed run left.
    """
    leaves = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    if any(not x.is_fully_addressable for x in leaves):
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("jaxnet.checkpoint")


def _check_fields(about: dict[str, Any], step: int) -> None:
    """Raises a ValueError if the values of a checkpoint are not of the kinds that `save` writes."""
    if lacking := sorted(_FIELDS - set(about)):
        raise ValueError(f"it lacks {', '.join(lacking)}")
    if type(about["step"]) is not int or about["step"] != step:
        raise ValueError(f"it is of step {about['step']!r:.50}")
    for name in ("metrics", "host", "arrays"):
        if not isinstance(about[name], dict):
            raise ValueError(f"{name} is {about[name]!r:.50}")
    for name, described in about["arrays"].items():
        check_described(name, described)


def _check_same(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses a checkpoint whose arrays have other names, shapes or dtypes than `wanted`."""
    asked = {name: description(leaf) for name, leaf in wanted.items()}
    lines = [f"not in the checkpoint: {name}" for name in asked if name not in saved]
    lines += [f"only in the checkpoint: {name}" for name in saved if name not in asked]
    for name, described in asked.items():
        there = saved.get(name)
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
