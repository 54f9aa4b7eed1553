"""The data sets that `load` knows: where they are looked for, and how they get there."""

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
        images: uint8 (N, H, W, C), as they are stored.
        labels: int32 (N,), positions in `classes`.
        classes: the names of the classes.
        canonical: whether the order is the makers', which is torchvision's.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    canonical: bool = True

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class _Form:
    """One form in which the makers publish a data set.

    Attributes:
        url: the folder that the files are fetched from.
        files: their names and SHA-256 as published.
        read: reads one split, from the file if it is one, else from its folder.
        strict: whether a found file must have the published hash. The idx files
            are often zipped anew, which changes it; they are checked by content.
        folders: further folders to look in, below the data folder.
    """

    url: str
    files: Mapping[str, str]
    read: Callable[[Path, str], _Decoded]
    strict: bool = True
    folders: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One data set: the forms it is published in, the first of which is fetched.

    Attributes:
        forms: in the order in which they are looked for.
        starts: the first labels of each split, where the order needs a check.
    """

    forms: tuple[_Form, ...]
    starts: Mapping[str, tuple[int, ...]] | None = None
    splits: tuple[str, ...] = ("train", "test")


@dataclasses.dataclass(frozen=True)
class _Found:
    """A data set on this machine: a form of the makers, or a prepared folder."""

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
    """Reads a data set of labelled images, in the order in which its makers published it.

    Looked for, in this order, in `data_dir`, in the folder that the environment
    variable JAXNET_DATA names, and in the user's cache; in each of them as the
    makers' files (CIFAR's python or binary archive, MNIST's four idx files; in
    the folder itself, in `NAME` or where torchvision puts them) and as a prepared
    tensorflow-datasets folder (`tfds/NAME/VERSION` or `NAME/VERSION`, read without
    TensorFlow). Found nowhere, the makers' files are fetched into the cache once
    and their hashes checked. What was decoded is kept in the cache, so that the
    next start takes a fraction of a second.

    Args:
        name: "cifar10", "cifar100", "fashion_mnist" or "mnist".
        split: "train" or "test".
        data_dir: a folder to look in first; it must exist.
        download: whether to fetch what is found nowhere.

    Returns:
        The images and labels. Their order is torchvision's, so that a shuffle
        with PyTorch's seed picks the same images. A prepared folder of MNIST or
        Fashion-MNIST does not record that order; it is restored where the folder
        was shuffled in the usual way. Where it was not, the folder's own order
        comes back, `canonical` is False, and a warning in the log says so.

    Raises:
        ValueError: unknown name or split, or a file that is damaged.
        FileNotFoundError: `data_dir` does not exist, or the data set is nowhere
            and cannot be fetched.
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
    """Where a data set is on this machine, or None. Never fetches."""
    found = _find(name, _entry(name), folders(data_dir))
    return None if found is None else found.where


def fetchable(name: str) -> bool:
    """Whether `load` fetches this data set when it is not on this machine."""
    return name in CATALOGUE


def _entry(name: str) -> _Entry:
    if name not in CATALOGUE:
        raise ValueError(f"name: no data set {name!r}; there are {', '.join(sorted(CATALOGUE))}")
    return CATALOGUE[name]


def folders(data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """The folders that data sets are looked for in: `data_dir`, JAXNET_DATA, the user's cache.

    Raises:
        FileNotFoundError: `data_dir` is not there.
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
    for folder in folders:
        for form in entry.forms:
            for home in _homes(name, form, folder):
                files = tuple(idx.stored(home, file) for file in form.files)
                # The name of the folder says whose files they are; at its root, the labels.
                ours = home != folder or _own(entry, form, home)
                if all(file.is_file() for file in files) and ours:
                    return _Found(home if len(files) > 1 else files[0], files, form)
        for root in (folder / "tfds" / name, folder / name):
            if versions := prepared.versions(root):
                files = tuple(sorted(f for f in versions[-1].iterdir() if f.is_file()))
                return _Found(versions[-1], files, None)
    return None


def _homes(name: str, form: _Form, folder: Path) -> list[Path]:
    return [folder / name, *(folder / f for f in form.folders), folder]


def _own(entry: _Entry, form: _Form, home: Path) -> bool:
    """Whether files whose names several data sets share are this one's; damaged ones may be."""
    labels = idx.stored(home, "t10k-labels-idx1-ubyte.gz")
    if form.strict or entry.starts is None or not labels.is_file():
        return True
    try:
        return _begins(idx.read_idx(labels), entry.starts["test"])
    except ValueError:
        return True  # reading says what is wrong with them


def _begins(labels: np.ndarray, starts: tuple[int, ...]) -> bool:
    return labels[: len(starts)].tolist() == list(starts)


def _read(name: str, entry: _Entry, found: _Found, split: str) -> _Decoded:
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
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        reason = str(error).split("\n")[0]
        raise _nowhere(name, entry, folders, f"fetching failed: {reason[:200]}") from error
    return _Found(folder if len(files) > 1 else files[0], files, form)


def _nowhere(name: str, entry: _Entry, folders: Sequence[Path], why: str) -> FileNotFoundError:
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
