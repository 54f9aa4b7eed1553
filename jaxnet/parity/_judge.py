"""Whether two arrays are the same computation: a verdict without a chosen tolerance.

The same step is computed four times from the same float32 numbers: by the first program in float32
(T) and float64 (T64), and by the second (J and J64). Float64 leaves 2^-29 of float32's rounding, so
a difference between T64 and J64 that is larger than what rounding leaves is one of the programs,
and one that is not is rounding, whatever T and J differ by.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

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
# So many roundings of what a function with a corner was given may lie before the corner.
CORNER = 4
# Elements this many times the median would hide the others: scores masked by -1e9.
HUGE = 1000
# A trace stores T64 - T in float32: to this part of it, or to the smallest number that there is.
STORED, LEAST = 2.0**-24, 2.0**-149
# XLA takes smaller numbers of float32 for zero.
NORMAL = 2.0**-126


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


def judge(
    torch: ArrayLike,
    torch64: ArrayLike | None,
    jax: ArrayLike,
    jax64: ArrayLike | None,
    *,
    site: str,
    scale: ArrayLike | None = None,
    pre: tuple[ArrayLike, ArrayLike] | None = None,
    ignore: ArrayLike | None = None,
    isolated: bool = True,
) -> Judgement:
    """The verdict on one array of one step.

    Args:
        torch: The array of the first program.
        torch64: The same in float64, None where there is none. Arrays that are float64 themselves
            or are not floating need none.
        jax: The array of the second program.
        jax64: The same in float64, or None.
        site: The name of the site, whose phase tells gradients.
        scale: What the array is a difference or a sum of: the parameters before an update, the
            gradients around a gradient (`gradient_scale`).
        pre: What a function with a corner was applied to, minus the corner, in float32 and in
            float64, in the array's shape. Elements that rounding may have pushed over the corner
            are kinks.
        ignore: A boolean array of the elements that are not judged, such as those of an update by
            Adam whose gradient is rounding (`null`).
        isolated: Whether `jax` was computed from torch's own inputs. If not, the programs come
            to a corner with different rounding, and few elements that differ in float32 alone
            are kinks.
    """
    t, j = np.asarray(torch), np.asarray(jax)
    if t.shape != j.shape:
        return _unlike(f"its shape is {j.shape}, torch's is {t.shape}")
    if _kind(t) != _kind(j):
        return _unlike(f"its dtype is {j.dtype}, torch's is {t.dtype}")
    if _kind(t) == "complex":
        return judge(
            _parts(t),
            None if torch64 is None else _parts(torch64),
            _parts(j),
            None if jax64 is None else _parts(jax64),
            site=site,
            scale=None if scale is None else np.abs(scale),
            ignore=None if ignore is None else np.asarray(ignore)[..., None],
            isolated=isolated,
        )
    judged = np.ones(t.shape, bool)
    if ignore is not None:
        judged &= ~np.asarray(ignore, bool)
    near, near64 = _corners(pre, t.shape)
    if _kind(t) == "exact":
        return _exactly(t, j, judged, near)
    wide, narrow = _double(t, torch64), _double(j, jax64)
    pairs = [(np.asarray(t, np.float64), np.asarray(j, np.float64))]
    if wide is not None and narrow is not None:
        pairs.append((wide, narrow))
    for a, b in pairs:
        # What is not finite in float32 is not judged in float64: a trace has nothing there.
        ends = judged & ~(np.isfinite(a) & np.isfinite(b))
        apart = ends & (a != b) & ~(np.isnan(a) & np.isnan(b))
        if apart.any():
            where = _first(apart)
            return _unlike(f"{b[where]}, torch's is {a[where]}", where, int(apart.sum()))
        judged &= ~ends
    runs = _Runs(
        pairs[0][0][judged],
        None if wide is None else wide[judged],
        pairs[0][1][judged],
        None if narrow is None else narrow[judged],
        size=0.0 if scale is None else rms(np.asarray(scale, np.float64)),
        epsilon=float(jnp.finfo(t.dtype).eps),
    )
    if len(pairs) == 1:
        found = _by_float32(runs)
    else:
        found = _by_float64(runs, near[judged], near64[judged], isolated)
        if found.label == "same" and site.split(":", 1)[0] in GRADIENTS and _is_null(runs):
            found = dataclasses.replace(found, label="null gradient")
    if not found.where:
        return found
    place = np.unravel_index(np.flatnonzero(judged)[found.where[0]], t.shape)
    return dataclasses.replace(found, where=tuple(int(i) for i in place))


@dataclasses.dataclass(frozen=True)
class _Runs:
    """The elements of the four runs that are judged, the scale, and the epsilon of T's dtype."""

    t: np.ndarray
    t64: Any
    j: np.ndarray
    j64: Any
    size: float
    epsilon: float


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
    left = EPSILON / float(jnp.finfo(np.asarray(gradient).dtype).eps)
    rounding = np.maximum(max(left * SAME * rms(moved), SAME_SCALE * scale), STORED * moved)
    return (np.abs(wide) <= rounding) & ((narrow != 0) | (wide != 0))


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


