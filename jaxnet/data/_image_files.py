"""Reading PNG and JPEG files, one or a folder of them, as arrays."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet._extras import needed

SUFFIXES = (".png", ".jpg", ".jpeg")
# Pillow knows many more, and gives some of them (EPS) to other programs.
_FORMATS = ("PNG", "JPEG")
# The modes of Pillow with 8 bits a channel, or that become such without loss.
_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "1")


def read_image(path: str | os.PathLike[str], *, upright: bool = False) -> np.ndarray:
    """Reads one image file.

    Grey and palette images become RGB images. A fourth channel (alpha) is dropped and not
    blended.

    Args:
        path: The path of the PNG or JPEG file.
        upright: Whether the image is turned as the EXIF data of a camera say. By default the
            pixels are returned as stored, as torchvision's `ImageFolder` has them.

    Returns:
        The pixels, uint8 (H, W, 3).

    Raises:
        ValueError: The file is damaged, is no image, or has more than 8 bits a channel.
        FileNotFoundError: The file does not exist.
        ImportError: Pillow is not installed.
    """
    Image = needed("PIL.Image", "read_image", "pillow")
    ImageOps = needed("PIL.ImageOps", "read_image", "pillow")
    path = Path(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            picture.verify()  # Compares a PNG's checksums, which reading ignores.
        with Image.open(path, formats=_FORMATS) as picture:
            mode = picture.mode
            deep = any(";16" in str(tile[3]) for tile in picture.tile)
            if picture.format == "PNG" and mode in _MODES and deep:
                mode = f"{mode} of 16 bits"  # Pillow would drop the lower eight bits.
            picture.load()
            pixels = None
            if mode in _MODES:
                turned = ImageOps.exif_transpose(picture) if upright else picture
                pixels = np.array(turned.convert("RGB"))
    except FileNotFoundError:
        raise
    except (
        OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: broken, or no picture: {reason}; copy it again") from error
    if pixels is None:
        raise ValueError(
            f"{path}: its colours are {mode}; accepted are 8 bits a channel of "
            f"{', '.join(_MODES)}: convert it first"
        )
    return pixels


def read_images(
    folder: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    suffixes: Sequence[str] = SUFFIXES,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads all images of a folder, in the order of their names.

    Args:
        folder: The path of the folder. Folders in it are not searched, and files whose names
            begin with a dot are left out.
        size: The (height, width) in pixels to which images of other sizes are resized
            (bilinear). None is an error for images of different sizes.
        suffixes: The suffixes of the files, in upper or lower case.

    Returns:
        The pixels, uint8 (N, H, W, 3), and the names of the files. `to_tensor` and
        `normalize` make the input of a model from the pixels.

    Raises:
        ValueError: There are no images, one is damaged, or their sizes differ.
        FileNotFoundError: The folder does not exist, or the target of a link in it does not.
        ImportError: Pillow is not installed.
    """
    if size is not None:
        _check_size(size)
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    wanted = tuple(suffix.lower() for suffix in suffixes)
    files = image_files(folder, wanted)
    if not files:
        raise ValueError(f"{folder}: no pictures there; looked for {', '.join(wanted)}")
    images = [read_image(file) for file in files]
    if size is not None:
        images = [resized(image, size) for image in images]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{file}: {image.shape[0]} x {image.shape[1]} pixels, but {files[0].name} has "
                f"{images[0].shape[0]} x {images[0].shape[1]}; give size=(height, width) to resize"
            )
    return np.stack(images), tuple(file.name for file in files)


def image_files(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files of a folder with one of these suffixes (lower case), in the order of their names.

    A link whose target does not exist stays in the list: an image is missing, and reading it
    raises the error.
    """
    return sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in suffixes and not f.is_dir() and not f.name.startswith(".")
    )


def _check_size(size: Any) -> None:
    pair = isinstance(size, Sequence) and len(size) == 2
    if not pair or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in size):
        raise ValueError(f"size: {size!r}; accepted is (height, width), whole numbers from 1 on")


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image resized to (height, width) by Pillow, or itself if it has this size.

    These are the pixels of torchvision's `Resize` for an image of Pillow.
    """
    Image = needed("PIL.Image", "read_images", "pillow")
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and standard deviation of each channel of images.

    The sums are in float64. As in torch's `std`, the standard deviation divides by n - 1.

    Args:
        images: The images, floats (N, C, H, W); or uint8 (N, H, W, C), whose statistics are
            those after `to_tensor`.

    Returns:
        The means and the standard deviations, (C,) each, of the images' dtype (float32 for
        uint8).

    Raises:
        ValueError: The images have another shape or dtype, or only one pixel.

    >>> channel_statistics(np.array([0, 1], np.float32).reshape(2, 1, 1, 1))
    (array([0.5], dtype=float32), array([0.70710677], dtype=float32))
    """
    accepted = images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)
    if images.ndim != 4 or 0 in images.shape or not accepted:
        raise ValueError(
            f"images: {images.dtype} of shape {images.shape}; accepted is float (N, C, H, W) or "
            "uint8 (N, H, W, C)"
        )
    if images.dtype == np.uint8:  # Exact: a sum over the counts of the 256 values.
        values = np.arange(256) / 255.0
        counts = [
            np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[3])
        ]
        n = images[..., 0].size
        mean = np.array([(count * values).sum() / n for count in counts])
        square = np.array(
            [(count * (values - m) ** 2).sum() for count, m in zip(counts, mean, strict=True)]
        )
    else:
        n = images[:, 0].size
        mean = images.mean(axis=(0, 2, 3), dtype=np.float64)
        square = np.array([((images[:, c] - m) ** 2).sum() for c, m in enumerate(mean)])
    if n < 2:
        raise ValueError("images: one pixel has no deviation")
    kind = np.float32 if images.dtype == np.uint8 else images.dtype
    return mean.astype(kind), np.sqrt(square / (n - 1)).astype(kind)
