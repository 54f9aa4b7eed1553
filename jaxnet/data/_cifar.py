"""The archives of CIFAR-10 and CIFAR-100: tar files of pickled batches or of plain bytes."""

import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

Decoded = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def read_python(path: Path, split: str, classes: int = 10) -> Decoded:
    """Reads `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`.

    Args:
        path: The path of the archive.
        split: The split, "train" or "test".
        classes: The number of classes, 10 or 100 (the fine labels).

    Returns:
        The images, uint8 (N, 32, 32, 3), the labels, int32 (N,), and the names of the classes.

    Raises:
        ValueError: The archive is damaged, or a pickle in it names a function.
    """
    if classes == 10:
        batches, meta = _batches(split), "batches.meta"
        labels_key, names_key = b"labels", b"label_names"
    else:
        batches, meta = [split], "meta"
        labels_key, names_key = b"fine_labels", b"fine_label_names"
    try:
        found = {
            name: _Batch(raw, encoding="bytes").load()
            for name, raw in _members(path, [*batches, meta]).items()
        }
        pixels = np.concatenate([found[name][b"data"].array for name in batches])
        labels = np.concatenate([found[name][labels_key] for name in batches])
        names = tuple(name.decode() for name in found[meta][names_key])
        return _images(pixels), _labels(labels, pixels, classes), names
    except _DAMAGE as error:
        raise _damaged(path, classes, error) from error


def read_binary(path: Path, split: str, classes: int = 10) -> Decoded:
    """Reads `cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz`.

    The arguments, the result and the errors are those of `read_python`.
    """
    if classes == 10:
        batches, meta, head = _batches(split), "batches.meta.txt", 1
        batches = [f"{name}.bin" for name in batches]
    else:  # Each image has two bytes before it, the coarse label and the fine label.
        batches, meta, head = [f"{split}.bin"], "fine_label_names.txt", 2
    try:
        found = {name: raw.read() for name, raw in _members(path, [*batches, meta]).items()}
        rows = np.concatenate([np.frombuffer(found[name], np.uint8) for name in batches])
        rows = rows.reshape(-1, head + 3072)
        names = tuple(found[meta].decode().split())
        return _images(rows[:, head:]), _labels(rows[:, head - 1], rows, classes), names
    except _DAMAGE as error:
        raise _damaged(path, classes, error) from error


# The errors that gzip, tarfile, pickle and the code above raise for damaged bytes.
_DAMAGE = (
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    zlib.error,
    tarfile.TarError,
    pickle.UnpicklingError,
)


def _batches(split: str) -> list[str]:
    """The names of the files in an archive of CIFAR-10 that make up a split."""
    return ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]


def _members(path: Path, wanted: list[str]) -> dict[str, Any]:
    """The wanted files of an archive as open files by name, whatever folder they are in."""
    found = {}
    with gzip.open(path) as unzipped, tarfile.open(fileobj=unzipped) as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            if name in wanted:
                raw = archive.extractfile(member)
                if raw is None:
                    raise KeyError(f"{name} is no file")
                found[name] = io.BytesIO(raw.read())
        while unzipped.read(1 << 20):  # At the end gzip compares the checksum.
            pass
    for name in wanted:
        if name not in found:
            raise KeyError(f"{name} is missing")
    return found


def _images(pixels: np.ndarray) -> np.ndarray:
    """Images (N, 32, 32, 3) from rows of pixels, in which the three channels come in turn."""
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # (N, H, W, C)
    return np.ascontiguousarray(images)


def _labels(labels: np.ndarray, pixels: np.ndarray, classes: int) -> np.ndarray:
    """The checked labels, int32 (N,)."""
    if len(labels) != len(pixels):
        raise ValueError(f"{len(labels)} labels for {len(pixels)} images")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels from {labels.min()} to {labels.max()} for {classes} classes")
    return labels.astype(np.int32)


def _damaged(path: Path, classes: int, error: Exception) -> ValueError:
    return ValueError(f"{path}: damaged CIFAR-{classes} archive: {error!r}; fetch it again")


class _Dtype:
    """Stands for a dtype of numpy while a pickle is read."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order, which bytes do not have."""


class _Pixels:
    """Stands for an array of numpy while a pickle is read; it can only be one of bytes."""

    array: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", b"u1"):
            raise ValueError("its pixels are no bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _encode(text: str, _: Any) -> bytes:
    return text.encode("latin1")


class _Batch(pickle.Unpickler):
    """Unpickles arrays of bytes and refuses all else, because a pickle can call any function.

    Not even numpy's own functions are called, which trust what a pickle gives them.
    """

    _known: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Pixels,
        ("numpy._core.multiarray", "_reconstruct"): _Pixels,
        ("numpy", "ndarray"): _Pixels,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return self._known[module, name]
