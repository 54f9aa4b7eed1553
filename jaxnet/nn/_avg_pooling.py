"""Mean pooling: the mean of each window."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxnet.nn._module import Module
from jaxnet.nn._window import (
    Axis,
    Size,
    as_given,
    batched,
    check_axes,
    check_float,
    per_axis,
    pooled_axes,
    totals,
)


def avg_pool1d(
    input: Float[Array, "*N C L"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "*N C L_out"]:
    """The mean of each window of (N, C, L) or (C, L): torch.nn.functional.avg_pool1d.

    The arguments are those of `avg_pool2d`.
    """
    return avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Float[Array, "*N C H W"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Float[Array, "*N C H_out W_out"]:
    """The mean of each window: torch.nn.functional.avg_pool2d.

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float dtype.
        kernel_size: The height and width of the window, or one number for both.
        stride: The step from one window to the next; by default the size of the window.
        padding: The number of zeros added on each side; at most half of the window.
        ceil_mode: Whether a last window may extend past the end. What extends past the padding
            too is not counted in the divisor.
        count_include_pad: Whether the zeros of the padding count in the divisor.
        divisor_override: A divisor for every sum, instead of the count.

    Returns:
        The means, (N, C, H', W') or (C, H', W').

    Raises:
        ValueError: The windows do not fit the input, or divisor_override is 0.
        TypeError: The input has no float dtype.

    >>> avg_pool2d(jnp.ones((1, 2, 2)), 2, padding=1)
    Array([[[0.25, 0.25],
            [0.25, 0.25]]], dtype=float32)
    """
    return avg_pool(
        2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool3d(
    input: Float[Array, "*N C D H W"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Float[Array, "*N C D_out H_out W_out"]:
    """The mean of each window of a volume: torch.nn.functional.avg_pool3d.

    As in `avg_pool2d`, for an input of shape (N, C, D, H, W) or (C, D, H, W).
    """
    return avg_pool(
        3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool(
    n: int,
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> jax.Array:
    name = f"avg_pool{n}d"
    check_float(name, batched(name, input, n))
    if divisor_override == 0:
        raise ValueError(f"{name}: divisor_override 0; accepted are other whole numbers and None")
    axes = pooled_axes(name, input, kernel_size, stride, padding, 1, ceil_mode, n)
    # torch checks this for volumes only.
    if n == 3 and any(axis.window > axis.size for axis in axes):
        raise ValueError(
            f"{name}: windows of {kernel_size!r} are larger than the input {input.shape}"
        )
    sums = input
    for i in reversed(range(n)):
        sums = totals(sums, input.ndim - n + i, axes[i])
    counts = np.ones(())
    for axis in axes:
        counts = counts[..., None] * _counts(axis, count_include_pad)
    if divisor_override is not None:
        counts = np.full_like(counts, divisor_override)
    if (counts == counts.flat[0]).all():
        return sums / float(counts.flat[0])
    return sums / jnp.asarray(counts, sums.dtype).reshape((1,) * (sums.ndim - n) + counts.shape)


def _counts(axis: Axis, count_include_pad: bool) -> np.ndarray:
    """For one axis the number of values that count in the mean of each window."""
    ends = np.minimum(axis.starts + axis.window, axis.size + axis.padding)
    if count_include_pad:
        return ends - axis.starts
    return np.minimum(ends, axis.size) - np.maximum(axis.starts, 0)


class _AvgPool(Module):
    """The constructor and the call of the three mean pooling layers."""

    _axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.kernel_size = as_given(kernel_size)
        self.stride = self.kernel_size if stride is None else as_given(stride)
        self.padding = as_given(padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def __call__(self, input: Float[Array, "..."]) -> Float[Array, "..."]:
        """Pools (N, C, ...) or (C, ...) to the same number of axes."""
        check_axes(self, input, self._axes)
        return avg_pool(
            self._axes,
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window of a sequence: torch.nn.AvgPool1d.

    The arguments are those of `avg_pool2d`.
    """

    _axes = 1

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(
            per_axis("AvgPool1d", "kernel_size", kernel_size, 1),
            None if stride is None else per_axis("AvgPool1d", "stride", stride, 1),
            per_axis("AvgPool1d", "padding", padding, 1),
            ceil_mode,
            count_include_pad,
        )


class AvgPool2d(_AvgPool):
    """The mean of each window of an image: torch.nn.AvgPool2d.

    The arguments are those of `avg_pool2d`.
    """

    _axes = 2


class AvgPool3d(_AvgPool):
    """The mean of each window of a volume: torch.nn.AvgPool3d.

    The arguments are those of `avg_pool2d`.
    """

    _axes = 3
