"""Policies that choose among many changes at random."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._checks import check_integer
from jaxnet.data.transforms._checks import check_batch, check_interpolation, check_number
from jaxnet.data.transforms._color import (
    autocontrast,
    blend,
    equalize,
    grey,
    posterize,
    sharpness_degenerate,
)
from jaxnet.data.transforms._geometry import inverse_matrices, mapped

NAMES = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color",
    "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
_SIGNED = np.array([1 <= i <= 9 for i in range(len(NAMES))])


def changed(
    batch: jax.Array, change: jax.Array, magnitude: jax.Array, method: str, fill: float | None
) -> jax.Array:
    """Each image changed by one of `NAMES`, by its own magnitude.

    What moves pixels is one map for the whole batch, and what blends with another image is one
    blend; an image that is not concerned has the map or the factor that changes nothing.

    Args:
        batch: The images, (N, 3, H, W) in 0..1.
        change: The numbers of the changes, (N,).
        magnitude: The magnitudes, (N,).
        method: "nearest" or "bilinear", for what moves pixels.
        fill: The value outside of the image; None is 0.
    """

    def of(name: str, other: float = 0.0) -> jax.Array:
        return jnp.where(change == NAMES.index(name), magnitude, other)

    def where(name: str) -> jax.Array:
        return (change == NAMES.index(name))[:, None, None, None]

    height, width = batch.shape[2:]
    shear_x, shear_y = (jnp.rad2deg(jnp.arctan(of(name))) for name in ("ShearX", "ShearY"))
    shifts = jnp.stack([jnp.trunc(of("TranslateX")), jnp.trunc(of("TranslateY"))], axis=1)
    # torchvision shears about the upper left corner, and rotates about the middle.
    shears = jnp.stack([shear_x, shear_y], axis=1)
    ones = jnp.ones_like(magnitude)
    corner = inverse_matrices(0 * ones, shifts, ones, shears, (-width * 0.5, -height * 0.5))
    turned = inverse_matrices(-of("Rotate"), 0 * shifts, ones, 0 * shears)
    rotates = (change == NAMES.index("Rotate"))[:, None, None]
    moved = mapped(batch, jnp.where(rotates, turned, corner), method, fill)
    geometric = (change >= 1) & (change <= NAMES.index("Rotate"))
    out = jnp.where(geometric[:, None, None, None], moved, batch)

    contrast = jnp.broadcast_to(grey(batch).mean((1, 2, 3), keepdims=True), batch.shape)
    other = jnp.where(where("Contrast"), contrast, jnp.zeros_like(batch))
    other = jnp.where(where("Color"), jnp.broadcast_to(grey(batch), batch.shape), other)
    other = jnp.where(where("Sharpness"), sharpness_degenerate(batch), other)
    blends = where("Brightness") | where("Color") | where("Contrast") | where("Sharpness")
    factor = (1 + magnitude)[:, None, None, None].astype(batch.dtype)
    out = jnp.where(blends, blend(batch, other, factor), out)

    bits = of("Posterize", 8)[:, None, None, None].astype(batch.dtype)
    out = jnp.where(where("Posterize"), posterize(batch, bits), out)
    threshold = of("Solarize", 2)[:, None, None, None].astype(batch.dtype)
    out = jnp.where(batch >= threshold, 1 - batch, out)
    out = jnp.where(where("AutoContrast"), autocontrast(batch), out)
    return jnp.where(where("Equalize"), equalize(batch), out)


def _table(bins: int, rows: dict[str, tuple[float, float]], least_bits: int) -> np.ndarray:
    """The magnitude of each change at each of so many steps, (changes, bins)."""
    table = np.zeros((len(NAMES), bins), np.float32)
    for name, (first, last) in rows.items():
        table[NAMES.index(name)] = np.linspace(first, last, bins, dtype=np.float32)
    steps = np.arange(bins) / ((bins - 1) / (8 - least_bits))
    table[NAMES.index("Posterize")] = 8 - np.rint(steps)
    return table


def _drawn(key: jax.Array, n: int, table: np.ndarray, step: jax.Array) -> Any:
    """Which change each image gets, and by how much, with a random sign where there is one."""
    change_key, sign_key = jax.random.split(key)
    change = jax.random.randint(change_key, (n,), 0, len(NAMES))
    magnitude = jnp.asarray(table)[change, step]
    minus = jax.random.bernoulli(sign_key, 0.5, (n,)) & jnp.asarray(_SIGNED)[change]
    return change, jnp.where(minus, -magnitude, magnitude)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Some random changes of one magnitude: torchvision.transforms.v2.RandAugment.

    The images are floats (N, 3, H, W) in 0..1, not yet normalized. Each image has its own
    changes, of torchvision's fourteen, with its arithmetic.

    Attributes:
        num_ops: How many changes, one after another.
        magnitude: The step of the magnitude, from 0 to num_magnitude_bins - 1.
        num_magnitude_bins: The number of steps.
        interpolation: "nearest" or "bilinear", for what moves pixels.
        fill: The value outside of the image; None is 0.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: Any = "nearest"
    fill: float | None = None

    def __post_init__(self) -> None:
        check_integer("num_ops", self.num_ops, least=0)
        check_integer("num_magnitude_bins", self.num_magnitude_bins, least=2)
        check_integer("magnitude", self.magnitude, least=0, most=self.num_magnitude_bins - 1)
        check_interpolation(self.interpolation)
        check_number("fill", 0.0 if self.fill is None else self.fill)

    def table(self, height: int, width: int) -> np.ndarray:
        """The magnitudes by change and step."""
        rows = {
            "ShearX": (0.0, 0.3), "ShearY": (0.0, 0.3), "Rotate": (0.0, 30.0),
            "TranslateX": (0.0, 150.0 / 331.0 * width),
            "TranslateY": (0.0, 150.0 / 331.0 * height), "Solarize": (1.0, 0.0),
            **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0.0, 0.9)),
        }  # fmt: skip
        return _table(self.num_magnitude_bins, rows, least_bits=4)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("RandAugment", batch, 3)
        n, _, height, width = batch.shape
        table = self.table(height, width)
        step = jnp.full(n, self.magnitude)
        method = check_interpolation(self.interpolation)
        for i in range(self.num_ops):
            change, magnitude = _drawn(jax.random.fold_in(key, i), n, table, step)
            batch = changed(batch, change, magnitude, method, self.fill)
        return batch


@dataclasses.dataclass(frozen=True)
class TrivialAugmentWide:
    """One random change of a random magnitude: torchvision.transforms.v2.TrivialAugmentWide.

    The images are floats (N, 3, H, W) in 0..1, not yet normalized. Each image has its own change.

    Attributes:
        num_magnitude_bins: The number of steps of the magnitude.
        interpolation: "nearest" or "bilinear", for what moves pixels.
        fill: The value outside of the image; None is 0.
    """

    num_magnitude_bins: int = 31
    interpolation: Any = "nearest"
    fill: float | None = None

    def __post_init__(self) -> None:
        check_integer("num_magnitude_bins", self.num_magnitude_bins, least=2)
        check_interpolation(self.interpolation)
        check_number("fill", 0.0 if self.fill is None else self.fill)

    def table(self) -> np.ndarray:
        """The magnitudes by change and step."""
        wide = ("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness")
        rows = {
            "TranslateX": (0.0, 32.0), "TranslateY": (0.0, 32.0), "Rotate": (0.0, 135.0),
            "Solarize": (1.0, 0.0), **dict.fromkeys(wide, (0.0, 0.99)),
        }  # fmt: skip
        return _table(self.num_magnitude_bins, rows, least_bits=2)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("TrivialAugmentWide", batch, 3)
        step_key, key = jax.random.split(key)
        step = jax.random.randint(step_key, (len(batch),), 0, self.num_magnitude_bins)
        change, magnitude = _drawn(key, len(batch), self.table(), step)
        return changed(batch, change, magnitude, check_interpolation(self.interpolation), self.fill)
