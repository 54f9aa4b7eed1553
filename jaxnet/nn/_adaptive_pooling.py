"""Adaptive pooling, which is given the size of its output and chooses its windows to fit."""

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from jaxnet.nn._max_pooling import pooled
from jaxnet.nn._module import Module
from jaxnet.nn._window import (
    as_given,
    batched,
    check_axes,
    check_float,
    check_real,
    per_axis,
    unfold,
)

OutputSize = int | Sequence[int | None] | None
"""The number of outputs on all axes, or on each axis; None keeps the size of an axis."""


def adaptive_avg_pool1d(
    input: Float[Array, "*N C L"], output_size: OutputSize
) -> Float[Array, "*N C L_out"]:
    """Means of windows that cover a sequence: torch.nn.functional.adaptive_avg_pool1d.

    As in `adaptive_avg_pool2d`, for an input of shape (N, C, L) or (C, L).
    """
    return adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(
    input: Float[Array, "*N C H W"], output_size: OutputSize
) -> Float[Array, "*N C H_out W_out"]:
    """Means of H' by W' windows that cover an image: torch.nn.functional.adaptive_avg_pool2d.

    Window i of an axis goes from floor(i H / H') to ceil((i + 1) H / H').

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float dtype.
        output_size: The pair (H', W'), or one number for both; None keeps the size of an axis.

    Returns:
        The means, (N, C, H', W') or (C, H', W').

    Raises:
        ValueError: The input has the wrong number of axes or an empty axis other than the
            batch, or output_size is not a size for each axis.
        TypeError: The input has no float dtype.

    >>> adaptive_avg_pool2d(jnp.arange(6.0).reshape(1, 2, 3), (1, 2))
    Array([[[2., 3.]]], dtype=float32)
    """
    return adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(
    input: Float[Array, "*N C D H W"], output_size: OutputSize
) -> Float[Array, "*N C D_out H_out W_out"]:
    """Means of windows that cover a volume: torch.nn.functional.adaptive_avg_pool3d.

    As in `adaptive_avg_pool2d`, for an input of shape (N, C, D, H, W) or (C, D, H, W).
    """
    return adaptive_avg_pool(3, input, output_size)


def adaptive_max_pool1d(
    input: Real[Array, "*N C L"], output_size: OutputSize, return_indices: bool = False
) -> Any:
    """Maxima of windows that cover a sequence: torch.nn.functional.adaptive_max_pool1d.

    As in `adaptive_max_pool2d`, for an input of shape (N, C, L) or (C, L).
    """
    return adaptive_max_pool(1, input, output_size, return_indices)


def adaptive_max_pool2d(
    input: Real[Array, "*N C H W"], output_size: OutputSize, return_indices: bool = False
) -> Any:
    """Maxima of H' by W' windows that cover an image: torch.nn.functional.adaptive_max_pool2d.

    The windows are those of `adaptive_avg_pool2d`. Ties and nan are treated as in `max_pool2d`.

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float or integer dtype.
        output_size: The pair (H', W'), or one number for both; None keeps the size of an axis.
        return_indices: Whether the positions of the maxima are returned too.

    Returns:
        The maxima, (N, C, H', W') or (C, H', W'). With return_indices a pair of the maxima and
        their positions, as in `max_pool2d`.

    Raises:
        ValueError: The input has the wrong number of axes or an empty axis other than the
            batch, or output_size is not a size for each axis.
        TypeError: The input has neither a float nor an integer dtype.
    """
    return adaptive_max_pool(2, input, output_size, return_indices)


def adaptive_max_pool3d(
    input: Real[Array, "*N C D H W"], output_size: OutputSize, return_indices: bool = False
) -> Any:
    """Maxima of windows that cover a volume: torch.nn.functional.adaptive_max_pool3d.

    As in `adaptive_max_pool2d`, for an input of shape (N, C, D, H, W) or (C, D, H, W).
    """
    return adaptive_max_pool(3, input, output_size, return_indices)


