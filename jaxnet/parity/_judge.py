"""Whether two arrays are the same computation: a verdict without a chosen tolerance.

The same step is computed four times from the same float32 numbers: by the first program in float32
(T) and float64 (T64), and by the second (J and J64). Float64 leaves 2^-29 of float32's rounding, so
a difference between T64 and J64 that is larger than what rounding leaves is one of the programs,
and one that is not is rounding, whatever T and J differ by.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxnet.parity._judgement import (
    ACCURACY,
    ACCURACY_LARGEST,
    ACCURACY_SCALE,
    DIFFERENT,
    DIFFERENT_SCALE,
    EPSILON,
    GRADIENTS,
    HUGE,
    KINK_CONTRAST,
    KINK_SCALE,
    KINK_SHARE,
    LEAST,
    NORMAL,
    NULL,
    ORDER,
    STORED,
    Judgement,
    Label,
    label_of,
    rms,
    unlike,
)


def judge(
    torch: ArrayLike,
    torch64: ArrayLike | None,
    jax: ArrayLike,
    jax64: ArrayLike | None,
    *,
    site: str,
    scale: ArrayLike | None = None,
    ignore: ArrayLike | None = None,
    isolated: bool = True,
    spread: ArrayLike | None = None,
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
        ignore: A boolean array of the elements that are not judged, such as those of an update by
            Adam whose gradient is rounding (`null`).
        isolated: Whether `jax` was computed from torch's own inputs. If not, the programs come
            to a corner with different rounding, and few elements that differ in float32 alone
            are kinks.
        spread: How far one unit in the last place of what the second program is given moves `jax`,
            which stands for its rounding where a float64 run is missing; None if that was not
            measured.
    """
    t, j = np.asarray(torch), np.asarray(jax)
    if t.shape != j.shape:
        return unlike(f"its shape is {j.shape}, torch's is {t.shape}")
    if _kind(t) != _kind(j):
        return unlike(f"its dtype is {j.dtype}, torch's is {t.dtype}")
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
    if _kind(t) == "exact":
        return _exactly(t, j, judged)
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
            return unlike(f"{b[where]}, torch's is {a[where]}", where, int(apart.sum()))
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
        moved = None if spread is None else np.asarray(spread, np.float64)[judged]
        found = _by_float32(runs, moved, isolated)
    else:
        found = _by_float64(runs, isolated)
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


def _by_float64(runs: _Runs, isolated: bool) -> Judgement:
    t, t64, j, j64 = runs.t, runs.t64, runs.j, runs.j64
    left = EPSILON / runs.epsilon
    u, v, plain = np.abs(t - t64), np.abs(j - j64), np.abs(t - j)
    # T64 lost something when it was stored, and so did what an isolated J64 was computed from.
    lost = (2 if isolated else 1) * STORED * u
    d = np.maximum(np.abs(t64 - j64) - lost, 0.0)
    moving = (u > 0) | (v > 0) | (d > 0)
    if not moving.any():
        return Judgement("same", 0.0, 0.0, 0.0, 0.0, max(rms(t64), runs.size), left=left)
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
        calm = part & ~kink
        torch, jax, double = rms(u[calm]), rms(v[calm]), rms(d[part])
        highest, worst = u[calm].max(initial=0.0), v[calm].max(initial=0.0)
        largest = int(np.argmax(np.where(part, d, -1.0)))
        floor, peak = left * max(torch, jax), left * max(highest, worst)
        label = max(
            label_of(double, floor, scale), label_of(d[largest], peak, scale), key=ORDER.index
        )
        if label == "same":
            # Single numbers are right by luck; storing one costs half an epsilon.
            least = max(runs.epsilon / 2 * scale, NORMAL)
            rough = jax > ACCURACY * max(torch, least)
            if rough or worst > ACCURACY_LARGEST * max(highest, least):
                wrong = jax > ACCURACY_SCALE * scale if rough else worst > 0.01 * scale
                # From other inputs it may be a corner before, which several steps tell.
                label = ("different" if isolated else "undecided") if wrong else "precision"
            elif kink.any():
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
                int(np.sum(kink)),
                int(np.sum(d[part] > max(DIFFERENT * peak, DIFFERENT_SCALE * scale, LEAST))),
                left=left,
            )
        )
    return max(found, key=lambda each: ORDER.index(each.label))


