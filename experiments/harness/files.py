"""The book's files, which are read as they are: where they are looked for."""

import dataclasses
import os
from pathlib import Path

from jaxnet import data
from jaxnet.data._catalogue import folders

_BOOK = "the data of the book 'Deep Learning with PyTorch' (dlwpt-code, data/p1ch4)"


@dataclasses.dataclass(frozen=True)
class BookFile:
    """A file or folder of the book.

    Attributes:
        patterns: Where it lies below a data folder, the likeliest first.
        origin: Where it can be had.
    """

    patterns: tuple[str, ...]
    origin: str = _BOOK


FILES = {
    "austen": BookFile(
        ("jane-austen/1342-0.txt", "1342-0.txt"), f"{_BOOK}; Project Gutenberg's text 1342"
    ),
    "bikes": BookFile(
        ("bike-sharing-dataset/hour-fixed.csv", "hour-fixed.csv"),
        f"{_BOOK}, made from UCI's bike sharing data by filling in the missing hours",
    ),
    "cats": BookFile(("image-cats",)),
    "ct_scan": BookFile(("volumetric-dicom/2-LUNG*", "2-LUNG*")),
    "dog": BookFile(("image-dog/bobby.jpg", "bobby.jpg")),
    "wine": BookFile(
        ("tabular-wine/winequality-white.csv", "winequality-white.csv"),
        f"{_BOOK}, and of UCI's wine quality data",
    ),
}


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where a file or folder of the book lies.

    Args:
        name: A key of `FILES`.
        data_dir: A folder to look in before JAXNET_DATA and the user's cache.

    Raises:
        FileNotFoundError: It is not there; the message says where it was looked for and where
            it can be had.
    """
    found = _first(name, data_dir)
    if found is None:
        searched = "\n  ".join(map(str, folders(data_dir)))
        wanted = FILES[name]
        raise FileNotFoundError(
            f"{name}: no {wanted.patterns[0]} in any of\n  {searched}\n"
            f"It is part of {wanted.origin}; put it into one of these folders, or give its "
            "folder by --data-dir or JAXNET_DATA"
        )
    return found


def available(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Where a file of the book, or a data set of `jaxnet.data.load`, is; None if nowhere."""
    return _first(name, data_dir) if name in FILES else data.available(name, data_dir)


def _first(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    for folder in folders(data_dir):
        for pattern in FILES[name].patterns:
            for found in sorted(folder.glob(pattern)):
                return found
    return None
