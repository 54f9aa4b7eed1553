"""Transforms of batches of images on the device: pure functions of (key, batch).

They are those of torchvision, but work on whole batches (N, C, H, W) inside the compiled
step, and each image has its own random numbers. In a step, the key comes from the
`nn.keys` context that `train.make_train_step` opens:

    from jaxnet import nn

    augment = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip()])

    def loss(model, batch):
        images, labels = batch
        return losses.cross_entropy(model(augment(nn.next_key(), images)), labels)

The same key gives the same result, so a resumed run is equal to an uninterrupted one. The
random numbers are JAX's and differ from torch's.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = [
    "ColorJitter",
    "Compose",
    "Cutout",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "ToTensor",
]

Transform = Callable[[jax.Array, jax.Array], jax.Array]


class Compose:
    """Applies transforms one after another: torchvision.transforms.Compose.

    The i-th transform gets the key fold_in(key, i).

    Args:
        transforms: The transforms, functions of (key, batch), in order.

    >>> images = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    >>> Compose([ToTensor(), Normalize([0.5], [0.5])])(jax.random.key(0), images)[0, 0, 0, :3]
    Array([-1., -1., -1.], dtype=float32)
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        for i, transform in enumerate(self.transforms):
            batch = transform(jax.random.fold_in(key, i), batch)
        return batch


class ToTensor:
    """Converts images to the input of a model: torchvision.transforms.ToTensor.

    The input is uint8 (N, H, W, C) in 0..255, the result float32 (N, C, H, W) in 0..1. The
    key is not used.
    """

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        if batch.dtype != jnp.uint8 or batch.ndim != 4:
            raise ValueError(
                f"ToTensor: {batch.dtype} of shape {batch.shape}; accepted is uint8 (N, H, W, C)"
            )
        # XLA would compute a division by one number as a product with 1/255, whose last bit
        # differs from torch's for half of the values. A division by a whole array stays one.
        images = batch.transpose(0, 3, 1, 2).astype(jnp.float32)
        return images / lax.optimization_barrier(jnp.full_like(images, 255))


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Computes (x - mean) / std for each channel: torchvision.transforms.Normalize.

    The images are floats (N, C, H, W). The key is not used.

    Attributes:
        mean, std: The numbers of the channels, or one number for images of one channel.
    """

    mean: Sequence[float] | float
    std: Sequence[float] | float

    def __post_init__(self) -> None:
        _freeze(self, "mean", "std")
        mean, std = self._numbers()
        if len(mean) != len(std):
            raise ValueError(f"mean, std: {len(mean)} and {len(std)} numbers")
        if 0 in std:
            raise ValueError(f"std: {list(std)} holds a zero, which cannot be divided by")

    def _numbers(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """mean and std as tuples."""
        mean, std = (x if isinstance(x, tuple) else (x,) for x in (self.mean, self.std))
        return mean, std

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        numbers = self._numbers()
        _check("Normalize", batch, len(numbers[0]))
        mean, std = (jnp.asarray(x, batch.dtype).reshape(1, -1, 1, 1) for x in numbers)
        # As in `ToTensor`. Without the first barrier XLA would combine this division with that of
        # `ToTensor`.
        shifted = lax.optimization_barrier(batch - mean)
        return shifted / lax.optimization_barrier(jnp.broadcast_to(std, batch.shape))


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
        _freeze(self, "size", "padding")
        if len(_pair(self.size)) != 2 or min(_pair(self.size)) < 1:
            raise ValueError(f"size: {self.size}; accepted is a number or two, at least 1")
        if len(self._sides()) != 4 or min(self._sides()) < 0:
            raise ValueError(
                f"padding: {self.padding}; accepted is a number, two or four, at least 0"
            )
        modes = ("constant", "edge", "reflect", "symmetric")
        if self.padding_mode not in modes:
            raise ValueError(f"padding_mode: {self.padding_mode!r}; accepted: {', '.join(modes)}")
        _check_number("fill", self.fill)

    def _sides(self) -> tuple[int, ...]:
        """The padding at the left, top, right and bottom."""
        given = self.padding or 0
        given = given if isinstance(given, tuple) else (given,)
        return given * (4 // len(given)) if len(given) in (1, 2) else given

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        _check("RandomCrop", batch)
        n, channels, *there = batch.shape
        height, width = _pair(self.size)
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
class RandomHorizontalFlip:
    """Mirrors each image with probability p: torchvision.transforms.RandomHorizontalFlip.

    The images are floats (N, C, H, W).

    Attributes:
        p: The probability, in [0, 1].
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p: {self.p}; accepted is a probability, 0 to 1")

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        _check("RandomHorizontalFlip", batch)
        flipped = jax.random.bernoulli(key, float(self.p), (len(batch), 1, 1, 1))
        return jnp.where(flipped, batch[..., ::-1], batch)


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
        _check_number("fill", self.fill)

    def __call__(self, key: jax.Array, batch: jax.Array) -> jax.Array:
        _check("Cutout", batch)
        n, _, height, width = batch.shape
        inside = []
        for k, side in zip(jax.random.split(key), (height, width), strict=True):
            start = jax.random.randint(k, (n, 1), 0, side) - self.size // 2
            place = jnp.arange(side)[None]
            inside.append((place >= start) & (place < start + self.size))  # (N, side)
        hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return jnp.where(hole, jnp.asarray(self.fill, batch.dtype), batch)


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
        _freeze(self, *names)
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
        _check("ColorJitter", batch, 3)
        changes = {
            "brightness": lambda x, f: _blend(x, jnp.zeros_like(x), f),
            "contrast": lambda x, f: _blend(x, _grey(x).mean((1, 2, 3), keepdims=True), f),
            "saturation": lambda x, f: _blend(x, _grey(x), f),
            "hue": _turned,
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


def _blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """factor * image + (1 - factor) * other, clipped to 0..1."""
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)


def _grey(image: jax.Array) -> jax.Array:
    """Grey images (N, 1, H, W) by torchvision's weights of red, green and blue."""
    weights = jnp.asarray([0.2989, 0.587, 0.114], image.dtype).reshape(1, 3, 1, 1)
    return (image * weights).sum(axis=1, keepdims=True)


def _turned(image: jax.Array, turn: jax.Array) -> jax.Array:
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


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """A number twice, or a tuple unchanged."""
    return size if isinstance(size, tuple) else (size, size)


def _freeze(transform: object, *names: str) -> None:
    """Makes tuples of lists and arrays in fields, because jax.jit hashes a transform."""
    for name in names:
        value = getattr(transform, name)
        if isinstance(value, (list, np.ndarray, jax.Array)):
            object.__setattr__(transform, name, tuple(np.ravel(np.asarray(value)).tolist()))


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, (int, float, np.number)):
        raise ValueError(f"{name}: {value!r}; accepted is one number, for all channels")


def _check(name: str, batch: jax.Array, channels: int | None = None) -> None:
    """Refuses batches that are not floats (N, C, H, W), or have other channels."""
    floating = jnp.issubdtype(batch.dtype, jnp.floating)
    if batch.ndim != 4 or not floating or channels not in (None, batch.shape[1]):
        wanted = "C" if channels is None else channels
        raise ValueError(
            f"{name}: {batch.dtype} of shape {batch.shape}; accepted is float (N, {wanted}, H, W), "
            "as ToTensor gives it"
        )
