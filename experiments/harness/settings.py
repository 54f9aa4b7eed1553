"""The settings that experiments share, and the bounds of their fields."""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any


@contextmanager
def from_file(path: Path) -> Iterator[None]:
    """Puts the name of a file in front of a ValueError about its content.

    Args:
        path: Path of the file.
    """
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Bound:
    """The values that a field accepts, for the annotation of the field.

    Attributes:
        accepts: A function that says whether a value is accepted.
        words: The second half of the error message; the first half has the refused value.
    """

    accepts: Callable[[Any], bool]
    words: str


Count = Annotated[int, Bound(lambda n: n >= 1, "at least 1 is needed")]
Positive = Annotated[float, Bound(lambda x: x > 0, "a positive number is needed")]
Seed = Annotated[int, Bound(lambda n: 0 <= n < 2**32, f"accepted is 0 to {2**32 - 1}")]
Spread = Annotated[int, Bound(lambda n: n >= 3, "a spread needs at least 3")]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings that every experiment has; each experiment adds its own."""

    data_dir: Path | None = None
    """Folder to look for data sets in first (then JAXNET_DATA, then the user's cache)."""
    out: Path = Path("runs")
    """Folder of run folders; each run adds OUT/NAME/DATE_TIME with record and pictures."""
    device: str | None = None
    """Device to run on, as cpu, gpu, or gpu:1 for the second one; by default JAX's own choice."""

    def validate(self) -> None:
        """Refuses settings that cannot be run; the registry calls it once, before the experiment.

        The range of a field is in its annotation (`Count`, `Positive`, ...). An experiment whose
        settings depend on one another extends this method.

        Raises:
            ValueError: A number is outside its range; the message names the flag.
            FileNotFoundError: The folder of `--data-dir` does not exist.
        """
        hints = typing.get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            flag = "--" + field.name.replace("_", "-")
            several = value if isinstance(value, tuple) else (value,)
            if any(isinstance(x, float) and not math.isfinite(x) for x in several):
                raise ValueError(f"{flag}: {value}; a finite number is needed")
            for bound in _bounds(hints[field.name]):
                if value is not None and not bound.accepts(value):
                    raise ValueError(f"{flag}: {value}; {bound.words}")
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise FileNotFoundError(
                f"--data-dir: there is no folder {self.data_dir}; give one that holds data sets"
            )

    def changed(self) -> dict[str, Any]:
        """The fields that differ from the experiment's defaults, without the folders."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("data_dir", "out", "device")
            and getattr(self, field.name) != field.default
        }


@dataclasses.dataclass(frozen=True)
class Training(Settings):
    """Settings of an experiment that trains a model."""

    seed: Seed = 0
    """Seed of all random numbers, which are those of torch.manual_seed(seed)."""
    epochs: Count = 1
    """Passes over the data."""


@dataclasses.dataclass(frozen=True)
class ShardedTraining(Training):
    """Settings of an experiment that trains on several devices together where that is asked for."""

    mesh: str | None = None
    """Devices to train on together, such as data=4; with several processes, those of all."""

    def validate(self) -> None:
        super().validate()
        if self.mesh is not None and self.device is not None:
            raise ValueError(f"--device: {self.device}; --mesh {self.mesh} says already which")


def _bounds(annotation: Any) -> Iterator[Bound]:
    """The bounds in an annotation such as `Count`, or in parts of it as in `Count | None`."""
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, Bound):
            yield part
    for part in typing.get_args(annotation):
        yield from _bounds(part)
