"""Saving and restoring: the public class over the folder and the files in it."""

import dataclasses
import errno
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from jaxnet import atomic
from jaxnet.checkpoint.about import as_text, read_about, write_about
from jaxnet.checkpoint.arrays import (
    DamagedError,
    check_same,
    facts_of,
    from_host,
    named_arrays,
    one_line,
    read_arrays,
    to_host,
    write_arrays,
)
from jaxnet.checkpoint.folder import FORMAT, Folder

__all__ = ["Checkpoints", "Restored"]


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint gave back.

    Attributes:
        state: like the pytree that was asked for.
        step: the number that it was saved under.
        metrics: as given to `save`.
        config: as given to `save`.
        host: as given to `save`.
        arrays: further arrays by name, as given to `save`; numpy.
    """

    state: Any
    step: int
    metrics: dict[str, float]
    config: Any
    host: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Checkpoints:
    """A folder of checkpoints, each a folder `step_0000000012` that Orbax wrote.

    A checkpoint is written beside the others under a hidden name, flushed to the
    disk, and renamed: a process killed at any moment leaves the last one whole.
    The checksum of every file is kept and compared before anything is read.

    Args:
        folder: made by the first `save`. One that holds other things is refused.
        keep: how many of the newest stay.
        best: a name among the metrics; the checkpoint with the best one stays too.
        mode: "min" or "max": which way is better.

    Raises:
        ValueError: an argument is out of range, or the folder is not one of checkpoints.

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
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

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
                value = read_about(self._folder.of(step))["metrics"].get(self.best)
            except DamagedError:
                continue
            if isinstance(value, float) and value == value:
                measured.append((value if self.mode == "min" else -value, step))
        return min(measured)[1] if measured else None

    def claim(self) -> None:
        """Makes the folder ready for this process to write, and clears what a killed one left.

        Raises:
            OSError: the folder cannot be made or written.
            ValueError: another process writes there, or the folder is not one of checkpoints.
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
            step: the number it gets; one that is there is replaced.
            state: a pytree of arrays, random keys among them.
            metrics: numbers by name, one of which may be `best`.
            config: what JSON takes.
            host: what JSON takes, bytes too: the data's order and place, and the like.
            arrays: further arrays by name, which `restore` gives back whatever their shape.

        Raises:
            OSError: this checkpoint or the one before could not be written.
            ValueError: as `claim`.
        """
        self.wait()
        self.claim()
        held: dict[str, np.ndarray] = {}
        manifest = {}
        for group, named in (("state", named_arrays(state)), ("arrays", dict(arrays or {}))):
            for name, leaf in named.items():
                array, kind = to_host(leaf)
                manifest[f"{group}/{name}"] = facts_of(array, kind)
                held[f"{group}/{name}"] = array
        about = {
            "format": FORMAT,
            "step": int(step),
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "metrics": {name: float(np.asarray(value)) for name, value in (metrics or {}).items()},
            "config": config,
            "host": dict(host or {}),
            "arrays": manifest,
        }
        text = as_text(about)  # here, so that what JSON does not take fails here
        self._writer = threading.Thread(
            target=self._write, args=(int(step), held, text), name="jaxnet-checkpoint"
        )
        self._writer.start()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk; raises what went wrong with it."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, step: int, held: dict[str, np.ndarray], about: str) -> None:
        final = self._folder.of(step)
        partial = self._folder.aside(step, "partial")
        replaced = self._folder.aside(step, "replaced")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            with atomic.filling(partial):
                write_arrays(partial / "arrays", held)
                write_about(partial, about)
                atomic.flush(partial)
                self._put(partial, final, replaced)
            shutil.rmtree(replaced, ignore_errors=True)
            self._drop_old()
        except OSError as error:
            self._error = self._folder.unwritable(error)
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            full = any(word in str(error) for word in ("No space left", "File too large", "quota"))
            code = errno.ENOSPC if full else errno.EIO
            self._error = self._folder.unwritable(OSError(code, one_line(error)))

    def _put(self, partial: Path, final: Path, replaced: Path) -> None:
        there = final.exists()
        if there:
            os.rename(final, replaced)
        try:
            os.rename(partial, final)
        except BaseException:
            if there:
                os.rename(replaced, final)
            raise
        atomic.flush_entry(self.folder)

    def _drop_old(self) -> None:
        steps = self.steps()
        keep = {*steps[-self.keep :], self.best_step() if self.best is not None else None}
        for step in steps:
            if step not in keep:
                gone = self._folder.aside(step, "gone")
                os.rename(self._folder.of(step), gone)  # so that no half-deleted one is ever seen
                shutil.rmtree(gone)

    # restoring

    def restore(self, like: Any, step: int | None = None) -> Restored:
        """Reads a checkpoint back.

        Args:
            like: a pytree of arrays (or `jax.ShapeDtypeStruct`s) with the shapes, dtypes
                and places that the result shall have, such as `train.create(...)`.
            step: which one; without it the newest that is whole. DamagedError ones that are
                newer are named on standard error.

        Raises:
            FileNotFoundError: there is no checkpoint (of that number).
            DamagedError: the one asked for, or every one, is damaged.
            ValueError: it is of another model or optimizer; every array that differs is named.
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
                    print(f"{error}; looking for an older one", file=sys.stderr)
        way_out = "" if step is not None else f"; remove {self.folder} to begin anew"
        raise DamagedError("; ".join(faults) + way_out)

    def _read(self, step: int, like: Any) -> Restored:
        path = self._folder.of(step)
        about = read_about(path, files_too=True)
        wanted = named_arrays(like)
        manifest = about["arrays"]
        check_same(path, {k[6:]: v for k, v in manifest.items() if k[:6] == "state/"}, wanted)
        held = read_arrays(path / "arrays", manifest)
        leaves = [
            from_host(held[f"state/{name}"], manifest[f"state/{name}"], leaf)
            for name, leaf in wanted.items()
        ]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        arrays = {k[7:]: v for k, v in held.items() if k[:7] == "arrays/"}
        fields = {name: about[name] for name in ("step", "metrics", "config", "host")}
        return Restored(state=state, arrays=arrays, **fields)
