"""The folder of a run's checkpoints: its content, its lock, and how a checkpoint is added."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxnet import _files as files
from jaxnet.checkpoint._about import ABOUT, SUMS

FORMAT = 2
_LOCK = ".lock"
_STEP = re.compile(r"step_(\d{10,})")
_ASIDE = re.compile(r"\.(step_\d{10,})\.(partial|gone|replaced)")
# The folders that this process writes to: a lock on a file keeps out only other processes.
_WRITING: set[Path] = set()


class Folder:
    """A folder of checkpoints `step_0000000012`.

    A folder is accepted if it contains a checkpoint, or nothing at all. There is no file that
    marks it as a whole, since the loss of that file would make every checkpoint unusable.

    Args:
        path: Path of the folder, which need not exist yet.

    Raises:
        ValueError: The folder contains other files, or checkpoints of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self._lock: int | None = None
        self.check()

    def of(self, step: int) -> Path:
        """The path of one checkpoint."""
        return self.path / f"step_{step:010d}"

    def steps(self) -> list[int]:
        """The numbers of the checkpoints in the folder, oldest first."""
        if not self.path.is_dir():
            return []
        found = (_STEP.fullmatch(entry.name) for entry in self.path.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def check(self) -> None:
        """Refuses a folder that contains other files than checkpoints.

        Raises:
            ValueError: The folder contains other files, or checkpoints of another format.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"{self.path}: a file; give a folder for checkpoints")
        names = {entry.name for entry in self.path.iterdir()}
        steps = sorted(filter(_STEP.fullmatch, names))
        for name in steps:
            there = set(os.listdir(self.path / name)) if (self.path / name).is_dir() else {name}
            if ABOUT in there and "arrays" in there:
                raise ValueError(
                    f"{self.path}: checkpoints of format 1; this jaxnet reads format {FORMAT}; "
                    "go on with the jaxnet that wrote them, or give another folder"
                )
            # One of the two files may be lost; then it is still a checkpoint, a damaged one.
            if there and not there & {ABOUT, SUMS}:
                raise ValueError(
                    f"{self.path / name}: neither {ABOUT} nor {SUMS} is there, so it is not a "
                    "checkpoint of jaxnet; give another folder"
                )
        others = sorted(n for n in names if n != _LOCK and not _ASIDE.fullmatch(n))
        if others and not steps:
            raise ValueError(
                f"{self.path}: holds {', '.join(others[:3])}{', ...' * (len(others) > 3)} "
                "and no checkpoint, so it is not a folder of checkpoints; give a new or an "
                "empty one"
            )

    def claim(self) -> None:
        """Reserves the folder for this process, and removes what a killed process left in it.

        Raises:
            OSError: The folder cannot be made or written.
            ValueError: Another process, or another `Folder` of this one, writes to it; or it
                contains other files.
        """
        if self._lock is not None:
            return
        self.check()
        busy = ValueError(
            f"{self.path}: another process writes its checkpoints there; wait for it, or give "
            "another folder"
        )
        if self.path in _WRITING:
            raise busy
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = files.lock(self.path / _LOCK, wait=False)
            try:
                # Under the lock, or it would remove what another process is just writing.
                self._clear()
            except BaseException:
                os.close(lock)
                raise
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            raise self.unwritable(error) from error
        self._lock = lock
        _WRITING.add(self.path)

    def release(self) -> None:
        """Lets other processes write to the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            _WRITING.discard(self.path)

    @contextmanager
    def filling(self, step: int) -> Iterator[Path]:
        """Gives an empty folder, which becomes the checkpoint of a number when it is filled.

        At every moment there is a complete checkpoint of that number or none, and an older
        one is removed only when the new one is complete.

        Args:
            step: The number of the checkpoint.
        """
        final = self.of(step)
        partial, replaced = self._aside(step, "partial"), self._aside(step, "replaced")
        shutil.rmtree(partial, ignore_errors=True)
        with files.filling(partial):
            yield partial
            # The content has to be on the disk before the final name: after a power cut, a
            # folder with that name must be complete.
            files.flush(partial)
            there = final.exists()
            # A rename cannot replace a folder that is not empty, so the old checkpoint steps
            # aside first. `_clear` brings it back if the process is killed in between.
            if there:
                os.rename(final, replaced)
            try:
                os.rename(partial, final)
            except BaseException:
                if there:
                    os.rename(replaced, final)
                raise
        files.flush_names(self.path)
        # Only now that the new name is on the disk is the old checkpoint not needed any more.
        shutil.rmtree(replaced, ignore_errors=True)

    def awaited_partial(self, step: int) -> Path:
        """The folder that another process is filling for a checkpoint, as soon as it is there.

        Raises:
            OSError: It does not come.
        """
        partial = self._aside(step, "partial")
        files.awaited(partial, f"the first process's folder of step {step}")
        return partial

    def drop(self, step: int) -> None:
        """Removes a checkpoint."""
        gone = self._aside(step, "gone")
        os.rename(self.of(step), gone)  # so that nobody ever sees a half-deleted checkpoint
        shutil.rmtree(gone)

    def unwritable(self, error: OSError) -> OSError:
        """An error of the operating system again, with the folder and the reason in words."""
        full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
        what = "the disk is full" if full else "the folder cannot be written"
        reason = error.strerror or str(error)
        return OSError(
            error.errno or errno.EIO, f"{self.path}: {what}: {reason}; nothing else was changed"
        )

    def _aside(self, step: int, why: str) -> Path:
        """The hidden path of a checkpoint while it is "partial", "gone" or "replaced"."""
        return self.path / f".{self.of(step).name}.{why}"

    def _clear(self) -> None:
        for entry in list(self.path.iterdir()):
            match = _ASIDE.fullmatch(entry.name)
            if not match:
                continue
            whole = self.path / match[1]
            if match[2] == "replaced" and not whole.exists():
                # Killed between the two renames of `filling`: the old checkpoint is complete,
                # and the new one may not be.
                os.rename(entry, whole)
            else:
                shutil.rmtree(entry)
