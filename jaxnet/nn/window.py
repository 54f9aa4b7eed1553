"""How layers with windows read their arguments and lay their axes out."""

from collections.abc import Sequence
from typing import Any

import jax

__all__ = ["Size", "axis_letters", "batched", "per_axis"]

Size = int | Sequence[int]
"""One whole number for every spatial axis, or one for each."""


def per_axis(owner: str, name: str, value: Any, n: int, least: int = 0) -> tuple[int, ...]:
    """A number for each of n spatial axes, from one number or a sequence.

    Args:
        owner: the layer or function that complains.
        name: of the argument.
        value: what was given; a sequence of one number stands for all axes.
        n: how many axes there are.
        least: the smallest accepted number.

    >>> per_axis("conv2d", "stride", 2, 2)
    (2, 2)
    """
    try:
        sizes = tuple(v.__index__() for v in value) if _several(value) else (value.__index__(),)
    except AttributeError:
        sizes = ()
    if len(sizes) == 1:
        sizes *= n
    if len(sizes) != n:
        raise ValueError(
            f"{owner}: {name} {value!r}; accepted are a whole number or {n} of them"
            + (", one for each spatial axis" if n > 1 else "")
        )
    if min(sizes) < least:
        raise ValueError(f"{owner}: {name} {value!r}; the least that is accepted is {least}")
    return sizes


def _several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def axis_letters(n: int) -> str:
    """L, or H, W, or D, H, W: the names of n spatial axes."""
    return "L" if n == 1 else ", ".join("DHW"[-n:])


def batched(owner: str, input: jax.Array, n: int) -> jax.Array:
    """(N, C, ...) as it is and (C, ...) as (1, C, ...), with n spatial axes."""
    if input.ndim not in (n + 1, n + 2):
        letters = axis_letters(n)
        raise ValueError(
            f"{owner}: an input of shape {input.shape}; "
            f"accepted are (N, C, {letters}) and (C, {letters})"
        )
    return input if input.ndim == n + 2 else input[None]
