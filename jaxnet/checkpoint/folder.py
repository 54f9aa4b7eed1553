"""The folder of a run's checkpoints: whose it is, who writes there, what is in it."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

from jaxnet import atomic

__all__ = ["FORMAT", "Folder"]

_MARKER = "jaxnet-checkpoints.json"
_LOCK = ".lock"
FORMAT = 1
_STEP = re.compile(r"step_(\d{10,})")
_ASIDE = re.compile(r"\.(step_\d{10,})\.(partial|gone|replaced)")


class Folder:
    """A folder that holds checkpoints `step_0000000012` and nothing else.

    Args:
        path: need not be there yet.

    Raises:
        ValueError: it holds other things, or checkpoints of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self._lock: int | None = None
        self.check()

    def __str__(self) -> str:
        return str(self.path)

    def of(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.path / f"step_{step:010d}"

    def aside(self, step: int, why: str) -> Path:
        """Where it lies while it is "partial", "gone" or "replaced"."""
        return self.path / f".{self.of(step).name}.{why}"

    def steps(self) -> list[int]:
        """The numbers of the checkpoints that are there, oldest first."""
        if not self.path.is_dir():
            return []
        found = (_STEP.fullmatch(entry.name) for entry in self.path.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def claim(self) -> None:
        """Makes the folder ready for this process to write, and clears what a killed one left.

        Raises:
            OSError: the folder cannot be made or written.
            ValueError: another process writes there, or the folder is not one of checkpoints.
        """
        if self._lock is not None:
            return
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(lock)
                if not (self.path / _MARKER).exists():
                    marker = {"format": FORMAT, "holds": "checkpoints of jaxnet"}
                    atomic.write_text(self.path / _MARKER, json.dumps(marker) + "\n")
                self._clear()
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise self.unwritable(error) from error
        self._lock = lock

    def release(self) -> None:
        """Lets others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check(self) -> None:
        """Raises ValueError if it is not a folder of checkpoints."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"{self.path}: a file; give a folder for checkpoints")
        try:
            known = json.loads((self.path / _MARKER).read_text())["format"]
        except FileNotFoundError:
            others = sorted(p.name for p in self.path.iterdir() if not _is_scratch(p.name))
            if others:
                raise ValueError(
                    f"{self.path}: holds {', '.join(others[:3])}{', ...' * (len(others) > 3)} "
                    f"and no {_MARKER}, so it is not a folder of checkpoints; give a new or an "
                    "empty one"
                ) from None
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path / _MARKER}: cannot be read ({error!r})") from error
        if known != FORMAT:
            raise ValueError(
                f"{self.path}: checkpoints of format {known}; this jaxnet reads {FORMAT}"
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
                f"{self.path}: another process writes its checkpoints there; wait for it, or "
                "give another folder"
            ) from None

    def _clear(self) -> None:
        for entry in list(self.path.iterdir()):
            match = _ASIDE.fullmatch(entry.name)
            if not match:
                continue
            whole = self.path / match[1]
            if match[2] == "replaced" and not whole.exists():
                os.rename(entry, whole)
            else:
                shutil.rmtree(entry)

    def unwritable(self, error: OSError) -> OSError:
        """The same error, in words that say what became of the folder."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else "the folder cannot be written"
        reason = error.strerror or str(error)
        return OSError(
            error.errno or errno.EIO, f"{self.path}: {what}: {reason}; nothing else was changed"
        )


def _is_scratch(name: str) -> bool:
    """What a process killed in its very first moments leaves: nothing that could be missed."""
    return name in (_LOCK, atomic.hidden(Path(_MARKER)).name) or _ASIDE.fullmatch(name) is not None
