"""Differences before any arithmetic: of initial weights and buffers."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnet.parity._traps._trap import Trap

WEIGHTS = ("weights",)
# So many numbers show what distribution they are from.
_MANY = 200


@dataclasses.dataclass(frozen=True)
class Weights:
    """An array that torch's program begins with: a reference for these traps.

    Attributes:
        array: The array.
    """

    array: np.ndarray
    kind: str = "weights"

    @property
    def config(self) -> Mapping[str, Any]:
        return {"shape": self.array.shape, "dtype": self.array.dtype.name}

    def observe(self) -> dict[str, np.ndarray]:
        return {"value": self.array}


def _map(change: Callable[..., np.ndarray]) -> Callable[..., Weights]:
    """A change of the array, given the constants and options of the row."""

    def changed(weights: Weights, **values: Any) -> Weights:
        with np.errstate(all="ignore"):  # a fault that is tried may be absurd
            return dataclasses.replace(weights, array=change(weights.array, **values))

    return changed


def _rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float64)
    # bfloat16 is float32 without the lower half of its bits, rounded to even.
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


TRAPS: tuple[Trap, ...] = (
    Trap(
        "value-transposed",
        WEIGHTS,
        _map(lambda array: np.swapaxes(array, 0, 1)),
        "The first two axes are exchanged.",
        "the axes of torch's array: the weights of Linear are (outputs, inputs)",
        when=lambda config: len(config["shape"]) > 1,
    ),
    Trap(
        "value-rounded",
        WEIGHTS,
        _map(_rounded),
        "The numbers are rounded to {dtype}; torch's are {torch[dtype]}.",
        "the dtype of the torch program",
        options={"dtype": ("float16", "bfloat16")},
    ),
    Trap(
        "weights-constant",
        WEIGHTS,
        _map(lambda array, constant: np.full_like(array, constant, np.float64)),
        "All numbers are {constant:.6g}; torch's are not.",
        "the initialisation of torch (jaxnet.nn's with rngs=Generator(seed)), or its weights",
        options={"constant": (0.0, 1.0)},
    ),
    Trap(
        "weights-scaled",
        WEIGHTS,
        _map(lambda array, factor: array * factor),
        "The numbers are {factor:.6g} times torch's.",
        "the bound of torch's initialisation",
        constants={"factor": (0.5, 2.0, math.sqrt(3), 1 / math.sqrt(3), math.sqrt(2))},
    ),
)


def of_distribution(torch: np.ndarray, jax: np.ndarray) -> str:
    """What other random numbers of a weight have in common with torch's, in a sentence.

    Args:
        torch: Torch's initial values.
        jax: The JAX program's.
    """
    a, b = np.asarray(torch, np.float64).ravel(), np.asarray(jax, np.float64).ravel()
    if a.shape != b.shape:
        return f"The shape is {np.shape(jax)}; torch's is {np.shape(torch)}."
    if np.array_equal(np.sort(a), np.sort(b)):
        return "The numbers are torch's in another order."
    if not np.std(a):
        return f"The numbers are random; torch's are all {a[0]:.4g}."
    if not np.std(b):
        return f"The numbers are all {b[0]:.4g}; torch's are random."
    # Deviations of n numbers are known to 1 / sqrt(2 n) each; more than three of these apart.
    spread, known = float(np.std(b) / np.std(a)), 3 / math.sqrt(a.size)
    if abs(math.log(spread)) > known:
        return (
            f"The numbers are other random ones, with {spread:.2g} times the standard deviation of "
            "torch's: another initialisation."
        )
    forms = ["uniform" if _is_uniform(x) else "not uniform" for x in (a, b)]
    if a.size >= _MANY and forms[0] != forms[1]:
        return (
            f"The numbers are {forms[1]}, torch's are {forms[0]}: another initialisation of the "
            "same standard deviation."
        )
    return (
        "The numbers are other random ones of torch's distribution: another seed, or layers in "
        "another order."
    )


def _is_uniform(x: np.ndarray) -> bool:
    """Whether the fourth moment is nearer that of a uniform distribution than a normal one's."""
    centred = x - x.mean()
    return bool(np.mean(centred**4) / np.mean(centred**2) ** 2 < 2.3)
