"""The data files of the book "Deep Learning with PyTorch", and the search for them."""

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
        patterns: Patterns of its path below a data folder, the likeliest first.
        origin: The source from which a user can get it, in words.
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
    """The path of a file or folder of the book.

    Args:
        name: The name, a key of `FILES`.
        data_dir: Path of a folder that is searched before JAXNET_DATA and the user's cache.

    Raises:
        FileNotFoundError: The file is in none of the folders; the message names the folders
            and the source of the file.
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
    """The path of a file of the book, or of a data set of `jaxnet.data.load`.

    Args:
        name: The name of the file or data set.
        data_dir: Path of a folder that is searched before JAXNET_DATA and the user's cache.

    Returns:
        The path, or None if it is in none of the folders.
    """
    return _first(name, data_dir) if name in FILES else data.available(name, data_dir)


def _first(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    for folder in folders(data_dir):
        for pattern in FILES[name].patterns:
            for found in sorted(folder.glob(pattern)):
                return found
    return None
