"""The idx files of MNIST: a header with the shape, then the values, usually gzipped."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Path) -> np.ndarray:
    """Reads one idx file, gzipped or not.

    Args:
        path: The path of the file.

    Returns:
        An array of the shape and dtype in the file's header.

    Raises:
        ValueError: The file is damaged or is no idx file.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"{error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES:
        raise _damaged(path, "it does not begin as an idx file does")
    kind, axes = np.dtype(_TYPES[raw[2]]), raw[3]
    start = 4 + 4 * axes
    if len(raw) < start:
        raise _damaged(path, "the header is cut short")
    shape = tuple(np.frombuffer(raw, ">u4", axes, offset=4).tolist())
    stated = start + math.prod(shape) * kind.itemsize
    if len(raw) != stated:
        raise _damaged(path, f"{len(raw)} bytes, but the header {shape} asks for {stated}")
    values = np.frombuffer(raw, kind, offset=start).reshape(shape)
    return values.astype(kind.newbyteorder("="))


def stored(folder: Path, name: str) -> Path:
    """The path of a published file in a folder; an idx file may be there without gzip instead."""
    zipped = folder / name
    plain = zipped.with_suffix("")
    idx = name.endswith("-ubyte.gz")
    return plain if idx and plain.is_file() and not zipped.is_file() else zipped


def read_split(folder: Path, split: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images and labels of MNIST or Fashion-MNIST.

    Args:
        folder: The path of the folder with the four idx files.
        split: The split, "train" or "test".
        classes: The number of classes.

    Returns:
        The images, uint8 (N, 28, 28, 1), and the labels, int32 (N,).

    Raises:
        ValueError: A file is damaged.
    """
    part = {"train": "train", "test": "t10k"}[split]
    images_file = stored(folder, f"{part}-images-idx3-ubyte.gz")
    labels_file = stored(folder, f"{part}-labels-idx1-ubyte.gz")
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise _damaged(
            images_file, f"{images.dtype} of shape {images.shape} are no images of 28 x 28"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise _damaged(labels_file, f"{labels.shape} labels for {images.shape[0]} images")
    if labels.size and labels.max() >= classes:
        row = int(np.argmax(labels >= classes))
        raise _damaged(labels_file, f"label {labels[row]} at row {row}; there are {classes}")
    return images[..., None], labels.astype(np.int32)


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path}: damaged file: {what}; copy or fetch it again")
