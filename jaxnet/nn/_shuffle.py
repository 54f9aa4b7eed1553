"""Rearrangements of channels and pixels, which move numbers and compute nothing."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from jaxnet._checks import check_integer
from jaxnet.nn._module import Module


def pixel_shuffle(
    input: Shaped[Array, "*N C_r_r H W"], upscale_factor: int
) -> Shaped[Array, "*N C H_r W_r"]:
    """Turns r^2 channels into r by r pixels: torch.nn.functional.pixel_shuffle.

    Args:
        input: The images, (..., C * r * r, H, W), with any dtype.
        upscale_factor: The factor r.

    Returns:
        The images, (..., C, H * r, W * r).

    Raises:
        ValueError: The input has fewer than three axes, upscale_factor is not a positive whole
            number, or its square does not divide the channels.

    >>> pixel_shuffle(jnp.arange(4.0).reshape(4, 1, 1), 2)
    Array([[[0., 1.],
            [2., 3.]]], dtype=float32)
    """
    _check_image("pixel_shuffle", input)
    check_integer("pixel_shuffle: upscale_factor", upscale_factor, least=1)
    r = upscale_factor
    *batch, c, h, w = input.shape
    if c % (r * r):
        raise ValueError(
            f"pixel_shuffle: an input of shape {input.shape} has {c} channels; accepted are "
            f"multiples of {r * r}, the square of upscale_factor"
        )
    split = input.reshape(*batch, c // (r * r), r, r, h, w)
    n = len(batch)
    order = (*range(n + 1), n + 3, n + 1, n + 4, n + 2)  # (..., C, H, r, W, r)
    return jnp.transpose(split, order).reshape(*batch, c // (r * r), h * r, w * r)


def pixel_unshuffle(
    input: Shaped[Array, "*N C H_r W_r"], downscale_factor: int
) -> Shaped[Array, "*N C_r_r H W"]:
    """Turns r by r pixels into r^2 channels: torch.nn.functional.pixel_unshuffle.

    This is the inverse of `pixel_shuffle`.

    Args:
        input: The images, (..., C, H * r, W * r), with any dtype.
        downscale_factor: The factor r.

    Returns:
        The images, (..., C * r * r, H, W).

    Raises:
        ValueError: The input has fewer than three axes, or downscale_factor is not a positive
            whole number that divides height and width.
    """
    _check_image("pixel_unshuffle", input)
    check_integer("pixel_unshuffle: downscale_factor", downscale_factor, least=1)
    r = downscale_factor
    *batch, c, h, w = input.shape
    if h % r or w % r:
        raise ValueError(
            f"pixel_unshuffle: an input of shape {input.shape}; downscale_factor {r} must divide "
            "its height and its width"
        )
    split = input.reshape(*batch, c, h // r, r, w // r, r)
    n = len(batch)
    order = (*range(n + 1), n + 2, n + 4, n + 1, n + 3)  # (..., C, r, r, H, W)
    return jnp.transpose(split, order).reshape(*batch, c * r * r, h // r, w // r)


def channel_shuffle(input: Shaped[Array, "N C *size"], groups: int) -> Shaped[Array, "N C *size"]:
    """Mixes the groups of channels: torch.nn.functional.channel_shuffle.

    Channel i of group g becomes channel i * groups + g.

    Args:
        input: An array (N, C, ...) with at least three axes and any dtype.
        groups: The number of groups of neighbouring channels.

    Returns:
        An array with the shape of the input.

    Raises:
        ValueError: The input has fewer than three axes, or groups is not a positive whole number
            that divides the channels.
    """
    if input.ndim < 3:
        raise ValueError(
            f"channel_shuffle: the input has shape {input.shape}; accepted is (N, C, L, ...)"
        )
    check_integer("channel_shuffle: groups", groups, least=1)
    n, c, *size = input.shape
    if c % groups:
        raise ValueError(f"channel_shuffle: groups {groups} does not divide {c} channels")
    grouped = input.reshape(n, groups, c // groups, *size)
    return jnp.swapaxes(grouped, 1, 2).reshape(input.shape)


native_channel_shuffle = channel_shuffle


def _check_image(name: str, input: Array) -> None:
    if input.ndim < 3:
        raise ValueError(f"{name}: the input has shape {input.shape}; accepted is (..., C, H, W)")


class PixelShuffle(Module):
    """Turns r^2 channels into r by r pixels: torch.nn.PixelShuffle.

    The argument is that of `pixel_shuffle`.

    >>> PixelShuffle(3)(jnp.ones((1, 9, 4, 4))).shape
    (1, 1, 12, 12)
    """

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = upscale_factor

    def __call__(self, input: Shaped[Array, "*N C_r_r H W"]) -> Shaped[Array, "*N C H_r W_r"]:
        """Turns (..., C * r * r, H, W) into (..., C, H * r, W * r)."""
        return pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Turns r by r pixels into r^2 channels: torch.nn.PixelUnshuffle.

    The argument is that of `pixel_unshuffle`.
    """

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = downscale_factor

    def __call__(self, input: Shaped[Array, "*N C H_r W_r"]) -> Shaped[Array, "*N C_r_r H W"]:
        """Turns (..., C, H * r, W * r) into (..., C * r * r, H, W)."""
        return pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Mixes the groups of channels: torch.nn.ChannelShuffle.

    The argument is that of `channel_shuffle`.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def __call__(self, input: Shaped[Array, "N C *size"]) -> Shaped[Array, "N C *size"]:
        """Rearranges the channels of (N, C, ...) with at least three axes."""
        return channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
