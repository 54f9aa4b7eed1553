"""The checkpoints of a long command, by which the command goes on after it was killed."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jaxnet import _processes


def checksum(*arrays: Any) -> str:
    """A checksum of the numbers in arrays, for the name of a checkpoint folder.

    With it, a run on other data gets another folder.

    Args:
        *arrays: Arrays, or pytrees of arrays.
    """
    return f"{_processes.checksum(arrays):08x}"


class Unfinished:
    """The checkpoint folders of a command's runs, in OUT/NAME/unfinished.

    Give each run a folder of its own by `train.fit(checkpoint=...)`. As a context manager
    around all runs, it removes the folders when the command is done, and leaves them when the
    command is stopped or killed: the same command then restores the runs that were finished
    and resumes the others. `record.Run` has one for its experiment.

    Args:
        out: Path of the folder of all runs.
        name: The name of the experiment.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.home = out / name / "unfinished"
        self._used: list[Path] = []

    def folder(self, *parts: object) -> Path:
        """The checkpoint folder of one run.

        Args:
            *parts: The parts of its name, which have to include every setting that changes the
                run, and a checksum of the data.
        """
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
        if kind is KeyboardInterrupt and self._used:
            raise KeyboardInterrupt(f"the same command goes on from {self.home}") from None
        if kind is not None or not _processes.is_first():
            return
        for path in self._used:
            shutil.rmtree(path, ignore_errors=True)
        if self.home.exists() and not any(self.home.iterdir()):
            self.home.rmdir()
