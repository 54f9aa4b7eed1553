"""Changes of colour and sharpness, with the arithmetic of torchvision."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.data.transforms._checks import (
    check_batch,
    check_range,
    freeze,
    pair,
)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Changes the colours of each image at random: torchvision.transforms.ColorJitter.

    The images are floats (N, 3, H, W) in 0..1, not yet normalized. The arithmetic is
    torchvision's. The random order of the four changes is the same for all images of a
    batch, where torchvision draws it for each image; an order for each image would cost
    four times the work.

    Attributes:
        brightness, contrast, saturation: The range of the random factor, (low, high). A
            number x is the range from max(0, 1 - x) to 1 + x, so that 0 is no change.
        hue: The range of the random rotation of the hue, (low, high) within [-0.5, 0.5],
            where 1 is a full circle. A number x is the range from -x to x.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0

    def __post_init__(self) -> None:
        names = ("brightness", "contrast", "saturation", "hue")
        freeze(self, *names)
        for name in names:
            low, high = self._range(name)
            least, most = (-0.5, 0.5) if name == "hue" else (0.0, float(jnp.finfo(jnp.float32).max))
            if not least <= low <= high <= most:
                raise ValueError(
                    f"{name}: {getattr(self, name)}; accepted is a number of at least 0"
                    f"{' and at most 0.5' if name == 'hue' else ''}, or (low, high) from {least:g}"
                )

    def _range(self, name: str) -> tuple[float, float]:
        """The lowest and the highest factor of a change."""
        value = getattr(self, name)
        if isinstance(value, tuple):
            low, high = value if len(value) == 2 else (1.0, 0.0)
            return float(low), float(high)
        if value < 0:
            return 1.0, 0.0  # An empty range, which __post_init__ refuses.
        return (-value, value) if name == "hue" else (max(0.0, 1.0 - value), 1.0 + value)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("ColorJitter", batch, 3)
        changes = {
            "brightness": lambda x, f: blend(x, jnp.zeros_like(x), f),
            "contrast": lambda x, f: blend(x, grey(x).mean((1, 2, 3), keepdims=True), f),
            "saturation": lambda x, f: blend(x, grey(x), f),
            "hue": turned,
        }
        order_key, *keys = jax.random.split(key, 5)
        used: list[Callable[[jax.Array], jax.Array]] = []
        for (name, change), k in zip(changes.items(), keys, strict=True):
            low, high = self._range(name)
            if (low, high) == ((0.0, 0.0) if name == "hue" else (1.0, 1.0)):
                continue
            factor = jax.random.uniform(k, (len(batch), 1, 1, 1), batch.dtype, low, high)
            used.append(lambda x, change=change, factor=factor: change(x, factor))  # type: ignore[misc]
        if not used:
            return batch
        order = jax.random.permutation(order_key, len(used))
        return lax.fori_loop(0, len(used), lambda i, x: lax.switch(order[i], used, x), batch)


def blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """factor * image + (1 - factor) * other, clipped to 0..1."""
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def grey(image: jax.Array) -> jax.Array:
    """Grey images (N, 1, H, W) by torchvision's weights of red, green and blue."""
    weights = jnp.asarray([0.2989, 0.587, 0.114], image.dtype).reshape(1, 3, 1, 1)
    return (image * weights).sum(axis=1, keepdims=True)