def together(judgements: Sequence[Judgement]) -> Judgement:
    """The verdict on a site of which there are several evidences: of several steps or batches.

    One difference is a difference. What is undecided in some is decided by all of them together:
    a corner is met in few steps, and a fault of float32 in most.

    Args:
        judgements: The judgements, at least one.
    """
    worst = max(judgements, key=lambda each: _ORDER.index(each.label))
    if worst.label != "undecided" or worst.evidence == "float32":
        return worst
    floor, double, scale = (
        rms(np.array([getattr(each, name) for each in judgements]))
        for name in ("floor", "double", "scale")
    )
    label = _label(double, floor, scale)
    if label == "same" and 2 * sum(each.label == "undecided" for each in judgements) > len(
        judgements
    ):
        label = "different" if _label(worst.double, worst.floor, worst.scale) == "same" else label
    return dataclasses.replace(worst, label=label)


# From the best to the worst.
_ORDER: tuple[Label, ...] = (
    "same",
    "null gradient",
    "kink",
    "precision",
    "undecided",
    "different",
)


def _label(double: float, floor: float, scale: float) -> Label:
    if double <= max(SAME * floor, SAME_SCALE * scale, LEAST):
        return "same"
    if double > max(DIFFERENT * floor, DIFFERENT_SCALE * scale, LEAST):
        return "different"
    return "undecided"


def _by_float64(runs: _Runs, near: np.ndarray, near64: np.ndarray, isolated: bool) -> Judgement:
    t, t64, j, j64 = runs.t, runs.t64, runs.j, runs.j64
    left = EPSILON / runs.epsilon
    u, v, plain = np.abs(t - t64), np.abs(j - j64), np.abs(t - j)
    d = np.maximum(np.abs(t64 - j64) - STORED * u, 0.0)
    moving = (u > 0) | (v > 0) | (d > 0)
    if not moving.any():
        return Judgement("same", 0.0, 0.0, 0.0, 0.0, max(rms(t64), runs.size), left=left)
    d[near64] = 0.0
    size = np.maximum(np.abs(t64), np.abs(j64))
    huge = size > HUGE * np.median(size[moving])
    found = []
    for part in (moving & ~huge, moving & huge):
        if not part.any():
            continue
        scale = max(rms(t64[part]), runs.size)
        # Rounding of single elements that is no rounding: they went over a corner, and would
        # raise the floor of all others. With the same inputs both programs went.
        moved = np.maximum(u, v)
        kink = _stand_out(moved, part, scale)
        kink &= (plain <= KINK_SCALE * moved) | (not isolated)
        kink |= part & (near | near64) & (moved > KINK_SCALE * scale)
        calm = part & ~kink
        torch, jax, double = rms(u[calm]), rms(v[calm]), rms(d[part])
        highest, worst = u[calm].max(initial=0.0), v[calm].max(initial=0.0)
        largest = int(np.argmax(np.where(part, d, -1.0)))
        floor, peak = left * max(torch, jax), left * max(highest, worst)
        label = max(_label(double, floor, scale), _label(d[largest], peak, scale), key=_ORDER.index)
        if label == "same":
            # Single numbers are right by luck; storing one costs half an epsilon.
            least = max(runs.epsilon / 2 * scale, NORMAL)
            rough = jax > ACCURACY * max(torch, least)
            if rough or worst > ACCURACY_LARGEST * max(highest, least):
                wrong = jax > ACCURACY_SCALE * scale if rough else worst > 0.01 * scale
                # From other inputs it may be a corner before, which several steps tell.
                label = ("different" if isolated else "undecided") if wrong else "precision"
            elif kink.any() or near64[part].any():
                label = "kink"
        found.append(
            Judgement(
                label,
                torch,
                jax,
                double,
                rms(plain[part]),
                scale,
                float(d[largest]),
                (largest,),
                int(np.sum(kink | (near64 & part))),
                int(np.sum(d[part] > max(DIFFERENT * peak, DIFFERENT_SCALE * scale, LEAST))),
                left=left,
            )
        )
    return max(found, key=lambda each: _ORDER.index(each.label))


