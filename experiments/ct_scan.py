"""A CT scan as a volume: 99 DICOM slices in the order in which they lie.

The order of the slices is that of their positions, which the files' names do not follow. The
scan is that of the notes on the book "Deep Learning with PyTorch" (docs/pages/book.md), called
the document, which reads (99, 512, 512) and inserts two axes; a 3-D net would take the same
voxels as (1, 1, 99, 512, 512).

    python -m experiments ct_scan

Result: the shapes of the document hold; 3 mm from slice to slice, 0.56 mm from
pixel to pixel, Hounsfield units from -1024 to 3071.
"""

import dataclasses

import numpy as np

from experiments.harness import ledger
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Settings
from experiments.harness.tables import save_ledger
from jaxnet import data, plots

DATA = ("ct_scan",)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of ct_scan."""

    window: tuple[float, float] = (-1000.0, 400.0)
    """Hounsfield units that the picture draws as black and as white."""

    def validate(self) -> None:
        super().validate()
        if not self.window[0] < self.window[1]:
            raise ValueError(f"--window: {self.window}; the first must be below the second")


def main(config: Config, run: Run) -> None:
    """Reads the volume."""
    volume = data.read_volume(find("ct_scan", config.data_dir), hounsfield=True)
    voxels = volume.voxels
    with_axes = np.expand_dims(voxels, (1, 2))  # (99, 1, 1, 512, 512)
    moved = sum(a != b for a, b in zip(volume.files, sorted(volume.files), strict=True))
    print(f"{len(voxels)} slices, {moved} of them not where their file's name would put them")
    print(f"spacing {volume.spacing} mm, {voxels.min():g} to {voxels.max():g} Hounsfield units")

    figures = {"read": voxels.shape, "with_axes": with_axes.shape}
    save_ledger(run, ledger.compare("ct_scan", figures))
    run.metrics |= {
        "spacing_mm": volume.spacing,
        "hounsfield": {"lowest": voxels.min(), "highest": voxels.max()},
        "moved_by_position": moved,
    }
    low, high = config.window
    wanted = np.linspace(0, len(voxels) - 1, 6).round().astype(int)
    grey = np.clip((voxels[wanted] - low) / (high - low), 0, 1)
    pictures = np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=-1)
    titles = [f"slice {i}" for i in wanted]
    caption = f"Slices from top to bottom, {low:g} to {high:g} Hounsfield units from black to white"
    plots.save_images(run.folder / "slices.png", pictures, titles, title=caption)
