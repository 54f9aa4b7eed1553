"""Convolutions: torch's layout outside, the form that XLA runs fast inside."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from jaxnet.nn.init import Rngs, default_weight_and_bias
from jaxnet.nn.module import Module, wrong_shape

__all__ = ["Conv2d", "conv2d"]

_Pads = tuple[tuple[int, int], ...]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _correlate(
    x: jax.Array, w: jax.Array, stride: tuple[int, ...], pads: _Pads, dilation: tuple[int, ...]
) -> jax.Array:
    """Correlates (N, C, ...) with (O, C, ...), both ways in channels-last form.

    XLA's own gradient leaves the backward convolutions with dimension numbers
    that its CPU backend runs about 20 times slower inside a loop (jax issue
    12868), so both are written out in the form that it knows.
    """
    return _channels_first(
        _channels_last_conv(_channels_last(x), _kernel_last(w), stride, pads, rhs_dilation=dilation)
    )


def _correlate_forward(x, w, stride, pads, dilation):
    return _correlate(x, w, stride, pads, dilation), (x, w)


def _correlate_backward(stride, pads, dilation, saved, dy):
    x, w = saved
    spans = [(k - 1) * d for k, d in zip(w.shape[2:], dilation, strict=True)]
    sizes = list(zip(x.shape[2:], dy.shape[2:], spans, pads, stride, strict=True))

    # The input's gradient: dy, spread by the stride, against the flipped kernel.
    flipped = jnp.swapaxes(jnp.flip(w, tuple(range(2, w.ndim))), 0, 1)
    back_pads = [(span - low, n + low - (m - 1) * s - 1) for n, m, span, (low, _), s in sizes]
    dx = _channels_last_conv(
        _channels_last(dy),
        _kernel_last(flipped),
        (1,) * len(stride),
        back_pads,
        lhs_dilation=stride,
        rhs_dilation=dilation,
    )

    # The weight's gradient: x against dy, channels and batch trading places.
    weight_pads = [(low, (m - 1) * s + 1 + span - n - low) for n, m, span, (low, _), s in sizes]
    swapped_x = jnp.moveaxis(x, 0, -1)  # (C, ..., N)
    swapped_dy = jnp.moveaxis(dy, (0, 1), (-2, -1))  # (..., N, O)
    dw = _channels_last_conv(
        swapped_x, swapped_dy, dilation, weight_pads, rhs_dilation=stride
    )  # (C, ..., O)
    return _channels_first(dx), jnp.moveaxis(dw, (-1, 0), (0, 1))


_correlate.defvjp(_correlate_forward, _correlate_backward)


def _channels_last(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 1, -1)


def _channels_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


def _kernel_last(w: jax.Array) -> jax.Array:
    return jnp.moveaxis(w, (0, 1), (-1, -2))  # (..., C, O)


def _channels_last_conv(x, w, stride, pads, lhs_dilation=None, rhs_dilation=None):
    spatial = "DHW"[-(x.ndim - 2) :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    return lax.conv_general_dilated(
        x, w, stride, pads, lhs_dilation, rhs_dilation, dimension_numbers=numbers
    )


def conv2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> jax.Array:
    """Correlates images with a kernel: torch.nn.functional.conv2d.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (O, C, kH, kW).
        bias: (O,).
        stride: step of the window.
        padding: zeros on each side.
        dilation: step inside the window.

    Returns:
        (N, O, H', W') or (O, H', W').
    """
    batch = input if input.ndim == 4 else input[None]
    pads = tuple((p, p) for p in _pair(padding))
    output = _correlate(batch, weight, _pair(stride), pads, _pair(dilation))
    if bias is not None:
        output = output + bias[None, :, None, None]
    return output if input.ndim == 4 else output[0]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


class Conv2d(Module):
    """A convolution over images: torch.nn.Conv2d.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: height and width of the window, or one number for both.
        stride: step of the window.
        padding: zeros on each side.
        dilation: step inside the window.
        bias: whether a number is added to each output channel.
        rngs: source of the initial weights, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
        dtype: of the parameters.

    Parameters `weight` (O, C, kH, kW) and `bias` (O,), as in torch.

    >>> from jaxnet.random import Generator
    >>> conv = Conv2d(3, 16, kernel_size=3, padding=1, rngs=Generator(0))
    >>> conv(jnp.zeros((1, 3, 32, 32))).shape
    (1, 16, 32, 32)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        *,
        bias: bool = True,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.padding = _pair(padding)
        self.dilation = _pair(dilation)
        shape = (out_channels, in_channels, *self.kernel_size)
        self.weight, self.bias = default_weight_and_bias(
            shape, out_channels if bias else None, rngs, dtype
        )

    def __call__(self, input: jax.Array) -> jax.Array:
        """(N, C, H, W) to (N, O, H', W'); one image without N works too."""
        if input.ndim not in (3, 4) or input.shape[-3] != self.in_channels:
            c = self.in_channels
            raise wrong_shape(self, f"(N, {c}, H, W) or ({c}, H, W)", input)
        bias = None if self.bias is None else self.bias[...]
        return conv2d(input, self.weight[...], bias, self.stride, self.padding, self.dilation)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}"
        )
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.bias is None:
            text += ", bias=False"
        return text
