"""The data sets that `load` knows: where they are looked for, and how they get there."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxnet.data import cifar, prepared
from jaxnet.data.cache import cache_folder, cached

__all__ = ["Labelled", "available", "load"]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Images with their classes.

    Attributes:
        images: uint8 (N, H, W, C), as they are stored.
        labels: int32 (N,), positions in `classes`.
        classes: the names of the classes.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One data set: the archive that its makers publish and who reads it."""

    url: str
    sha256: str
    read_archive: Callable[[Path, str], tuple[np.ndarray, np.ndarray, tuple[str, ...]]]
    splits: tuple[str, ...] = ("train", "test")

    @property
    def archive(self) -> str:
        return self.url.rsplit("/", 1)[1]


CATALOGUE = {
    "cifar10": _Entry(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        read_archive=cifar.read_archive,
    )
}


def load(
    name: str,
    *,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Labelled:
    """Reads a data set, in the order in which its makers published it.

    Looked for, in this order, in `data_dir`, in the folder that the environment
    variable JAXNET_DATA names, and in the user's cache; in each of them as a
    prepared tensorflow-datasets folder (`tfds/NAME/VERSION` or `NAME/VERSION`,
    read without TensorFlow) and as the makers' archive. Found nowhere, the
    archive is fetched into the cache once and its hash checked. What was decoded
    is kept in the cache, so that the next start takes a fraction of a second.

    Args:
        name: "cifar10".
        split: "train" or "test".
        data_dir: a folder to look in first; it must exist.
        download: whether to fetch what is found nowhere.

    Returns:
        The images and labels. Their order is torchvision's, so that a shuffle
        with PyTorch's seed picks the same images.

    Raises:
        ValueError: unknown name or split, or a file that is damaged.
        FileNotFoundError: `data_dir` does not exist, or the data set is nowhere
            and cannot be fetched.
    """
    entry = _entry(name)
    if split not in entry.splits:
        raise ValueError(f"split: {split!r}; {name} has {', '.join(entry.splits)}")
    folders = _folders(data_dir)
    source = _find(name, entry, folders)
    if source is None:
        if not download:
            raise _nowhere(name, entry, folders, "download=False")
        source = _fetch(name, entry, folders)
    if source.is_dir():
        read = lambda: prepared.read(source, split)  # noqa: E731
    else:
        read = lambda: _read_checked(name, entry, source, split)  # noqa: E731
    images, labels, classes = cached(f"{name}-{split}", source, read)
    return Labelled(images, labels, classes)


def available(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Where a data set is on this machine, or None. Never fetches."""
    return _find(name, _entry(name), _folders(data_dir))


def _entry(name: str) -> _Entry:
    if name not in CATALOGUE:
        raise ValueError(f"name: no data set {name!r}; there are {', '.join(sorted(CATALOGUE))}")
    return CATALOGUE[name]


def _folders(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    folders = []
    if data_dir is not None:
        folders.append(Path(data_dir).expanduser())
        if not folders[0].is_dir():
            raise FileNotFoundError(
                f"data_dir: there is no folder {folders[0]}; give one that holds data sets, "
                "or leave it out to use JAXNET_DATA and the user's cache"
            )
    if os.environ.get("JAXNET_DATA"):
        folders.append(Path(os.environ["JAXNET_DATA"]).expanduser())
    return [*folders, cache_folder()]


def _find(name: str, entry: _Entry, folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        for prepared_root in (folder / "tfds" / name, folder / name):
            versions = prepared.versions(prepared_root)
            if versions:
                return versions[-1]
        for archive in (folder / entry.archive, folder / name / entry.archive):
            if archive.is_file():
                return archive
    return None


def _read_checked(name: str, entry: _Entry, source: Path, split: str):
    import pooch

    if pooch.file_hash(str(source), alg="sha256") != entry.sha256:
        raise ValueError(
            f"{source}: this is not {name} as its makers publish it (the SHA-256 differs); "
            f"remove the file and fetch {entry.url} again"
        )
    return entry.read_archive(source, split)


def _fetch(name: str, entry: _Entry, folders: Sequence[Path]) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    folder = cache_folder()
    print(f"{name} is in none of {', '.join(map(str, folders))}; fetching {entry.url}")
    try:
        fetched = pooch.retrieve(
            entry.url, f"sha256:{entry.sha256}", entry.archive, folder, progressbar=True
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        reason = str(error).split("\n")[0]
        raise _nowhere(name, entry, folders, f"fetching failed: {reason[:200]}") from error
    return Path(fetched)


def _nowhere(name: str, entry: _Entry, folders: Sequence[Path], why: str) -> FileNotFoundError:
    searched = "\n  ".join(map(str, folders))
    return FileNotFoundError(
        f"{name}: not found, and not fetched ({why}). Searched:\n  {searched}\n"
        f"Put it there with one of\n"
        f"  curl --create-dirs -o {folders[-1] / entry.archive} {entry.url}\n"
        f"  tfds build {name} --data_dir FOLDER --file_format array_record "
        f"(needs tensorflow; then JAXNET_DATA=FOLDER)"
    )
