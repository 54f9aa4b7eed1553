"""What the steps of two recorded programs begin with, and which arrays only one of them has."""

from collections.abc import Sequence

import numpy as np

from jaxnet._names import few
from jaxnet.parity._judge import judge
from jaxnet.parity._sites import phase_of
from jaxnet.parity._trace import Step

# What a step begins with, and by what name a difference is called.
START = {
    "batch": "the batches",
    "draw": "the random draws",
    "before": "the parameters",
    "buffer_before": "the buffers",
    "state_before": "the optimizer's state",
}
# What the step before has left of it.
_LEFT = {"before": "update", "buffer_before": "buffer", "state_before": "state"}
# What a step gives in any program, however its layers compute it.
_RESULTS = ("loss", "param_grad", "clipped", *_LEFT.values())


def starts(one: Step, other: Step, last: tuple[Step, Step] | None) -> tuple[bool, dict[str, str]]:
    """Whether a step begins with the same bits in two programs, and what is to be said of it.

    Args:
        one: The step of the first program.
        other: That of the second one.
        last: The steps before, if they began with the same bits and computed the same. Other
            numbers than in the other program are then due to rounding, or to what a program does
            between two steps. After steps that differ they say nothing.

    Returns:
        The answer, and by phase a message on each difference that no step before has made.
    """
    equal, found = True, {}
    for phase, words in START.items():
        ours, theirs = one.of(phase), other.of(phase)
        apart = [
            place
            for place in {**ours, **theirs}
            if place not in ours
            or place not in theirs
            or not _same_bits(one[ours[place]], other[theirs[place]])
        ]
        if not apart:
            continue
        equal = False
        if one.index == 0 or phase not in _LEFT:
            found[phase] = f"{words} of step {one.index} are not the same: {few(apart)}"
        elif last is not None and (changed := _changed(phase, apart, last, (one, other))):
            steps = f"between the steps {one.index - 1} and {one.index}"
            found[phase] = f"{steps} {words} change otherwise: {few(changed)}"
    return equal, found


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _changed(
    phase: str, places: Sequence[str], last: tuple[Step, Step], now: tuple[Step, Step]
) -> list[str]:
    """The arrays that differ by more than rounding, and are not as the steps before left them."""
    found = []
    for place in places:
        before, site = f"{_LEFT[phase]}:{place}", f"{phase}:{place}"
        pairs = list(zip(last, now, strict=True))
        if all(
            before in left and site in start and _same_bits(left[before], start[site])
            for left, start in pairs
        ):
            continue
        if not all(site in start for start in now) or (
            judge(now[0][site], None, now[1][site], None, site=site).failed
        ):
            found.append(place)
    for step in last:
        step.forget()
    return found


def only_in_one(one: Step, other: Step) -> tuple[dict[str, str], list[str]]:
    """The arrays that only one of two steps has.

    Returns:
        A message on each result of the step, by site, which is a difference; and notes on arrays
        inside, which another version of torch may compute by other functions.
    """
    results, notes = {}, []
    for which, own, others in (("first", one, other), ("second", other, one)):
        rest = [s for s in own.sites if s not in others and phase_of(s) not in START]
        inner = [site for site in rest if phase_of(site) not in _RESULTS]
        for site in rest:
            if site not in inner:
                results[site] = f"only the {which} program has {site}, from step {one.index} on"
        if inner and one.full and other.full:
            notes.append(f"only the {which} program has, and so not compared: {few(inner)}")
    return results, notes
