"""A CT scan as a volume: 99 DICOM slices in the order in which they lie, and a 3-D convolution.

The scan is that of the notes on the book "Deep Learning with PyTorch" (docs/pages/book.md), called
the document, which reads (99, 512, 512) by `imageio.volread` and inserts two axes. That reader
sorts by the DICOM field InstanceNumber; here the slices are sorted by their position, from low to
high, which is the reverse: the document's `vol_arr[0]` is slice 98 here.

A 3-D net takes voxels as (N, 1, depth, height, width). A small one, of two `Conv3d`, removes
noise that was added to parts of the scan; the upper slices are held out, and the mean of each
voxel's 27 neighbours is what it has to beat.

    python -m experiments ct_scan

Result (2-core CPU, half a minute): the shapes of the document hold; 3 mm from slice to slice,
0.56 mm from pixel to pixel, Hounsfield units from -1024 to 3071. Of the noise's mean squared
error 0.0100 the neighbours' mean leaves 0.0056 and the net 0.0038. The run does not show that
depth helps: with 1x3x3 kernels in place of 3x3x3 the net did better in a trial of 4 epochs and
one seed, 0.0034 against 0.0044.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import ledger
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Training
from experiments.harness.tables import save_checks, save_ledger, show
from jaxnet import data, losses, nn, optim, plots, train
from jaxnet.random import Generator

DATA = ("ct_scan",)
PATCH = (8, 32, 32)  # depth, height and width of the parts that the nets learn from


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of ct_scan."""

    epochs: Count = 4
    """Passes over the parts of the scan."""
    lr: Positive = 1e-2
    """Learning rate of Adam."""
    noise: Positive = 0.1
    """Deviation of the noise, as a part of the window."""
    window: tuple[float, float] = (-1000.0, 400.0)
    """Hounsfield units that count as black and as white, in the pictures and for the nets."""

    def validate(self) -> None:
        super().validate()
        if not self.window[0] < self.window[1]:
            raise ValueError(f"--window: {self.window}; the first must be below the second")


