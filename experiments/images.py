"""Pictures as tensors: a dog's photo and a batch of cats, ready for a net; three ways to shrink.

The pictures and the figures are from the notes on the book "Deep Learning with PyTorch"
(docs/pages/book.md), called the document. One JPEG becomes (3, 720, 1280). Three PNGs of cats
become a batch (the document drops an alpha channel, which these files do not have), divided by
255, or standardised for each channel over the batch. The document's batch is an array for 100
pictures of which 97 stay black and count in its statistics; both batches are here. The three ways
to shrink that the document names follow, by 2 and, so that it can be seen, by 8: the mean of each
square of pixels, the largest of each, and a convolution with a stride.

    python -m experiments images

Result: the shapes of the document hold; standardised channels have mean 0 and
deviation 1 to 1e-6; a strided convolution with equal weights is the average pool.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from experiments.harness import ledger
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Settings, from_file
from experiments.harness.tables import save_checks, save_ledger
from jaxnet import data, nn, plots, weights
from jaxnet.random import Generator

DATA = ("dog", "cats")
BATCH = 100  # the pictures for which the document's batch has room


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of images."""


def with_black_pictures(cats: np.ndarray) -> np.ndarray:
    """The document's batch: uint8 (100, 3, 256, 256), zeros behind the cats.

    Args:
        cats: The pictures, uint8 (N, 256, 256, 3).
    """
    batch = np.zeros((BATCH, 3, 256, 256), np.uint8)
    batch[: len(cats)] = cats.transpose(0, 3, 1, 2)
    return batch


def strided(weight: np.ndarray) -> nn.Conv2d:
    """A convolution of each channel by itself, with a stride of its kernel's size.

    Args:
        weight: The weights of the kernel, (factor, factor).
    """
    size = len(weight)
    conv = nn.Conv2d(3, 3, size, stride=size, groups=3, bias=False, rngs=Generator(0))
    weights.load_state_dict(conv, {"weight": np.tile(np.float32(weight), (3, 1, 1, 1))})
    return conv


def shrink(image: np.ndarray, factor: int) -> dict[str, np.ndarray]:
    """An image at a part of its height and width, in several ways.

    Args:
        image: The image, float32 (3, H, W).
        factor: The factor by which height and width shrink.

    Returns:
        The small images (3, H // factor, W // factor) by the name of the way.
    """
    first = np.zeros((factor, factor))
    first[0, 0] = 1
    ways = {
        "average pool": nn.AvgPool2d(factor),
        "max pool": nn.MaxPool2d(factor),
        "strided convolution": strided(first),
        "the same, equal weights": strided(np.full((factor, factor), factor**-2)),
    }
    return {name: np.asarray(way(jnp.asarray(image[None])))[0] for name, way in ways.items()}


def shrink_checks(
    image: np.ndarray, small: Mapping[str, np.ndarray], factor: int
) -> list[dict[str, str]]:
    """Whether small images are what NumPy makes of the pixels of each square.

    Args:
        image: The image, float32 (3, H, W), with a height and width that the factor divides.
        small: The small images of `shrink`.
        factor: The factor.
    """
    channels, height, width = image.shape
    squares = image.reshape(channels, height // factor, factor, width // factor, factor)
    wanted = {
        "average pool": ("the mean of each square", squares.mean(axis=(2, 4))),
        "max pool": ("the largest of each square", squares.max(axis=(2, 4))),
        "strided convolution": ("the first pixel of each", image[:, ::factor, ::factor]),
        "the same, equal weights": ("the average pool", small["average pool"]),
    }
    checks = []
    for name, (words, right) in wanted.items():
        same = small[name].shape == right.shape
        gap = float(np.abs(small[name] - right).max()) if same else np.inf
        what = f"by {factor}, {name}: {words}"
        # The sum of a square is rounded as many times as it has pixels.
        checks.append(ledger.check(what, f"off by {gap:.0e}", gap <= 1e-7 * factor**2))
    return checks


def batch_checks(cats: np.ndarray, batch: np.ndarray) -> list[dict[str, str]]:
    """Whether batches are standardised, and what the black pictures do to the statistics.

    Args:
        cats: The cats alone, float32 (N, 3, H, W).
        batch: The same with black pictures, (100, 3, H, W).
    """
    checks = []
    for name, pictures in (("the cats", cats), ("the document's batch", batch)):
        mean, std = data.channel_statistics(pictures)
        after = data.channel_statistics(data.normalize(pictures, mean.tolist(), std.tolist()))
        off = float(max(np.abs(after[0]).max(), np.abs(after[1] - 1).max()))
        print(f"{name}: mean {np.round(mean, 4)}, deviation {np.round(std, 4)}")
        what = f"{name}: mean 0 and deviation 1 after standardising, to 1e-5"
        checks.append(ledger.check(what, f"off by {off:.0e}", off <= 1e-5))
    share = data.channel_statistics(batch)[0] * len(batch) / data.channel_statistics(cats)[0]
    off = float(np.abs(share - len(cats)).max())
    what = f"the black pictures make the mean {len(cats)}/{len(batch)} of that of the cats"
    return [*checks, ledger.check(what, f"off by {off:.0e}", off < 1e-3)]


def main(config: Config, run: Run) -> None:
    """Reads the pictures, standardises the batch, shrinks the dog."""
    dog = data.read_image(find("dog", config.data_dir))
    channels_first = data.to_tensor(dog[None])[0]
    print(f"dog: {dog.shape} as read, {channels_first.shape} for a net, {dog.dtype}")
    small = {factor: shrink(channels_first, factor) for factor in (2, 8)}

    folder = find("cats", config.data_dir)
    cats, names = data.read_images(folder)
    stored = with_black_pictures(cats)
    batch = data.to_tensor(cats)
    print(f"cats: {', '.join(names)}: {batch.shape}, in [0, 1] after / 255; "
          f"the document's batch {stored.shape}, {stored.nbytes:,} bytes")  # fmt: skip
    with from_file(folder):
        checks = batch_checks(batch, stored.astype(np.float32) / 255)
    for factor, images in small.items():
        checks += shrink_checks(channels_first, images, factor)
    save_checks(run, checks)

    figures = {
        "dog": {"read": dog.shape, "channels_first": channels_first.shape},
        "batch": stored.shape,
    }
    save_ledger(run, ledger.compare("images", figures))
    mean, std = data.channel_statistics(batch)
    run.metrics |= {"cats": {"files": names, "shape": batch.shape, "mean": mean, "std": std}}

    # A standardised picture is drawn with -2 to 2 deviations as black to full colour.
    whole = np.clip((data.normalize(batch, mean.tolist(), std.tolist()) + 2) / 4, 0, 1)
    pictures = [*cats, *_as_bytes(whole)]
    titles = [*names, *(f"{name}, standardised" for name in names)]
    caption = "The cats as they are read, and standardised"
    plots.save_images(run.folder / "cats.png", pictures, titles, len(cats), caption, width=3.0)
    shrunk = [_as_bytes(image[None])[0] for image in small[8].values()]
    titles = [f"as read: {dog.shape[1]} x {dog.shape[0]}", *(f"{name}, by 8" for name in small[8])]
    caption = "The dog as it is read, and shrunk by 8 in three ways"
    plots.save_images(run.folder / "dog.png", [dog, *shrunk[:3]], titles, 2, caption, width=5.0)


def _as_bytes(images: np.ndarray) -> np.ndarray:
    """Images (N, 3, H, W) in 0 to 1 as uint8 (N, H, W, 3)."""
    return (255 * images + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)
