"""Convolution layers and functions. The arithmetic is in `jaxnet.nn._correlation`."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Inexact

from jaxnet._checks import check_choice
from jaxnet.nn._correlation import correlate
from jaxnet.nn._module import Module, Parameter, wrong_shape
from jaxnet.nn._pad import continued
from jaxnet.nn._window import Size, axis_letters, batched, per_axis
from jaxnet.nn.init import Rngs, default_weight_and_bias

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def conv1d(
    input: Inexact[Array, "*N C L"],
    weight: Inexact[Array, "O C_group kL"],
    bias: Inexact[Array, " O"] | None = None,
    stride: Size = 1,
    padding: str | Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Inexact[Array, "*N O L_out"]:
    """Convolves sequences with a kernel: torch.nn.functional.conv1d.

    The arguments that are not described here are those of `conv2d`.

    Args:
        input: The sequences, (N, C, L) or (C, L).
        weight: The kernel, (O, C / groups, kL).

    Returns:
        The sequences, (N, O, L') or (O, L').
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Inexact[Array, "*N C H W"],
    weight: Inexact[Array, "O C_group kH kW"],
    bias: Inexact[Array, " O"] | None = None,
    stride: Size = 1,
    padding: str | Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Inexact[Array, "*N O H_out W_out"]:
    """Convolves images with a kernel: torch.nn.functional.conv2d.

    As in torch the kernel is not flipped; strictly this is a cross-correlation.

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float or complex dtype.
        weight: The kernel, (O, C / groups, kH, kW), with the dtype of the input.
        bias: A summand for each output channel, (O,), with the dtype of the input.
        stride: The step from one window to the next, one number or a pair.
        padding: The number of zeros on each side, one number or a pair; or "same", which
            keeps the size and needs stride 1, where an odd zero goes to the end; or "valid"
            for no zeros.
        dilation: The step from one number to the next inside a window, one number or a pair.
        groups: The number of groups of channels. Each group of output channels is computed
            from its own group of input channels only.

    Returns:
        The images, (N, O, H', W') or (O, H', W').

    Raises:
        ValueError: Shapes, groups, stride, padding or dilation do not fit each other.
        TypeError: The arrays do not share one float or complex dtype.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Inexact[Array, "*N C D H W"],
    weight: Inexact[Array, "O C_group kD kH kW"],
    bias: Inexact[Array, " O"] | None = None,
    stride: Size = 1,
    padding: str | Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Inexact[Array, "*N O D_out H_out W_out"]:
    """Convolves volumes with a kernel: torch.nn.functional.conv3d.

    The arguments that are not described here are those of `conv2d`.

    Args:
        input: The volumes, (N, C, D, H, W) or (C, D, H, W).
        weight: The kernel, (O, C / groups, kD, kH, kW).

    Returns:
        The volumes, (N, O, D', H', W') or (O, D', H', W').
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv(
    n: int,
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: Size,
    padding: str | Size,
    dilation: Size,
    groups: int,
) -> jax.Array:
    name = f"conv{n}d"
    batch = batched(name, input, n)
    if weight.ndim != n + 2 or 0 in weight.shape[2:]:
        raise ValueError(
            f"{name}: a weight of shape {weight.shape}; accepted is (O, C / groups, and "
            f"{n} window sizes), none of them 0"
        )
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(
            f"{name}: groups {groups} does not divide the {weight.shape[0]} output channels"
        )
    if batch.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"{name}: a weight of shape {weight.shape} with groups {groups} expects "
            f"{weight.shape[1] * groups} input channels; the input {input.shape} has "
            f"{batch.shape[1]}"
        )
    check_dtypes(name, input, weight, bias)
    check_bias(name, bias, weight.shape[0])
    steps = per_axis(name, "stride", stride, n, least=1)
    inside = per_axis(name, "dilation", dilation, n, least=1)
    pads = _pads(name, padding, weight.shape[2:], steps, inside)
    for size, (low, high), k, d in zip(
        batch.shape[2:], pads, weight.shape[2:], inside, strict=True
    ):
        if size == 0 or size + low + high < (k - 1) * d + 1:
            raise ValueError(
                f"{name}: the window of {weight.shape[2:]} with dilation {inside} is larger "
                f"than the input {input.shape} with padding {padding!r}"
            )
    output = correlate(batch, weight, steps, pads, inside, groups, bias)
    return output if input.ndim == n + 2 else output[0]


def check_dtypes(name: str, input: jax.Array, weight: jax.Array, bias: jax.Array | None) -> None:
    """Raises a TypeError unless all arrays have the same float or complex dtype, as torch does."""
    given = [a.dtype for a in (input, weight, bias) if a is not None]
    if len(set(given)) > 1 or not jnp.issubdtype(given[0], jnp.inexact):
        words = ", ".join(map(str, given))
        raise TypeError(
            f"{name}: dtypes {words}; input, weight and bias must share one float dtype"
        )


def check_bias(name: str, bias: jax.Array | None, channels: int) -> None:
    """Raises a ValueError unless the bias has one number for each output channel."""
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"{name}: a bias of shape {bias.shape}; accepted is ({channels},)")


