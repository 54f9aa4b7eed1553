"""The data sets of `load`: where their files are searched, and how they are fetched."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxnet._extras import needed
from jaxnet._files import cache_folder
from jaxnet.data import _cifar as cifar
from jaxnet.data import _idx as idx
from jaxnet.data import _prepared as prepared
from jaxnet.data._cache import cached

_log = logging.getLogger(__name__)
_Decoded = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Images with their classes.

    Attributes:
        images: The images as they are stored, uint8 (N, H, W, C).
        labels: The numbers of the classes, int32 (N,).
        classes: The names of the classes by number.
        canonical: Whether the order is that of the publishers, which is torchvision's.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    canonical: bool = True

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class _Form:
    """One form in which a data set is published.

    Attributes:
        url: The address of the folder with the files.
        files: The names of the files, and the SHA-256 of each as published.
        read: The function of (path, split) that reads one split. The path is that of the
            file if there is only one, else that of the folder.
        strict: Whether a file must have the published hash. The idx files are often
            compressed again, which changes the hash; their content is checked instead.
        folders: Further folders to search, below the data folder.
    """

    url: str
    files: Mapping[str, str]
    read: Callable[[Path, str], _Decoded]
    strict: bool = True
    folders: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One data set.

    Attributes:
        forms: The forms in the order in which they are searched. The first one is fetched
            if none is found.
        starts: The first labels of each split, if the order has to be checked.
        splits: The names of the splits.
    """

    forms: tuple[_Form, ...]
    starts: Mapping[str, tuple[int, ...]] | None = None
    splits: tuple[str, ...] = ("train", "test")


@dataclasses.dataclass(frozen=True)
class _Found:
    """A data set on this machine.

    Attributes:
        where: The path of its file or folder.
        files: The paths of all its files.
        form: The published form, or None for a prepared tensorflow-datasets folder.
    """

    where: Path
    files: tuple[Path, ...]
    form: _Form | None


_KRIZ = "https://www.cs.toronto.edu/~kriz/"
_DIGITS = tuple(str(i) for i in range(10))
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _cifar_forms(classes: int, python_hash: str, binary_hash: str) -> tuple[_Form, ...]:
    """The two archives of CIFAR-10 or CIFAR-100."""
    readers = {
        f"cifar-{classes}-python.tar.gz": (python_hash, cifar.read_python),
        f"cifar-{classes}-binary.tar.gz": (binary_hash, cifar.read_binary),
    }
    return tuple(
        _Form(_KRIZ, {name: digest}, functools.partial(read, classes=classes))
        for name, (digest, read) in readers.items()
    )


def _idx_form(
    url: str, hashes: Sequence[str], classes: tuple[str, ...], torch_folder: str
) -> tuple[_Form, ...]:
    """The four idx files of MNIST or Fashion-MNIST, and torchvision's folder for them."""
    names = [
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]

    def read(folder: Path, split: str) -> _Decoded:
        return *idx.read_split(folder, split, len(classes)), classes

    files = dict(zip(names, hashes, strict=True))
    return (_Form(url, files, read, strict=False, folders=(f"{torch_folder}/raw",)),)


CATALOGUE = {
    "cifar10": _Entry(
        _cifar_forms(
            10,
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    ),
    "cifar100": _Entry(
        _cifar_forms(
            100,
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )
    ),
    "fashion_mnist": _Entry(
        _idx_form(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            _CLOTHES,
            "FashionMNIST",
        ),
        starts={"train": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5), "test": (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)},
    ),
    "mnist": _Entry(
        _idx_form(
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            _DIGITS,
            "MNIST",
        ),
        starts={"train": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), "test": (7, 2, 1, 0, 4, 1, 4, 9, 5, 9)},
    ),
}


