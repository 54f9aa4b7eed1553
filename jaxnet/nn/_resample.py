"""The arithmetic of resizing: which inputs of an axis an output is computed from, and how.

The index arithmetic is torch's, in the precision of the input, because rounding decides which
neighbour is nearest.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.backend import Operation


def resample(
    x: jax.Array,
    axis: int,
    wanted: int,
    factor: float | None,
    mode: str,
    align_corners: bool,
    antialias: bool,
) -> jax.Array:
    """Resizes one axis of images.

    Args:
        x: The images, (N, C, ...).
        axis: The axis.
        wanted: The new size of the axis.
        factor: The scale factor that positions are computed with, or None for that of the sizes.
        mode: The mode of `interpolate`, except "area", like the last two arguments.
        align_corners: Whether the corners keep their positions.
        antialias: Whether smaller images are filtered.
    """
    kind = "float64" if x.dtype == jnp.float64 else "float32"
    about = _Axis(x.shape[axis], wanted, factor, mode, align_corners, antialias, x.ndim, kind)
    return _RESAMPLE(x, axis=axis, about=about, turned=False)[0]


class _Axis(NamedTuple):
    """How one axis is resized: what decides which inputs each output is computed from.

    Attributes:
        size: The size of the input.
        wanted: The size of the output.
        factor: The scale factor that positions are computed with, or None.
        mode: The mode of `interpolate`, like the next two.
        align_corners: Whether the corners keep their positions.
        antialias: Whether smaller images are filtered.
        ndim: The number of axes of the array.
        kind: The dtype of the positions.
    """

    size: int
    wanted: int
    factor: float | None
    mode: str
    align_corners: bool
    antialias: bool
    ndim: int
    kind: str


# Resizing an axis as a differentiable operation. It is linear, and both it and its transpose
# gather: each output is a sum of few weighted inputs, and each gradient a sum of few weighted
# gradients. The scatter that JAX derives from a gather is ten times slower on a CPU.


def _resample(x: jax.Array, axis: int, about: _Axis, turned: bool) -> list[jax.Array]:
    places, weights = (_turned_taps if turned else _taps)(about)
    if weights is None:
        same = np.array_equal(places[0], np.arange(x.shape[axis]))
        return [x if same else jnp.take(x, places[0], axis, mode="clip")]

    def weighed(taken: jax.Array, weight: np.ndarray, shape: list[int]) -> jax.Array:
        part = taken * jnp.asarray(weight, x.dtype).reshape(shape)
        # An input that few outputs are computed from has unused taps, which may see nan.
        return jnp.where((weight != 0).reshape(shape), part, 0) if turned else part

    shape = [1] * x.ndim
    shape[axis] = places.shape[1]
    if len(places) <= 16:
        parts = [
            weighed(jnp.take(x, place, axis, mode="clip"), weight, shape)
            for place, weight in zip(places, weights, strict=True)
        ]
        return [sum(parts[1:], parts[0])]
    shape.insert(axis + 1, len(places))
    taken = jnp.take(x, places.T, axis, mode="clip")  # (..., wanted, taps, ...)
    return [weighed(taken, weights.T, shape).sum(axis + 1)]


_RESAMPLE: Operation = Operation(
    "resample",
    native=_resample,
    jvp=lambda arguments, tangents, **how: (
        _RESAMPLE(*arguments, **how),
        _RESAMPLE(*tangents, **how),
    ),
    transpose=lambda arguments, slopes, axis, about, turned: _RESAMPLE(
        *slopes, axis=axis, about=about, turned=not turned
    ),
)


@lru_cache(256)
def _taps(about: _Axis) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns for each output of an axis the input indices (taps, wanted) and their weights."""
    size, wanted, factor, mode, align_corners, antialias, ndim, name = about
    kind: Any = np.dtype(name).type
    i = np.arange(wanted)
    if mode.startswith("nearest"):
        return _nearest(size, i, factor, mode, ndim, kind)[None], None
    # torch leaves an axis that keeps its size alone, whatever the scale factor is, but for bicubic.
    if wanted == size and (antialias or mode != "bicubic"):
        return i[None], None
    if align_corners:
        scale = kind(size - 1) / kind(wanted - 1) if wanted > 1 else kind(0)
    else:
        scale = _scale(size, wanted, factor, kind)
    half = kind(0.5)
    if antialias:
        return _filtered(size, scale, i.astype(kind) + half, mode)
    at = i.astype(kind) * scale if align_corners else scale * (i.astype(kind) + half) - half
    if mode != "bicubic":
        at = np.maximum(at, 0)
    # torch rounds the position to float32 before it takes the floor, also for float64.
    first = np.minimum(np.floor(at.astype(np.float32)).astype(np.int64), size - 1)
    t = np.clip(at - first, 0, 1)
    if mode != "bicubic":
        return np.stack([first, np.minimum(first + 1, size - 1)]), np.stack([1 - t, t])
    return np.clip(first + np.arange(-1, 3)[:, None], 0, size - 1), np.stack(cubic_weights(t))


