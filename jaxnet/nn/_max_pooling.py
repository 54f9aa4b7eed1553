"""Max pooling: the largest number of each window, and where it is."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Real

from jaxnet import _kernels as kernels
from jaxnet.backend import Operation, batch_innermost
from jaxnet.nn._module import Module
from jaxnet.nn._window import (
    Axis,
    Places,
    Size,
    as_given,
    batched,
    check_axes,
    check_real,
    largest,
    largest_of_few,
    pooled_axes,
    unfold,
    winner,
)


def max_pool1d(
    input: Real[Array, "*N C L"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest number of each window of (N, C, L) or (C, L): torch.nn.functional.max_pool1d.

    The arguments are those of `max_pool2d`.
    """
    return max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Real[Array, "*N C H W"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest number of each window: torch.nn.functional.max_pool2d.

    As in torch, the gradient goes to one number of each window: to the first of the largest
    in row-major order, or to the last nan.

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float or integer dtype.
        kernel_size: The height and width of the window, or one number for both.
        stride: The step from one window to the next; by default the size of the window.
        padding: The number of values added on each side, which are never the largest; at most
            half of the window.
        dilation: The step from one number to the next inside a window.
        ceil_mode: Whether a last window may extend past the end.
        return_indices: Whether the positions of the largest numbers are returned too.

    Returns:
        The largest numbers, (N, C, H', W') or (C, H', W'). With return_indices a pair of these
        and their positions h * W + w in the channel (int32 unless jax_enable_x64 is set;
        torch's are int64).

    Raises:
        ValueError: The windows do not fit the input; or a window contains only padding, and it
            is long or return_indices asks for its position.
        TypeError: The input has neither a float nor an integer dtype.

    >>> max_pool2d(jnp.arange(16.0).reshape(1, 4, 4), 2)
    Array([[[ 5.,  7.],
            [13., 15.]]], dtype=float32)
    """
    return max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Real[Array, "*N C D H W"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest number of each window of a volume: torch.nn.functional.max_pool3d.

    As in `max_pool2d`, for an input of shape (N, C, D, H, W) or (C, D, H, W).
    """
    return max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool(
    n: int,
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    name = f"max_pool{n}d"
    check_real(name, batched(name, input, n))
    axes = pooled_axes(name, input, kernel_size, stride, padding, dilation, ceil_mode, n)
    # For short windows, shifted copies of the input are compared, with the lowest number as
    # padding. This works even if a window contains only padding.
    few = [_is_few(axis) and not return_indices for axis in axes]
    if any(axis.blind and not is_few for axis, is_few in zip(axes, few, strict=True)):
        raise ValueError(
            f"{name}: kernel_size {kernel_size!r} with dilation {dilation!r} has a window that "
            f"sees nothing of the input {input.shape} but its padding {padding!r}"
        )
    if return_indices:
        return pooled(input, [axis.places for axis in axes], True)
    # The kernel takes images with the batch innermost, whose windows all cover some input.
    if n == 2 and batch_innermost(input) and not any(axis.blind for axis in axes):
        return _LARGEST(input, axes=tuple(axes))[0]
    return _largest(input, axes)


def _is_few(axis: Axis) -> bool:
    return not axis.side_by_side and axis.window <= 16


def _largest(input: jax.Array, axes: Sequence[Axis]) -> jax.Array:
    """The largest number of each window, computed along one axis after the other."""
    # From the last axis to the first, so that the first of the largest in each step is the
    # first in row-major order at the end.
    for i in reversed(range(len(axes))):
        at = input.ndim - len(axes) + i
        if _is_few(axes[i]):
            input = largest_of_few(input, at, axes[i])
        else:
            input = largest(unfold(input, at, axes[i].places), at + 1)
    return input


# Max pooling as a differentiable operation. _PICK and _SPREAD are linear in their second
# argument, and each is the other's transpose. Their first argument x only determines the
# positions of the largest numbers and has no gradient.


def _pooled_shapes(x, *values, axes):
    return [(*x.shape[:2], *(axis.outputs for axis in axes))]


def _pick(x, values, axes):
    """The numbers of `values` at the positions where x is largest in its window."""
    return [jax.jvp(partial(_largest, axes=axes), [x], [values])[1]]


def _spread(x, dy, axes):
    """An array like x with dy added at the positions where x is largest in its window."""
    # This repeats the forward pass, but XLA merges the two and computes it once.
    return jax.vjp(partial(_largest, axes=axes), x)[1](dy)


def _pick_in_c(x, values, axes):
    counts = tuple(axis.outputs for axis in axes)
    return [kernels.max_pool2d_pick(x, values, counts, _sizes(axes))]


def _spread_in_c(x, dy, axes):
    return [kernels.max_pool2d_spread(x, dy, _sizes(axes))]


def _sizes(axes):
    """Window, stride, padding and dilation, each for both axes: eight numbers."""
    return tuple(size for sizes in zip(*(axis[2:] for axis in axes), strict=True) for size in sizes)


def _largest_jvp(arguments, tangents, axes):
    return _LARGEST(*arguments, axes=axes), _PICK(*arguments, *tangents, axes=axes)


def _pick_jvp(arguments, tangents, axes):
    return _PICK(*arguments, axes=axes), _along_second(_PICK, arguments, tangents, axes)


def _spread_jvp(arguments, tangents, axes):
    return _SPREAD(*arguments, axes=axes), _along_second(_SPREAD, arguments, tangents, axes)


def _along_second(operation, arguments, tangents, axes):
    moving = tangents[1]
    return [None] if moving is None else operation(arguments[0], moving, axes=axes)


def _pick_transpose(arguments, slopes, axes):
    return None, *_SPREAD(arguments[0], *slopes, axes=axes)


def _spread_transpose(arguments, slopes, axes):
    return None, *_PICK(arguments[0], *slopes, axes=axes)


_LARGEST = Operation(
    "max_pool2d",
    native=lambda x, axes: [_largest(x, axes)],
    kernel=lambda x, axes: _pick_in_c(x, x, axes),
    rows=lambda x, axes: ((0,), (0,)),
    shapes=_pooled_shapes,
    jvp=_largest_jvp,
)
_PICK = Operation(
    "max_pool2d_pick",
    native=_pick,
    kernel=_pick_in_c,
    shapes=_pooled_shapes,
    jvp=_pick_jvp,
    transpose=_pick_transpose,
)
_SPREAD = Operation(
    "max_pool2d_spread",
    native=_spread,
    kernel=_spread_in_c,
    shapes=lambda x, dy, axes: [x.shape],
    jvp=_spread_jvp,
    transpose=_spread_transpose,
)


def pooled(
    input: jax.Array, places: Sequence[Places], return_indices: bool
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The largest number of each window, and its position if it is asked for.

    Args:
        input: An array with n spatial axes at the end.
        places: The indices that the windows cover, for each spatial axis.
        return_indices: Whether the positions are returned too.

    Returns:
        The largest numbers, or a pair of these and their positions, which count over all spatial
        axes together in row-major order.
    """
    n = len(places)
    shape = input.shape[-n:]
    if return_indices:
        where = jnp.broadcast_to(jnp.arange(math.prod(shape)).reshape(shape), input.shape)
    for i in reversed(range(n)):
        at = input.ndim - n + i
        windows = unfold(input, at, places[i])
        if return_indices:
            chosen = jnp.expand_dims(winner(windows, at + 1), at + 1)
            where = jnp.take_along_axis(unfold(where, at, places[i]), chosen, at + 1)
            where = where.squeeze(at + 1)
        input = largest(windows, at + 1)
    return (input, where) if return_indices else input


class _MaxPool(Module):
    """The constructor and the call of the three max pooling layers."""

    _axes: ClassVar[int]

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = as_given(kernel_size)
        self.stride = self.kernel_size if stride is None else as_given(stride)
        self.padding = as_given(padding)
        self.dilation = as_given(dilation)
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def __call__(self, input: Real[Array, "..."]) -> Any:
        """Pools (N, C, ...) or (C, ...) to the same number of axes."""
        check_axes(self, input, self._axes)
        return max_pool(
            self._axes,
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The largest number of each window of a sequence: torch.nn.MaxPool1d.

    The arguments are those of `MaxPool2d`.
    """

    _axes = 1


class MaxPool2d(_MaxPool):
    """The largest number of each window of an image: torch.nn.MaxPool2d.

    The arguments are those of `max_pool2d`; as in torch, return_indices comes before ceil_mode.

    >>> MaxPool2d(2)
    MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)
    """

    _axes = 2


class MaxPool3d(_MaxPool):
    """The largest number of each window of a volume: torch.nn.MaxPool3d.

    The arguments are those of `MaxPool2d`.
    """

    _axes = 3
