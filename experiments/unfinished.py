"""Checkpoints of a long command, so that one that was killed goes on."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Unfinished"]


class Unfinished:
    """The checkpoint folders of a command's runs, in OUT/NAME/unfinished.

    Give one folder a run to `train.fit(checkpoint=...)`. Used as a context manager around
    all runs, it takes the folders away when the command is done, and leaves them when it
    is stopped or killed: a finished run is then read back, a broken one goes on.

    Args:
        out: folder of all runs.
        name: of the experiment.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.home = out / name / "unfinished"
        self._used: list[Path] = []

    def folder(self, *parts: object) -> Path:
        """Of one run; the parts have to name every setting that makes another run of it."""
        path = self.home / "_".join(map(str, parts))
        self._used.append(path)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on from {self.home}") from None
        if kind is not None:
            return
        for path in self._used:
            shutil.rmtree(path, ignore_errors=True)
        if self.home.exists() and not any(self.home.iterdir()):
            self.home.rmdir()
