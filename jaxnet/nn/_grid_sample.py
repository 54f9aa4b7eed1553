"""Images read at the positions of a grid, and the grid of an affine map."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxnet._checks import check_choice
from jaxnet.nn._resample import cubic_weights
from jaxnet.precision import promoted


class _Taps(NamedTuple):
    """What the neighbours of each position give to it; each array is (taps, N, positions).

    Attributes:
        place: The index of the neighbour.
        inside: Whether it lies inside the image.
        weight: Its weight.
    """

    place: jax.Array
    inside: jax.Array
    weight: jax.Array


def affine_grid(
    theta: Float[Array, "N n m"], size: Sequence[int], align_corners: bool | None = None
) -> Float[Array, "N *size n"]:
    """The grid that an affine map makes of the positions of an image.

    Equivalent of torch.nn.functional.affine_grid. Position x from -1 (left) to 1 (right), and y
    likewise, becomes theta (x, y, 1).

    Args:
        theta: The affine maps, (N, 2, 3) for images or (N, 3, 4) for volumes, with a float dtype.
        size: The shape of the images that `grid_sample` is to give, (N, C, H, W) or
            (N, C, D, H, W).
        align_corners: Whether -1 and 1 are the centres of the corner pixels, instead of their
            outer edges. As in torch, None is False (here without a warning).

    Returns:
        The positions (x, y), (N, H, W, 2), or (x, y, z), (N, D, H, W, 3).

    Raises:
        ValueError: The argument size is no shape of images or volumes, or theta does not fit it.
        TypeError: The argument theta has no float dtype.

    >>> affine_grid(jnp.array([[[1.0, 0, 0], [0, 1, 0]]]), (1, 1, 1, 2))
    Array([[[[-0.5,  0. ],
             [ 0.5,  0. ]]]], dtype=float32)
    """
    if len(size) not in (4, 5) or min(size) < 1:
        raise ValueError(
            f"affine_grid: size {size!r}; accepted are (N, C, H, W) and (N, C, D, H, W) with "
            "positive numbers"
        )
    if not jnp.issubdtype(theta.dtype, jnp.floating):
        raise TypeError(f"affine_grid: theta of {theta.dtype}; accepted are floats")
    n = len(size) - 2
    if theta.shape != (size[0], n, n + 1):
        raise ValueError(
            f"affine_grid: theta of shape {theta.shape} for size {tuple(size)}; accepted is "
            f"{(size[0], n, n + 1)}"
        )
    kind = promoted(theta.dtype, jnp.float32)
    maps = theta.astype(kind)[(slice(None), *(None,) * n)]  # (N, 1, ..., n, n + 1)
    grid = maps[..., n]
    for i, length in enumerate(reversed(size[2:])):
        edge = (1 if align_corners else 1 - 1 / length) if length > 1 else 0
        shape = [1] * (n + 2)
        shape[n - i] = length
        at = np.linspace(-edge, edge, length).reshape(shape)
        grid = grid + maps[..., i] * jnp.asarray(at, kind)
    return grid.astype(theta.dtype)


def grid_sample(
    input: Float[Array, "N C *size"],
    grid: Float[Array, "N *size_out n"],
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Float[Array, "N C *size_out"]:
    """Reads images at the positions of a grid: torch.nn.functional.grid_sample.

    A nan in the grid gives nan; torch's documentation promises -1 for it, but its CPU code reads
    outside of the image there.

    Args:
        input: The images, (N, C, H, W), or volumes, (N, C, D, H, W), with a float dtype.
        grid: The positions (x, y), (N, H', W', 2), or (x, y, z), (N, D', H', W', 3), with the
            dtype of the input. The position -1 is the left, upper or front end of the input, 1
            the opposite one.
        mode: The string "bilinear" (for volumes trilinear), "nearest", or for images "bicubic".
        padding_mode: What lies outside of the input: "zeros", the "border" repeated, or the
            "reflection" of the input, as often as needed.
        align_corners: Whether -1 and 1 are the centres of the corner pixels, instead of their
            outer edges. As in torch, None is False (here without a warning).

    Returns:
        The images, (N, C, H', W') or (N, C, D', H', W').

    Raises:
        ValueError: Shapes do not fit each other, or a mode is unknown.
        TypeError: The arrays do not share one float dtype.

    >>> image = jnp.array([[[[1.0, 2.0]]]])
    >>> grid_sample(image, jnp.array([[[[0.0, 0.0], [0.5, 0.0]]]]))
    Array([[[[1.5, 2. ]]]], dtype=float32)
    """
    check_choice("grid_sample: mode", mode, ("bilinear", "nearest", "bicubic"))
    check_choice("grid_sample: padding_mode", padding_mode, ("zeros", "border", "reflection"))
    n = input.ndim - 2
    if n not in (2, 3) or grid.ndim != n + 2 or grid.shape[-1] != n:
        raise ValueError(
            f"grid_sample: an input of shape {input.shape} and a grid of shape {grid.shape}; "
            "accepted are (N, C, H, W) with (N, H', W', 2), and (N, C, D, H, W) with "
            "(N, D', H', W', 3)"
        )
    if grid.shape[0] != input.shape[0]:
        raise ValueError(
            f"grid_sample: an input of shape {input.shape} and a grid of shape {grid.shape}; the "
            "number of images differs"
        )
    if 0 in input.shape[2:]:
        raise ValueError(f"grid_sample: nothing can be read from an input of shape {input.shape}")
    if mode == "bicubic" and n == 3:
        raise ValueError("grid_sample: mode 'bicubic' takes images; for volumes give 'bilinear'")
    if input.dtype != grid.dtype or not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(
            f"grid_sample: dtypes {input.dtype} and {grid.dtype}; input and grid must share one "
            "float dtype"
        )
    return _grid_sample(input, grid, mode, padding_mode, bool(align_corners))


# The jit makes one program of the many small steps.
@partial(jax.jit, static_argnums=(2, 3, 4), inline=True)
def _grid_sample(
    input: jax.Array, grid: jax.Array, mode: str, padding_mode: str, align_corners: bool
) -> jax.Array:
    batch, channels, *sizes = input.shape
    kind = promoted(input.dtype, jnp.float32)
    flat = grid.reshape(batch, math.prod(grid.shape[1:-1]), len(sizes)).astype(kind)
    place, inside, weight = _taps(flat[..., -1], sizes[0], mode, padding_mode, align_corners)
    for i, size in enumerate(sizes[1:], start=2):
        taps = _taps(flat[..., -i], size, mode, padding_mode, align_corners)
        place = _every_pair(lambda a, b, size=size: a * size + b, place, taps.place)
        inside = _every_pair(jnp.logical_and, inside, taps.inside)
        weight = _every_pair(jnp.multiply, weight, taps.weight)
    # With the channels last, a position is one gathered row of numbers; the gradient, which adds
    # such rows up, is several times as fast as one that adds single numbers.
    rows = jnp.moveaxis(input.reshape(batch, channels, math.prod(sizes)), 1, 2).astype(kind)

    def add(total: jax.Array, taps: _Taps) -> tuple[jax.Array, None]:
        take = jax.vmap(lambda image, at: image.at[at].get(mode="promise_in_bounds"))
        values = take(rows, jnp.where(taps.inside, taps.place, 0))
        # A number outside counts as 0 even where the one that was taken for it is nan.
        return total + jnp.where(taps.inside[..., None], values, 0) * taps.weight[..., None], None

    zeros = jnp.zeros((*flat.shape[:2], channels), kind)
    # A loop over the up to 16 neighbours: written out it takes much longer to compile.
    total, _ = lax.scan(add, zeros, _Taps(place, inside, weight))
    output = jnp.moveaxis(total, 2, 1).astype(input.dtype)  # (N, C, positions)
    return output.reshape(batch, channels, *grid.shape[1:-1])


def _every_pair(f: Callable[..., jax.Array], a: jax.Array, b: jax.Array) -> jax.Array:
    """Applies f to every pair of neighbours along two axes: (S, ...), (T, ...) to (S * T, ...)."""
    return f(a[:, None], b[None]).reshape(a.shape[0] * b.shape[0], *a.shape[1:])


def _taps(
    position: jax.Array, size: int, mode: str, padding_mode: str, align_corners: bool
) -> _Taps:
    """The neighbours of each position along an axis.

    Args:
        position: The positions in the grid's unit, -1 to 1.
        size: The size of the image.
        mode: The mode of `grid_sample`, like the other arguments.
    """
    x = (position + 1) * ((size - 1) / 2) if align_corners else (position + 1) * (size / 2) - 0.5
    extended = partial(_extended, size=size, padding_mode=padding_mode, align_corners=align_corners)
    if mode == "bicubic":
        first = jnp.floor(x)
        index = [extended(first + i) for i in range(-1, 3)]
        weights = cubic_weights(x - first)
    elif mode == "nearest":
        x = extended(x)
        index, weights = [jnp.round(x)], [jnp.where(jnp.isnan(x), jnp.nan, jnp.ones_like(x))]
    else:
        x = extended(x)
        first = jnp.floor(x)
        index, weights = [first, first + 1], [1 - (x - first), x - first]
    places = jnp.stack(index)
    # A number beyond the range of integers must not be converted.
    inside = (places >= 0) & (places <= size - 1)
    return _Taps(jnp.where(inside, places, 0).astype(jnp.int32), inside, jnp.stack(weights))


def _extended(x: jax.Array, size: int, padding_mode: str, align_corners: bool) -> jax.Array:
    """Moves positions outside of the image into it, with torch's gradients at the ends."""
    if padding_mode == "zeros":
        return x
    if padding_mode == "reflection":
        low, span = (0, size - 1) if align_corners else (-0.5, size)
        if span == 0:
            return jnp.where(jnp.isnan(x), x, 0)
        beyond = jnp.where(x < low, low - x, x - low)
        rest = beyond - jnp.trunc(beyond / (2 * span)) * (2 * span)
        x = jnp.where(rest > 2 * span - rest, 2 * span - rest, rest) + low
    clipped = lax.stop_gradient(jnp.clip(x, 0, size - 1))
    return jnp.where((x > 0) & (x < size - 1), x, clipped)
