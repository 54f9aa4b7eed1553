"""Whether two arrays are the same computation: a verdict without a chosen tolerance.

The same step is computed four times from the same float32 numbers: by the first program in float32
(T) and float64 (T64), and by the second (J and J64). Float64 leaves 2^-29 of float32's rounding, so
a difference between T64 and J64 that is larger than what rounding leaves is one of the programs,
and one that is not is rounding, whatever T and J differ by.
"""

import dataclasses
from typing import Literal

import numpy as np

Label = Literal["same", "different", "precision", "kink", "null gradient", "undecided"]

# What float64 leaves of a rounding of float32: the ratio of their epsilons.
LEFT = 2.0**-29
# Clean programs stay below 25 floors, known faults begin at 1e6 (the measurements are on the
# page about parity), so what lies between hardly ever happens and is said to be undecided.
SAME, DIFFERENT = 64, 1000
# In units of the scale, for reductions that torch's kernels accumulate in float64, whose float32
# rounding says nothing about the rounding of a float64 sum.
SAME_SCALE, DIFFERENT_SCALE = 1e-11, 1e-10
# How much less accurate than torch's the float32 of the second program may be.
ACCURACY, ACCURACY_SCALE = 8, 1e-4
NULL = 1e-6


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The verdict on one array.

    Attributes:
        label: "same"; "different"; "precision": the same program, whose float32 is less accurate
            than torch's; "kink": the same but for single elements that rounding pushed over a
            corner, as that of ReLU; "null gradient": a gradient that is zero but for rounding;
            "undecided": between same and different.
        torch: The root mean square of T - T64.
        jax: That of J - J64.
        double: That of T64 - J64.
        plain: That of T - J.
        scale: That of T64.
        largest: The largest difference of T64 and J64.
        where: Its index.
        kinks: The number of elements on the other side of a corner.
    """

    label: Label
    torch: float
    jax: float
    double: float
    plain: float
    scale: float
    largest: float = 0.0
    where: tuple[int, ...] = ()
    kinks: int = 0

    @property
    def floor(self) -> float:
        """What rounding leaves of a difference in float64."""
        return LEFT * max(self.torch, self.jax)

    @property
    def failed(self) -> bool:
        return self.label in ("different", "undecided")


def rms(x: np.ndarray) -> float:
    """The root mean square, without overflow; 0 for an empty array."""
    if x.size == 0:
        return 0.0
    largest = float(np.max(np.abs(x)))
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.mean(np.square(x / largest))))
