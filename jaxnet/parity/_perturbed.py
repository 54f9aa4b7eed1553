"""Programs that have no float64: how far the last digit of what they are given moves their numbers.

Where a program fixes its dtype, or cannot run in float64, there is no exact run to measure its
rounding by. So it is run in float32 three more times, with all that it is given moved by one unit
in the last place, up or down at random: what that moves its numbers by is their rounding.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

RUNS = 3
NOTE = (
    f"; instead of float64, {RUNS} runs with inputs and weights moved by one unit in the last "
    "place measure its rounding"
)


def perturbed(value: Any, run: int) -> Any:
    """The same pytree, with each float32 number moved by one unit in the last place.

    Args:
        value: The pytree. What is no float32 array, and zeros, stay.
        run: The number of the run, which decides where up and where down.
    """

    def moved(path: Any, leaf: Any) -> Any:
        if getattr(leaf, "dtype", None) != np.float32:
            return leaf
        array = np.asarray(leaf)
        seed = zlib.crc32(jax.tree_util.keystr(path).encode()) + run
        up = np.random.RandomState(seed % 2**32).random_sample(array.shape) < 0.5
        far = np.where(up, np.float32(np.inf), np.float32(-np.inf))
        other = np.nextafter(array, far).astype(np.float32)
        return np.where((array == 0) | ~np.isfinite(array), array, other)

    return jax.tree_util.tree_map_with_path(moved, value)


def spread(
    own: Mapping[str, np.ndarray], run: Callable[[int], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """By how much the perturbed runs move each number, at most.

    Args:
        own: The arrays of the program by site.
        run: A function of the number of a perturbed run that gives the same arrays.
    """
    found: dict[str, np.ndarray] = {}
    for number in range(RUNS):
        for site, array in run(number).items():
            if site in own and jnp.issubdtype(array.dtype, jnp.floating):
                one, other = np.asarray(array, np.float64), np.asarray(own[site], np.float64)
                with np.errstate(invalid="ignore"):
                    moved = np.abs(one - other)
                # What becomes infinite, or was, says nothing of rounding.
                moved = np.where(np.isfinite(moved), moved, 0.0)
                found[site] = np.maximum(found.get(site, 0.0), moved)
    return found
