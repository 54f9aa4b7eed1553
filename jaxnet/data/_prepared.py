"""Reading prepared tensorflow-datasets folders without TensorFlow."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet._extras import needed


def versions(root: Path) -> list[Path]:
    """The paths of the prepared versions in `root` (folders such as 3.0.2), oldest first."""
    if not root.is_dir():
        return []
    found = [
        folder
        for folder in root.iterdir()
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and (folder / "dataset_info.json").is_file()
    ]
    return sorted(found, key=lambda folder: tuple(map(int, folder.name.split("."))))


def read(
    folder: Path, split: str, starts: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Decodes the images and labels of one split.

    tensorflow-datasets shuffles records when it prepares them. The records of CIFAR have
    their published position in an id such as `train_00042`, and are sorted by it. The
    records of MNIST have no id, but their shuffle is fixed (by the MD5 of split and
    position). It is undone if the labels then begin with `starts`; otherwise the records
    stay in the folder's order.

    Args:
        folder: The path of one version.
        split: The split, "train" or "test".
        starts: The first labels in the published order, which show whether a shuffle
            without ids was undone correctly. None if the records must have ids.

    Returns:
        The images, uint8 (N, H, W, C), the labels, int32 (N,), and the names of the classes.

    Raises:
        ValueError: A record is missing or damaged; the error names the folder and record.
    """
    from rich.console import Console
    from rich.progress import track

    records = open_split(folder, split)
    images: list[np.ndarray] = []
    labels: list[int] = []
    places: list[int | None] = []
    console = Console(stderr=True)
    hidden, said = not console.is_terminal, f"decoding {split}"
    for i in track(range(len(records)), said, console=console, transient=True, disable=hidden):
        try:
            record = records[i]
        except Exception as error:  # The reader raises bare RuntimeErrors.
            raise _damaged(folder, f"record {i} of {split}: {_one_line(error)}") from error
        images.append(record["image"])
        labels.append(int(record["label"]))
        places.append(_place(record.get("id"), i, split, folder))
    kept, classes = np.array(labels, np.int32), _classes(folder, labels)
    for i, image in enumerate(images):
        if image.shape != images[0].shape:
            raise _damaged(
                folder, f"image {i} of {split} is {image.shape}, the first one {images[0].shape}"
            )
    if starts is not None and all(place is None for place in places):
        order = _unshuffled(len(places), split)
        if kept[order][: len(starts)].tolist() != list(starts):
            order = np.arange(len(places))
    else:
        numbers = np.array([-1 if place is None else place for place in places])
        order = np.argsort(numbers)
        if not np.array_equal(numbers[order], np.arange(len(places))):
            raise _damaged(folder, f"the ids of {split} are not 0 to {len(places) - 1}, each once")
    return np.stack(images)[order], kept[order], classes


def _unshuffled(n: int, split: str) -> np.ndarray:
    """The positions in the folder of the records 0 to n - 1 in the published order.

    The writer sorts the records by this MD5.
    """
    salted = hashlib.md5(split.encode(), usedforsecurity=False)

    def key(place: int) -> bytes:
        salt = salted.copy()
        salt.update(str(place).encode())
        return salt.digest()

    return np.argsort(sorted(range(n), key=key))


def open_split(folder: Path, split: str) -> Any:
    """Opens the records of one split.

    Args:
        folder: The path of one version.
        split: The name of the split.

    Returns:
        A sequence of records. Indexing it reads a record and decodes it to a dictionary.

    Raises:
        ValueError: The data set has no such split, is in another format, or is damaged.
        ImportError: tensorflow-datasets is not installed.
    """
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        counts = {s["name"]: sum(map(int, s["shardLengths"])) for s in info["splits"]}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(folder, f"dataset_info.json: {error!r}"[:300]) from error
    if info.get("fileFormat") != "array_record":
        raise ValueError(
            f"{folder}: prepared as {info.get('fileFormat')!r}, which only TensorFlow reads; "
            "prepare it with --file_format array_record"
        )
    _check_features(folder)
    if split not in counts:
        raise ValueError(f"split: {split!r}; {folder} has {', '.join(map(repr, counts))}")
    with _quiet_absl():
        tfds = needed(
            "tensorflow_datasets",
            f"{folder}",
            "tensorflow-datasets array_record importlib_resources",
        )

        try:
            records = tfds.builder_from_directory(str(folder)).as_data_source(split=split)
            records[0]
        except Exception as error:
            raise _damaged(folder, f"{split}: {_one_line(error)}") from error
    if len(records) != counts[split]:
        raise _damaged(folder, f"{split} holds {len(records)} records of {counts[split]}")
    return records


def _check_features(folder: Path) -> None:
    """Refuses a `features.json` that names code of others, which tensorflow-datasets imports."""
    try:
        waiting = [json.loads((folder / "features.json").read_text(encoding="utf-8"))]
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f"features.json: {error!r}"[:300]) from error
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            for key in ("pythonClassName", "python_class_name", "type"):
                name = value.get(key)
                if isinstance(name, str) and not name.startswith(_FEATURES):
                    raise _damaged(folder, f"features.json names {name[:100]!r}")


_FEATURES = "tensorflow_datasets.core.features."


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Lets tensorflow-datasets say nothing, and takes back what it changes in Python's logging.

    It advises OpenCV once, though Pillow decodes PNG just the same. Its first line goes through
    absl, which gives the root logger a handler: every notice of jaxnet would be shown twice.
    """
    logger, root = logging.getLogger("absl"), logging.getLogger()
    level, handlers = logger.level, list(root.handlers)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for handler in root.handlers[:]:
            if handler not in handlers:
                root.removeHandler(handler)


def _place(record_id: bytes | None, position: int, split: str, folder: Path) -> int | None:
    """The published position in a record's id, or None if the record has no id."""
    if record_id is None:
        return None
    found = re.fullmatch(rf"{split}_(\d+)", record_id.decode())
    if found is None:
        raise _damaged(folder, f"record {position} has the id {record_id.decode()!r}")
    return int(found[1])


def _classes(folder: Path, labels: list[int]) -> tuple[str, ...]:
    """The names of the classes, or their numbers as text if the folder has no names."""
    names = folder / "label.labels.txt"
    if names.is_file():
        classes = tuple(names.read_text(encoding="utf-8").splitlines())  # "Ankle boot" is one.
        wrong = [i for i, label in enumerate(labels) if not 0 <= label < len(classes)]
        if wrong:
            row = wrong[0]
            raise _damaged(
                folder, f"record {row} has label {labels[row]}; {names.name} names {len(classes)}"
            )
        return classes
    return tuple(str(i) for i in range(max(labels) + 1))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _damaged(folder: Path, what: str) -> ValueError:
    return ValueError(f"{folder}: damaged data set: {what}; copy or prepare it again")
