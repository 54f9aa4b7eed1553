"""Images as arrays for a model, in numpy."""

from collections.abc import Sequence

import numpy as np


def to_tensor(images: np.ndarray) -> np.ndarray:
    """Converts images to the input of a model: torchvision.transforms.ToTensor.

    Args:
        images: The images, uint8 (N, H, W, C) in 0..255.

    Returns:
        The images in float32, (N, C, H, W) in 0..1.

    Raises:
        ValueError: The images have another shape or dtype.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images: {images.dtype} of shape {images.shape}; accepted is uint8 (N, H, W, C)"
        )
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def normalize(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Computes (x - mean) / std for each channel: torchvision.transforms.Normalize.

    Args:
        images: The images, floats (N, C, H, W).
        mean: The C means.
        std: The C standard deviations.

    Returns:
        The normalized images, in the images' shape and dtype.

    Raises:
        ValueError: The images have another shape or dtype, there are not C means and
            standard deviations, or a standard deviation is 0.
    """
    if not np.issubdtype(images.dtype, np.floating) or images.ndim != 4:
        raise ValueError(
            f"images: {images.dtype} of shape {images.shape}; accepted is float (N, C, H, W), as "
            "to_tensor gives it"
        )
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean, std: {len(mean)} and {len(std)} numbers for images of {channels} channels"
        )
    if 0 in list(std):
        raise ValueError(f"std: {list(std)} holds a zero, which cannot be divided by")
    shape = (1, channels, 1, 1)
    shift = np.asarray(mean, images.dtype).reshape(shape)
    return (images - shift) / np.asarray(std, images.dtype).reshape(shape)
