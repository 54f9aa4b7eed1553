"""Pictures as tensors: a dog's photo and a batch of cats, ready for a net.

The pictures and the figures are from the notes on the book "Deep Learning with PyTorch"
(docs/pages/book.md), called the document. One JPEG becomes (3, 720, 1280); a folder of PNGs
with an alpha channel becomes a batch (3, 3, 256, 256) without that channel, divided by 255, or
standardised for each channel over the batch. (The document's batch is an array for 100 pictures
with three cats and 97 black pictures, which its statistics count; here the batch is the cats.)

    python -m experiments images

Result: the shapes of the document hold; standardised channels have mean 0 and
deviation 1 to 1e-6.
"""

import dataclasses

import numpy as np

from experiments.harness import ledger
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Settings, from_file
from experiments.harness.tables import save_ledger
from jaxnet import data, plots

DATA = ("dog", "cats")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of images."""


def main(config: Config, run: Run) -> None:
    """Reads the pictures."""
    dog = data.read_image(find("dog", config.data_dir))
    channels_first = data.to_tensor(dog[None])[0]
    print(f"dog: {dog.shape} as read, {channels_first.shape} for a net, {dog.dtype}")

    folder = find("cats", config.data_dir)
    cats, names = data.read_images(folder)
    batch = data.to_tensor(cats)
    mean, std = data.channel_statistics(batch)
    with from_file(folder):
        normalized = data.normalize(batch, mean.tolist(), std.tolist())
    print(f"cats: {', '.join(names)}: batch {batch.shape}, {batch.dtype}, in [0, 1] after / 255")
    print(f"      channels: mean {np.round(mean, 4)}, deviation {np.round(std, 4)}")
    after = data.channel_statistics(normalized)
    off = float(max(np.abs(after[0]).max(), np.abs(after[1] - 1).max()))
    print(f"      standardised: mean 0 and deviation 1 to {off:.0e}")
    if off > 1e-5:
        raise ValueError(f"cats: standardised channels are off by {off:.1e}")

    figures = {"dog": {"read": dog.shape, "channels_first": channels_first.shape}}
    save_ledger(run, ledger.compare("images", figures))
    run.metrics |= {
        "cats": {"files": names, "shape": batch.shape, "mean": mean, "std": std},
        "standardised_off_by": off,
    }
    caption = "The dog and the cats as they are read"
    path = run.folder / "pictures.png"
    plots.save_images(path, [dog, *cats], ["dog", *names], columns=4, title=caption)
