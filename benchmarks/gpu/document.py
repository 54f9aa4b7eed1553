"""The document's deepest net on a card: 100 residual blocks, 100 epochs of birds and airplanes.

A machine with a card may have no data sets. So the images travel in one file, which is packed
where they are:

    JAXNET_DATA=FOLDER python -m benchmarks.gpu.document --pack runs/birds_and_airplanes.npz

and named to the main program: `python -m benchmarks.gpu --parts document --data FILE`. The net,
its training and its two measures (with and without eval()) are those of
`experiments.cifar2_variants`, seed 0, in float32.
"""

import argparse
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.gpu import task
from benchmarks.gpu.plan import HOW_TO_PACK
from experiments import birds, cifar2_variants
from jaxnet import data, train
from jaxnet.random import Generator

__all__ = ["MOST_BYTES", "pack", "tasks", "unpack", "write"]

MOST_BYTES = 40_000_000
"""What the packed file may have."""

EPOCHS, BLOCKS = 100, 100
VARIANTS = ("res_deep", "res_deep_separate")
_MARGIN = 6.0  # seconds that the last measures may take

# What numpy raises for files that are cut short, altered or something else.
_DAMAGE = (
    *(KeyError, OSError, ValueError, TypeError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def tasks(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """The trainings by name: with one block used many times, then with different blocks."""
    return {name: partial(trained, name, tiny) for name in VARIANTS}


def pack(path: Path, data_dir: Path | None = None) -> int:
    """Writes birds and airplanes of both splits to one file, as stored: uint8 (N, 32, 32, 3).

    Args:
        path: the file, ".npz".
        data_dir: where CIFAR-10 is looked for first, as in the experiments.

    Returns:
        Its bytes.

    Raises:
        ValueError: it would have more than `MOST_BYTES`; nothing is written then.
    """
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        images, (_, labels) = birds.two_classes(split, data_dir)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels.astype(np.uint8)}
    return write(path, arrays)


def write(path: Path, arrays: dict[str, np.ndarray]) -> int:
    """Writes arrays to one file, whole or not at all, unless it has too many bytes; see `pack`."""
    hidden = path.with_name(f".{path.name}")
    try:
        with hidden.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        size = hidden.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(
                f"{path}: {size:,} bytes; at most {MOST_BYTES:,} are accepted, so that the file "
                "can travel with the code; pack fewer images"
            )
        os.replace(hidden, path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return size


def unpack(path: Path) -> tuple[birds.Rows, birds.Rows]:
    """Training and validation rows, as `birds.two_classes` gives them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file that `pack` wrote.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--data: there is no file {path}; {HOW_TO_PACK}")
    try:
        with path.open("rb") as file, np.load(file) as packed:
            arrays = {name: packed[name] for name in packed.files}
        splits = [(arrays[f"{s}_images"], arrays[f"{s}_labels"]) for s in ("train", "test")]
        for images, labels in splits:
            _check(images, labels)
    except _DAMAGE as error:
        raise ValueError(
            f"--data: {path} holds no packed images ({error}); {HOW_TO_PACK}"
        ) from error
    first, second = (
        (
            data.normalize(data.to_tensor(images), birds.MEAN, birds.STD),
            labels.astype(np.int32),
        )
        for images, labels in splits
    )
    return first, second


def _check(images: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError unless these are images and labels as `pack` stores them."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise ValueError(
            f"images: {images.dtype} {images.shape}; uint8 (N, 32, 32, 3) are accepted"
        )
    if labels.shape != images.shape[:1] or not len(labels):
        raise ValueError(f"labels: {labels.shape} for images {images.shape}; one each is needed")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels: {np.unique(labels)[:5].tolist()}; 0 and 1 are accepted")


def trained(name: str, tiny: bool) -> dict[str, Any]:
    """As many of the 100 epochs as there is time for.

    Returns:
        "epochs" done "of" as many, "seconds" of their training and "seconds_an_epoch", the curves
        ("train_loss", "train_accuracy", "val_loss", "val_accuracy", by epoch), "reason" of
        the end, and at the end the accuracies "without_eval". The same, without those, is
        handed over after every epoch.
    """
    path = task.data_file()
    if path is None and not tiny:
        why = f"no file of images was named; {HOW_TO_PACK}"
        return {"ok": True, "unfinished": True, "needs": "--data", "left_out": {"document": why}}
    epochs, blocks = (2, 2) if tiny else (EPOCHS, BLOCKS)
    training, validation = jax.device_put(_some() if path is None else unpack(path))
    variant = cifar2_variants.variants(blocks)[name]
    trainer = birds.Trainer(variant.build, variant.optimizer(), training, validation, variant.loss)
    measure = cifar2_variants.without_eval(variant.loss)
    fresh = train.create(variant.build(rngs=Generator(0)), variant.optimizer())
    # Compiled beside the training's program, so that the end has nothing to wait for.
    pool = ThreadPoolExecutor(1)
    ready = pool.submit(_accuracy, measure, fresh, validation)
    result: dict[str, Any] = {
        "ok": True,
        "blocks": blocks,
        "parameters": variant.build(rngs=Generator(0)).num_parameters,
        "images": [len(training[1]), len(validation[1])],
        "epochs": 0,
        "of": epochs,
        "curves": {},
    }

    def hand_over(report: train.EpochReport) -> None:
        line = {"train_loss": report.metrics["loss"]}
        line |= {k: report.metrics[k] for k in ("val_loss", "val_accuracy")}
        for curve, value in line.items():
            result["curves"].setdefault(curve, {})[str(report.epoch)] = float(value)
        result["epochs"] = report.epoch
        result["seconds"] = result.get("seconds", 0.0) + report.seconds
        task.so_far(result)

    left = task.seconds_left() - _MARGIN
    try:
        ended = trainer.run(
            0,
            epochs,
            batch_size=cifar2_variants.BATCH,
            callbacks=[hand_over],
            # Without any time left it trains until it is cut off, which the record then says.
            time_budget=left if left > 0 else None,
        )
        ready.result()
    finally:
        pool.shutdown(wait=False)
    if not result["epochs"]:
        return result | {"unfinished": True, "reason": str(ended.reason)}
    kept = birds.curves(ended)
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    result["curves"] = {curve: {str(k): v for k, v in kept[curve].items()} for curve in names}
    result["compile_seconds"], result["reason"] = kept["compile_seconds"], str(ended.reason)
    result["seconds_an_epoch"] = result["seconds"] / result["epochs"]
    result["without_eval"] = {"val_accuracy": _accuracy(measure, ended.state, validation)}
    result["unfinished"] = result["epochs"] < epochs
    return result


def _accuracy(measure: Any, state: Any, rows: birds.Rows) -> float:
    measured = train.evaluate(state, measure, rows, batch_size=cifar2_variants.BATCH, quiet=True)
    return float(measured["accuracy"])


def _some() -> tuple[birds.Rows, birds.Rows]:
    """Random numbers instead of images, for a trial without the data."""
    rng = np.random.default_rng(0)
    first, second = (
        (rng.standard_normal((n, 3, 32, 32), np.float32), rng.integers(0, 2, n, np.int32))
        for n in (128, 64)
    )
    return first, second


def main(arguments: list[str] | None = None) -> int:
    """Packs the images; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.document", description=str(__doc__).split("\n\n")[0]
    )
    parser.add_argument("--pack", type=Path, required=True, help="the file to write, .npz")
    parser.add_argument("--data-dir", type=Path, help="where CIFAR-10 is (or set JAXNET_DATA)")
    options = parser.parse_args(arguments)
    if options.pack.is_dir():
        parser.error(f"--pack: {options.pack} is a folder; the name of a file is needed")
    try:
        options.pack.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.pack.parent):
            pass
    except OSError as error:
        parser.error(f"--pack: {error}; a place that can be written to is needed")
    try:
        size = pack(options.pack, options.data_dir)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.pack}: {size:,} bytes of at most {MOST_BYTES:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
