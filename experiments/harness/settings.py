"""The settings that every experiment has."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Settings", "from_file"]


@contextmanager
def from_file(path: Path) -> Iterator[None]:
    """Puts a file's name before errors about what was read from it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of an experiment; each experiment adds its own."""

    seed: int = 0
    """Seed of all random numbers: what torch.manual_seed(seed) draws."""
    epochs: int = 1
    """Passes over the data."""
    data_dir: Path | None = None
    """Folder to look for data sets in first (then JAXNET_DATA, then the user's cache)."""
    out: Path = Path("runs")
    """Folder of run folders; each run adds OUT/NAME/DATE_TIME with record and pictures."""

    def validate(self) -> None:
        """Refuses what cannot be run.

        Raises:
            ValueError: a number outside its range, naming the flag.
            FileNotFoundError: `--data-dir` is not there.
        """
        if self.epochs < 1:
            raise ValueError(f"--epochs: {self.epochs}; at least 1 is needed")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed: {self.seed}; accepted is 0 to {2**32 - 1}")
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise FileNotFoundError(
                f"--data-dir: there is no folder {self.data_dir}; give one that holds data sets"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            several = value if isinstance(value, tuple) else (value,)
            if any(isinstance(x, float) and not math.isfinite(x) for x in several):
                flag = "--" + field.name.replace("_", "-")
                raise ValueError(f"{flag}: {value}; a finite number is needed")
