"""Pictures in files: one, or a folder of PNG and JPEG, as arrays."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet._extras import needed

_SUFFIXES = (".png", ".jpg", ".jpeg")
# Pillow's modes that hold 8 bits a channel, or turn into such without loss.
_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "1")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one picture, uint8 (H, W, 3).

    Grey and palette pictures become red, green and blue; a fourth channel (alpha) is
    dropped, not blended. Pixels come as stored: a camera's note on rotation is not
    followed.

    Raises:
        ValueError: the file is broken, no picture, or has more than 8 bits a channel.
        FileNotFoundError: it is not there.
    """
    Image = needed("PIL.Image", "read_image", "pillow")
    path = Path(path)
    try:
        with Image.open(path) as picture:
            picture.verify()  # a PNG's checksums, which reading passes over
        with Image.open(path) as picture:
            mode = picture.mode
            deep = any(";16" in str(tile[3]) for tile in picture.tile)
            if picture.format == "PNG" and mode in _MODES and deep:
                mode = f"{mode} of 16 bits"  # Pillow would drop the lower eight
            picture.load()
            pixels = np.array(picture.convert("RGB")) if mode in _MODES else None
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
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
    suffixes: Sequence[str] = _SUFFIXES,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads all pictures of a folder, in the order of their names.

    Args:
        folder: not gone into deeper; files whose names begin with a dot are left out.
        size: (height, width) to resize to where a picture has another size; None
            refuses pictures of different sizes.
        suffixes: of the files to read.

    Returns:
        uint8 (N, H, W, 3) and the files' names. `to_tensor` and `normalize` make
        the input of a net from it.

    Raises:
        ValueError: there are no pictures, one is broken, or their sizes differ.
        FileNotFoundError: the folder is not there, or a link in it leads nowhere.
    """
    if size is not None:
        _check_size(size)
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    wanted = tuple(suffix.lower() for suffix in suffixes)
    # A link that leads nowhere is a picture that is missing: reading it says so.
    files = sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in wanted and not f.is_dir() and not f.name.startswith(".")
    )
    if not files:
        raise ValueError(f"{folder}: no pictures there; looked for {', '.join(wanted)}")
    images = [read_image(file) for file in files]
    if size is not None:
        images = [_resized(image, size) for image in images]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{file}: {image.shape[0]} x {image.shape[1]} pixels, but {files[0].name} has "
                f"{images[0].shape[0]} x {images[0].shape[1]}; give size=(height, width) to resize"
            )
    return np.stack(images), tuple(file.name for file in files)


def _check_size(size: Any) -> None:
    pair = isinstance(size, Sequence) and len(size) == 2
    if not pair or not all(isinstance(n, (int, np.integer)) and n >= 1 for n in size):
        raise ValueError(f"size: {size!r}; accepted is (height, width), whole numbers from 1 on")


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    Image = needed("PIL.Image", "read_images", "pillow")
    if image.shape[:2] == tuple(size):
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of (N, C, H, W), (C,) each.

    Summed in float64; the deviation has n - 1 below, as torch's `std`. uint8 images
    (N, H, W, C) are taken too, and measured as `to_tensor` would scale them.

    >>> channel_statistics(np.array([0, 1], np.float32).reshape(2, 1, 1, 1))
    (array([0.5], dtype=float32), array([0.70710677], dtype=float32))
    """
    accepted = images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)
    if images.ndim != 4 or 0 in images.shape or not accepted:
        raise ValueError(
            f"images: {images.dtype} of shape {images.shape}; accepted is float (N, C, H, W) or "
            "uint8 (N, H, W, C)"
        )
    if images.dtype == np.uint8:  # exact, from how often each of the 256 values comes
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
