"""Padding: numbers that are added at the ends of axes, or taken away there."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

from jaxnet._checks import check_choice
from jaxnet.nn._module import Module
from jaxnet.nn._window import check_axes

# torch's words for how the ends continue, and those of jax.numpy.pad.
_CONTINUATIONS = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(
    input: Shaped[Array, "*shape"],
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> Shaped[Array, "*shape_out"]:
    """Adds numbers at the ends of the last axes: torch.nn.functional.pad.

    A negative size takes numbers away. In mode "circular" they are taken away before the
    opposite side is copied, in the modes "reflect" and "replicate" after the ends were continued.

    Args:
        input: An array of any shape for mode "constant"; for the other modes (N, C, ...) or
            (C, ...) with one to three further axes, all of which are padded.
        pad: The sizes (left, right, top, bottom, front, back): a pair for each padded axis,
            beginning with the last axis.
        mode: The kind of numbers: "constant", "reflect" (a reflection without the edge),
            "replicate" (the edge) or "circular" (the opposite side).
        value: The number that mode "constant" adds; by default 0.

    Returns:
        The padded array, with the dtype of the input.

    Raises:
        ValueError: The sizes are not pairs, or do not fit the input or the mode; the mode is
            unknown; or value is given with another mode, or does not fit an integer dtype.
        TypeError: The argument pad is not a sequence of whole numbers, or value is complex.

    >>> pad(jnp.array([[1.0, 2.0, 3.0]]), (2, 1), mode="reflect")
    Array([[3., 2., 1., 2., 3., 2.]], dtype=float32)
    """
    check_choice("pad: mode", mode, ("constant", *_CONTINUATIONS))
    sizes = _whole_numbers(pad)
    if sizes is None:
        raise TypeError(f"pad: pad {pad!r}; accepted is a sequence of whole numbers")
    if len(sizes) % 2 or len(sizes) > 2 * input.ndim:
        raise ValueError(
            f"pad: pad {pad!r} for an input of shape {input.shape}; accepted are two numbers "
            f"for each padded axis, for at most {input.ndim} axes"
        )
    pairs = list(zip(sizes[-2::-2], sizes[::-2], strict=True))  # in the order of the axes
    if mode == "constant":
        return _constant(input, pairs, 0 if value is None else value)
    if isinstance(value, jax.Array) or value:
        raise ValueError(f"pad: value {value!r} with mode {mode!r}; it belongs to 'constant'")
    n = len(pairs)
    if not 1 <= n <= 3 or input.ndim not in (n + 1, n + 2):
        raise ValueError(
            f"pad: {len(sizes)} sizes for an input of shape {input.shape} with mode {mode!r}; "
            "accepted are 2 sizes for (N, C, L) or (C, L), 4 for (N, C, H, W) or (C, H, W), "
            "and 6 for (N, C, D, H, W) or (C, D, H, W)"
        )
    return continued("pad", input, pairs, mode)


def _whole_numbers(sizes: Any) -> tuple[int, ...] | None:
    try:
        return tuple(size.__index__() for size in sizes)
    except (AttributeError, TypeError):
        return None


def _constant(input: jax.Array, pairs: list[tuple[int, int]], value: Any) -> jax.Array:
    first = input.ndim - len(pairs)
    for size, (low, high) in zip(input.shape[first:], pairs, strict=True):
        if low < 0 or high < 0:
            _check_cropped("pad", size, low, high, -min(low, 0) - min(high, 0) <= size)
    if isinstance(value, complex):
        raise TypeError(f"pad: value {value!r}; accepted is a real number")
    if jnp.issubdtype(input.dtype, jnp.integer) and isinstance(value, int | float):
        bounds = jnp.iinfo(input.dtype)
        if not bounds.min <= value <= bounds.max:  # nan is refused too
            raise ValueError(f"pad: value {value!r} does not fit the dtype {input.dtype}")
    filling = jnp.asarray(value).astype(input.dtype)
    return lax.pad(input, filling, [(0, 0, 0)] * first + [(*pair, 0) for pair in pairs])


def continued(
    owner: str, input: jax.Array, pairs: Sequence[tuple[int, int]], mode: str
) -> jax.Array:
    """Continues the last axes beyond their ends.

    Args:
        owner: The name of the layer or function, for errors.
        input: The array.
        pairs: The sizes (low, high) for each of the last axes, in the order of the axes.
        mode: The string "reflect", "replicate" or "circular".

    Raises:
        ValueError: The input does not have the numbers that are to be copied.
    """
    first = input.ndim - len(pairs)
    before: list[tuple[int, int]] = [(0, 0)] * first
    crops = []
    for size, (low, high) in zip(input.shape[first:], pairs, strict=True):
        crop = min(low, 0), min(high, 0)
        rest = size + sum(crop) if mode == "circular" else size
        # A reflection without the edge has size - 1 numbers to take, a wrap all that are left
        # of the axis, and the edge can be repeated without limit.
        limit = {"reflect": size - 1, "circular": rest}.get(mode, math.inf if size else -1)
        if max(low, high, 0) > limit:
            raise ValueError(
                f"{owner}: padding {max(low, high)} is too large for a side of {rest}; "
                f"'{mode}' takes numbers from inside the input {input.shape}"
            )
        _check_cropped(owner, size, low, high, size + low + high >= 0)
        crops.append((*crop, 0))
    if mode != "circular" and not any(
        size + sum(pair) for size, pair in zip(input.shape[first:], pairs, strict=True)
    ):
        raise ValueError(f"{owner}: padding {pairs} leaves nothing of an input of {input.shape}")
    pads = [*before, *((max(low, 0), max(high, 0)) for low, high in pairs)]
    if all(crop == (0, 0, 0) for crop in crops):
        return jnp.pad(input, pads, _CONTINUATIONS[mode])
    zero = jnp.zeros((), input.dtype)
    steps = [(0, 0, 0)] * first + crops
    if mode == "circular":
        return jnp.pad(lax.pad(input, zero, steps), pads, _CONTINUATIONS[mode])
    return lax.pad(jnp.pad(input, pads, _CONTINUATIONS[mode]), zero, steps)


def _check_cropped(owner: str, size: int, low: int, high: int, fits: bool) -> None:
    if not fits:
        raise ValueError(f"{owner}: padding ({low}, {high}) takes more than a side of {size}")


class _Pad(Module):
    """The constructor and the call of the padding layers."""

    _axes: ClassVar[int]
    _mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        n = 2 * self._axes
        sizes = _whole_numbers(padding if isinstance(padding, Sequence) else (padding,) * n)
        if sizes is None or len(sizes) != n:
            raise ValueError(
                f"{type(self).__name__}: padding {padding!r}; accepted are a whole number or {n} "
                "of them, a pair for each axis, beginning with the last axis"
            )
        self.padding = sizes

    def __call__(self, input: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Pads the last axes of (N, C, ...) or (C, ...)."""
        check_axes(self, input, self._axes)
        return pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class CircularPad1d(_Pad):
    """Copies the opposite sides of sequences: torch.nn.CircularPad1d.

    The input is (N, C, L) or (C, L). The arguments are those of `CircularPad2d`.
    """

    _axes, _mode = 1, "circular"


