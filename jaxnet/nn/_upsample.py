"""Resizing of images, with the index arithmetic of torch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Real

from jaxnet._checks import check_choice
from jaxnet.nn._adaptive_pooling import adaptive_avg_pool
from jaxnet.nn._module import Module
from jaxnet.nn._pooling import as_given

Scale = float | Sequence[float]
"""One scale factor for all spatial axes, or one for each."""

_DIMENSIONS = {
    "nearest": (3, 4, 5),
    "nearest-exact": (3, 4, 5),
    "area": (3, 4, 5),
    "linear": (3,),
    "bilinear": (4,),
    "bicubic": (4,),
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
    the number that the output was copied from.

    Args:
        input: The images, (N, C, ...) with one to three spatial axes and a float dtype; for
            "nearest" and "nearest-exact" with any dtype.
        size: The spatial size of the output; either this or scale_factor is given.
        scale_factor: The size of the output over that of the input. The size is rounded down.
        mode: The string "nearest", "nearest-exact" or "area"; "linear" for (N, C, L),
            "bilinear" or "bicubic" for (N, C, H, W), "trilinear" for (N, C, D, H, W).
        align_corners: Whether the centres of the corner pixels keep their positions, instead
            of the outer edges; only for linear, bilinear, bicubic and trilinear.
        recompute_scale_factor: Whether the scale is computed from the rounded size of the
            output, even if scale_factor is given.
        antialias: False; torch's filter for smaller images does not exist here.

    Returns:
        The images, (N, C, *size), with the dtype of the input.

    Raises:
        ValueError: The arguments do not fit the mode or each other, or antialias is True.
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
    if antialias:
        raise ValueError("interpolate: antialias is not available here; leave it False")
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
    return _resized(input, sizes, scales, mode, bool(align_corners))


# The jit makes one program of the many small steps, which would otherwise be compiled one by
# one.
@partial(jax.jit, static_argnums=(1, 2, 3, 4), inline=True)
def _resized(
    input: jax.Array,
    sizes: tuple[int, ...],
    scales: tuple[float | None, ...],
    mode: str,
    align_corners: bool,
) -> jax.Array:
    for axis, (wanted, scale) in enumerate(zip(sizes, scales, strict=True), start=2):
        places, weights = _taps(input, axis, wanted, scale, mode, align_corners)
        if weights is None:
            input = _pick(input, axis, places[0])
            continue
        shape = (1,) * axis + (wanted,) + (1,) * (input.ndim - axis - 1)
        parts = [
            _pick(input, axis, place) * jnp.asarray(weight, input.dtype).reshape(shape)
            for place, weight in zip(places, weights, strict=True)
        ]
        input = sum(parts[1:], parts[0])
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


def _taps(
    input: jax.Array, axis: int, wanted: int, factor: float | None, mode: str, align_corners: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns for each output of an axis the input indices (taps, wanted) and their weights.

    The positions are computed in the precision of the input, as in torch, because rounding
    decides which neighbour is nearest.
    """
    size = input.shape[axis]
    kind: Any = np.float64 if input.dtype == np.float64 else np.float32
    i = np.arange(wanted)
    if mode.startswith("nearest"):
        return _nearest(size, i, factor, mode, input.ndim, kind)[None], None
    if mode != "bicubic" and wanted == size:
        return i[None], None
    if align_corners:
        at = i.astype(kind) * (kind(size - 1) / kind(max(wanted - 1, 1)))
    else:
        half = kind(0.5)
        at = _scale(size, wanted, factor, kind) * (i.astype(kind) + half) - half
    if mode != "bicubic":
        at = np.maximum(at, 0)
    # torch rounds the position to float32 before it takes the floor, also for float64.
    first = np.minimum(np.floor(at.astype(np.float32)).astype(np.int64), size - 1)
    t = np.clip(at - first, 0, 1)
    if mode != "bicubic":
        return np.stack([first, np.minimum(first + 1, size - 1)]), np.stack([1 - t, t])
    weights = [_cubic_far(t + 1), _cubic_near(t), _cubic_near(1 - t), _cubic_far(2 - t)]
    return np.clip(first + np.arange(-1, 3)[:, None], 0, size - 1), np.stack(weights)


def _nearest(
    size: int,
    i: np.ndarray,
    factor: float | None,
    mode: str,
    ndim: int,
    kind: type[np.floating[Any]],
) -> np.ndarray:
    wanted = len(i)
    if ndim == 4:  # torch: always float32 for images, and integers for factors 1 and 2
        kind = np.float32
        if mode == "nearest" and wanted in (size, 2 * size):
            return i // (wanted // size)
    at = i.astype(kind) + kind(0.5) if mode == "nearest-exact" else i.astype(kind)
    at = (at * _scale(size, wanted, factor, kind)).astype(np.float32)
    return np.minimum(np.floor(at).astype(np.int64), size - 1)


def _scale(size: int, wanted: int, factor: float | None, kind: Any) -> Any:
    return kind(size) / kind(wanted) if factor is None else kind(1 / factor)


# Keys' cubic kernel with A = -3/4, as in torch: the weights at distances up to 1 and up to 2.


def _cubic_near(t: np.ndarray) -> np.ndarray:
    return (1.25 * t - 2.25) * t * t + 1


def _cubic_far(t: np.ndarray) -> np.ndarray:
    return ((-0.75 * t + 3.75) * t - 6) * t + 3


def _pick(x: jax.Array, axis: int, places: np.ndarray) -> jax.Array:
    """Returns x at these indices of an axis.

    If the size of the output is a whole multiple of the input's, each of its phases is the
    input shifted by a few indices. The gradient of slices and a stack is much faster than that
    of a gather.
    """
    size, own = x.shape[axis], np.arange(x.shape[axis])
    if np.array_equal(places, own):
        return x
    if len(places) % size == 0:
        phases = places.reshape(size, -1).T  # (phases, size)
        moves = [int(phase[size // 2]) - size // 2 for phase in phases]
        clipped = [np.clip(own + move, 0, size - 1) for move in moves]
        if np.array_equal(phases, clipped):
            moved = {move: _moved(x, axis, move) for move in moves}
            stacked = jnp.stack([moved[move] for move in moves], axis + 1)
            return stacked.reshape(*x.shape[:axis], len(places), *x.shape[axis + 1 :])
    return jnp.take(x, places, axis)


def _moved(x: jax.Array, axis: int, move: int) -> jax.Array:
    """Returns x[i + move] along an axis, with the ends repeated."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (max(-move, 0), max(move, 0))
    padded = jnp.pad(x, pads, mode="edge")
    return jax.lax.slice_in_dim(padded, max(move, 0), max(move, 0) + x.shape[axis], axis=axis)


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