def _stand_out(moved: np.ndarray, part: np.ndarray, scale: float) -> np.ndarray:
    """The few elements of a part that rounding moved much more than the others."""
    out = part & (moved > KINK_SCALE * scale)
    others = part & ~out
    if not others.any() or out.sum() > max(1, KINK_SHARE * part.sum()):
        return np.zeros_like(out)
    return out & (moved > KINK_CONTRAST * rms(moved[others]))


def _by_float32(runs: _Runs) -> Judgement:
    """The verdict where a float64 run is missing: J is as near to the other as T is, or not."""
    t, t64, j, j64 = runs.t, runs.t64, runs.j, runs.j64
    exact = next((x for x in (t64, j64) if x is not None), None)
    scale = max(rms(t), runs.size)
    if t.size == 0:
        return Judgement("same", 0.0, 0.0, np.nan, 0.0, scale, evidence="float32")
    if exact is None:
        error, rounding = t - j, np.zeros(1)
    elif t64 is not None:
        error, rounding = j - exact, t - exact
    else:
        error, rounding = t - exact, j - exact
    label: Label = "same"
    for size, same in ((rms, ACCURACY), (lambda x: float(np.abs(x).max()), ACCURACY_LARGEST)):
        most = max(size(rounding), runs.epsilon * scale, NORMAL)
        found: Label = "undecided" if size(error) > same * most else "same"
        found = "different" if size(error) > DIFFERENT * most else found
        label = max(label, found, key=_ORDER.index)
    plain = np.abs(t - j)
    return Judgement(
        label,
        np.nan if t64 is None else rms(t - t64),
        np.nan if j64 is None else rms(j - j64),
        np.nan,
        rms(plain),
        scale,
        float(np.max(plain)),
        (int(np.argmax(plain)),),
        evidence="float32",
    )


def _exactly(t: np.ndarray, j: np.ndarray, judged: np.ndarray, near: np.ndarray) -> Judgement:
    """The verdict on integers and booleans, of which those at a corner may differ."""
    unequal = judged & (t != j)
    apart = unequal & ~near
    kinks, count = int(np.sum(unequal & near)), int(np.sum(apart))
    plain = np.abs(t[judged].astype(np.float64) - j[judged].astype(np.float64))
    return Judgement(
        "different" if count else "kink" if kinks else "same",
        0.0,
        0.0,
        rms(plain),
        rms(plain),
        rms(t[judged].astype(np.float64)),
        float(plain.max(initial=0.0)),
        _first(apart) if count else (),
        kinks,
        count,
    )


def _unlike(note: str, where: tuple[int, ...] = (), apart: int = 0) -> Judgement:
    """The verdict on arrays that cannot be subtracted."""
    infinite = float("inf")
    return Judgement(
        "different", 0.0, 0.0, infinite, infinite, 0.0, infinite, where, apart=apart, note=note
    )


def _kind(x: np.ndarray) -> str:
    if jnp.issubdtype(x.dtype, jnp.floating):
        return "floating"
    return "complex" if x.dtype.kind == "c" else "exact"


def _parts(x: ArrayLike) -> np.ndarray:
    """The real and imaginary parts of complex numbers along a new last axis."""
    x = np.asarray(x)
    return np.stack([x.real, x.imag], -1)


def _double(x: np.ndarray, wide: ArrayLike | None) -> np.ndarray | None:
    """The float64 run: the array itself where it is float64."""
    if x.dtype == np.float64:
        return x
    return None if wide is None else np.asarray(wide, np.float64)


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _corners(
    pre: tuple[ArrayLike, ArrayLike] | None, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Which elements rounding may have pushed over the corner, in float32 and in float64."""
    if pre is None:
        return np.zeros(shape, bool), np.zeros(shape, bool)
    narrow, wide = (np.asarray(x, np.float64) for x in pre)
    moved = rms(narrow - wide)
    distance = np.broadcast_to(np.abs(wide), shape)
    return distance <= CORNER * moved, distance <= max(SAME * LEFT, STORED) * moved


def _is_null(runs: _Runs) -> bool:
    least = NULL * max(rms(runs.t), rms(runs.j))
    return rms(runs.t64) < least and rms(runs.j64) < least
