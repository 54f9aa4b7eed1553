"""Reading a DICOM series as one array, with the slices in spatial order."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet._extras import needed


@dataclasses.dataclass(frozen=True)
class Volume:
    """The volume of one DICOM series.

    Attributes:
        voxels: The numbers, (depth, height, width): as stored, usually int16, or float32 in
            Hounsfield units.
        spacing: The distances between voxels along depth, height and width, in millimetres.
        files: The paths of the slices' files, in the order of the slices.
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    files: tuple[Path, ...]


def read_volume(folder: str | os.PathLike[str], *, hounsfield: bool = False) -> Volume:
    """Reads the slices of one DICOM series and sorts them by position.

    The slices are sorted by their position along the axis of the scan, from low to high,
    and not by the names of their files. The files are those with the suffix .dcm, or all
    files of the folder if none has it.

    Args:
        folder: The path of the folder with the series.
        hounsfield: Whether the numbers are converted to Hounsfield units (water 0, air
            -1000) with the slope and intercept of each slice. Otherwise they are returned
            as stored.

    Returns:
        The volume.

    Raises:
        ValueError: There are no slices, a file is damaged, slices differ in series or size,
            two slices have the same position, slices are shifted sideways, or a slice
            between two others is missing (a missing first or last slice is not noticed).
            With hounsfield, also if a slice is no CT or has no slope and intercept.
        FileNotFoundError: The folder does not exist.
        ImportError: pydicom is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; give that of a DICOM series")
    # A link whose target does not exist stays in the list: a slice is missing, and reading it
    # raises the error.
    files = sorted(f for f in folder.iterdir() if not f.is_dir() and not f.name.startswith("."))
    files = [f for f in files if f.suffix.lower() == ".dcm"] or files
    if not files:
        raise ValueError(f"{folder}: it holds no files; give the folder of a DICOM series")
    slices = [_Slice(file) for file in files]
    first = slices[0]
    for other in slices[1:]:
        for what in ("series", "shape", "axes", "pixel_spacing"):
            if getattr(other, what) != getattr(first, what):
                raise ValueError(
                    f"{other.file}: its {what.replace('_', ' ')} is {getattr(other, what)}, that "
                    f"of {first.file.name} is {getattr(first, what)}; a volume is one series"
                )
        shift = np.abs(np.subtract(other.corner, first.corner))
        if (shift > 0.5 * np.array(first.pixel_spacing[::-1])).any():
            raise ValueError(
                f"{other.file}: it lies {shift[0]:g} and {shift[1]:g} mm beside {first.file.name} "
                "along its rows and columns; a volume's slices lie straight above one another "
                "(a tilted series has to be resampled first)"
            )
    slices.sort(key=lambda each: each.position)
    step = _step(slices)
    voxels = np.stack([each.voxels(hounsfield) for each in slices])
    return Volume(voxels, (step, *first.pixel_spacing), tuple(each.file for each in slices))


class _Slice:
    """One slice of a volume, read from a file and checked."""

    def __init__(self, file: Path) -> None:
        pydicom = needed("pydicom", "read_volume", "pydicom")
        self.file = file
        try:
            data: Any = pydicom.dcmread(file)
            self.series = str(data.SeriesInstanceUID)
            self.axes = tuple(float(x) for x in data.ImageOrientationPatient)
            origin = [float(x) for x in data.ImagePositionPatient]
            rows, columns = (float(x) for x in data.PixelSpacing)
            self.pixel_spacing = (rows, columns)
            self.pixels = np.asarray(data.pixel_array)
            self.modality = str(data.get("Modality", "CT"))
            scale = data.get("RescaleSlope"), data.get("RescaleIntercept")
            self.rescale = None if None in scale else (float(scale[0]), float(scale[1]))
        except Exception as error:  # pydicom and its decoders raise errors of many kinds.
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{file}: damaged, or no DICOM slice: {reason}") from error
        if self.pixels.ndim != 2 or len(self.axes) != 6 or len(origin) != 3:
            raise ValueError(
                f"{file}: pixels of shape {self.pixels.shape}; accepted is one slice a file"
            )
        if not np.isfinite([*self.axes, *origin, *self.pixel_spacing]).all():
            raise ValueError(
                f"{file}: its place is not finite: ImagePositionPatient {origin}, "
                f"ImageOrientationPatient {list(self.axes)}, PixelSpacing {[rows, columns]}"
            )
        self.shape = self.pixels.shape
        # The position is measured along the normal of the slice, which is the axis of the scan.
        along_row, along_column = self.axes[:3], self.axes[3:]
        self.position = float(np.dot(np.cross(along_row, along_column), origin))
        self.corner = float(np.dot(along_row, origin)), float(np.dot(along_column, origin))

    def voxels(self, hounsfield: bool) -> np.ndarray:
        """The pixels as stored, or in Hounsfield units."""
        if not hounsfield:
            return self.pixels
        if self.rescale is None or self.modality != "CT":
            what = "no RescaleSlope and RescaleIntercept" if self.rescale is None else self.modality
            raise ValueError(
                f"{self.file}: {what}; Hounsfield units are for CT slices with both; "
                "hounsfield=False gives the numbers as stored"
            )
        slope, intercept = map(np.float32, self.rescale)
        return self.pixels.astype(np.float32) * slope + intercept


def _step(slices: Sequence[_Slice]) -> float:
    """The distance between neighbouring slices, after a check that it is always the same."""
    if len(slices) == 1:
        raise ValueError(f"{slices[0].file}: one slice is no volume; at least two are needed")
    positions = np.array([each.position for each in slices])
    steps = np.diff(positions)
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])  # Of two, the shorter one.
    for i in np.argsort(steps, kind="stable"):  # The shortest first.
        where = f"{slices[i].file.parent}: {slices[i].file.name} and {slices[i + 1].file.name}"
        if steps[i] < 1e-3:
            raise ValueError(f"{where} both lie at {positions[i]:g} mm; remove one")
        # Files have the positions with few digits, so steps differ a little; a missing slice
        # doubles a step.
        if abs(steps[i] - usual) > 0.1 * usual:
            missing = max(round(steps[i] / usual) - 1, 0)
            what = f"{missing} missing between them" if missing else "slices are uneven"
            raise ValueError(
                f"{where} lie at {positions[i]:g} and {positions[i + 1]:g} mm, the others "
                f"{usual:g} mm apart: {what}; copy the series again"
            )
    return float((positions[-1] - positions[0]) / (len(slices) - 1))
