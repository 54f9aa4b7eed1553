"""Transforms that mix the images of a batch, and their labels."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxnet.data.transforms._checks import check_batch


def _one_hot(labels: jax.Array, num_classes: int | None, dtype: jnp.dtype) -> jax.Array:
    if labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
        return labels
    if num_classes is None:
        raise ValueError("num_classes: None; give the number of classes for labels of integers")
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels: {labels.dtype} of shape {labels.shape}; accepted are integers (N,), or "
            "floats (N, classes)"
        )
    return jax.nn.one_hot(labels, num_classes, dtype=dtype)


def _mixed(x: jax.Array, share: jax.Array) -> jax.Array:
    """share of each entry and the rest of the one before it; the first takes the last's."""
    share = share.astype(x.dtype)
    return jnp.roll(x, 1, 0) * (1 - share) + x * share


@dataclasses.dataclass(frozen=True)
class _Mixing:
    alpha: float = 1.0
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"alpha: {self.alpha}; accepted are numbers above 0")

    def _check(self, batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(f"{type(self).__name__}: accepted is a batch of (images, labels)")
        images, labels = batch
        check_batch(type(self).__name__, images)
        return images, _one_hot(labels, self.num_classes, images.dtype)


class MixUp(_Mixing):
    """Averages each image with its neighbour: torchvision.transforms.v2.MixUp.

    It takes a batch (images, labels), images of floats (N, C, H, W) and labels of integers (N,)
    or of floats (N, classes), and gives both mixed by one share, drawn for the whole batch from
    Beta(alpha, alpha). The labels are then floats (N, classes), which `losses.cross_entropy` takes.

    Attributes:
        alpha: The parameter of the distribution, above 0; 1 is the uniform one.
        num_classes: The number of classes, for labels of integers.
    """

    def __call__(
        self, key: jax.Array, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        images, labels = self._check(batch)
        share = jax.random.beta(key, self.alpha, self.alpha)
        return _mixed(images, share), _mixed(labels, share)


class CutMix(_Mixing):
    """Replaces a rectangle by the neighbour's: torchvision.transforms.v2.CutMix.

    It takes and gives what `MixUp` does. The rectangle is the same for the whole batch, and the
    labels are mixed by its share of the area.

    Attributes:
        alpha: The parameter of the distribution of the area, above 0; 1 is the uniform one.
        num_classes: The number of classes, for labels of integers.
    """

    def __call__(
        self, key: jax.Array, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        images, labels = self._check(batch)
        height, width = images.shape[2:]
        share_key, *keys = jax.random.split(key, 3)
        half = 0.5 * jnp.sqrt(1 - jax.random.beta(share_key, self.alpha, self.alpha))
        inside = []
        for k, side in zip(keys, (height, width), strict=True):
            center = jax.random.randint(k, (), 0, side)
            reach = jnp.floor(half * side).astype(jnp.int32)
            pixel = jnp.arange(side)
            inside.append((pixel >= center - reach) & (pixel < center + reach))
        hole = inside[0][:, None] & inside[1][None, :]
        mixed = jnp.where(hole[None, None], jnp.roll(images, 1, 0), images)
        return mixed, _mixed(labels, 1 - hole.mean())
