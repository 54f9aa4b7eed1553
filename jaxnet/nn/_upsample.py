"""Resizing of images, with the index arithmetic of torch."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from jaxnet._checks import check_choice
from jaxnet.nn._adaptive_pooling import adaptive_avg_pool
from jaxnet.nn._module import Module
from jaxnet.nn._resample import FILTERS, resample
from jaxnet.nn._window import as_given

Scale = float | Sequence[float]
"""One scale factor for all spatial axes, or one for each."""

_DIMENSIONS = {
    "nearest": (3, 4, 5),
    "nearest-exact": (3, 4, 5),
    "area": (3, 4, 5),
    "linear": (3,),
    "bilinear": (4,),
    "bicubic": (4,),
    "lanczos": (4,),
    "trilinear": (5,),
}


def interpolate(
    input: Real[Array, "N C *size"],
    size: int | Sequence[int] | None = None,
    scale_factor: Scale | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Real[Array, "N C *size_out"]:
    """Resizes images: torch.nn.functional.interpolate.

    Output i of an axis reads the input at scale * (i + 1/2) - 1/2, or at scale * i with
    align_corners and for "nearest". The scale is 1 / scale_factor, or the size of the input
    over that of the output.

    For "nearest", torch's rounding depends on direction, size and memory layout. The cases
    differ if scale_factor is not a ratio of small numbers. Here the gradient always goes to
    the number that the output was copied from. Two faults of torch's CPU code are not repeated:
    with antialias a width of 1 with a new height, and with antialias or "bicubic" the gradient
    where an axis, or every axis, keeps its size in spite of a scale_factor.

    Args:
        input: The images, (N, C, ...) with one to three spatial axes and a float dtype; for
            "nearest" and "nearest-exact" with any dtype.
        size: The spatial size of the output; either this or scale_factor is given.
        scale_factor: The size of the output over that of the input. The size is rounded down.
        mode: The string "nearest", "nearest-exact" or "area"; "linear" for (N, C, L),
            "bilinear", "bicubic" or "lanczos" for (N, C, H, W), "trilinear" for
            (N, C, D, H, W).
        align_corners: Whether the centres of the corner pixels keep their positions, instead
            of the outer edges; only for linear, bilinear, bicubic and trilinear.
        recompute_scale_factor: Whether the scale is computed from the rounded size of the
            output, even if scale_factor is given.
        antialias: Whether a smaller image is filtered, so that each of its pixels is a mean of
            all that it stands for, as in Pillow; only for "bilinear" and "bicubic". The mode
            "lanczos" needs it.

    Returns:
        The images, (N, C, *size), with the dtype of the input.

    Raises:
        ValueError: The arguments do not fit the mode or each other.
        TypeError: The mode needs a float dtype, or size is not a whole number.

    >>> interpolate(jnp.array([[[0.0, 1.0]]]), scale_factor=2, mode="linear")
    Array([[[0.  , 0.25, 0.75, 1.  ]]], dtype=float32)
    """
    check_choice("interpolate: mode", mode, _DIMENSIONS)
    if input.ndim not in _DIMENSIONS[mode]:
        raise ValueError(
            f"interpolate: mode {mode!r} takes an input of "
            f"{' or '.join(map(str, _DIMENSIONS[mode]))} axes, (N, C, ...); it got {input.shape}"
        )
    blends = mode not in ("nearest", "nearest-exact", "area")
    if align_corners is not None and not blends:
        raise ValueError(
            f"interpolate: align_corners {align_corners} with mode {mode!r}; it belongs to "
            "linear, bilinear, bicubic and trilinear"
        )
    if antialias and mode not in FILTERS:
        raise ValueError(
            f"interpolate: antialias with mode {mode!r}; it belongs to bilinear, bicubic and "
            "lanczos"
        )
    if mode == "lanczos" and (align_corners or not antialias):
        raise ValueError(
            f"interpolate: mode 'lanczos' with antialias {antialias} and align_corners "
            f"{align_corners}; accepted are antialias=True and align_corners=False"
        )
    if blends and not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"interpolate: dtype {input.dtype} with mode {mode!r}; accepted are floats")
    if size is not None and recompute_scale_factor:
        raise ValueError(
            f"interpolate: recompute_scale_factor with size {size!r}; it belongs to scale_factor"
        )
    sizes, scales = _sizes(input, size, scale_factor, mode == "area" or recompute_scale_factor)
    if 0 in input.shape[1:] or min(sizes) < 1:
        raise ValueError(
            f"interpolate: from {input.shape} to a spatial size of {sizes}; only the batch "
            "may be empty"
        )
    if mode == "area":
        return adaptive_avg_pool(len(sizes), input, sizes)
    for axis, (wanted, factor) in enumerate(zip(sizes, scales, strict=True), start=2):
        input = resample(input, axis, int(wanted), factor, mode, bool(align_corners), antialias)
    return input


def _sizes(
    input: jax.Array, size: Any, scale_factor: Any, recompute: bool | None
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """Returns the spatial sizes of the output and the scale factors for the arithmetic."""
    n = input.ndim - 2
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"interpolate: size {size!r} and scale_factor {scale_factor!r}; give exactly one"
        )
    name, given = ("size", size) if scale_factor is None else ("scale_factor", scale_factor)
    numbers = tuple(given) if isinstance(given, Sequence | np.ndarray) else (given,) * n
    if len(numbers) != n:
        raise ValueError(
            f"interpolate: {name} {given!r} for an input of shape {input.shape}; accepted are "
            f"one number or {n}"
        )
    if scale_factor is None:
        if not all(isinstance(m, int | np.integer) for m in numbers):
            raise TypeError(f"interpolate: size {size!r}; accepted are whole numbers")
        return numbers, (None,) * n
    sizes = tuple(int(m * float(s)) for m, s in zip(input.shape[2:], numbers, strict=True))
    return sizes, (None,) * n if recompute else tuple(float(s) for s in numbers)


class Upsample(Module):
    """Resizes images: torch.nn.Upsample. The arguments are those of `interpolate`.

    >>> Upsample(scale_factor=2)(jnp.array([[[1.0, 2.0]]]))
    Array([[[1., 1., 2., 2.]]], dtype=float32)
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: Scale | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        self.size = as_given(size)
        self.scale_factor: float | tuple[float, ...] | None
        if isinstance(scale_factor, Sequence):
            self.scale_factor = tuple(float(factor) for factor in scale_factor)
        else:
            self.scale_factor = float(scale_factor) if scale_factor else None
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def __call__(self, input: jax.Array) -> jax.Array:
        """Resizes (N, C, ...) to (N, C, *size)."""
        return interpolate(
            input,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
        )

    def extra_repr(self) -> str:
        if self.scale_factor is not None:
            return f"scale_factor={self.scale_factor!r}, mode={self.mode!r}"
        return f"size={self.size!r}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """`Upsample` for images with mode "nearest": torch.nn.UpsamplingNearest2d."""

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: Scale | None = None,
    ) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """`Upsample` for images with mode "bilinear" and aligned corners.

    Equivalent of torch.nn.UpsamplingBilinear2d.
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: Scale | None = None,
    ) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