class Denoiser(nn.Module):
    """Subtracts from voxels what two convolutions take for noise.

    Args:
        rngs: The generator of the initial weights.
    """

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv3d(1, 8, 3, padding=1, rngs=rngs)
        self.conv2 = nn.Conv3d(8, 1, 3, padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x - self.conv2(nn.functional.relu(self.conv1(x)))


def instance_numbers(files: Sequence[Path]) -> list[int]:
    """The DICOM field InstanceNumber of each file."""
    import pydicom

    return [int(pydicom.dcmread(file, stop_before_pixels=True).InstanceNumber) for file in files]


def order_checks(numbers: Sequence[int]) -> list[dict[str, str]]:
    """Whether the slices' InstanceNumbers fall by one from each slice to the next, to 1.

    Args:
        numbers: The InstanceNumber of each slice, in our order.
    """
    right = list(numbers) == list(range(len(numbers), 0, -1))
    what = "our slices are the document's in the reverse order, by InstanceNumber"
    found = f"ours 0 has the number {numbers[0]}, ours {len(numbers) - 1} the number {numbers[-1]}"
    return [ledger.check(what, found, right)]


def parts(volume: np.ndarray) -> np.ndarray:
    """The middle of a volume cut into parts (N, 1, *PATCH).

    Args:
        volume: The voxels (depth, height, width), of which the middle half is taken.
    """
    _, height, width = volume.shape
    middle = volume[:, height // 4 : -height // 4, width // 4 : -width // 4]
    counts = [size // part for size, part in zip(middle.shape, PATCH, strict=True)]
    d, h, w = (count * part for count, part in zip(counts, PATCH, strict=True))
    cut = middle[:d, :h, :w].reshape(counts[0], PATCH[0], counts[1], PATCH[1], counts[2], PATCH[2])
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 1, *PATCH)


def denoise(
    noisy: tuple[np.ndarray, np.ndarray],
    clean: tuple[np.ndarray, np.ndarray],
    config: Config,
) -> np.ndarray:
    """Trains a `Denoiser`; returns the held-out parts without what it takes for noise.

    Args:
        noisy: The parts to train on and those held out, (N, 1, *PATCH), with noise.
        clean: The same parts without noise.
        config: The settings.
    """
    generator = Generator(config.seed)
    optimizer = optim.Adam(lr=config.lr)
    result = train.fit(
        train.create(Denoiser(rngs=generator), optimizer, config.seed),
        train.make_train_step(train.supervised(losses.mse_loss), optimizer),
        (noisy[0], clean[0]),
        epochs=config.epochs,
        batch_size=8,
        generator=generator,
        quiet=True,
        log=lambda line: None,
    )
    return train.predict(result.state, noisy[1], batch_size=64)


def denoise_checks(errors: Mapping[str, float]) -> list[dict[str, str]]:
    """Whether each way to remove the noise leaves a smaller error than the one before it.

    Args:
        errors: The mean squared errors by name of the way, from the worst to the best.
    """
    checks = []
    for worse, better in itertools.pairwise(errors):
        found = f"{errors[better]:.2e} and {errors[worse]:.2e}"
        holds = errors[better] < errors[worse]
        checks.append(ledger.check(f"{better} leaves a smaller error than {worse}", found, holds))
    return checks


def main(config: Config, run: Run) -> None:
    """Reads the volume, then learns to remove noise from it."""
    volume = data.read_volume(find("ct_scan", config.data_dir), hounsfield=True)
    voxels = volume.voxels
    with_axes = np.expand_dims(voxels, (1, 2))  # (99, 1, 1, 512, 512)
    numbers = instance_numbers(volume.files)
    moved = sum(a != b for a, b in zip(volume.files, sorted(volume.files), strict=True))
    print(f"{len(voxels)} slices, {moved} of them not where their file's name would put them")
    print(f"spacing {volume.spacing} mm, {voxels.min():g} to {voxels.max():g} Hounsfield units")
    checks = order_checks(numbers)

    low, high = config.window
    grey = np.clip((voxels - low) / (high - low), 0, 1)
    cut = len(grey) * 2 // 3
    clean = parts(grey[:cut])[::2], parts(grey[cut:])[::2]
    generator = Generator(config.seed)
    noise = [np.float32(config.noise) * generator.randn(*part.shape) for part in clean]
    noisy = clean[0] + noise[0], clean[1] + noise[1]
    mean = nn.AvgPool3d(3, stride=1, padding=1, count_include_pad=False)
    without = {
        "the noise": noisy[1],
        "the mean of 27 voxels": np.asarray(mean(jnp.asarray(noisy[1]))),
        "two Conv3d": denoise(noisy, clean, config),
    }
    errors = {name: float(np.mean((x - clean[1]) ** 2)) for name, x in without.items()}
    print(f"{len(clean[0])} parts of {PATCH} to train on, {len(clean[1])} held out")
    show(("left by", "mean squared error"), [(k, f"{v:.2e}") for k, v in errors.items()])
    if not config.changed().keys() - {"seed"}:
        checks += denoise_checks(errors)
    save_checks(run, checks)

    figures = {"read": voxels.shape, "with_axes": with_axes.shape}
    save_ledger(run, ledger.compare("ct_scan", figures))
    run.metrics |= {
        "spacing_mm": volume.spacing,
        "hounsfield": {"lowest": voxels.min(), "highest": voxels.max()},
        "moved_by_position": moved,
        "mean_squared_error": errors,
    }
    wanted = np.linspace(0, len(voxels) - 1, 6).round().astype(int)
    titles = [f"slice {i}, InstanceNumber {numbers[i]}" for i in wanted]
    caption = f"Slices from low to high, {low:g} to {high:g} Hounsfield units from black to white"
    plots.save_images(run.folder / "slices.png", _as_pictures(grey[wanted]), titles, 3, caption,
                      width=3.0)  # fmt: skip
    busiest = int(clean[1].std(axis=(1, 2, 3, 4)).argmax())
    shown = {"clean": clean[1]} | without
    slices = np.stack([part[busiest, 0, PATCH[0] // 2] for part in shown.values()])
    caption = "A part of a slice: clean, with noise, and with the noise removed in two ways"
    plots.save_images(run.folder / "noise.png", _as_pictures(np.clip(slices, 0, 1)), list(shown), 4,
                      caption, width=2.6)  # fmt: skip


def _as_pictures(grey: np.ndarray) -> np.ndarray:
    """Slices (N, H, W) in 0 to 1 as uint8 (N, H, W, 3)."""
    return np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=-1)
