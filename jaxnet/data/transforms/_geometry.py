"""Rotations and affine maps of images, each with its own numbers."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.data.transforms._checks import (
    check_batch,
    check_interpolation,
    check_number,
    check_range,
    freeze,
)


def inverse_matrices(
    angle: jax.Array,
    translate: jax.Array,
    scale: jax.Array,
    shear: jax.Array,
    center: tuple[float, float] = (0.0, 0.0),
) -> jax.Array:
    """From pixels of the result to pixels of the image, both counted from the middle.

    The composition is torchvision's: shear, rotation, scale, then the translation.

    Args:
        angle: The rotations in degrees, clockwise, (N,).
        translate: The shifts in x and y in pixels, (N, 2).
        scale: The factors, (N,).
        shear: The angles in x and y in degrees, (N, 2).
        center: The fixed point in x and y, from the middle of the image.

    Returns:
        The matrices, (N, 2, 3).
    """
    turn, sx, sy = jnp.deg2rad(angle), jnp.deg2rad(shear[:, 0]), jnp.deg2rad(shear[:, 1])
    a = jnp.cos(turn - sy) / jnp.cos(sy)
    b = -jnp.cos(turn - sy) * jnp.tan(sx) / jnp.cos(sy) - jnp.sin(turn)
    c = jnp.sin(turn - sy) / jnp.cos(sy)
    d = -jnp.sin(turn - sy) * jnp.tan(sx) / jnp.cos(sy) + jnp.cos(turn)
    cx, cy = center
    x, y = -cx - translate[:, 0], -cy - translate[:, 1]
    first, second = (d / scale, -b / scale), (-c / scale, a / scale)
    rows = [
        jnp.stack([m, n, m * x + n * y + middle], axis=1)
        for (m, n), middle in ((first, cx), (second, cy))
    ]
    return jnp.stack(rows, axis=1)


def mapped(batch: jax.Array, matrices: jax.Array, method: str, fill: float | None) -> jax.Array:
    """Images of which each pixel is looked up where a matrix leads; outside there is `fill`.

    Args:
        batch: The images, (N, C, H, W).
        matrices: Those of `inverse_matrices`, (N, 2, 3).
        method: "nearest" or "bilinear".
        fill: The value outside of the image; None is 0 without the blend at the border.
    """
    if method == "bilinear" and fill is not None:
        # As torchvision has it, a pixel at the border counts by the square of its share.
        ones = jnp.ones_like(batch[:, :1])
        blended = mapped(jnp.concatenate([batch, ones], axis=1), matrices, method, None)
        share = blended[:, -1:]
        return blended[:, :-1] * share + (1 - share) * jnp.asarray(fill, batch.dtype)
    outside = 0.0 if fill is None else fill
    height, width = batch.shape[2:]
    y = jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2
    x = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    y, x = jnp.meshgrid(y, x, indexing="ij")

    def one(image: jax.Array, matrix: jax.Array) -> jax.Array:
        column = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + (width - 1) / 2
        row = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + (height - 1) / 2

        def pixels(i: jax.Array, j: jax.Array) -> jax.Array:
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            i, j = (jnp.clip(v, 0, n - 1).astype(jnp.int32) for v, n in ((i, height), (j, width)))
            return jnp.where(inside[None], image[:, i, j], jnp.asarray(outside, image.dtype))

        if method == "nearest":
            return pixels(jnp.rint(row), jnp.rint(column))
        i, j = jnp.floor(row), jnp.floor(column)
        down, right = (row - i)[None].astype(image.dtype), (column - j)[None].astype(image.dtype)
        upper = pixels(i, j) * (1 - right) + pixels(i, j + 1) * right
        lower = pixels(i + 1, j) * (1 - right) + pixels(i + 1, j + 1) * right
        return upper * (1 - down) + lower * down

    return jax.vmap(one)(batch, matrices)


def _symmetric(value: Any) -> Any:
    """A number x as the range (-x, x)."""
    return (-value, value) if isinstance(value, int | float) and value >= 0 else value


def _from_middle(center: Sequence[float] | None, batch: jax.Array) -> tuple[float, float]:
    if center is None:
        return 0.0, 0.0
    return center[0] - batch.shape[3] * 0.5, center[1] - batch.shape[2] * 0.5


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Rotates, shifts, scales and shears each image: torchvision.transforms.v2.RandomAffine.

    The images are floats (N, C, H, W).

    Attributes:
        degrees: The range of the rotation, (low, high), clockwise; a number x is (-x, x).
        translate: The largest shift in x and y, as shares of the width and the height.
        scale: The range of the factor, (low, high).
        shear: The range of the angle in x, (low, high), or in x and y, four numbers; a number
            x is (-x, x).
        interpolation: "nearest" or "bilinear".
        fill: The value outside of the image.
        center: The fixed point (x, y) in pixels; by default the middle.
    """

    degrees: float | tuple[float, float]
    translate: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    shear: float | tuple[float, ...] | None = None
    interpolation: Any = "nearest"
    fill: float = 0.0
    center: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        freeze(self, "degrees", "translate", "scale", "shear", "center")
        check_range("degrees", _symmetric(self.degrees))
        if self.translate is not None and not (
            len(self.translate) == 2 and all(0 <= share <= 1 for share in self.translate)
        ):
            raise ValueError(f"translate: {self.translate}; accepted are two shares, 0 to 1")
        if self.scale is not None:
            check_range("scale", self.scale, 0, above=True)
        ranges = self._shears()
        for low_high in (ranges[:2], ranges[2:]):
            check_range("shear", low_high)
        check_interpolation(self.interpolation)
        check_number("fill", self.fill)

    def _shears(self) -> tuple[float, ...]:
        given = _symmetric(self.shear or 0.0)
        given = given if isinstance(given, tuple) else ()
        return (*given, 0.0, 0.0) if len(given) == 2 else given

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("RandomAffine", batch)
        n, _, height, width = batch.shape
        keys = jax.random.split(key, 4)

        def draw(k: jax.Array, low: Any, high: Any) -> jax.Array:
            shape = (n, *jnp.shape(low))
            low, high = jnp.asarray(low, jnp.float32), jnp.asarray(high, jnp.float32)
            return low + (high - low) * jax.random.uniform(k, shape)

        angle = draw(keys[0], *_symmetric(self.degrees))
        most = [s * m for s, m in zip(self.translate or (0, 0), (width, height), strict=True)]
        shifts = jnp.rint(
            jax.random.uniform(keys[1], (n, 2), minval=-1.0) * jnp.asarray(most, jnp.float32)[None]
        )
        scale = draw(keys[2], *(self.scale or (1.0, 1.0)))
        x_low, x_high, y_low, y_high = self._shears()
        uniform = jax.random.uniform(keys[3], (n, 2))
        lows, spans = jnp.asarray([[x_low, y_low]]), jnp.asarray([[x_high - x_low, y_high - y_low]])
        shear = lows.astype(jnp.float32) + spans.astype(jnp.float32) * uniform
        center = _from_middle(self.center, batch)
        matrices = inverse_matrices(angle, shifts, scale, shear, center)
        return mapped(batch, matrices, check_interpolation(self.interpolation), self.fill)


@dataclasses.dataclass(frozen=True)
class RandomRotation:
    """Rotates each image: torchvision.transforms.v2.RandomRotation.

    The images are floats (N, C, H, W) and keep their size: `expand` is not there, because the
    shape would depend on the angle.

    Attributes:
        degrees: The range of the angle, (low, high), counter-clockwise; a number x is (-x, x).
        interpolation: "nearest" or "bilinear".
        center: The fixed point (x, y) in pixels; by default the middle.
        fill: The value outside of the image.
    """

    degrees: float | tuple[float, float]
    interpolation: Any = "nearest"
    center: tuple[float, float] | None = None
    fill: float = 0.0

    def __post_init__(self) -> None:
        freeze(self, "degrees", "center")
        check_range("degrees", _symmetric(self.degrees))
        check_interpolation(self.interpolation)
        check_number("fill", self.fill)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        low, high = _symmetric(self.degrees)
        check_batch("RandomRotation", batch)
        clockwise = RandomAffine(
            (-high, -low),
            interpolation=self.interpolation,
            fill=self.fill,
            center=self.center,
        )
        return clockwise(key, batch)
