"""What a verdict on an array is, and the measured bounds of rounding that it is made by."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxnet.parity._sites import module_name
from jaxnet.parity._trace import Step

Label = Literal["same", "different", "precision", "kink", "null gradient", "undecided"]

EPSILON = 2.0**-52
# What float64 leaves of a rounding of float32: the ratio of their epsilons.
LEFT = 2.0**-29
# Measured on programs that are the same, with T64 as a trace stores it:
#                                          arrays   floors: median 99% largest   of the scale
#     single layers and losses, small         825            0      1      3        3e-15
#     single layers of 1e5 elements           267            0.1    6     13        9e-14
#     running means of 65,536 numbers          12           26     80     81        8e-15
#     layers and steps of random networks   2,469            0.1   11    252        1e-14
# Torch's kernels add up some float32 sums in float64, and a number may be right by luck: float32
# then says too little of rounding, and the scale decides. Known faults begin at 1e6 floors and at
# 1e-9 of the scale. What lies between is said to be undecided, and hardly ever happens.
SAME, DIFFERENT = 64, 1000
SAME_SCALE, DIFFERENT_SCALE = 1e-12, 1e-11
# How many times less accurate than torch's the float32 of the second program may be, on average
# and at worst (measured: 6.1 and 9.6), and the part of the scale that no rounding explains.
ACCURACY, ACCURACY_LARGEST, ACCURACY_SCALE = 16, 64, 1e-4
# A gradient that is this much smaller in float64 than in float32 is rounding.
NULL = 1e-6
GRADIENTS = ("grad", "param_grad", "clipped")
# A corner moves few elements, at most this share of them, by more than this part of the scale,
# and by more than this many times what the others are moved by.
KINK_SHARE, KINK_SCALE, KINK_CONTRAST = 0.01, 1e-3, 1000
# Elements this many times the median would hide the others: scores masked by -1e9.
HUGE = 1000
# A trace stores T64 - T in float32: to this part of it, or to the smallest number that there is.
STORED, LEAST = 2.0**-24, 2.0**-149
# XLA takes smaller numbers of float32 for zero.
NORMAL = 2.0**-126
# From the best to the worst.
ORDER: tuple[Label, ...] = (
    "same",
    "null gradient",
    "kink",
    "precision",
    "undecided",
    "different",
)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The verdict on one array.

    The root mean squares are over the elements that rounding moved in one of the four runs: an
    error in one element of a sparse array does not drown in its zeros. Where some elements are a
    thousand times larger than most, the two kinds are judged apart, and the numbers are those of
    the kind that is worse.

    Attributes:
        label: "same"; "different"; "precision": the same program, whose float32 is less accurate
            than torch's; "kink": the same but for single elements that rounding pushed over a
            corner, as that of ReLU; "null gradient": a gradient that is zero but for rounding;
            "undecided": between same and different.
        torch: The root mean square of T - T64.
        jax: That of J - J64.
        double: That of T64 - J64, less what a trace loses of T64.
        plain: That of T - J.
        scale: That of T64, or of what T64 is a difference of if that is more.
        largest: The largest difference of T64 and J64.
        where: Its index.
        kinks: The number of elements on the other side of a corner.
        apart: The number of elements that differ in float64.
        note: What the numbers do not say, such as shapes that differ.
        evidence: "float32" where a float64 run is missing, which makes the verdict much weaker:
            the missing numbers are nan.
        left: What float64 leaves of a rounding: the ratio of the epsilons.
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
    apart: int = 0
    note: str = ""
    evidence: Literal["float64", "float32"] = "float64"
    left: float = LEFT

    @property
    def floor(self) -> float:
        """What rounding leaves of a difference in float64."""
        return self.left * max(self.torch, self.jax)

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


def label_of(double: float, floor: float, scale: float) -> Label:
    """Whether two float64 runs are the same, by what rounding leaves and by the scale."""
    if double <= max(SAME * floor, SAME_SCALE * scale, LEAST):
        return "same"
    if double > max(DIFFERENT * floor, DIFFERENT_SCALE * scale, LEAST):
        return "different"
    return "undecided"


def unlike(note: str, where: tuple[int, ...] = (), apart: int = 0) -> Judgement:
    """The verdict on arrays that cannot be subtracted."""
    infinite = float("inf")
    return Judgement(
        "different", 0.0, 0.0, infinite, infinite, 0.0, infinite, where, apart=apart, note=note
    )


def together(judgements: Sequence[Judgement]) -> Judgement:
    """The verdict on a site of which there are several evidences: of several steps or batches.

    One difference is a difference. What is undecided in some is decided by all of them together:
    a corner is met in few steps, and a fault of float32 in most.

    Args:
        judgements: The judgements, at least one.
    """
    worst = max(judgements, key=lambda each: ORDER.index(each.label))
    if worst.label != "undecided" or worst.evidence == "float32":
        return worst
    floor, double, scale = (
        rms(np.array([getattr(each, name) for each in judgements]))
        for name in ("floor", "double", "scale")
    )
    label = label_of(double, floor, scale)
    if label == "same" and 2 * sum(each.label == "undecided" for each in judgements) > len(
        judgements
    ):
        label = "different" if label_of(worst.double, worst.floor, worst.scale) == "same" else label
    return dataclasses.replace(worst, label=label)


def null(gradient: ArrayLike, gradient64: ArrayLike, scale: float = 0.0) -> np.ndarray:
    """Which elements of a gradient are rounding and nothing else, in float64 as in float32.

    The exact gradient of a bias before BatchNorm is zero, and so is that of the bias of
    attention's keys, a third of `in_proj_bias`. Adam divides such a gradient by itself, and makes
    steps of lr of the rounding, which no two programs share.

    Args:
        gradient: The gradient in float32.
        gradient64: The same in float64.
        scale: The `gradient_scale`, without which an element that float32 happens to round to
            zero is not known to be rounding in float64.

    Returns:
        A boolean array of the gradient's shape.
    """
    narrow, wide = np.asarray(gradient, np.float64), np.asarray(gradient64, np.float64)
    moved = np.abs(narrow - wide)
    rounding = np.maximum(gradient_rounding(gradient, gradient64, scale), STORED * moved)
    small = np.abs(wide) <= rounding
    found = small & ((narrow != 0) | (wide != 0))
    # Zeros among nothing but rounding are rounding that came to zero; others are no gradient.
    return small if small.all() and found.any() else found


def gradient_rounding(gradient: ArrayLike, gradient64: ArrayLike, scale: float = 0.0) -> float:
    """The largest size of a gradient in float64 that is rounding; the arguments are `null`'s."""
    narrow, wide = np.asarray(gradient, np.float64), np.asarray(gradient64, np.float64)
    left = EPSILON / float(jnp.finfo(np.asarray(gradient).dtype).eps)
    return max(left * SAME * rms(np.abs(narrow - wide)), SAME_SCALE * scale)


def gradient_scale(step: Step, name: str) -> float:
    """The size of the gradients around one, by which its rounding in float64 is measured.

    The gradient of a bias before BatchNorm is a sum of such gradients that comes to nothing.

    Args:
        step: The step.
        name: The name of the parameter.

    Returns:
        The largest root mean square of the gradients of the other parameters of the module, and
        of its outputs.
    """
    module = name.rpartition(".")[0]
    sites = [site for place, site in step.of("grad").items() if module_name(place) == module]
    for place, site in step.of("param_grad").items():
        if place.rpartition(".")[0] == module:
            sites.append(site)
    return max((rms(step.double(site)) for site in sites), default=0.0)