def _stand_out(moved: np.ndarray, part: np.ndarray, scale: float) -> np.ndarray:
    """The few elements of a part that rounding moved much more than the others."""
    out = part & (moved > KINK_SCALE * scale)
    others = part & ~out
    if not others.any() or out.sum() > max(1, KINK_SHARE * part.sum()):
        return np.zeros_like(out)
    return out & (moved > KINK_CONTRAST * rms(moved[others]))


def _by_float32(runs: _Runs, moved: np.ndarray | None, isolated: bool) -> Judgement:
    """The verdict where a float64 run is missing: J is as near to the other as T is, or not.

    Where it was measured by how much rounding moves J, a difference is one from a smaller size on.
    But J has to be as accurate as torch's numbers are, to `ACCURACY_SCALE`.
    """
    t, t64, j, j64 = runs.t, runs.t64, runs.j, runs.j64
    exact = next((x for x in (t64, j64) if x is not None), None)
    scale = max(rms(t), runs.size)
    if t.size == 0:
        return Judgement("same", 0.0, 0.0, np.nan, 0.0, scale, evidence="float32")
    if exact is None:
        error, rounding = t - j, np.zeros_like(t)
    elif t64 is not None:
        error, rounding = j - exact, t - exact
    else:
        error, rounding = t - exact, j - exact
    # Single elements that rounding moves over a corner say nothing of the rounding of the others,
    # and are no fault where a corner explains what they are apart by.
    kink = np.zeros(t.shape, bool)
    if moved is not None:
        out = _stand_out(moved, ~kink, scale)
        kink = out & (np.abs(error) <= ACCURACY * moved)
        moved, rounding = moved[~out], rounding[~out]
    error = error[~kink]
    label: Label = "same"
    for size, same, accurate in (
        (rms, ACCURACY, ACCURACY_SCALE * scale),
        (lambda x: float(np.abs(x).max()), ACCURACY_LARGEST, 0.01 * scale),
    ):
        least = max(size(rounding), runs.epsilon * scale, NORMAL)
        own = 0.0 if moved is None else min(size(moved), max(accurate / same, least))
        most = max(least, own)
        wrong = DIFFERENT if moved is None or not isolated else 4 * same
        found: Label = "undecided" if size(error) > same * most else "same"
        found = "different" if size(error) > wrong * most else found
        label = max(label, found, key=ORDER.index)
    plain = np.abs(t - j)
    return Judgement(
        "kink" if label == "same" and kink.any() else label,
        np.nan if t64 is None else rms(t - t64),
        rms(j - j64) if j64 is not None else np.nan if moved is None else rms(moved),
        np.nan,
        rms(plain),
        scale,
        float(np.max(plain)),
        (int(np.argmax(plain)),),
        kinks=int(np.sum(kink)),
        evidence="float32",
    )


def _exactly(t: np.ndarray, j: np.ndarray, judged: np.ndarray) -> Judgement:
    """The verdict on integers and booleans."""
    apart = judged & (t != j)
    count = int(np.sum(apart))
    plain = np.abs(t[judged].astype(np.float64) - j[judged].astype(np.float64))
    return Judgement(
        "different" if count else "same",
        0.0,
        0.0,
        rms(plain),
        rms(plain),
        rms(t[judged].astype(np.float64)),
        float(plain.max(initial=0.0)),
        _first(apart) if count else (),
        apart=count,
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


def _is_null(runs: _Runs) -> bool:
    least = NULL * max(rms(runs.t), rms(runs.j))
    return rms(runs.t64) < least and rms(runs.j64) < least