def turned(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Images with the hue rotated by `turn`, a part of the circle.

    The images are converted to hue, saturation and value and back.
    """
    red, green, blue = image[:, 0:1], image[:, 1:2], image[:, 2:3]
    value, least = image.max(axis=1, keepdims=True), image.min(axis=1, keepdims=True)
    spread = value - least
    safe = jnp.where(spread == 0, 1, spread)
    hue = jnp.where(
        value == red,
        (green - blue) / safe % 6,
        jnp.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = (hue / 6 + turn) % 1 * 6
    # The value of each channel decreases with the distance of its own hue on the circle.
    shift = jnp.asarray([5, 3, 1], image.dtype).reshape(1, 3, 1, 1)
    place = (shift + hue) % 6
    return value - spread * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)


def sharpness_degenerate(image: jax.Array) -> jax.Array:
    """Images smoothed by the weights 1 and, in the middle, 5; the border pixels stay."""
    rows, columns = image.shape[2:]
    if min(rows, columns) < 3:
        return image
    total = sum(
        image[:, :, i : rows - 2 + i, j : columns - 2 + j] for i in range(3) for j in range(3)
    )
    inner = (total + 4 * image[:, :, 1:-1, 1:-1]) / 13
    return image.at[:, :, 1:-1, 1:-1].set(inner)


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
    """Images with 2**bits levels."""
    levels = jnp.exp2(bits)
    return jnp.clip(jnp.floor(image * levels), 0, levels - 1) / levels


def autocontrast(image: jax.Array) -> jax.Array:
    """Images of which each channel is stretched to 0..1; a channel of one value stays."""
    low, high = (f(image, axis=(2, 3), keepdims=True) for f in (jnp.min, jnp.max))
    flat = low == high
    return jnp.clip((image - jnp.where(flat, 0, low)) / jnp.where(flat, 1, high - low), 0, 1)


def equalize(image: jax.Array) -> jax.Array:
    """Images of which each channel has its 256 levels equally often, as far as it can be."""
    levels = jnp.floor(image * (256 - 1e-3)).astype(jnp.int32)  # as torchvision makes uint8
    size = levels.shape[2] * levels.shape[3]

    def channel(level: jax.Array) -> jax.Array:
        counts = jnp.zeros(256, jnp.int32).at[level].add(1)
        sums = jnp.cumsum(counts)
        step = (size - counts[jnp.argmax(sums)]) // 255
        safe = jnp.maximum(step, 1)
        table = jnp.clip((sums[:-1] + safe // 2) // safe, 0, 255)
        table = jnp.concatenate([jnp.zeros(1, table.dtype), table])
        return jnp.where(step == 0, level, table[level])

    found = jax.vmap(jax.vmap(channel))(levels.reshape(*levels.shape[:2], -1))
    return found.reshape(image.shape).astype(image.dtype) / 255


@dataclasses.dataclass(frozen=True)
class GaussianBlur:
    """Blurs each image: torchvision.transforms.v2.GaussianBlur.

    The images are floats (N, C, H, W), mirrored at the border.

    Attributes:
        kernel_size: The number of pixels that are averaged, odd, one number or (width, height).
        sigma: The range of the standard deviation in pixels, (low, high), or one number.
    """

    kernel_size: int | tuple[int, int]
    sigma: float | tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        freeze(self, "kernel_size", "sigma")
        sizes = pair(self.kernel_size)
        if len(sizes) != 2 or any(k < 1 or k % 2 == 0 for k in sizes):
            raise ValueError(f"kernel_size: {self.kernel_size}; accepted are odd numbers above 0")
        check_range("sigma", self._sigmas(), 0, above=True)

    def _sigmas(self) -> tuple[float, ...]:
        return self.sigma if isinstance(self.sigma, tuple) else (self.sigma, self.sigma)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        check_batch("GaussianBlur", batch)
        low, high = self._sigmas()
        sigma = jax.random.uniform(key, (len(batch), 1), batch.dtype, low, high)
        for axis, size in zip((3, 2), pair(self.kernel_size), strict=True):
            offsets = jnp.arange(size, dtype=batch.dtype) - (size - 1) / 2
            weights = jnp.exp(-0.5 * jnp.square(offsets[None] / sigma))
            weights = weights / weights.sum(1, keepdims=True)  # (N, size)
            sides = [(0, 0)] * 4
            sides[axis] = (size // 2, size // 2)
            padded, n = jnp.pad(batch, sides, mode="reflect"), batch.shape[axis]
            parts = [
                lax.slice_in_dim(padded, i, i + n, axis=axis) * weights[:, i, None, None, None]
                for i in range(size)
            ]
            batch = sum(parts[1:], parts[0])
        return batch
