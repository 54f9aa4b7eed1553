"""Windows over spatial axes: their arguments, their positions, their maxima and sums."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.nn._module import Module, wrong_shape
from jaxnet.precision import amax

# The jitted functions are small programs of many steps, which would be compiled one by one
# without a jit around them. Inside another jit, inline=True leaves no trace of this one.

Size = int | Sequence[int]
"""One whole number for all spatial axes, or one for each."""

Places = np.ndarray | jax.Array
"""The indices that windows cover on an axis: (count, window) as an array of NumPy, for all
channels alike; or (N, C, count, window) as an array of JAX, for each channel of (N, C, ...)."""


def per_axis(owner: str, name: str, value: Any, n: int, least: int = 0) -> tuple[int, ...]:
    """Returns one number for each of n spatial axes, from a single number or a sequence.

    Args:
        owner: The name of the layer or function, for errors.
        name: The name of the argument, for errors.
        value: The argument: a whole number, or a sequence of one or n whole numbers.
        n: The number of axes.
        least: The smallest accepted number.

    Returns:
        The n numbers.

    Raises:
        ValueError: The argument is neither a whole number nor n of them, or too small.

    >>> per_axis("conv2d", "stride", 2, 2)
    (2, 2)
    """
    try:
        sizes = tuple(v.__index__() for v in value) if _several(value) else (value.__index__(),)
    except AttributeError:
        sizes = ()
    if len(sizes) == 1:
        sizes *= n
    if len(sizes) != n:
        raise ValueError(
            f"{owner}: {name} {value!r}; accepted are a whole number or {n} of them"
            + (", one for each spatial axis" if n > 1 else "")
        )
    if min(sizes) < least:
        raise ValueError(f"{owner}: {name} {value!r}; the least that is accepted is {least}")
    return sizes


def _several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def axis_letters(n: int) -> str:
    """The names of n spatial axes: "L", "H, W" or "D, H, W"."""
    return "L" if n == 1 else ", ".join("DHW"[-n:])


def batched(owner: str, input: jax.Array, n: int) -> jax.Array:
    """Returns (N, C, ...) unchanged and (C, ...) as (1, C, ...).

    Raises:
        ValueError: The input does not have n spatial axes.
    """
    if input.ndim not in (n + 1, n + 2):
        letters = axis_letters(n)
        raise ValueError(
            f"{owner}: an input of shape {input.shape}; "
            f"accepted are (N, C, {letters}) and (C, {letters})"
        )
    return input if input.ndim == n + 2 else input[None]


def check_real(name: str, input: jax.Array) -> None:
    """Raises a TypeError for a dtype whose numbers have no order."""
    if not (jnp.issubdtype(input.dtype, jnp.floating) or jnp.issubdtype(input.dtype, jnp.integer)):
        raise TypeError(f"{name}: dtype {input.dtype}; accepted are floats and integers")


def check_float(name: str, input: jax.Array) -> None:
    """Raises a TypeError for a dtype that cannot represent a mean."""
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"{name}: dtype {input.dtype}; accepted are floats")


def as_given(size: Any) -> Any:
    """Returns a size as torch prints it, with a list as a tuple, because flax refuses lists."""
    return tuple(size) if isinstance(size, list) else size


def check_axes(layer: Module, input: jax.Array, n: int) -> None:
    """Raises a ValueError unless the input is (N, C, ...) or (C, ...) with n spatial axes."""
    if input.ndim not in (n + 1, n + 2):
        axes = axis_letters(n)
        raise wrong_shape(layer, f"(N, C, {axes}) or (C, {axes})", input)


class Axis(NamedTuple):
    """The windows of a pooling layer along one axis.

    Attributes:
        size: The size of the input.
        outputs: The number of windows.
        window: The size of a window.
        stride: The step from one window to the next.
        padding: The number of values added on each side.
        dilation: The step from one number to the next inside a window.
    """

    size: int
    outputs: int
    window: int
    stride: int
    padding: int
    dilation: int

    @property
    def starts(self) -> np.ndarray:
        """The first index of each window, (outputs,), which is negative in the padding."""
        return np.arange(self.outputs) * self.stride - self.padding

    @property
    def places(self) -> np.ndarray:
        """The indices that each window covers, (outputs, window).

        An index in the padding is replaced by the nearest index of the window inside the input,
        so that it changes no maximum. Each window must cover at least one index inside.
        """
        steps = np.arange(self.window) * self.dilation
        places = self.starts[:, None] + steps
        inside = (places >= 0) & (places < self.size)
        first, last = inside.argmax(1), self.window - 1 - inside[:, ::-1].argmax(1)
        nearest = np.clip(np.arange(self.window), first[:, None], last[:, None])
        return np.take_along_axis(places, nearest, 1)

    @property
    def high(self) -> int:
        """The padding that the last window needs behind the input; it may be negative."""
        span = (self.window - 1) * self.dilation + 1
        return int(self.starts[-1]) + span - self.size

    @property
    def side_by_side(self) -> bool:
        """Whether the windows are adjacent, without overlap, gap or padding."""
        plain = self.dilation == 1 or self.window == 1
        return self.window == self.stride and plain and self.padding == 0 and self.high <= 0

    @property
    def blind(self) -> bool:
        """Whether a window covers only padding."""
        places = self.starts[:, None] + np.arange(self.window) * self.dilation
        return not ((places >= 0) & (places < self.size)).any(1).all()


def pooled_axes(
    name: str,
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
    n: int,
) -> list[Axis]:
    """Returns the windows of a pooling layer along each of the last n axes.

    As in torch, with ceil_mode a last window may extend past the end if it starts before the
    padding on the right.

    Raises:
        ValueError: An argument is not accepted, or the windows do not fit the input.
    """
    window = per_axis(name, "kernel_size", kernel_size, n, least=1)
    steps = window if stride is None else per_axis(name, "stride", stride, n, least=1)
    pads = per_axis(name, "padding", padding, n)
    inside = per_axis(name, "dilation", dilation, n, least=1)
    if any(p > k // 2 for p, k in zip(pads, window, strict=True)):
        raise ValueError(
            f"{name}: padding {padding!r} is more than half of kernel_size {kernel_size!r}"
        )
    axes = []
    for size, k, s, p, d in zip(input.shape[-n:], window, steps, pads, inside, strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        count = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (count - 1) * s >= size + p:
            count -= 1
        axes.append(Axis(size, count, k, s, p, d))
    if 0 in input.shape[-n - 1 :] or min(axis.outputs for axis in axes) < 1:
        raise ValueError(
            f"{name}: windows of {window} with padding {pads} and dilation {inside} "
            f"do not fit an input of shape {input.shape}"
        )
    return axes


def unfold(x: jax.Array, axis: int, places: Places) -> jax.Array:
    """Splits axis `axis` into two: the windows, and the indices that each window covers.

    Args:
        x: The array.
        axis: The axis to split.
        places: The indices that the windows cover.
    """
    count, window = places.shape[-2:]
    if not isinstance(places, np.ndarray):
        shape = *x.shape[:2], *(1,) * (axis - 2), count * window, *(1,) * (x.ndim - axis - 1)
        x = jnp.take_along_axis(x, places.reshape(shape), axis)
    elif np.array_equal(places.ravel(), np.arange(places.size)):
        x = lax.slice_in_dim(x, 0, places.size, axis=axis)
    else:
        x = jnp.take(x, places.ravel(), axis)
    return x.reshape(*x.shape[:axis], count, window, *x.shape[axis + 1 :])


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def largest(windows: jax.Array, axis: int) -> jax.Array:
    """The largest number along an axis, whose gradient goes to the `winner` alone.

    XLA's own maximum shares the gradient between equal numbers, and its gradient is several
    times slower.
    """
    return amax(windows, axis)


@largest.defjvp
def _largest_jvp(axis, primals, tangents):
    (windows,), (slopes,) = primals, tangents
    number = lax.broadcasted_iota(jnp.int32, windows.shape, axis)
    chosen = number == jnp.expand_dims(winner(windows, axis), axis)
    return largest(windows, axis), jnp.where(chosen, slopes, 0).sum(axis)


@partial(jax.jit, static_argnums=1, inline=True)
def winner(windows: jax.Array, axis: int) -> jax.Array:
    """The index of the largest number as in torch: the first of the largest, or the last nan."""
    size = windows.shape[axis]
    if size > 8:
        # argmax finds the first nan; the last one is the first of the reversed array.
        is_nan = windows != windows
        last_nan = size - 1 - jnp.argmax(jnp.flip(is_nan, axis), axis).astype(jnp.int32)
        first = jnp.argmax(windows, axis).astype(jnp.int32)
        return jnp.where(is_nan.any(axis), last_nan, first)
    # Up to 8 numbers are compared one after the other, without argmax.
    best = lax.index_in_dim(windows, 0, axis, keepdims=False)
    place = jnp.zeros(best.shape, jnp.int32)
    for i in range(1, size):
        value = lax.index_in_dim(windows, i, axis, keepdims=False)
        better = _beats(value, best)
        best, place = jnp.where(better, value, best), jnp.where(better, i, place)
    return place


def _beats(value, best):
    # Only nan differs from itself. A later nan replaces an earlier one.
    return (value > best) | (value != value)


@partial(jax.jit, static_argnums=(1, 2), inline=True)
def largest_of_few(x: jax.Array, axis: int, windows: Axis) -> jax.Array:
    """The largest number of each window, by comparing shifted copies of the input.

    There are as many comparisons as a window is long. The function is for windows that
    overlap. Its gradient is that of `largest`.
    """
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    lowest = jnp.array(-jnp.inf if floats else jnp.iinfo(x.dtype).min, x.dtype)
    padded = _padded(x, axis, windows, lowest)
    # A window with nothing but -inf has no number that is greater than the padding. The first
    # number inside the input must replace the padding all the same, to get the gradient.
    first_inside = -(np.minimum(windows.starts, 0) // windows.dilation)
    best = _shifted(padded, axis, windows, 0)
    for i in range(1, windows.window):
        value = _shifted(padded, axis, windows, i)
        better = _beats(value, best)
        if (first_inside == i).any():
            shape = [1] * x.ndim
            shape[axis] = windows.outputs
            better |= jnp.asarray(first_inside == i).reshape(shape)
        best = jnp.where(better, value, best)
    return best


@partial(jax.jit, static_argnums=(1, 2), inline=True)
def totals(x: jax.Array, axis: int, windows: Axis) -> jax.Array:
    """The sum of each window, where the padding counts as zeros."""
    if windows.side_by_side:
        return unfold(x, axis, windows.places).sum(axis + 1)
    padded = _padded(x, axis, windows, jnp.zeros((), x.dtype))
    if windows.window > 16:
        shape, steps = [1] * x.ndim, [1] * x.ndim
        shape[axis], steps[axis] = windows.window, windows.stride
        # The zero is numpy's: JAX knows the gradient only of a sum that starts from a constant.
        zero = np.zeros((), x.dtype)
        return lax.reduce_window(padded, zero, lax.add, shape, steps, "VALID")
    parts = [_shifted(padded, axis, windows, i) for i in range(windows.window)]
    return sum(parts[1:], parts[0])


def _padded(x, axis, windows, value):
    steps = [(0, 0, 0)] * x.ndim
    steps[axis] = (windows.padding, windows.high, 0)
    return lax.pad(x, value, steps)


def _shifted(padded, axis, windows, i):
    start = i * windows.dilation
    end = start + (windows.outputs - 1) * windows.stride + 1
    return lax.slice_in_dim(padded, start, end, windows.stride, axis)
