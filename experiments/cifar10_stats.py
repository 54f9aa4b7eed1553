"""CIFAR-10: mean and deviation of each channel, and the normalised images they give.

The numbers that CIFAR-10 programs normalise with, from the 50,000 training images. They are
computed exactly, by counting the values of the bytes and not by adding in float32. The document
is the notes on the book "Deep Learning with PyTorch" (docs/pages/book.md).

    python -m experiments cifar10_stats

Result: mean and deviation hold to the four digits that the document prints.
"""

import dataclasses

import numpy as np

from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Settings
from experiments.harness.tables import save_ledger
from jaxnet import data, plots

DATA = ("cifar10",)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of cifar10_stats."""


def main(config: Config, run: Run) -> None:
    """Computes the statistics."""
    training = data.load("cifar10", split="train", data_dir=config.data_dir)
    mean, std = data.channel_statistics(training.images)
    print(f"{len(training)} images: mean {np.round(mean, 4)}, deviation {np.round(std, 4)}")
    number = 99  # the document's example
    print(f"image {number}: {training.classes[training.labels[number]]}")

    # The document stacks the images on a fourth axis and flattens all but the channels.
    stacked = training.images.transpose(3, 1, 2, 0)  # (3, 32, 32, N)
    figures = {
        "mean": mean,
        "std": std,
        "image": stacked.shape[:3],
        "flat": stacked.reshape(3, -1).shape,
    }
    save_ledger(run, ledger.compare("cifar10", figures))
    run.metrics |= {
        "mean": mean,
        "std": std,
        "images": len(training),
    }
    chosen = [number, *(int(np.argmax(training.labels == c)) for c in range(10))]
    pictures = training.images[chosen]
    normalized = data.normalize(data.to_tensor(pictures), mean.tolist(), std.tolist())
    # Like the document's picture: values outside of 0 to 1 are drawn black or white.
    clipped = (255 * np.clip(normalized, 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1)
    titles = [f"{i}: {training.classes[training.labels[i]]}" for i in chosen]
    plots.save_images(
        run.folder / "images.png",
        np.concatenate([pictures, clipped]),
        [*titles, *["normalised"] * len(chosen)],
        columns=len(chosen),
        title="Images, and the same normalised: what leaves 0 to 1 is drawn black or white",
    )
