"""Constants of a program, found from its numbers: usual values first, then refined."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Residual = Callable[..., np.ndarray]

_REFINEMENTS = 12
# Two steps that leave more than this share go nowhere: with the right constants nothing is left.
_STALLED = 0.9
# Two constants within this share of one another are the same to a reader: what is fitted from
# float64 numbers has ten digits and more, a constant that was rounded to float32 has seven.
_READ = 1e-7


def fit(residual: Residual, usual: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The constants that make a residual smallest.

    All combinations of the usual values are tried; from the best of them the constants are refined
    by Gauss and Newton's method, in their logarithms, because usual constants lie powers of ten
    apart. It is for exact data, where some constants leave rounding only: another minimum may
    hide the best, so the caller judges what is left.

    Args:
        residual: A function of the constants that returns the differences, an array of any
            shape; nan or infinite where the constants are impossible. It may raise ValueError or
            TypeError for such constants.
        usual: The usual values of each constant.

    Returns:
        The constants. A usual value that leaves as little as the refined one is kept.
    """

    def size(r: np.ndarray) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            norm = float(np.linalg.norm(r))
        return norm if math.isfinite(norm) else math.inf

    def at(values: Sequence[float]) -> np.ndarray:
        try:
            return np.asarray(residual(*values), np.float64).ravel()
        except (ValueError, TypeError, FloatingPointError):
            return np.array([math.inf])

    tried = [(size(at(values)), values) for values in itertools.product(*usual)]
    # Beside the best of the usual values the next one is refined: the minimum may lie between.
    tried = sorted(tried)[:2]
    found = min(_refined(at, size, values) for _, values in tried)
    # A refined constant that is a usual one to all digits that the numbers have.
    for left, values in tried:
        near = all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(values, found[1], strict=True))
        if near and left <= 4 * found[0] + 1e-300:
            return tuple(values)
    return tuple(found[1])


def _refined(
    at: Callable[[Sequence[float]], np.ndarray],
    size: Callable[[np.ndarray], float],
    start: Sequence[float],
) -> tuple[float, tuple[float, ...]]:
    """The size of the residual and the constants after a few steps from a start."""
    values = tuple(start)
    now = at(values)
    left = size(now)
    if not math.isfinite(left):
        return math.inf, values
    stalled = 0
    for _ in range(_REFINEMENTS):
        columns = []
        for i, value in enumerate(values):
            # A constant of 0 has no logarithm; it is moved by itself.
            small = 1e-6 * value if value else 1e-9
            moved = at((*values[:i], value + small, *values[i + 1 :]))
            if moved.shape != now.shape:
                return left, values
            columns.append((moved - now) / (small / value if value else small))
        slopes = np.stack(columns, 1)
        if not np.all(np.isfinite(slopes)) or not np.any(slopes):
            return left, values
        change, *_ = np.linalg.lstsq(slopes, -now, rcond=None)
        for share in (1.0, 0.25, 0.0625):
            trial = tuple(
                value * math.exp(min(max(share * move, -7), 7)) if value else share * move
                for value, move in zip(values, change, strict=True)
            )
            r = at(trial)
            if r.shape == now.shape and size(r) < left:
                stalled = stalled + 1 if size(r) > _STALLED * left else 0
                values, now, left = trial, r, size(r)
                break
        else:
            return left, values
        if stalled == 2:
            return left, values
    return left, values


# What a fit leaves of a constant of 0.
_ZERO = 1e-12


def rounded(value: float, usual: Sequence[float] = ()) -> float:
    """A fitted constant as a program would have written it.

    Args:
        value: The fitted constant.
        usual: Usual values of it.

    Returns:
        The usual value, or the number of at most four digits, that it is to seven digits; the
        constant itself if there is none.
    """
    for digits in (*usual, *(float(f"{value:.{n}e}") for n in range(4))):
        if math.isclose(value, digits, rel_tol=_READ, abs_tol=0 if digits else _ZERO):
            return digits
    return value