def _pads(
    name: str,
    padding: str | Size,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        return ((0, 0),) * len(window)
    if padding == "same":
        if max(stride) > 1:
            raise ValueError(f"{name}: padding 'same' with stride {stride}; it needs stride 1")
        totals = [d * (k - 1) for k, d in zip(window, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    if isinstance(padding, str):
        raise ValueError(f"{name}: padding {padding!r}; accepted words are 'same' and 'valid'")
    return tuple((p, p) for p in per_axis(name, "padding", padding, len(window)))


class Convolution(Module):
    """The attributes, checks and printed form of every convolution layer: torch's _ConvNd."""

    _axes: ClassVar[int]
    weight: Parameter
    bias: Parameter | None

    def _keep(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: str | Size,
        dilation: Size,
        output_padding: Size,
        groups: int,
        padding_mode: str,
    ) -> None:
        name, n = type(self).__name__, self._axes
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups {groups} must be positive and divide in_channels {in_channels} "
                f"and out_channels {out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n, least=1)
        self.stride = per_axis(name, "stride", stride, n, least=1)
        self.padding = (
            padding if isinstance(padding, str) else per_axis(name, "padding", padding, n)
        )
        self.dilation = per_axis(name, "dilation", dilation, n, least=1)
        self.output_padding = per_axis(name, "output_padding", output_padding, n)
        self.groups = groups
        self.padding_mode = padding_mode

    def _check_input(self, input: jax.Array) -> None:
        n, c = self._axes, self.in_channels
        if input.ndim not in (n + 1, n + 2) or input.shape[-n - 1] != c:
            axes = axis_letters(n)
            raise wrong_shape(self, f"(N, {c}, {axes}) or ({c}, {axes})", input)

    def extra_repr(self) -> str:
        zeros = (0,) * self._axes
        text = (
            f"{self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}"
        )
        if self.padding != zeros:
            text += f", padding={self.padding}"
        if set(self.dilation) != {1}:
            text += f", dilation={self.dilation}"
        if self.output_padding != zeros:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(Convolution):
    """The constructor and the call of the three convolution layers."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_choice(f"{type(self).__name__}: padding_mode", padding_mode, _PADDING_MODES)
        self._keep(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            padding_mode,
        )
        _pads(type(self).__name__, padding, self.kernel_size, self.stride, self.dilation)
        self.weight, self.bias = default_weight_and_bias(
            (out_channels, in_channels // groups, *self.kernel_size),
            out_channels if bias else None,
            rngs,
            dtype,
        )

    def __call__(self, input: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        """Convolves (N, C, ...) or (C, ...) to (N, O, ...) or (O, ...)."""
        self._check_input(input)
        padding: str | Size = self.padding
        if self.padding_mode != "zeros":
            name = repr(self)
            pads = _pads(name, self.padding, self.kernel_size, self.stride, self.dilation)
            input, padding = continued(name, input, pads, self.padding_mode), 0
        bias = None if self.bias is None else self.bias[...]
        return _conv(
            self._axes,
            input,
            self.weight[...],
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
        )


class Conv1d(_Conv):
    """A convolution over sequences: torch.nn.Conv1d.

    The input is (N, C, L) or (C, L). The parameters are `weight` (O, C / groups, kL) and
    `bias` (O,). The arguments are those of `Conv2d`.
    """

    _axes = 1


class Conv2d(_Conv):
    """A convolution over images: torch.nn.Conv2d.

    The input is (N, C, H, W) or (C, H, W), and the output has O channels. The parameters are
    `weight` (O, C / groups, kH, kW) and `bias` (O,), as in torch.

    Args:
        in_channels: The number of input channels C.
        out_channels: The number of output channels O.
        kernel_size: The height and width of the window, or one number for both.
        stride: The step from one window to the next.
        padding: The number of values added on each side; or "same", which keeps the size and
            needs stride 1; or "valid" for no padding.
        dilation: The step from one number to the next inside a window.
        groups: The number of groups of channels. Each group of output channels is computed
            from its own group of input channels only.
        bias: Whether a number is added to each output channel.
        padding_mode: The kind of values that are added: "zeros", "reflect" (a reflection
            without the edge), "replicate" (the edge) or "circular" (the opposite side).
        rngs: The source of the initial weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
        dtype: The dtype of the parameters.

    Raises:
        ValueError: Sizes, groups, stride or padding are not accepted.

    >>> from jaxnet.random import Generator
    >>> conv = Conv2d(3, 16, kernel_size=3, padding=1, rngs=Generator(0))
    >>> conv(jnp.zeros((1, 3, 32, 32))).shape
    (1, 16, 32, 32)
    """

    _axes = 2


class Conv3d(_Conv):
    """A convolution over volumes: torch.nn.Conv3d.

    The input is (N, C, D, H, W) or (C, D, H, W). The parameters are `weight`
    (O, C / groups, kD, kH, kW) and `bias` (O,). The arguments are those of `Conv2d`.
    """

    _axes = 3
