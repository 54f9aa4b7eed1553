"""Patches of images as columns of a matrix, and the sum that puts them back."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from jaxnet.nn._module import Module, wrong_shape
from jaxnet.nn._window import Axis, Size, as_given, batched, per_axis


def unfold(
    input: Inexact[Array, "*N C H W"],
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> Inexact[Array, "*N C_kH_kW L"]:
    """Takes the patches that a window sees of images: torch.nn.functional.unfold.

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float or complex dtype.
        kernel_size: The height and width of the window, or one number for both.
        dilation: The step from one number to the next inside a window.
        padding: The number of zeros added on each side.
        stride: The step from one window to the next. As in torch, it is the last argument.

    Returns:
        The patches, (N, C * kH * kW, L) or (C * kH * kW, L): a column for each of the L windows,
        which are in row-major order.

    Raises:
        ValueError: An argument is not accepted, or no window fits the input.
        TypeError: The input has neither a float nor a complex dtype.

    >>> unfold(jnp.arange(6.0).reshape(1, 2, 3), (1, 2))
    Array([[0., 1., 3., 4.],
           [1., 2., 4., 5.]], dtype=float32)
    """
    batch = batched("unfold", input, 2)
    _check_inexact("unfold", input)
    axes = _axes("unfold", batch.shape[2:], kernel_size, dilation, padding, stride)
    if batch.shape[1] == 0:
        raise ValueError(f"unfold: only the batch of an input may be empty; it got {input.shape}")
    columns = _unfold(batch, axes)
    return columns if input.ndim == 4 else columns[0]


def fold(
    input: Inexact[Array, "*N C_kH_kW L"],
    output_size: Size,
    kernel_size: Size,
    dilation: Size = 1,
    padding: Size = 0,
    stride: Size = 1,
) -> Inexact[Array, "*N C H W"]:
    """Adds patches up to images, each where `unfold` takes it: torch.nn.functional.fold.

    The arguments that are not described here are those of `unfold`.

    Args:
        input: The patches, (N, C * kH * kW, L) or (C * kH * kW, L).
        output_size: The height and width (H, W) of the images, or one number for both.

    Returns:
        The images, (N, C, H, W) or (C, H, W). A number that several windows see is the sum of
        their numbers.

    Raises:
        ValueError: An argument is not accepted, or L is not the number of windows.
        TypeError: The input has neither a float nor a complex dtype.
    """
    if input.ndim not in (2, 3):
        raise ValueError(
            f"fold: an input of shape {input.shape}; accepted are (N, C * kH * kW, L) and "
            "(C * kH * kW, L)"
        )
    _check_inexact("fold", input)
    sizes = per_axis("fold", "output_size", output_size, 2, least=1)
    axes = _axes("fold", sizes, kernel_size, dilation, padding, stride)
    rows, columns = input.shape[-2:]
    window, counts = math.prod(a.window for a in axes), [a.outputs for a in axes]
    if rows == 0 or rows % window:
        raise ValueError(
            f"fold: an input of shape {input.shape}; its second last axis must be a multiple of "
            f"{window}, the numbers in a window of kernel_size {kernel_size!r}"
        )
    if columns != math.prod(counts):
        raise ValueError(
            f"fold: an input of shape {input.shape}; its last axis must be {math.prod(counts)}, "
            f"since {counts[0]} by {counts[1]} windows fit an output of {sizes}"
        )
    batch = input if input.ndim == 3 else input[None]
    images = _fold(batch, axes)
    return images if input.ndim == 3 else images[0]


def _check_inexact(name: str, input: jax.Array) -> None:
    if not jnp.issubdtype(input.dtype, jnp.inexact):
        raise TypeError(f"{name}: dtype {input.dtype}; accepted are floats and complex numbers")


def _axes(
    name: str,
    sizes: tuple[int, ...],
    kernel_size: Size,
    dilation: Size,
    padding: Size,
    stride: Size,
) -> tuple[Axis, ...]:
    window = per_axis(name, "kernel_size", kernel_size, 2, least=1)
    steps = per_axis(name, "stride", stride, 2, least=1)
    pads = per_axis(name, "padding", padding, 2)
    inside = per_axis(name, "dilation", dilation, 2, least=1)
    axes = tuple(
        Axis(size, (size + 2 * p - d * (k - 1) - 1) // s + 1, k, s, p, d)
        for size, k, s, p, d in zip(sizes, window, steps, pads, inside, strict=True)
    )
    if min(sizes) == 0 or min(axis.outputs for axis in axes) < 1:
        raise ValueError(
            f"{name}: no window of kernel_size {kernel_size!r} with dilation {dilation!r} and "
            f"padding {padding!r} fits an image of {sizes}"
        )
    return axes


@partial(jax.jit, static_argnums=1, inline=True)
def _unfold(x: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
    n, c = x.shape[:2]
    rows = _split(x, 2, 2, axes[0])  # (N, C, kH, H', W)
    both = _split(rows, 4, 3, axes[1])  # (N, C, kH, kW, H', W')
    k, h, w = both.shape[3:]
    return both.reshape(n, c * both.shape[2] * k, h * w)


@partial(jax.jit, static_argnums=1, inline=True)
def _fold(columns: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
    n, rows = columns.shape[:2]
    shape = n, rows // math.prod(a.window for a in axes), *(a.size for a in axes)
    images = jax.typeof(columns).update(shape=shape)
    return jax.linear_transpose(partial(_unfold, axes=axes), images)(columns)[0]


def _split(x: jax.Array, at: int, new: int, axis: Axis) -> jax.Array:
    """Replaces axis `at` by the windows, and adds an axis for the numbers inside a window.

    The image is divided into `stride` phases, of which each number of a window is a slice. So
    the transpose is a sum of few slices for each phase, where that of strided slices would go
    over the whole image for each number of a window, which is ten times slower.
    """
    s, count = axis.stride, axis.outputs
    length = (axis.window - 1) * axis.dilation // s + count
    steps = [(0, 0, 0)] * x.ndim
    steps[at] = (axis.padding, length * s - axis.size - axis.padding, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), steps)
    x = x.reshape(*x.shape[:at], length, s, *x.shape[at + 1 :])
    if s == axis.window and axis.dilation == 1:
        return jnp.moveaxis(x, at + 1, new)
    phases = [lax.index_in_dim(x, phase, at + 1, keepdims=False) for phase in range(s)]
    offsets = [i * axis.dilation for i in range(axis.window)]
    parts = [lax.slice_in_dim(phases[o % s], o // s, o // s + count, axis=at) for o in offsets]
    return jnp.stack(parts, new)


class Unfold(Module):
    """Takes the patches that a window sees of images: torch.nn.Unfold.

    The input is (N, C, H, W) or (C, H, W). The arguments are those of `unfold`.

    >>> Unfold(2, stride=2)(jnp.ones((5, 3, 8, 8))).shape
    (5, 12, 16)
    """

    def __init__(
        self, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
    ) -> None:
        self.kernel_size = as_given(kernel_size)
        self.dilation = as_given(dilation)
        self.padding = as_given(padding)
        self.stride = as_given(stride)

    def __call__(self, input: Inexact[Array, "*N C H W"]) -> Inexact[Array, "*N C_kH_kW L"]:
        """Turns (N, C, H, W) into (N, C * kH * kW, L), and (C, H, W) into (C * kH * kW, L)."""
        if input.ndim not in (3, 4):
            raise wrong_shape(self, "(N, C, H, W) or (C, H, W)", input)
        return unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


class Fold(Module):
    """Adds patches up to images, each where `Unfold` takes it: torch.nn.Fold.

    The input is (N, C * kH * kW, L) or (C * kH * kW, L). The arguments are those of `fold`.
    """

    def __init__(
        self,
        output_size: Size,
        kernel_size: Size,
        dilation: Size = 1,
        padding: Size = 0,
        stride: Size = 1,
    ) -> None:
        self.output_size = as_given(output_size)
        self.kernel_size = as_given(kernel_size)
        self.dilation = as_given(dilation)
        self.padding = as_given(padding)
        self.stride = as_given(stride)

    def __call__(self, input: Inexact[Array, "*N C_kH_kW L"]) -> Inexact[Array, "*N C H W"]:
        """Turns (N, C * kH * kW, L) into (N, C, H, W), and (C * kH * kW, L) into (C, H, W)."""
        return fold(
            input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, "
            f"dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
        )
