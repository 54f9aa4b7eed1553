"""Data sets that are single files or folders, read as they are: only their place is known."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

__all__ = ["PLACES", "Place", "place"]

_BOOK = "the data of the book 'Deep Learning with PyTorch' (dlwpt-code, data/p1ch4)"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a file or folder is looked for.

    Attributes:
        patterns: below a data folder, the likeliest first.
        origin: where it can be had.
    """

    patterns: tuple[str, ...]
    origin: str


PLACES = {
    "austen": Place(
        ("jane-austen/1342-0.txt", "1342-0.txt"), f"{_BOOK}; Project Gutenberg's text 1342"
    ),
    "bikes": Place(
        ("bike-sharing-dataset/hour-fixed.csv", "hour-fixed.csv"),
        f"{_BOOK}, made from UCI's bike sharing data by filling in the missing hours",
    ),
    "cats": Place(("image-cats",), _BOOK),
    "ct_scan": Place(("volumetric-dicom/2-LUNG*", "2-LUNG*"), _BOOK),
    "dog": Place(("image-dog/bobby.jpg", "bobby.jpg"), _BOOK),
    "wine": Place(
        ("tabular-wine/winequality-white.csv", "winequality-white.csv"),
        f"{_BOOK}, and of UCI's wine quality data",
    ),
}


def place(name: str, folders: Sequence[Path]) -> Path | None:
    """The first match of a name's patterns in the folders, or None."""
    for folder in folders:
        for pattern in PLACES[name].patterns:
            for found in sorted(folder.glob(pattern)):
                return found
    return None