def _windows(name: str, input: jax.Array, output_size: OutputSize, n: int) -> list[np.ndarray]:
    """For each spatial axis the starts and ends of the windows, (2, count)."""
    batched(name, input, n)
    given: Any = output_size
    sizes = given if isinstance(given, Sequence) else (given,) * n
    if len(sizes) != n:
        raise ValueError(
            f"{name}: output_size {output_size!r}; accepted are a whole number, None or {n} of them"
        )
    if 0 in input.shape[-n - 1 :]:
        raise ValueError(f"{name}: only the batch of an input may be empty; it got {input.shape}")
    bounds = []
    for length, size in zip(input.shape[-n:], sizes, strict=True):
        (count,) = (length,) if size is None else per_axis(name, "output_size", size, 1)
        i = np.arange(count)
        bounds.append(
            np.stack([i * length // max(count, 1), -(-(i + 1) * length // max(count, 1))])
        )
    return bounds


def _places(bounds: np.ndarray) -> np.ndarray:
    """The indices that each window covers, (count, longest window).

    A shorter window repeats its last index, so that all windows have the same length.
    """
    starts, ends = bounds
    steps = np.arange((ends - starts).max())
    return np.minimum(starts[:, None] + steps, ends[:, None] - 1)


def adaptive_avg_pool(n: int, input: jax.Array, output_size: OutputSize) -> jax.Array:
    name = f"adaptive_avg_pool{n}d"
    check_float(name, input)
    for i, bounds in enumerate(_windows(name, input, output_size, n)):
        at = input.ndim - n + i
        lengths = bounds[1] - bounds[0]
        if lengths.size == 0:
            input = jnp.zeros((*input.shape[:at], 0, *input.shape[at + 1 :]), input.dtype)
            continue
        windows = unfold(input, at, _places(bounds))
        column = (-1,) + (1,) * (input.ndim - at - 1)
        if (lengths != lengths[0]).any():
            # A repeated index must not count twice in the sum of a shorter window.
            counted = np.arange(lengths.max()) < lengths[:, None]
            counted = counted.reshape((1,) * at + counted.shape + column[1:])
            windows = jnp.where(counted, windows, 0)
        sums = windows.sum(at + 1)
        lengths = lengths.reshape((1,) * at + column)
        input = sums / jnp.asarray(lengths, input.dtype)
    return input


def adaptive_max_pool(
    n: int, input: jax.Array, output_size: OutputSize, return_indices: bool
) -> jax.Array | tuple[jax.Array, jax.Array]:
    name = f"adaptive_max_pool{n}d"
    check_real(name, input)
    bounds = _windows(name, input, output_size, n)
    if any(b.size == 0 for b in bounds):
        shape = (*input.shape[:-n], *(b.shape[1] for b in bounds))
        empty = jnp.zeros(shape, input.dtype)
        return (empty, jnp.zeros(shape, int)) if return_indices else empty
    return pooled(input, [_places(b) for b in bounds], return_indices)


class _AdaptiveAvgPool(Module):
    """The constructor and the call of the three adaptive mean pooling layers."""

    _axes: ClassVar[int]

    def __init__(self, output_size: OutputSize) -> None:
        self.output_size = as_given(output_size)

    def __call__(self, input: Float[Array, "..."]) -> Float[Array, "..."]:
        """Pools (N, C, ...) or (C, ...) to (N, C, *output_size) or (C, *output_size)."""
        check_axes(self, input, self._axes)
        return adaptive_avg_pool(self._axes, input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means of L' windows: torch.nn.AdaptiveAvgPool1d. As in `adaptive_avg_pool2d`."""

    _axes = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means of H' by W' windows: torch.nn.AdaptiveAvgPool2d. As in `adaptive_avg_pool2d`."""

    _axes = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Means of D' by H' by W' windows: torch.nn.AdaptiveAvgPool3d. As in `adaptive_avg_pool2d`."""

    _axes = 3


class _AdaptiveMaxPool(Module):
    """The constructor and the call of the three adaptive max pooling layers."""

    _axes: ClassVar[int]

    def __init__(self, output_size: OutputSize, return_indices: bool = False) -> None:
        self.output_size = as_given(output_size)
        self.return_indices = return_indices

    def __call__(self, input: Real[Array, "..."]) -> Any:
        """Pools (N, C, ...) or (C, ...) to (N, C, *output_size) or (C, *output_size)."""
        check_axes(self, input, self._axes)
        return adaptive_max_pool(self._axes, input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maxima of L' windows: torch.nn.AdaptiveMaxPool1d. As in `adaptive_max_pool2d`."""

    _axes = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maxima of H' by W' windows: torch.nn.AdaptiveMaxPool2d. As in `adaptive_max_pool2d`."""

    _axes = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Maxima of D' by H' by W' windows: torch.nn.AdaptiveMaxPool3d. As in `adaptive_max_pool2d`."""

    _axes = 3
