"""Checkpoints of a training run: whole or not there, written while training goes on."""

import base64
import dataclasses
import errno
import json
import os
import re
import shutil
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Checkpoints", "DamagedError", "Restored", "named_arrays"]

_MARKER = "jaxnet-checkpoints.json"
_LOCK = ".lock"
_FORMAT = 1
_STEP = re.compile(r"step_(\d{10,})")
_ASIDE = re.compile(r"\.(step_\d{10,})\.(partial|gone|replaced)")


class DamagedError(ValueError):
    """A checkpoint that is there but cannot be read back as it was written."""


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
        self.folder = Path(folder).expanduser().absolute()
        self.keep, self.best, self.mode = keep, best, mode
        self._lock: int | None = None
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None
        self._check_ours()

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

    # the folder

    def steps(self) -> list[int]:
        """The numbers of the checkpoints that are there, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def best_step(self) -> int | None:
        """The checkpoint with the best metric, the earliest of equals; None if none has it."""
        measured = []
        for step in self.steps():
            try:
                value = _read_about(self._path(step))["metrics"].get(self.best)
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
        if self._lock is not None:
            return
        self._check_ours()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(lock)
                if not (self.folder / _MARKER).exists():
                    marker = {"format": _FORMAT, "holds": "checkpoints of jaxnet"}
                    _write_whole(self.folder / _MARKER, json.dumps(marker) + "\n")
                self._clear()
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise self._unwritable(error) from error
        self._lock = lock

    def close(self) -> None:
        """Waits for the last checkpoint and lets others write."""
        try:
            self.wait()
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:010d}"

    def _check_ours(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: a file; give a folder for checkpoints")
        try:
            known = json.loads((self.folder / _MARKER).read_text())["format"]
        except FileNotFoundError:
            others = sorted(p.name for p in self.folder.iterdir() if not _is_scratch(p.name))
            if others:
                raise ValueError(
                    f"{self.folder}: holds {', '.join(others[:3])}{', ...' * (len(others) > 3)} "
                    f"and no {_MARKER}, so it is not a folder of checkpoints; give a new or an "
                    "empty one"
                ) from None
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.folder / _MARKER}: cannot be read ({error!r})") from error
        if known != _FORMAT:
            raise ValueError(
                f"{self.folder}: checkpoints of format {known}; this jaxnet reads {_FORMAT}"
            )

    def _take(self, lock: int) -> None:
        try:
            import fcntl
        except ImportError:  # not on this system; two writers are then not noticed
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.folder}: another process writes its checkpoints there; wait for it, or "
                "give another folder"
            ) from None

    def _clear(self) -> None:
        for entry in list(self.folder.iterdir()):
            match = _ASIDE.fullmatch(entry.name)
            if not match:
                continue
            whole = self.folder / match[1]
            if match[2] == "replaced" and not whole.exists():
                os.rename(entry, whole)
            else:
                shutil.rmtree(entry)

    def _unwritable(self, error: OSError) -> OSError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else "the folder cannot be written"
        reason = error.strerror or str(error)
        return OSError(
            error.errno or errno.EIO, f"{self.folder}: {what}: {reason}; nothing else was changed"
        )

    # saving

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
                array, kind = _to_host(leaf)
                manifest[f"{group}/{name}"] = _facts(array, kind)
                held[f"{group}/{name}"] = array
        about = {
            "format": _FORMAT,
            "step": int(step),
            "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "metrics": {name: _number(value) for name, value in (metrics or {}).items()},
            "config": config,
            "host": dict(host or {}),
            "arrays": manifest,
        }
        text = json.dumps(_packed(about))  # here, so that what JSON does not take fails here
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
        final = self._path(step)
        partial = self.folder / f".{final.name}.partial"
        replaced = self.folder / f".{final.name}.replaced"
        try:
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                _write_arrays(partial / "arrays", held)
                sums = {"about": zlib.crc32(about.encode()), "files": _checksums(partial)}
                (partial / "about.json").write_text(json.dumps({"sums": sums, "about": about}))
                _flush(partial)
                if final.exists():
                    os.rename(final, replaced)
                os.rename(partial, final)
                _flush_entry(self.folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
            self._drop_old()
        except OSError as error:
            self._error = self._unwritable(error)
        except Exception as error:  # tensorstore reports a full disk as a ValueError
            text = " ".join(str(error).split())
            full = any(word in text for word in ("No space left", "File too large", "quota"))
            code = errno.ENOSPC if full else errno.EIO
            self._error = self._unwritable(OSError(code, text[:300]))

    def _drop_old(self) -> None:
        steps = self.steps()
        keep = {*steps[-self.keep :], self.best_step() if self.best is not None else None}
        for step in steps:
            if step not in keep:
                gone = self.folder / f".{self._path(step).name}.gone"
                os.rename(self._path(step), gone)  # so that no half-deleted one is ever seen
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
        self._check_ours()
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
        raise DamagedError("; ".join(faults))

    def _read(self, step: int, like: Any) -> Restored:
        path = self._path(step)
        about = _read_about(path, files_too=True)
        wanted = named_arrays(like)
        manifest = about["arrays"]
        _check_same(path, {k[6:]: v for k, v in manifest.items() if k[:6] == "state/"}, wanted)
        held = _read_arrays(path / "arrays", manifest)
        leaves = [
            _from_host(held[f"state/{name}"], manifest[f"state/{name}"], leaf)
            for name, leaf in wanted.items()
        ]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        arrays = {k[7:]: v for k, v in held.items() if k[:7] == "arrays/"}
        fields = {name: about[name] for name in ("step", "metrics", "config", "host")}
        return Restored(state=state, arrays=arrays, **fields)


def named_arrays(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by dotted name ("params.fc1.weight"), in its order."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = plain = jax.tree_util.keystr(path, simple=True, separator=".")
        count = 1
        while name in named:
            count += 1
            name = f"{plain}#{count}"
        named[name] = leaf
    return named


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any) -> tuple[np.ndarray, str | None]:
    """A copy of our own, which a donated buffer cannot change, and the key's kind."""
    kind = None
    if _is_key(leaf):
        kind, leaf = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
    return np.array(leaf, copy=True, order="C"), kind


