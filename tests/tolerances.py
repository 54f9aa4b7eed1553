"""How far a result may lie from PyTorch's, in one table.

A difference is measured against the largest magnitude in the array that it
belongs to (and at least 1 for `forward`), so that a sum which cancels to nearly
nothing is not held to digits that float arithmetic cannot give.
"""

from typing import Any

import numpy as np

__all__ = ["TOLERANCES", "distance", "tolerance"]

TOLERANCES: dict[tuple[str, str], float] = {
    ("forward", "float32"): 1e-5,
    ("forward", "float64"): 1e-10,
    ("gradient", "float32"): 1e-5,
    ("gradient", "float64"): 1e-10,
    # Parameters after any of 100 steps, relative to their largest over the run.
    ("optimizer", "float32"): 1e-6,
    ("optimizer", "float64"): 1e-12,
    # Muon's matrix iteration runs in bfloat16 whatever the parameter is: a sum in another
    # order can move one digit of it, 4e-3 of an update of lr = 1e-3, for good.
    ("muon", "float32"): 1e-4,
    ("muon", "float64"): 1e-4,
}


def tolerance(kind: str, dtype: Any) -> float:
    """The largest accepted `distance` for a kind of result in a dtype."""
    key = (kind, np.dtype(dtype).name)
    if key not in TOLERANCES:
        raise ValueError(f"no tolerance for {key}; there are {sorted(TOLERANCES)}")
    return TOLERANCES[key]


def distance(kind: str, ours: Any, theirs: Any) -> float:
    """The largest difference relative to the largest of `theirs`.

    nan counts as equal to nan and an infinity to itself; anything else that is
    not finite on one side only is infinitely far.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} here, {b.shape} in torch")
    if a.size == 0:
        return 0.0
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(b[finite]).max())
    if kind == "forward":
        largest = max(largest, 1.0)
    gap = float(np.abs(a[finite] - b[finite]).max())
    return gap / largest if largest > 0 else (0.0 if gap == 0 else float("inf"))
