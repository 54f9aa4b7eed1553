"""Crops, flips and sizes."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.data.transforms._checks import (
    check_batch,
    check_interpolation,
    check_number,
    check_probability,
    check_range,
    check_size,
    freeze,
    pair,
)
from jaxnet.precision import full_float32


@dataclasses.dataclass(frozen=True)
class RandomCrop:
    """Cuts each image at a random position: torchvision.transforms.RandomCrop.

    The images are floats (N, C, H, W).

    Attributes:
        size: The (height, width) of the result in pixels, or one number for both.
        padding: The number of pixels that are added first: one number for all sides, (left
            and right, top and bottom), or (left, top, right, bottom). For images of 32 x 32
            pixels 4 is usual.
        padding_mode: The pixels that are added: "constant" (`fill`), "edge" (the border
            pixel), "reflect" (mirrored without the border pixel) or "symmetric" (mirrored
            with it).
        fill: The value of the added pixels in mode "constant".
    """

    size: int | tuple[int, int]
    padding: int | tuple[int, ...] | None = 0
    padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant"
    fill: float = 0.0

    def __post_init__(self) -> None:
        freeze(self, "size", "padding")
        check_size(self.size)
        if len(self._sides()) != 4 or min(self._sides()) < 0:
            raise ValueError(
                f"padding: {self.padding}; accepted is a number, two or four, at least 0"
            )
        modes = ("constant", "edge", "reflect", "symmetric")
        if self.padding_mode not in modes:
            raise ValueError(f"padding_mode: {self.padding_mode!r}; accepted: {', '.join(modes)}")
        check_number("fill", self.fill)

    def _sides(self) -> tuple[int, ...]:
        """The padding at the left, top, right and bottom."""
        given = self.padding or 0
        given = given if isinstance(given, tuple) else (given,)
        return given * (4 // len(given)) if len(given) in (1, 2) else given

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("RandomCrop", batch)
        n, channels, *there = batch.shape
        height, width = pair(self.size)
        left, top, right, bottom = self._sides()
        room = (there[0] + top + bottom - height, there[1] + left + right - width)
        if min(room) < 0:
            raise ValueError(
                f"RandomCrop: size {(height, width)} does not fit images of {tuple(there)} with "
                f"padding {self.padding}"
            )
        sides = ((0, 0), (0, 0), (top, bottom), (left, right))
        if self.padding_mode == "constant":
            padded = jnp.pad(batch, sides, constant_values=self.fill)
        else:
            padded = jnp.pad(batch, sides, mode=self.padding_mode)
        tops, lefts = (
            jax.random.randint(k, (n,), 0, most + 1)
            for k, most in zip(jax.random.split(key), room, strict=True)
        )

        def piece(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
            return lax.dynamic_slice(image, (0, top, left), (channels, height, width))

        return jax.vmap(piece)(padded, tops, lefts)


@dataclasses.dataclass(frozen=True)
class _Flip:
    p: float = 0.5

    _axis: ClassVar[int]

    def __post_init__(self) -> None:
        check_probability(self.p)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch(type(self).__name__, batch)
        flipped = jax.random.bernoulli(key, float(self.p), (len(batch), 1, 1, 1))
        return jnp.where(flipped, jnp.flip(batch, self._axis), batch)


class RandomHorizontalFlip(_Flip):
    """Mirrors each image with probability p: torchvision.transforms.RandomHorizontalFlip.

    The images are floats (N, C, H, W).

    Attributes:
        p: The probability, in [0, 1].
    """

    _axis = -1


class RandomVerticalFlip(_Flip):
    """Turns each image upside down with probability p: torchvision's RandomVerticalFlip.

    The arguments are those of `RandomHorizontalFlip`.
    """

    _axis = -2


@dataclasses.dataclass(frozen=True)
class CenterCrop:
    """Cuts the middle out of each image: torchvision.transforms.v2.CenterCrop.

    The images are floats (N, C, H, W); smaller ones get zeros around them. The key is not used.

    Attributes:
        size: The (height, width) of the result in pixels, or one number for both.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        freeze(self, "size")
        check_size(self.size)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("CenterCrop", batch)
        sides = [(0, 0), (0, 0)]
        for there, wanted in zip(batch.shape[2:], pair(self.size), strict=True):
            missing = max(wanted - there, 0)
            sides.append((missing // 2, (missing + 1) // 2))
        padded = jnp.pad(batch, sides)
        (height, width), (h, w) = padded.shape[2:], pair(self.size)
        top, left = middle(height, h), middle(width, w)
        return padded[:, :, top : top + h, left : left + w]


def middle(there: int, wanted: int) -> int:
    """Where the middle `wanted` of `there` pixels begin, as torchvision rounds it."""
    return round((there - wanted) / 2)  # Python rounds a half to the even number


@dataclasses.dataclass(frozen=True)
class Resize:
    """Scales images: torchvision.transforms.v2.Resize.

    The images are floats (N, C, H, W). The key is not used.

    Attributes:
        size: The (height, width) of the result in pixels; one number is the length of the
            shorter side, and the longer one keeps the proportion.
        interpolation: "bilinear" or "nearest".
        max_size: The most that the longer side may be, for one number as size.
        antialias: Whether a smaller image is made of means over several pixels ("bilinear").
    """

    size: int | tuple[int, int]
    interpolation: Any = "bilinear"
    max_size: int | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        freeze(self, "size")
        check_size(self.size)
        check_interpolation(self.interpolation)
        most = self.max_size
        if most is not None and (isinstance(self.size, tuple) or most < self.size):
            raise ValueError(
                f"max_size: {self.max_size}; accepted is a number of at least size, which is then "
                "one number"
            )

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of the result for an image of this height and width."""
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        new = self.size, int(self.size * long / short)
        if self.max_size is not None and new[1] > self.max_size:
            new = int(self.max_size * new[0] / new[1]), self.max_size
        return new if height <= width else (new[1], new[0])

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("Resize", batch)
        height, width = batch.shape[2:]
        whole = jnp.asarray([[0, 0, height, width]])
        method = check_interpolation(self.interpolation)
        return resized_crop(batch, whole, self.sizes(height, width), method, self.antialias)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts a random part of each image and scales it: torchvision's v2.RandomResizedCrop.

    The images are floats (N, C, H, W). The distribution of the parts is torchvision's: of ten
    drawn ones the first that fits, and otherwise the middle of the image.

    Attributes:
        size: The (height, width) of the result in pixels, or one number for both.
        scale: The range of the part's share of the area, (low, high).
        ratio: The range of the part's width divided by its height, (low, high).
        interpolation: "bilinear" or "nearest".
        antialias: Whether a smaller image is made of means over several pixels ("bilinear").
    """

    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3.0 / 4.0, 4.0 / 3.0)
    interpolation: Any = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        freeze(self, "size", "scale", "ratio")
        check_size(self.size)
        check_range("scale", self.scale, 0, above=True)
        check_range("ratio", self.ratio, 0, above=True)
        check_interpolation(self.interpolation)

    def boxes(self, key: jax.Array, n: int, height: int, width: int) -> jax.Array:
        """The drawn parts, (n, 4): top, left, height and width in pixels."""
        attempts = (n, 10)
        area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
        area = height * width * jax.random.uniform(
            area_key, attempts, minval=self.scale[0], maxval=self.scale[1]
        )  # fmt: skip
        low, high = np.log(self.ratio)
        ratio = jnp.exp(jax.random.uniform(ratio_key, attempts, minval=low, maxval=high))
        w, h = jnp.rint(jnp.sqrt(area * ratio)), jnp.rint(jnp.sqrt(area / ratio))
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = jnp.argmax(fits, axis=1)[:, None]
        w, h = (jnp.take_along_axis(x, first, 1)[:, 0].astype(jnp.int32) for x in (w, h))
        top = jax.random.randint(top_key, (n,), 0, jnp.maximum(height - h, 0) + 1)
        left = jax.random.randint(left_key, (n,), 0, jnp.maximum(width - w, 0) + 1)
        middle_w, middle_h = width, height
        if width / height < self.ratio[0]:
            middle_h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            middle_w = round(height * self.ratio[1])
        middle = ((height - middle_h) // 2, (width - middle_w) // 2, middle_h, middle_w)
        found = jnp.stack([top, left, h, w], axis=1)
        return jnp.where(fits.any(1)[:, None], found, jnp.asarray(middle))

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("RandomResizedCrop", batch)
        n, _, height, width = batch.shape
        size = pair(self.size)
        boxes = self.boxes(key, n, height, width)
        method = check_interpolation(self.interpolation)
        return resized_crop(batch, boxes, (size[0], size[1]), method, self.antialias)


def resized_crop(
    batch: jax.Array, boxes: jax.Array, size: tuple[int, int], method: str, antialias: bool
) -> jax.Array:
    """A part of each image, scaled to one size.

    Each axis is a product with a matrix of weights, so that parts of all sizes are one program.

    Args:
        batch: The images, (N, C, H, W).
        boxes: The parts, integers (N, 4) or (1, 4): top, left, height, width.
        size: The height and width of the result.
        method: "bilinear" or "nearest".
        antialias: Whether a reduction takes means over all pixels that an output pixel covers.
    """

    def weights(start: jax.Array, length: jax.Array, there: int, wanted: int) -> jax.Array:
        scale = length[:, None, None] / wanted
        out = jnp.arange(wanted, dtype=jnp.float32)[None, :, None]
        pixel = jnp.arange(there, dtype=jnp.float32)[None, None] - start[:, None, None]
        if method == "nearest":
            return (pixel == jnp.floor(out * scale)).astype(batch.dtype)
        width = jnp.maximum(scale, 1) if antialias else 1.0
        distance = jnp.abs(pixel + 0.5 - scale * (out + 0.5)) / width
        inside = (pixel >= 0) & (pixel < length[:, None, None])
        triangle = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
        return (triangle / triangle.sum(-1, keepdims=True)).astype(batch.dtype)

    top, left, height, width = jnp.moveaxis(boxes, 1, 0).astype(jnp.float32)
    rows = weights(top, height, batch.shape[2], size[0])
    columns = weights(left, width, batch.shape[3], size[1])
    rows, columns = (jnp.broadcast_to(w, (len(batch), *w.shape[1:])) for w in (rows, columns))
    with full_float32():
        halfway = jnp.einsum("npw,nchw->nchp", columns, batch)
        return jnp.einsum("nph,nchw->ncpw", rows, halfway)