class CircularPad2d(_Pad):
    """Copies the opposite sides of images: torch.nn.CircularPad2d.

    The input is (N, C, H, W) or (C, H, W), and the output has the same number of axes.

    Args:
        padding: The sizes (left, right, top, bottom), or one number for all; as in `pad`.
    """

    _axes, _mode = 2, "circular"


class CircularPad3d(_Pad):
    """Copies the opposite sides of volumes: torch.nn.CircularPad3d.

    The input is (N, C, D, H, W) or (C, D, H, W). The argument is as in `CircularPad2d`, with
    the sizes (left, right, top, bottom, front, back).
    """

    _axes, _mode = 3, "circular"


class ReflectionPad1d(_Pad):
    """Reflects sequences at their ends: torch.nn.ReflectionPad1d. As in `CircularPad1d`."""

    _axes, _mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Reflects images at their edges, which are not repeated: torch.nn.ReflectionPad2d.

    The arguments are those of `CircularPad2d`.

    >>> ReflectionPad2d((1, 0, 0, 0))(jnp.array([[[1.0, 2.0]]]))
    Array([[[2., 1., 2.]]], dtype=float32)
    """

    _axes, _mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """Reflects volumes at their faces: torch.nn.ReflectionPad3d. As in `CircularPad3d`."""

    _axes, _mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """Repeats the ends of sequences: torch.nn.ReplicationPad1d. As in `CircularPad1d`."""

    _axes, _mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """Repeats the edges of images: torch.nn.ReplicationPad2d. As in `CircularPad2d`."""

    _axes, _mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """Repeats the faces of volumes: torch.nn.ReplicationPad3d. As in `CircularPad3d`."""

    _axes, _mode = 3, "replicate"


class _ConstantPad(_Pad):
    """The constructor and the call of the layers that add one number."""

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def __call__(self, input: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """Pads the last axes of an array."""
        return pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """Adds a number at the ends of the last axis: torch.nn.ConstantPad1d.

    The arguments are those of `ConstantPad2d`.
    """

    _axes = 1


class ConstantPad2d(_ConstantPad):
    """Adds a number around images: torch.nn.ConstantPad2d.

    The input is an array with two axes or more, of which the last two are padded.

    Args:
        padding: The sizes (left, right, top, bottom), or one number for all.
        value: The number.
    """

    _axes = 2


class ConstantPad3d(_ConstantPad):
    """Adds a number around volumes: torch.nn.ConstantPad3d.

    The arguments are those of `ConstantPad2d`, with the sizes (left, right, top, bottom,
    front, back).
    """

    _axes = 3


class _ZeroPad(_ConstantPad):
    """The constructor and the printed form of the layers that add zeros."""

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad1d(_ZeroPad):
    """Adds zeros at the ends of the last axis: torch.nn.ZeroPad1d. As in `ConstantPad1d`."""

    _axes = 1


class ZeroPad2d(_ZeroPad):
    """Adds zeros around images: torch.nn.ZeroPad2d. As in `ConstantPad2d`."""

    _axes = 2


class ZeroPad3d(_ZeroPad):
    """Adds zeros around volumes: torch.nn.ZeroPad3d. As in `ConstantPad3d`."""

    _axes = 3
