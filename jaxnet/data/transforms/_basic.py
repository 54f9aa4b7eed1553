"""Transforms that draw nothing, and how transforms follow one another."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.data.transforms._checks import check_batch, freeze

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
        freeze(self, "mean", "std")
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
        check_batch("Normalize", batch, len(numbers[0]))
        mean, std = (jnp.asarray(x, batch.dtype).reshape(1, -1, 1, 1) for x in numbers)
        # As in `ToTensor`. Without the first barrier XLA would combine this division with that of
        # `ToTensor`.
        shifted = lax.optimization_barrier(batch - mean)
        return shifted / lax.optimization_barrier(jnp.broadcast_to(std, batch.shape))
