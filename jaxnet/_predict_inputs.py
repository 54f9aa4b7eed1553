"""The rows that `jaxnet predict` is given: images, and tables of numbers."""

import dataclasses
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet._extras import needed
from jaxnet._model_file import ModelFile, in_words
from jaxnet.data import read_image, read_table
from jaxnet.data._image_files import SUFFIXES, image_files, resized
from jaxnet.data.transforms import Normalize, Resize, ToTensor
from jaxnet.data.transforms._crops import middle

TABLES = (".csv", ".npy", ".npz")


class InputError(Exception):
    """What is wrong with what was given for all files."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows for the model.

    Attributes:
        names: What each row is called: the file, and the number of the row in a table.
        inputs: The inputs of the model, with the rows along axis 0.
        given: How many files or rows of tables these are, broken ones included.
    """

    names: list[tuple[str, ...]]
    inputs: list[np.ndarray]
    given: int


class Images:
    """Image files as the input of a model: torchvision's usual transform of evaluation.

    Each is turned upright, resized, cut to its middle, brought to [0, 1] and normalized.

    Args:
        model: The model.
        paths: Paths of files and folders.
        size: The (height, width) of the model's input; None to go by the model.
        resize: The shorter side before the middle is cut out, or (height, width); None for the
            size.
        mean: The means of the channels, in [0, 1].
        std: The standard deviations of the channels.
        upright: Whether images are turned as the EXIF data say.

    Attributes:
        columns: What the parts of a row's name are.
        failed: What is wrong with each file that could not be read.
        words: What was done with each image.
    """

    columns = ("file",)

    def __init__(
        self,
        model: ModelFile,
        paths: Sequence[Path],
        size: Sequence[int] | None,
        resize: Sequence[int] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        upright: bool,
    ) -> None:
        needed("PIL.Image", "jaxnet predict", "pillow")
        shape, dtype = model.inputs[0]
        fits = len(shape) == 3 and shape[0] in (1, 3) and _is_float(dtype)
        if len(model.inputs) > 1 or not fits:
            raise InputError(
                f"{paths[0]}: an image is (rows, 3, height, width), or 1 for grey, of floats; but "
                f"{model.takes()}"
            )
        self._channels, self._size, self._dtype = shape[0], tuple(shape[1:]), dtype
        given = self._size if size is None else (size[0], size[-1])
        if given != self._size:
            raise InputError(
                f"--size {','.join(map(str, size or ()))}: images of {given[0]} x {given[1]} "
                f"pixels; but {model.takes()}"
            )
        self._resize = self._checked_resize(resize)
        self._mean, self._std = self._checked_statistics(mean, std)
        self._upright = upright
        self.failed: list[str] = []
        self._files = list(itertools.chain.from_iterable(map(self._found, paths)))
        self.count: int = len(self._files)
        self._prepare = jax.jit(self._prepared)
        self.words = self._in_words()

    def _checked_resize(self, resize: Sequence[int] | None) -> int | tuple[int, int]:
        height, width = self._size
        if resize is None and height != width:
            raise InputError(
                f"--resize: the model takes {height} x {width} pixels. Give the shorter side "
                f"before the middle is cut out, as --resize {max(self._size)}, or both sides, as "
                f"--resize {height},{width}"
            )
        if resize is None:
            return height
        if len(resize) == 2:
            sides = resize[0], resize[1]
            if sides[0] < height or sides[1] < width:
                raise InputError(
                    f"--resize {sides[0]},{sides[1]}: less than the {height} x {width} pixels that "
                    "the model takes"
                )
            return sides
        if resize[0] < max(self._size):
            raise InputError(
                f"--resize {resize[0]}: less than the {max(self._size)} pixels that the model "
                "takes, so that a border would be black"
            )
        return resize[0]

    def _checked_statistics(self, mean: Any, std: Any) -> tuple[Any, Any]:
        for name, numbers in (("--mean", mean), ("--std", std)):
            if numbers is None:
                continue
            if len(numbers) not in (1, self._channels):
                raise InputError(
                    f"{name}: {len(numbers)} numbers; the model takes {self._channels} "
                    f"channel{'s' * (self._channels > 1)}"
                )
            if max(map(abs, numbers)) > 1 or (name == "--std" and min(numbers) <= 0):
                raise InputError(
                    f"{name} {','.join(map(str, numbers))}: pixels are in [0, 1] here; divide "
                    "numbers of 0 to 255 by 255"
                )
        if mean is None:
            return None, None
        times = [self._channels // len(x) for x in (mean, std)]
        return tuple(mean) * times[0], tuple(std) * times[1]

    def _in_words(self) -> str:
        sides = self._resize
        where = f"{sides[0]} x {sides[1]} pixels" if isinstance(sides, tuple) else (
            f"{sides} pixels at the shorter side")  # fmt: skip
        grey = "grey, " if self._channels == 1 else ""
        turned = "turned upright" if self._upright else "as stored"
        scaled = "no mean and std"
        if self._mean is not None:
            scaled = f"mean {' '.join(map(str, self._mean))}, std {' '.join(map(str, self._std))}"
        return (
            f"images: {turned}, {grey}resized to {where}, the middle {self._size[0]} x "
            f"{self._size[1]}, in [0, 1], {scaled}"
        )

    def _found(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        try:
            files = image_files(path)
        except OSError as error:
            self.failed.append(f"{path}: {error.strerror or error}")
            return []
        if not files:
            self.failed.append(f"{path}: no images there; looked for {', '.join(SUFFIXES)}")
        return files

    def _read(self, path: Path) -> np.ndarray | str:
        """The pixels, uint8 (H, W, C), or what is wrong with the file."""
        if path.suffix.lower() not in SUFFIXES:
            return f"{path}: no image of {', '.join(SUFFIXES)}"
        try:
            pixels = read_image(path, upright=self._upright)
        except (OSError, ValueError) as error:
            return _about(path, error)
        sides = Resize(self._resize).sizes(*pixels.shape[:2])
        pixels = resized(pixels, sides)
        if self._channels == 1:
            Image = needed("PIL.Image", "jaxnet predict", "pillow")
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
        top, left = map(middle, sides, self._size)
        return pixels[top : top + self._size[0], left : left + self._size[1]]

    def _prepared(self, pixels: jax.Array) -> jax.Array:
        key = jax.random.key(0)  # which neither of them uses
        images = ToTensor()(key, pixels)
        if self._mean is not None:
            images = Normalize(self._mean, self._std)(key, images)
        return images

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """The rows, so many at a time."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
            for start in range(0, len(self._files), batch_size):
                files = self._files[start : start + batch_size]
                found = list(zip(files, readers.map(self._read, files), strict=True))
                good = [(file, x) for file, x in found if not isinstance(x, str)]
                self.failed += [x for _, x in found if isinstance(x, str)]
                names: list[tuple[str, ...]] = [(str(file),) for file, _ in good]
                pixels = []
                if good:
                    images = np.asarray(self._prepare(np.stack([x for _, x in good])))
                    pixels = [images.astype(self._dtype)]
                yield Rows(names, pixels, len(files))


class Tables:
    """Tables of numbers as the inputs of a model: .csv, .npy and .npz files.

    Args:
        model: The model.
        paths: Paths of the files.
        columns: The columns of a CSV, in the order of the model's; None for all.
        mean: The means that are taken from the columns.
        std: The standard deviations by which they are divided.

    Attributes are those of `Images`.
    """

    columns = ("file", "row")
    words = ""

    def __init__(
        self,
        model: ModelFile,
        paths: Sequence[Path],
        columns: Sequence[str] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        if std is not None and 0 in std:
            raise InputError("--std: a zero, which cannot be divided by")
        others = [path for path in paths if path.suffix.lower() != ".csv"]
        if others and (columns is not None or mean is not None):
            name = "--columns" if columns is not None else "--mean, --std"
            raise InputError(f"{name}: they are for a .csv, and {others[0]} is none")
        self._model, self._columns, self._mean, self._std = model, columns, mean, std
        self.failed: list[str] = []
        self._tables: list[tuple[Path, list[np.ndarray]]] = []
        for path in paths:
            try:
                self._tables.append((path, self._read(path)))
            except (OSError, ValueError) as error:
                self.failed.append(_about(path, error))
        self.count = sum(len(inputs[0]) for _, inputs in self._tables)

    def _read(self, path: Path) -> list[np.ndarray]:
        arrays = [self._of_csv(path)] if path.suffix.lower() == ".csv" else _arrays(path)
        shapes = in_words(arrays)
        wrong = len(arrays) != len(self._model.inputs) or any(
            not x.ndim or x.shape[1:] != shape
            for x, (shape, _) in zip(arrays, self._model.inputs, strict=True)
        )
        if wrong:
            raise ValueError(f"{path}: it holds {shapes}; but {self._model.takes()}")
        if len({len(x) for x in arrays}) != 1:
            raise ValueError(f"{path}: {shapes}; accepted are arrays with the same number of rows")
        if not len(arrays[0]):
            raise ValueError(f"{path}: it holds no rows")
        return [self._in_dtype(path, x, dtype)
                for x, (_, dtype) in zip(arrays, self._model.inputs, strict=True)]  # fmt: skip

    def _of_csv(self, path: Path) -> np.ndarray:
        try:
            table = read_table(path, columns=self._columns, dtype=np.float64)
        except ValueError as error:
            if self._columns is None and "is no number" in str(error):
                raise ValueError(
                    f"{error}; --columns a,b takes the columns that are meant"
                ) from error
            raise
        if all(map(_is_number, table.columns)):
            raise ValueError(
                f"{path}: its first line is {', '.join(table.columns[:5])}, which would be lost; "
                "the first line has to name the columns"
            )
        shape, dtype = self._model.inputs[0]
        values = table.values
        if len(self._model.inputs) == 1 and values.shape[1:] != shape:
            raise ValueError(
                f"{path}: {values.shape[1]} columns ({', '.join(table.columns[:40])}); but "
                f"{self._model.takes()}"
            )
        if self._mean is not None and self._std is not None:
            for name, numbers in (("--mean", self._mean), ("--std", self._std)):
                if len(numbers) not in (1, values.shape[1]):
                    raise ValueError(
                        f"{path}: {name} has {len(numbers)} numbers, and there are "
                        f"{values.shape[1]} columns"
                    )
            # In the model's precision, as a program computes it with what `read_table` gives.
            kind = dtype if _is_float(dtype) else np.dtype(np.float64)
            mean, std = np.asarray(self._mean, kind), np.asarray(self._std, kind)
            given = np.isfinite(values)
            with np.errstate(all="ignore"):
                values = (values.astype(kind) - mean) / std
            if (given & ~np.isfinite(values)).any():
                raise ValueError(f"{path}: a number does not fit {kind} after --mean and --std")
        if not _is_float(dtype):
            whole = values.astype(dtype)
            if (whole != values).any() or (np.abs(values) >= 2**53).any():
                raise ValueError(f"{path}: {self._model.takes()}, and it has other numbers")
            return whole
        return values

    def _in_dtype(self, path: Path, x: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """The numbers in the model's dtype; a float is rounded, and a whole number stays."""
        alike = _is_float(x.dtype) and _is_float(dtype)
        alike |= x.dtype.kind in "iu" and dtype.kind in "iu"
        if not alike and x.dtype != dtype:
            raise ValueError(
                f"{path}: it holds {x.dtype}; but {self._model.takes()}. Convert it first, "
                f"as by x.astype({dtype.name!r}), and scale it as for training"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            found = x.astype(dtype)
        if alike and _is_float(dtype):
            lost = np.isfinite(x.astype(np.float64)) & ~np.isfinite(found.astype(np.float64))
        else:
            lost = found != x
        if lost.any():
            raise ValueError(f"{path}: {x[lost].ravel()[0]} does not fit {dtype}")
        return found

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """The rows, so many at a time."""
        for path, inputs in self._tables:
            for start in range(0, len(inputs[0]), batch_size):
                part = [x[start : start + batch_size] for x in inputs]
                names: list[tuple[str, ...]] = [
                    (str(path), str(start + i)) for i in range(len(part[0]))
                ]
                yield Rows(names, part, len(names))


def _arrays(path: Path) -> list[np.ndarray]:
    """The arrays of a .npy or .npz file, in its order."""
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return [found]
        with found:
            return [found[name] for name in found.files]
    except FileNotFoundError:
        raise
    except Exception as error:  # of a damaged zip, and of pickled objects
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: no sound file of numpy: {reason}") from error


def _is_float(dtype: np.dtype) -> bool:
    return bool(jax.numpy.issubdtype(dtype, np.floating))


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _about(path: Path, error: Exception) -> str:
    """An error in one line that begins with the file."""
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    text = " ".join(str(error).split())
    return text if text.startswith(str(path)) else f"{path}: {text}"
