"""Transposed convolutions, which map from the shape of a convolution's output to its input's."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact

from jaxnet.nn._conv import Convolution, check_bias, check_dtypes
from jaxnet.nn._correlation import spread
from jaxnet.nn._window import Size, batched, per_axis
from jaxnet.nn.init import Rngs, default_weight_and_bias


def conv_transpose1d(
    input: Inexact[Array, "*N C L"],
    weight: Inexact[Array, "C O_group kL"],
    bias: Inexact[Array, " O"] | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Inexact[Array, "*N O L_out"]:
    """Transposed convolution of sequences: torch.nn.functional.conv_transpose1d.

    The arguments that are not described here are those of `conv_transpose2d`.

    Args:
        input: The sequences, (N, C, L) or (C, L).
        weight: The kernel, (C, O / groups, kL).

    Returns:
        The sequences, (N, O, L') or (O, L').
    """
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    input: Inexact[Array, "*N C H W"],
    weight: Inexact[Array, "C O_group kH kW"],
    bias: Inexact[Array, " O"] | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Inexact[Array, "*N O H_out W_out"]:
    """Transposed convolution of images: torch.nn.functional.conv_transpose2d.

    Each number of the input, times the kernel, is added to a window of the output:

    H' = (H - 1) * stride - 2 * padding + dilation * (kH - 1) + output_padding + 1

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float or complex dtype.
        weight: The kernel, (C, O / groups, kH, kW), with the dtype of the input.
        bias: A summand for each output channel, (O,), with the dtype of the input.
        stride: The step in the output from one window to the next.
        padding: The number of rows and columns cut off on each side of the output.
        output_padding: The number of additional rows and columns at the end of the output,
            which must be smaller than the stride or the dilation.
        groups: The number of groups of channels. Each group of output channels is computed
            from its own group of input channels only.
        dilation: The step from one number to the next inside a window.

    Returns:
        The images, (N, O, H', W') or (O, H', W').

    Raises:
        ValueError: Shapes, groups, stride, paddings or dilation do not fit each other.
        TypeError: The arrays do not share one float or complex dtype.
    """
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(
    input: Inexact[Array, "*N C D H W"],
    weight: Inexact[Array, "C O_group kD kH kW"],
    bias: Inexact[Array, " O"] | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Inexact[Array, "*N O D_out H_out W_out"]:
    """Transposed convolution of volumes: torch.nn.functional.conv_transpose3d.

    The arguments that are not described here are those of `conv_transpose2d`.

    Args:
        input: The volumes, (N, C, D, H, W) or (C, D, H, W).
        weight: The kernel, (C, O / groups, kD, kH, kW).

    Returns:
        The volumes, (N, O, D', H', W') or (O, D', H', W').
    """
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def _conv_transpose(
    n: int,
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> jax.Array:
    name = f"conv_transpose{n}d"
    batch = batched(name, input, n)
    if weight.ndim != n + 2 or 0 in weight.shape[1:]:
        raise ValueError(
            f"{name}: a weight of shape {weight.shape}; accepted is (C, O / groups, and "
            f"{n} window sizes), none of them 0"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            f"{name}: groups {groups} does not divide the {weight.shape[0]} input channels"
        )
    if batch.shape[1] != weight.shape[0]:
        raise ValueError(
            f"{name}: a weight of shape {weight.shape} expects {weight.shape[0]} input channels; "
            f"the input {input.shape} has {batch.shape[1]}"
        )
    check_dtypes(name, input, weight, bias)
    check_bias(name, bias, weight.shape[1] * groups)
    steps = per_axis(name, "stride", stride, n, least=1)
    inside = per_axis(name, "dilation", dilation, n, least=1)
    cut = per_axis(name, "padding", padding, n)
    more = per_axis(name, "output_padding", output_padding, n)
    if any(m >= max(s, d) for m, s, d in zip(more, steps, inside, strict=True)):
        raise ValueError(
            f"{name}: output_padding {more} must be smaller than stride {steps} or "
            f"dilation {inside}"
        )
    sizes = _least_sizes(batch.shape[2:], weight.shape[2:], steps, cut, inside)
    sizes = tuple(size + m for size, m in zip(sizes, more, strict=True))
    if min(sizes) < 1 or 0 in batch.shape[2:]:
        raise ValueError(
            f"{name}: an input of shape {input.shape} with padding {cut} leaves an output of "
            f"spatial size {sizes}; every side must be at least 1"
        )
    output = spread(batch, weight, sizes, steps, cut, inside, groups, bias)
    return output if input.ndim == n + 2 else output[0]


def _least_sizes(
    sizes: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """The spatial sizes of the output without output_padding."""
    axes = zip(sizes, window, stride, padding, dilation, strict=True)
    return tuple((m - 1) * s - 2 * p + d * (k - 1) + 1 for m, k, s, p, d in axes)


class _ConvTranspose(Convolution):
    """The constructor and the call of the three transposed convolution layers."""

    padding: tuple[int, ...]  # numbers only: "same" and "valid" have no transpose in torch

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f"{type(self).__name__}: padding_mode {padding_mode!r}; accepted is only 'zeros'"
            )
        if isinstance(padding, str):
            raise ValueError(f"{type(self).__name__}: padding {padding!r}; accepted are numbers")
        self._keep(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            padding_mode,
        )
        self.weight, self.bias = default_weight_and_bias(
            (in_channels, out_channels // groups, *self.kernel_size),
            out_channels if bias else None,
            rngs,
            dtype,
        )

    def __call__(
        self, input: Inexact[Array, "..."], output_size: Sequence[int] | None = None
    ) -> Inexact[Array, "..."]:
        """Maps (N, C, ...) or (C, ...) to (N, O, ...) or (O, ...).

        Args:
            input: The batch or the single example.
            output_size: The spatial sizes of the output, or its whole shape. They replace
                the layer's output_padding.

        Raises:
            ValueError: The input does not fit the layer, or output_size cannot be reached.
        """
        self._check_input(input)
        more = self.output_padding if output_size is None else self._missing(input, output_size)
        bias = None if self.bias is None else self.bias[...]
        return _conv_transpose(
            self._axes,
            input,
            self.weight[...],
            bias,
            self.stride,
            self.padding,
            more,
            self.groups,
            self.dilation,
        )

    def _missing(self, input: jax.Array, output_size: Sequence[int]) -> tuple[int, ...]:
        # With a stride s, s neighbouring sizes of a convolution's input give the same output
        # size, so the transpose may choose among these s sizes.
        n = self._axes
        wanted = tuple(output_size)
        if len(wanted) == input.ndim:
            wanted = wanted[-n:]
        if len(wanted) != n:
            raise ValueError(
                f"{self!r}: output_size {tuple(output_size)}; accepted are {n} or {input.ndim} "
                f"numbers for an input of shape {input.shape}"
            )
        least = _least_sizes(
            input.shape[-n:], self.kernel_size, self.stride, self.padding, self.dilation
        )
        most = tuple(size + s - 1 for size, s in zip(least, self.stride, strict=True))
        if not all(a <= size <= b for a, size, b in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"{self!r}: output_size {wanted}; an input of shape {input.shape} gives "
                f"{least} to {most}"
            )
        return tuple(size - a for a, size in zip(least, wanted, strict=True))


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over sequences: torch.nn.ConvTranspose1d.

    The input is (N, C, L) or (C, L). The parameters are `weight` (C, O / groups, kL) and
    `bias` (O,). The arguments are those of `ConvTranspose2d`.
    """

    _axes = 1


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over images: torch.nn.ConvTranspose2d.

    The input is (N, C, H, W) or (C, H, W), and the output has O channels. The parameters are
    `weight` (C, O / groups, kH, kW) and `bias` (O,), as in torch.

    Args:
        in_channels: The number of input channels C.
        out_channels: The number of output channels O.
        kernel_size: The height and width of the kernel, or one number for both.
        stride: The step in the output from one window to the next.
        padding: The number of rows and columns cut off on each side of the output.
        output_padding: The number of additional rows and columns at the end of the output.
        groups: The number of groups of channels. Each group of output channels is computed
            from its own group of input channels only.
        bias: Whether a number is added to each output channel.
        dilation: The step from one number to the next inside a window.
        padding_mode: The string "zeros"; as in torch nothing else is accepted.
        rngs: The source of the initial weights, U(-1/sqrt(fan), 1/sqrt(fan)) with
            fan = O / groups * kH * kW, as in torch.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: Sizes, groups, stride or padding are not accepted.

    >>> from jaxnet.random import Generator
    >>> up = ConvTranspose2d(8, 4, kernel_size=3, stride=2, padding=1, rngs=Generator(0))
    >>> up(jnp.zeros((1, 8, 5, 5))).shape, up(jnp.zeros((1, 8, 5, 5)), (10, 10)).shape
    ((1, 4, 9, 9), (1, 4, 10, 10))
    """

    _axes = 2


class ConvTranspose3d(_ConvTranspose):
    """A transposed convolution over volumes: torch.nn.ConvTranspose3d.

    The input is (N, C, D, H, W) or (C, D, H, W). The parameters are `weight`
    (C, O / groups, kD, kH, kW) and `bias` (O,). The arguments are those of `ConvTranspose2d`.
    """

    _axes = 3
