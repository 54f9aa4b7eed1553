"""Layers that pad, resize and rearrange (N, C, ...)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.port._flax.functions import (
    interpolate,
    pad,
    per_axis,
    pixel_shuffle,
    pixel_unshuffle,
)  # fmt: skip


class PixelShuffle(nnx.Module):
    """(N, C r r, H, W) as (N, C, H r, W r)."""

    def __init__(self, upscale_factor: int, *, rngs: nnx.Rngs | None = None) -> None:
        self.upscale_factor = upscale_factor

    def __call__(self, x: jax.Array) -> jax.Array:
        return pixel_shuffle(x, self.upscale_factor)


class PixelUnshuffle(nnx.Module):
    """(N, C, H r, W r) as (N, C r r, H, W)."""

    def __init__(self, downscale_factor: int, *, rngs: nnx.Rngs | None = None) -> None:
        self.downscale_factor = downscale_factor

    def __call__(self, x: jax.Array) -> jax.Array:
        return pixel_unshuffle(x, self.downscale_factor)


class PadNd(nnx.Module):
    """Adds to the ends of the last axes."""

    mode = "constant"
    rank = 2

    def __init__(self, padding: Any, value: float = 0.0, *, rngs: nnx.Rngs | None = None) -> None:
        self.padding = (padding,) * (2 * self.rank) if isinstance(padding, int) else tuple(padding)
        self.value = value

    def __call__(self, x: jax.Array) -> jax.Array:
        return pad(x, self.padding, self.mode, self.value)


class ZeroPad1d(PadNd):
    rank = 1


class ZeroPad2d(PadNd):
    rank = 2


class ConstantPad1d(PadNd):
    rank = 1


class ConstantPad2d(PadNd):
    rank = 2


class ReflectionPad1d(PadNd):
    mode, rank = "reflect", 1


class ReflectionPad2d(PadNd):
    mode, rank = "reflect", 2


class ReplicationPad1d(PadNd):
    mode, rank = "replicate", 1


class ReplicationPad2d(PadNd):
    mode, rank = "replicate", 2


class Upsample(nnx.Module):
    """Resizes (N, C, ...)."""

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
        align_corners: bool | None = None, *, rngs: nnx.Rngs | None = None,
    ) -> None:  # fmt: skip
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners = align_corners

    def __call__(self, x: jax.Array) -> jax.Array:
        return interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners)


def unfold(
    x: jax.Array, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> jax.Array:
    """The windows of (N, C, H, W) as (N, C kH kW, L)."""
    found = jax.lax.conv_general_dilated_patches(
        x, per_axis(kernel_size, 2), per_axis(stride, 2), [(p, p) for p in per_axis(padding, 2)],
        rhs_dilation=per_axis(dilation, 2), precision=jax.lax.Precision.HIGHEST,
    )  # fmt: skip
    return jnp.reshape(found, (*found.shape[:2], -1))


class Unfold(nnx.Module):
    """The windows of (N, C, H, W) as (N, C kH kW, L)."""

    def __init__(
        self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1,
        *, rngs: nnx.Rngs | None = None,
    ) -> None:  # fmt: skip
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def __call__(self, x: jax.Array) -> jax.Array:
        return unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