@lru_cache(256)
def _turned_taps(about: _Axis) -> tuple[np.ndarray, np.ndarray]:
    """The transpose of `_taps`: for each input the outputs (taps, size) and their weights."""
    places, given = _taps(about)
    weights = np.ones(places.shape) if given is None else given
    used = weights != 0
    inputs = places[used]
    order = np.argsort(inputs, kind="stable")
    inputs = inputs[order]
    counts = np.bincount(inputs, minlength=about.size)
    tap = np.arange(len(inputs)) - (np.cumsum(counts) - counts)[inputs]
    outputs = np.zeros((max(counts.max(), 1), about.size), np.int64)
    shares = np.zeros(outputs.shape, weights.dtype)
    outputs[tap, inputs] = np.broadcast_to(np.arange(about.wanted), places.shape)[used][order]
    shares[tap, inputs] = weights[used][order]
    return outputs, shares


def _filtered(
    size: int, scale: Any, middles: np.ndarray, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """The taps of a filter that is as much wider as the image gets smaller."""
    kind: Any = middles.dtype.type
    reach, weigh = FILTERS[mode]
    wider = max(scale, kind(1))
    centres = scale * middles
    # As in torch, a position is cut to a whole number, whose sign does not matter here.
    first = np.maximum((centres - kind(reach) * wider + kind(0.5)).astype(np.int64), 0)
    end = np.minimum((centres + kind(reach) * wider + kind(0.5)).astype(np.int64), size)
    # A shorter window repeats its last index with the weight 0.
    steps = np.arange((end - first).max())[:, None]
    places = np.minimum(first + steps, end - 1)
    distances = np.abs((places.astype(kind) - centres + kind(0.5)) * (kind(1) / wider))
    weights = np.where(first + steps < end, weigh(distances), 0).astype(kind)
    return places, weights / weights.sum(0)


# For each filter its reach in pixels of the smaller image, and the weight at a distance up to that.
FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1, lambda x: np.maximum(1 - x, 0)),
    # Keys' cubic kernel with A = -1/2 as in Pillow, where bicubic without antialias has -3/4.
    "bicubic": (
        2,
        lambda x: np.where(
            x < 1,
            (1.5 * x - 2.5) * x * x + 1,
            np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0),
        ),
    ),
    "lanczos": (3, lambda x: np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0)),
}


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


def cubic_weights(t: Any) -> list[Any]:
    """The weights of four neighbours for a position t, in [0, 1], between the inner two.

    They are those of Keys' cubic kernel with A = -3/4, as in torch.
    """

    def near(t: Any) -> Any:  # up to a distance of 1
        return (1.25 * t - 2.25) * t * t + 1

    def far(t: Any) -> Any:  # up to a distance of 2
        return ((-0.75 * t + 3.75) * t - 6) * t + 3

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]
