"""Transforms that hide a part of each image."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.data.transforms._checks import (
    check_batch,
    check_number,
    check_probability,
    check_range,
    freeze,
)


@dataclasses.dataclass(frozen=True)
class Cutout:
    """Sets a square of each image to one value (DeVries and Taylor, 2017).

    The centre of the square is a random pixel. The part of the square outside the image is
    cut off. The images are floats (N, C, H, W).

    Attributes:
        size: The side of the square in pixels.
        fill: The value; 0 is the mean of normalized images.
    """

    size: int
    fill: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.size, (int, np.integer)) or self.size < 1:
            raise ValueError(f"size: {self.size!r}; accepted is a whole number, at least 1")
        check_number("fill", self.fill)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("Cutout", batch)
        n, _, height, width = batch.shape
        inside = []
        for k, side in zip(jax.random.split(key), (height, width), strict=True):
            start = jax.random.randint(k, (n, 1), 0, side) - self.size // 2
            place = jnp.arange(side)[None]
            inside.append((place >= start) & (place < start + self.size))  # (N, side)
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return jnp.where(hole, jnp.asarray(self.fill, batch.dtype), batch)


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Sets a rectangle of each image to a value: torchvision.transforms.v2.RandomErasing.

    The images are floats (N, C, H, W). The distribution is torchvision's: of ten drawn
    rectangles the first that fits, and otherwise the image stays.

    Attributes:
        p: The probability, in [0, 1].
        scale: The range of the rectangle's share of the area, (low, high).
        ratio: The range of its height divided by its width, (low, high).
        value: One number, one for each channel, or "random" for normal numbers.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float | tuple[float, ...] | Literal["random"] = 0.0

    def __post_init__(self) -> None:
        freeze(self, "scale", "ratio", "value")
        check_probability(self.p)
        check_range("scale", self.scale, 0, 1)
        check_range("ratio", self.ratio, 0, above=True)
        if isinstance(self.value, str) and self.value != "random":
            raise ValueError(f"value: {self.value!r}; accepted are numbers and 'random'")

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("RandomErasing", batch)
        n, channels, height, width = batch.shape
        attempts = (n, 10)
        area_key, ratio_key, top_key, left_key, use_key, value_key = jax.random.split(key, 6)
        area = height * width * jax.random.uniform(
            area_key, attempts, minval=self.scale[0], maxval=self.scale[1]
        )  # fmt: skip
        low, high = np.log(self.ratio)
        ratio = jnp.exp(jax.random.uniform(ratio_key, attempts, minval=low, maxval=high))
        h, w = jnp.rint(jnp.sqrt(area * ratio)), jnp.rint(jnp.sqrt(area / ratio))
        fits = (h < height) & (w < width)
        first = jnp.argmax(fits, axis=1)[:, None]
        h, w = (jnp.take_along_axis(x, first, 1).astype(jnp.int32) for x in (h, w))  # (N, 1)
        erased = jax.random.bernoulli(use_key, float(self.p), (n,)) & fits.any(1)
        inside = []
        for k, length, side in ((top_key, h, height), (left_key, w, width)):
            start = jax.random.randint(k, (n, 1), 0, jnp.maximum(side - length, 0) + 1)
            pixel = jnp.arange(side)[None]
            inside.append((pixel >= start) & (pixel < start + length))  # (N, side)
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        if self.value == "random":
            value = jax.random.normal(value_key, batch.shape, batch.dtype)
        else:
            numbers = np.ravel(np.asarray(self.value, np.float32))
            if len(numbers) not in (1, channels):
                raise ValueError(f"value: {self.value}; accepted are 1 or {channels} numbers")
            value = jnp.asarray(numbers, batch.dtype).reshape(1, -1, 1, 1)
        hole = hole & erased[:, None, None, None]
        return jnp.where(hole, jnp.broadcast_to(value, batch.shape), batch)
