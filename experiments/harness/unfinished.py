"""The checkpoints of a long command, so that one that was killed goes on."""

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jaxnet.train import _loaders as loaders


def checksum(*arrays: Any) -> str:
    """A checksum of the numbers in arrays, for the name of a folder: other data, another run."""
    return f"{loaders.checksum(arrays):08x}"


class Unfinished:
    """The checkpoint folders of a command's runs, in OUT/NAME/unfinished.

    Give one folder a run to `train.fit(checkpoint=...)`. Used as a context manager around
    all runs, it takes the folders away when the command is done, and leaves them when it
    is stopped or killed: a finished run is then read back, a broken one goes on. `record.Run`
    holds one for its experiment.

    Args:
        out: The folder of all runs.
        name: The name of the experiment.
    """

    def __init__(self, out: Path, name: str) -> None:
        self.home = out / name / "unfinished"
        self._used: list[Path] = []

    def folder(self, *parts: object) -> Path:
        """The folder of one run; the parts name all that makes another run of it, data too."""
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
        if kind is not None:
            return
        for path in self._used:
            shutil.rmtree(path, ignore_errors=True)
        if self.home.exists() and not any(self.home.iterdir()):
            self.home.rmdir()
