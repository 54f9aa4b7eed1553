"""Arrays of a layer of the user's own: the order of torch's axes in them, and of flattened rows."""

from itertools import permutations
from typing import Any

import numpy as np

from jaxnet.parity._layouts import Made, Piece

Axes = tuple[int, ...]


def orders_of(theirs: tuple[int, ...], own: tuple[int, ...]) -> list[Axes]:
    """The orders of torch's axes in which an array has its shape.

    The spatial axes of a kernel stay together and in their order: nobody swaps height and width.

    Args:
        theirs: The shape of torch's array.
        own: The shape of the model's.
    """
    if sorted(theirs) != sorted(own):
        return []
    space = tuple(range(2, len(theirs)))
    fitting = (p for p in permutations(range(len(own))) if tuple(theirs[i] for i in p) == own)
    return [p for p in fitting if any(p[i : i + len(space)] == space for i in range(3))]


def usual_order(theirs: tuple[int, ...], own: tuple[int, ...]) -> Axes | None:
    """The order of torch's axes in an array, where its shape says it; None for that of torch."""
    fitting = orders_of(theirs, own)
    if theirs == own or not fitting:
        return None
    return fitting[-1]  # of two the one with the features last, as JAX's libraries have it


def by_values(own: Any, theirs: Any, name: str) -> Made | None:
    """How an array of two axes or more is made of torch's, if its numbers say so.

    Args:
        own: The model's array.
        theirs: torch's.
        name: torch's name of it.

    Returns:
        It; None where no order of axes and rows gives these numbers, or several do.
    """
    own, theirs = np.asarray(own), np.asarray(theirs)
    if own.size != theirs.size or theirs.ndim < 2 or not _may_be_equal(own, theirs):
        return None

    def equal(made: Made) -> bool:
        return np.allclose(own, np.asarray(made.of({name: theirs})), rtol=1e-5, atol=1e-7)

    made = [
        Made((Piece((name,), axes=axes),), own.shape) for axes in orders_of(theirs.shape, own.shape)
    ]
    found = [one for one in made if equal(one)]
    if len(found) == 1:
        return found[0]
    if found or theirs.ndim != 2 or own.shape != theirs.shape[::-1]:
        return None
    inputs = theirs.shape[1]
    turned = (
        _rows(name, own.shape, (channels, inputs // channels))
        for channels in range(2, inputs // 2 + 1)
        if inputs % channels == 0
    )
    rows = [one for one in turned if equal(one)]
    return rows[0] if len(rows) == 1 else None


def _may_be_equal(own: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two arrays may have the same numbers in some order, by their sums.

    Each layer is held against each of torch's, of which most are other ones; this is far less work
    than all orders. The sums of what is equal as above differ by half of the bound at most.
    """
    sums = [x.sum(dtype=np.result_type(x.dtype, np.float64)) for x in (own, theirs)]
    bound = 2e-7 * own.size + 2e-5 * np.abs(theirs).sum(dtype=np.float64)
    return not abs(sums[0] - sums[1]) > bound  # of NaN nothing is known


def _rows(name: str, shape: tuple[int, ...], sizes: tuple[int, int]) -> Made:
    """A weight (in, out) whose inputs were flattened with the channels last."""
    channels, space = sizes
    piece = Piece((name,), shape=(shape[1], channels, space), axes=(2, 1, 0))
    return Made((piece,), shape)
