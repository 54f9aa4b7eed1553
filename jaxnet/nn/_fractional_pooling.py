"""Fractional max pooling, whose windows lie at random steps that give the size of the output."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnet._keys import uniform
from jaxnet.nn._max_pooling import pooled
from jaxnet.nn._module import Buffer, Module
from jaxnet.nn._window import Size, batched, check_axes, check_float, per_axis

Ratio = float | Sequence[float]
"""The size of the output over that of the input, for all spatial axes or for each."""


def fractional_max_pool2d(
    input: Float[Array, "*N C H W"],
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: Float[Array, "N C 2"] | None = None,
    *,
    key: jax.Array | None = None,
) -> Any:
    """The largest numbers of windows at random steps: torch.nn.functional.fractional_max_pool2d.

    Along an axis, window i of H' begins at floor((i + u) a) - floor(u a), where
    a = (H - kH) / (H' - 1) and u is a random number in [0, 1) for each image and channel; the
    last window ends at the end. The windows are drawn in evaluation mode too, as in torch.

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float dtype.
        kernel_size: The height and width of the window, or one number for both.
        output_size: The pair (H', W'), or one number for both; either this or output_ratio is
            given.
        output_ratio: The size of the output over that of the input, between 0 and 1, as a pair
            or one number for both. The size is rounded down.
        return_indices: Whether the positions of the largest numbers are returned too.
        _random_samples: The random numbers u, (N, C, 2), for W and H in this order. With a
            `jaxnet.random.Generator`, `generator.rand(N, C, 2)` are those that torch draws.
        key: A random key. Without it and without random samples the open `nn.keys` context
            supplies one, or the open `nn.draws` context the numbers themselves.

    Returns:
        The largest numbers, (N, C, H', W') or (C, H', W'). With return_indices a pair of these
        and their positions, as in `max_pool2d`.

    Raises:
        ValueError: Sizes or random samples do not fit the input, or there is no key.
        TypeError: The input has no float dtype, or the random samples have another.
    """
    return _fractional(
        2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples, key
    )


def fractional_max_pool3d(
    input: Float[Array, "*N C D H W"],
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: Float[Array, "N C 3"] | None = None,
    *,
    key: jax.Array | None = None,
) -> Any:
    """The same for volumes, (N, C, D, H, W): torch.nn.functional.fractional_max_pool3d.

    The arguments are those of `fractional_max_pool2d`; the random samples, (N, C, 3), are for D,
    H and W in this order.
    """
    return _fractional(
        3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples, key
    )


def _fractional(
    n: int,
    input: jax.Array,
    kernel_size: Size,
    output_size: Size | None,
    output_ratio: Ratio | None,
    return_indices: bool,
    samples: Any,
    key: jax.Array | None,
) -> Any:
    name = f"fractional_max_pool{n}d"
    batch = batched(name, input, n)
    check_float(name, input)
    if 0 in batch.shape[1:]:
        raise ValueError(f"{name}: only the batch of an input may be empty; it got {input.shape}")
    window = per_axis(name, "kernel_size", kernel_size, n, least=1)
    if output_size is not None:
        sizes = per_axis(name, "output_size", output_size, n, least=1)
    else:
        ratios = _ratios(name, output_ratio, n)
        sizes = tuple(int(m * r) for m, r in zip(batch.shape[2:], ratios, strict=True))
    for size, count, k in zip(batch.shape[2:], sizes, window, strict=True):
        # torch wants one number more of volumes.
        least = count + k - (n == 2)
        if count < 1:
            raise ValueError(
                f"{name}: output_ratio {output_ratio!r} leaves an output of {sizes} for an input "
                f"of shape {input.shape}; accepted is one that leaves at least 1"
            )
        if least > size:
            raise ValueError(
                f"{name}: windows of {window} and an output of {sizes} do not fit an input of "
                f"shape {input.shape}; {count} windows of {k} need an axis of at least {least}"
            )
    u = _samples(name, batch, samples, key, n)
    found = _pooled(batch, u, sizes, window, return_indices)
    return found if input.ndim == n + 2 else jax.tree.map(lambda a: a[0], found)


# The jit makes one program of the many small steps.
@partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _pooled(
    batch: jax.Array,
    u: jax.Array,
    sizes: tuple[int, ...],
    window: tuple[int, ...],
    return_indices: bool,
) -> Any:
    order = (1, 0) if len(sizes) == 2 else (0, 1, 2)  # torch takes the first for W of images
    places = [
        _places(u[..., i], size, count, k)
        for i, size, count, k in zip(order, batch.shape[2:], sizes, window, strict=True)
    ]
    return pooled(batch, places, return_indices)


def _ratios(name: str, ratio: Any, n: int) -> tuple[float, ...]:
    if ratio is None:
        raise ValueError(f"{name}: neither output_size nor output_ratio; give one of them")
    ratios = tuple(ratio) if isinstance(ratio, Sequence) else (ratio,) * n
    if len(ratios) != n or not all(0 < r < 1 for r in ratios):
        raise ValueError(
            f"{name}: output_ratio {ratio!r}; accepted are a number between 0 and 1 or {n} of them"
        )
    return ratios


def _samples(name: str, batch: jax.Array, samples: Any, key: jax.Array | None, n: int) -> jax.Array:
    shape = (*batch.shape[:2], n)
    if samples is None:
        return uniform(name, shape, 0.0, 1.0, batch.dtype, key)
    samples = jnp.asarray(samples)
    # torch accepts samples for more images than there are.
    if samples.shape[1:] != shape[1:] or samples.shape[0] < shape[0]:
        raise ValueError(f"{name}: _random_samples of shape {samples.shape}; accepted is {shape}")
    if samples.dtype != batch.dtype:
        raise TypeError(
            f"{name}: _random_samples of {samples.dtype}; accepted is the dtype of the input, "
            f"{batch.dtype}"
        )
    return samples[: shape[0]]


def _places(u: jax.Array, size: int, count: int, window: int) -> jax.Array:
    """The indices that each window covers, (N, C, count, window)."""
    starts = jnp.full((*u.shape, 1), size - window)
    if count > 1:
        # In the dtype of the input, as in torch, because rounding decides where a window begins.
        step = np.asarray(size - window, u.dtype) / np.asarray(count - 1, u.dtype)
        u = u[..., None]
        i = jnp.arange(count - 1, dtype=u.dtype).reshape(1, 1, -1)
        drawn = ((i + u) * step).astype(int) - (u * step).astype(int)
        starts = jnp.concatenate([drawn, starts], -1)
    return starts[..., None] + jnp.arange(window).reshape(1, 1, 1, -1)


class _FractionalMaxPool(Module):
    """The constructor and the call of both layers."""

    _axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        output_size: Size | None = None,
        output_ratio: Ratio | None = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> None:
        name, n = type(self).__name__, self._axes
        if (output_size is None) == (output_ratio is None):
            raise ValueError(
                f"{name}: output_size {output_size!r} and output_ratio {output_ratio!r}; give "
                "exactly one"
            )
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n, least=1)
        self.output_size = (
            None if output_size is None else per_axis(name, "output_size", output_size, n, least=1)
        )
        self.output_ratio = None if output_ratio is None else _ratios(name, output_ratio, n)
        self.return_indices = return_indices
        self._random_samples = (
            None if _random_samples is None else Buffer(jnp.asarray(_random_samples))
        )

    def __call__(self, input: Float[Array, "..."]) -> Any:
        """Pools (N, C, ...) or (C, ...) to the same number of axes."""
        check_axes(self, input, self._axes)
        samples = self._random_samples
        return _fractional(
            self._axes,
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            None if samples is None else samples[...],
            None,
        )


class FractionalMaxPool2d(_FractionalMaxPool):
    """The largest numbers of windows at random steps: torch.nn.FractionalMaxPool2d.

    Random numbers come from the open `nn.keys` context, in evaluation mode too. The arguments
    are those of `fractional_max_pool2d`; random samples are a buffer.
    """

    _axes = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """The same for volumes, (N, C, D, H, W) or (C, D, H, W): torch.nn.FractionalMaxPool3d.

    The arguments are those of `FractionalMaxPool2d`.
    """

    _axes = 3