def load(
    name: str,
    *,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Labelled:
    """Reads a data set of labelled images, in the order in which it was published.

    Three folders are searched, in this order: `data_dir`, the folder in the environment
    variable JAXNET_DATA, and the user's cache. In each of them two forms are searched:

    - the published files (CIFAR's python or binary archive, MNIST's four idx files), in the
      folder itself, in its folder `NAME`, or in the folder that torchvision uses;
    - a prepared tensorflow-datasets folder, `tfds/NAME/VERSION` or `NAME/VERSION`, which is
      read without TensorFlow.

    If none is found, the published files are fetched into the cache and their hashes are
    checked. The decoded arrays are stored in the cache too, so that the next call takes a
    fraction of a second.

    Args:
        name: The name of the data set: "cifar10", "cifar100", "fashion_mnist" or "mnist".
        split: The split, "train" or "test".
        data_dir: The path of the folder to search first; the folder must exist.
        download: Whether the data set is fetched if it is not found.

    Returns:
        The images and labels. Their order is torchvision's, so that a shuffle with the same
        seed as in PyTorch gives the same images. A prepared folder of MNIST or Fashion-MNIST
        does not record this order. It is restored if the folder was shuffled in the usual
        way. Otherwise the order is that of the folder, `canonical` is False, and a warning
        is logged.

    Raises:
        ValueError: The name or the split is unknown, or a file is damaged.
        FileNotFoundError: `data_dir` does not exist, or the data set is not found and cannot
            be fetched.
    """
    entry = _entry(name)
    if split not in entry.splits:
        raise ValueError(f"split: {split!r}; {name} has {', '.join(entry.splits)}")
    searched = folders(data_dir)
    found = _find(name, entry, searched)
    if found is None:
        if not download:
            raise _nowhere(name, entry, searched, "download=False")
        found = _fetch(name, entry, searched)
    read = functools.partial(_read, name, entry, found, split)
    images, labels, classes = cached(f"{name}-{split}", found.files, read)
    canonical = entry.starts is None or _begins(labels, entry.starts[split])
    if not canonical:
        _log.warning(
            "%s: the %s images of %s come in this folder's own order, not torchvision's: its "
            "records hold no position, and it was not shuffled in the usual way",
            found.where,
            split,
            name,
        )
    return Labelled(images, labels, classes, canonical)


def available(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The path of a data set on this machine; nothing is fetched.

    Args:
        name, data_dir: As in `load`.

    Returns:
        The path of the file or folder, or None if the data set is not found.

    Raises:
        ValueError: The name is unknown.
        FileNotFoundError: `data_dir` does not exist.
    """
    found = _find(name, _entry(name), folders(data_dir))
    return None if found is None else found.where


def fetchable(name: str) -> bool:
    """Whether `load` can fetch a data set.

    Args:
        name: The name of the data set.
    """
    return name in CATALOGUE


def _entry(name: str) -> _Entry:
    if name not in CATALOGUE:
        raise ValueError(f"name: no data set {name!r}; there are {', '.join(sorted(CATALOGUE))}")
    return CATALOGUE[name]


def folders(data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """The folders in which data sets are searched: `data_dir`, JAXNET_DATA, the user's cache.

    Raises:
        FileNotFoundError: `data_dir` does not exist.
    """
    found = []
    if data_dir is not None:
        found.append(Path(data_dir).expanduser())
        if not found[0].is_dir():
            raise FileNotFoundError(
                f"data_dir: there is no folder {found[0]}; give one that holds data sets, "
                "or leave it out to use JAXNET_DATA and the user's cache"
            )
    if os.environ.get("JAXNET_DATA"):
        found.append(Path(os.environ["JAXNET_DATA"]).expanduser())
    return [*found, cache_folder()]


def _find(name: str, entry: _Entry, folders: Sequence[Path]) -> _Found | None:
    """The data set in the first of the folders that has it, or None."""
    for folder in folders:
        for form in entry.forms:
            for home in _homes(name, form, folder):
                files = tuple(idx.stored(home, file) for file in form.files)
                # MNIST and Fashion-MNIST have files of the same names. The name of their folder
                # tells them apart, or else (in the data folder itself) the labels.
                ours = home != folder or _own(entry, form, home)
                if all(file.is_file() for file in files) and ours:
                    return _Found(home if len(files) > 1 else files[0], files, form)
        for root in (folder / "tfds" / name, folder / name):
            if versions := prepared.versions(root):
                files = tuple(sorted(f for f in versions[-1].iterdir() if f.is_file()))
                return _Found(versions[-1], files, None)
    return None


def _homes(name: str, form: _Form, folder: Path) -> list[Path]:
    """The folders below a data folder, and itself, in which published files may be."""
    return [folder / name, *(folder / f for f in form.folders), folder]


def _own(entry: _Entry, form: _Form, home: Path) -> bool:
    """Whether files with names that several data sets share belong to this data set.

    It is True for damaged files: the error when they are read says more.
    """
    labels = idx.stored(home, "t10k-labels-idx1-ubyte.gz")
    if form.strict or entry.starts is None or not labels.is_file():
        return True
    try:
        return _begins(idx.read_idx(labels), entry.starts["test"])
    except ValueError:
        return True  # Reading the files raises an error that says what is wrong.


def _begins(labels: np.ndarray, starts: tuple[int, ...]) -> bool:
    """Whether the labels begin with the given ones."""
    return labels[: len(starts)].tolist() == list(starts)


def _read(name: str, entry: _Entry, found: _Found, split: str) -> _Decoded:
    """Decodes one split after checking the files' hashes or first labels."""
    starts = None if entry.starts is None else entry.starts[split]
    if found.form is None:
        return prepared.read(found.where, split, starts)
    if found.form.strict:
        _check_hashes(name, found.form, found.files)
    images, labels, classes = found.form.read(found.where, split)
    if starts is not None and not _begins(labels, starts):
        raise ValueError(
            f"{found.where}: these are not the {split} labels of {name}: they begin with "
            f"{labels[: len(starts)].tolist()}, not {list(starts)}"
        )
    return images, labels, classes


def _check_hashes(name: str, form: _Form, files: Sequence[Path]) -> None:
    pooch = needed("pooch", name, "pooch")
    for file in files:
        if pooch.file_hash(str(file), alg="sha256") != form.files[file.name]:
            raise ValueError(
                f"{file}: this is not {name} as its makers publish it (the SHA-256 differs); "
                f"remove the file and fetch {form.url}{file.name} again"
            )


def _fetch(name: str, entry: _Entry, folders: Sequence[Path]) -> _Found:
    """Fetches the first published form of a data set into the user's cache."""
    pooch = needed("pooch", f"{name}: to be fetched", "pooch")
    pooch.get_logger().setLevel("WARNING")
    form, folder = entry.forms[0], cache_folder() / name
    urls = ", ".join(form.url + file for file in form.files)
    _log.info("%s is in none of %s; fetching %s", name, ", ".join(map(str, folders)), urls)
    try:
        files = tuple(
            Path(
                pooch.retrieve(form.url + file, f"sha256:{digest}", file, folder, progressbar=True)
            )
            for file, digest in form.files.items()
        )
    except (OSError, ValueError) as error:  # The errors of requests are OSErrors.
        reason = str(error).split("\n")[0]
        raise _nowhere(name, entry, folders, f"fetching failed: {reason[:200]}") from error
    return _Found(folder if len(files) > 1 else files[0], files, form)


def _nowhere(name: str, entry: _Entry, folders: Sequence[Path], why: str) -> FileNotFoundError:
    """The error for a data set that is not found, with the ways to get it."""
    searched = "\n  ".join(map(str, folders))
    form = entry.forms[0]
    for folder in folders:
        for home in _homes(name, form, folder):
            lacking = [file for file in form.files if not idx.stored(home, file).is_file()]
            if len(lacking) < len(form.files):
                searched += f"\n{home} lacks {', '.join(lacking) or f'the files of {name}'}"
    commands = "\n".join(
        f"  curl --create-dirs -o {folders[-1] / name / file} {form.url}{file}"
        for file in form.files
    )
    return FileNotFoundError(
        f"{name}: not found, and not fetched ({why}). Searched:\n  {searched}\n"
        f"Put it there with\n{commands}\n"
        f"or prepare it (needs tensorflow) and set JAXNET_DATA=FOLDER:\n"
        f"  tfds build {name} --data_dir FOLDER --file_format array_record"
    )