def _facts(array: Any, kind: str | None) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype), "key": kind}


def _wanted_facts(leaf: Any) -> dict[str, Any]:
    if _is_key(leaf):
        kind = str(jax.random.key_impl(leaf))
        return _facts(jax.eval_shape(jax.random.key_data, leaf), kind)
    return _facts(leaf if hasattr(leaf, "dtype") else np.asarray(leaf), None)


def _from_host(array: np.ndarray, facts: dict[str, Any], leaf: Any) -> Any:
    if not hasattr(leaf, "dtype"):
        return type(leaf)(array.item())
    if isinstance(leaf, np.ndarray | np.generic):
        return array if isinstance(leaf, np.ndarray) else array[()]
    if facts["key"] is not None:
        key = jax.random.wrap_key_data(jnp.array(array), impl=facts["key"])
        return jax.device_put(key, leaf.sharding) if leaf.sharding is not None else key
    # jnp.array copies: a device_put on the CPU may keep numpy's memory as its own.
    placed = jnp.array(array)
    return jax.device_put(placed, leaf.sharding) if leaf.sharding is not None else placed


def _check_same(path: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    def printed(facts: dict[str, Any]) -> str:
        return f"{facts['key'] or facts['dtype']}{facts['shape']}"

    asked = {name: _wanted_facts(leaf) for name, leaf in wanted.items()}
    lines = [f"not in the checkpoint: {name}" for name in asked if name not in held]
    lines += [f"only in the checkpoint: {name}" for name in held if name not in asked]
    for name, facts in asked.items():
        there = held.get(name)
        if there and {k: there[k] for k in facts} != facts:
            lines.append(f"{name}: {printed(there)} in the checkpoint, {printed(facts)} asked for")
    if lines:
        raise ValueError(
            f"{path}: a checkpoint of another model or optimizer:\n  "
            + "\n  ".join(lines)
            + "\ngive the state that it was saved from, or another folder"
        )


def _checksums(folder: Path) -> dict[str, int]:
    """CRC-32 of every file below."""
    sums = {}
    for root, _, files in os.walk(folder):
        for name in files:
            path, crc = Path(root) / name, 0
            with open(path, "rb") as file:
                while piece := file.read(2**20):
                    crc = zlib.crc32(piece, crc)
            sums[path.relative_to(folder).as_posix()] = crc
    return sums


def _number(value: Any) -> float:
    return float(np.asarray(value))


def _write_arrays(path: Path, held: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    # Orbax takes no array without elements; the manifest says all about those.
    tree = {f"{i:05d}": array for i, array in enumerate(held.values()) if array.size}
    if tree:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
            writer.save(path, args=ocp.args.PyTreeSave(tree))


def _read_arrays(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    keys = {f"{i:05d}": name for i, name in enumerate(manifest)}
    stored = {key for key, name in keys.items() if 0 not in manifest[name]["shape"]}
    how = ocp.RestoreArgs(restore_type=np.ndarray)
    tree: dict[str, Any] = {}
    if stored:
        try:
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                args = ocp.args.PyTreeRestore(restore_args=dict.fromkeys(sorted(stored), how))
                tree = reader.restore(path, args=args)
        except Exception as error:  # whatever Orbax and tensorstore make of broken files
            raise DamagedError(f"{path.parent}: damaged: {_one_line(error)}") from error
    held = {}
    for key, name in keys.items():
        facts = manifest[name]
        array = tree.get(key) if key in stored else np.zeros(facts["shape"], facts["dtype"])
        if array is None or _facts(array, facts["key"]) != facts:
            raise DamagedError(f"{path.parent}: damaged: {name} is not what was saved")
        held[name] = array
    return held


def _read_about(path: Path, files_too: bool = False) -> dict[str, Any]:
    try:
        outer = json.loads((path / "about.json").read_text())
        text, sums = outer["about"], outer["sums"]
        if zlib.crc32(text.encode()) != sums["about"]:
            raise ValueError("about.json is not what was saved")
        # A broken file must not reach tensorstore, which has threads that outlive an error.
        found = _checksums(path) if files_too else {}
        wrong = [name for name, crc in sums["files"].items() if found.get(name) != crc]
        if files_too and wrong:
            raise ValueError(f"{', '.join(wrong)} not as written")
        return _unpacked(json.loads(text))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: damaged: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _packed(value: Any) -> Any:
    """The same as JSON takes it, bytes as base64."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(key): _packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"base64"}:
            return base64.b64decode(value["base64"])
        return {key: _unpacked(item) for key, item in value.items()}
    return [_unpacked(item) for item in value] if isinstance(value, list) else value


def _is_scratch(name: str) -> bool:
    """What a process killed in its very first moments leaves: nothing that could be missed."""
    return name in (_LOCK, f".{_MARKER}") or _ASIDE.fullmatch(name) is not None


def _write_whole(path: Path, text: str) -> None:
    hidden = path.with_name(f".{path.name}")
    hidden.write_text(text)
    os.replace(hidden, path)


def _flush(folder: Path) -> None:
    """Makes sure that every file below is on the disk, not only in the system's memory."""
    for root, _, files in os.walk(folder):
        for name in files:
            _flush_entry(Path(root) / name)
        _flush_entry(Path(root))


def _flush_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
