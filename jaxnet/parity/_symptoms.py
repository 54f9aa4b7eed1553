"""What two arrays that should be equal show by themselves: symptoms, in plain sentences."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxnet.parity._judgement import rms

# Axes longer than this are not tried at each shift, and arrays of more axes in each order.
_LONGEST, _MOST_AXES = 256, 5


def of(torch: np.ndarray, jax: np.ndarray, allowed: float, given: Any = None) -> Iterator[str]:
    """Sentences on how the second array differs from the first.

    Args:
        torch: The torch program's array, in float64.
        jax: The JAX program's.
        allowed: The largest root mean square of a difference that is rounding.
        given: The input that they were computed from, if it is one array.
    """
    if torch.shape != jax.shape:
        yield f"The shape is {jax.shape}; torch's is {torch.shape}."
        if torch.size != jax.size:
            return
    if not np.issubdtype(torch.dtype, np.number) or not torch.size:
        return
    torch, jax = np.asarray(torch, np.float64), np.asarray(jax, np.float64)
    if not np.isfinite(jax).all() and np.isfinite(torch).all():
        bad = int((~np.isfinite(jax)).sum())
        yield f"{bad} of {jax.size} numbers are nan or infinite; torch's are all finite."
        return
    if not (np.isfinite(torch).all() and np.isfinite(jax).all()):
        return
    found = _arranged(torch, jax, allowed)
    if found is None and torch.shape == jax.shape:
        found = _scaled(torch, jax, allowed) or _shifted(torch, jax, allowed)
    if found is not None:
        yield found
    if torch.shape == jax.shape:
        yield from _confined(torch, jax, allowed, given)


def _equal(a: np.ndarray, b: np.ndarray, allowed: float) -> bool:
    return a.shape == b.shape and rms(a - b) <= allowed


def _arranged(torch: np.ndarray, jax: np.ndarray, allowed: float) -> str | None:
    """Whether the numbers are the same in another order, and in which."""
    close = np.allclose(
        np.sort(torch, None), np.sort(jax, None), rtol=1e-9, atol=8 * allowed + 1e-300
    )
    if not close or _equal(torch.ravel(), jax.ravel(), 0):
        return "The numbers are torch's in another shape." if torch.shape != jax.shape else None
    axes = range(torch.ndim)
    if torch.ndim <= _MOST_AXES:
        for order in itertools.permutations(axes):
            turned = torch.transpose(order)
            if list(order) != list(axes) and _equal(turned.ravel(), jax.ravel(), allowed):
                shaped = "" if turned.shape == jax.shape else f", then reshaped to {jax.shape}"
                return f"It is torch's array with its axes in the order {order}{shaped}."
    if torch.shape == jax.shape:
        for axis in axes:
            if _equal(np.flip(torch, axis), jax, allowed):
                return f"It is torch's array reversed along axis {axis}."
        both = (-2, -1)
        if torch.ndim > 1 and _equal(np.flip(torch, both), jax, allowed):
            return "It is torch's array reversed along its last two axes."
        for axis in axes:
            size = torch.shape[axis]
            for parts in (2, 3, 4):
                if size % parts == 0 and size > parts:
                    named = _chunks(torch, jax, axis, parts, allowed)
                    if named:
                        return named
            for shift in range(1, min(size, _LONGEST)):
                if _equal(np.roll(torch, shift, axis), jax, allowed):
                    return f"It is torch's array rolled by {shift} along axis {axis}."
            for inner in (n for n in range(2, size) if size % n == 0):
                moved = np.moveaxis(torch, axis, -1)
                shape = moved.shape
                dealt = moved.reshape(*shape[:-1], inner, -1).swapaxes(-1, -2).reshape(shape)
                if _equal(np.moveaxis(dealt, -1, axis), jax, allowed):
                    return (
                        f"Along axis {axis} it is torch's array with the {size} numbers read as "
                        f"({inner}, {size // inner}) and transposed."
                    )
    return "The numbers are torch's in another order."


def _chunks(
    torch: np.ndarray, jax: np.ndarray, axis: int, parts: int, allowed: float
) -> str | None:
    pieces = np.split(torch, parts, axis)
    for order in itertools.permutations(range(parts)):
        if list(order) == list(range(parts)):
            continue
        if _equal(np.concatenate([pieces[i] for i in order], axis), jax, allowed):
            if parts == 2:
                return f"The two halves of axis {axis} are swapped."
            return f"The {parts} parts of axis {axis} come in the order {order} of torch's."
    return None


def _scaled(torch: np.ndarray, jax: np.ndarray, allowed: float) -> str | None:
    square = float(np.sum(torch * torch))
    if not square:
        return None
    factor = float(np.sum(torch * jax)) / square
    if factor == 1 or rms(jax - factor * torch) > max(allowed, 1e-12 * rms(jax)):
        return None
    if math.isclose(factor, 0, abs_tol=1e-12):
        return "It is zero."
    if math.isclose(factor, -1, rel_tol=1e-9):
        return "It is torch's array with the other sign."
    known = _named_factor(factor, torch.shape)
    return f"It is torch's array times {factor:.7g}{known}."


def _named_factor(factor: float, shape: tuple[int, ...]) -> str:
    """Where a factor may come from: a size of the array, its root, or a rate of dropout."""
    words = []
    for axis, size in enumerate(shape):
        if size > 1:
            for value, text in ((size, f"{size}"), (math.sqrt(size), f"the root of {size}")):
                if math.isclose(factor, value, rel_tol=1e-9):
                    words.append(f"{text}, the size of axis {axis}")
                if math.isclose(factor, 1 / value, rel_tol=1e-9):
                    words.append(f"1 by {text}, the size of axis {axis}")
    count = math.prod(shape)
    if count > 1 and math.isclose(factor, count, rel_tol=1e-9):
        words.append("the number of all its elements")
    if count > 1 and math.isclose(factor, 1 / count, rel_tol=1e-9):
        words.append("1 by the number of all its elements")
    return f" ({', or '.join(words)})" if words else ""


def _shifted(torch: np.ndarray, jax: np.ndarray, allowed: float) -> str | None:
    apart = jax - torch
    if rms(apart - apart.mean()) <= allowed:
        return f"It is torch's array plus {apart.mean():.7g}."
    for axis in range(torch.ndim):
        others = tuple(a for a in range(torch.ndim) if a != axis)
        constant = apart.mean(others, keepdims=True)
        if others and torch.shape[axis] > 1 and torch.size > torch.shape[axis]:
            if rms(apart - constant) <= allowed:
                return f"It is torch's array plus one number for each index of axis {axis}."
            square = (torch * torch).sum(others, keepdims=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = np.nan_to_num((torch * jax).sum(others, keepdims=True) / square)
            if rms(jax - factor * torch) <= max(allowed, 1e-12 * rms(jax)):
                return f"It is torch's array times one number for each index of axis {axis}."
    return None


def _confined(torch: np.ndarray, jax: np.ndarray, allowed: float, given: Any) -> Iterator[str]:
    """Where the differences are, if they are not everywhere."""
    apart = np.abs(jax - torch) > max(8 * allowed, 1e-300)
    share = apart.mean()
    if 0 < share < 1:
        zero = (jax == 0) & apart
        if zero.sum() == apart.sum():
            yield f"It is zero at {share:.1%} of the positions, and torch's elsewhere."
        elif 0 < zero.mean() < 1 and (torch[zero] != 0).all():
            rest = apart & ~zero
            with np.errstate(divide="ignore", invalid="ignore"):
                factors = jax[rest] / torch[rest]
            if rest.any() and np.allclose(factors, factors[0], rtol=1e-9):
                yield (
                    f"It is zero at {zero.mean():.1%} of the positions, and torch's times "
                    f"{factors[0]:.7g} elsewhere, as with dropout."
                )
        named = False
        for axis in range(torch.ndim):
            others = tuple(a for a in range(torch.ndim) if a != axis)
            hit = np.flatnonzero(apart.any(others))
            if 0 < len(hit) < torch.shape[axis]:
                named = True
                which = ", ".join(map(str, hit[:8])) + (", ..." if len(hit) > 8 else "")
                yield f"It differs only at {which} of the {torch.shape[axis]} along axis {axis}."
        if not named and (words := _border(apart)):
            yield words
        elif not named:
            yield f"It differs at {share:.2%} of its numbers."
    if isinstance(given, np.ndarray) and given.shape == torch.shape and share:
        for words, side in (("negative", given < 0), ("positive", given > 0)):
            if side.any() and not side.all() and not apart[~side].any():
                yield f"It differs only where the input is {words}."


def _border(apart: np.ndarray) -> str | None:
    """Whether the differences are at the border of the last axes."""
    for count in (3, 2, 1):
        if apart.ndim <= count or min(apart.shape[-count:]) < 3:
            continue
        widest = (min(apart.shape[-count:]) - 1) // 2
        for width in range(1, widest + 1):
            inside: Any = (..., *(slice(width, -width),) * count)
            if not apart[inside].any():
                return f"It differs only within {width} of the border of the last {count} axes."
    return None
