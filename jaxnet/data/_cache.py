"""A cache of decoded data sets on disk, so that each is decoded only once."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxnet import _files as whole_files

_log = logging.getLogger(__name__)
_Arrays = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def cached(name: str, files: Sequence[Path], read: Callable[[], _Arrays]) -> _Arrays:
    """The result of `read`, from the cache if the same files were read before.

    If a file has changed (its path, size or time), or the cache file is damaged, the files
    are read again. If the cache cannot be written, only a warning is logged.

    Args:
        name: The name of the file in the cache.
        files: The paths of the files that `read` reads.
        read: The function that decodes the files.

    Returns:
        The images, uint8 (N, H, W, C), the labels, int32 (N,), and the names of the classes.
    """
    file = whole_files.cache_folder() / "decoded" / f"{name}-{_fingerprint(files)}.npz"
    try:
        with open(file, "rb") as raw, np.load(raw) as kept:  # The zip format has checksums.
            return _checked(kept["images"], kept["labels"], kept["classes"])
    except FileNotFoundError:
        pass
    except Exception as error:  # NumPy and zipfile raise errors of many kinds for damaged bytes.
        _log.warning("%s: damaged (%s); decoding again", file, error)
    images, labels, classes = read()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_files.replacing(file) as temporary, open(temporary, "wb") as out:
            np.savez(out, images=images, labels=labels, classes=np.array(classes))
    except OSError as error:
        _log.warning("%s: not kept for the next start (%s)", file, error)
    return images, labels, classes


def _checked(images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> _Arrays:
    """The arrays of a cache file after a check of their dtypes, shapes and values.

    A file without damage may still come from another program.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images are {images.dtype}{list(images.shape)}")
    if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
        raise ValueError(f"labels are {labels.dtype}{list(labels.shape)} of {len(images)} images")
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise ValueError(f"classes are {classes.dtype}{list(classes.shape)}")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"labels {labels.min()} to {labels.max()} of {len(classes)} classes")
    return images, labels, tuple(classes.tolist())


def _fingerprint(files: Sequence[Path]) -> str:
    """A hash of the paths, sizes and times of files."""
    resolved = sorted(file.resolve() for file in files)
    states = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in resolved]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]
