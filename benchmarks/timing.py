"""Timing of competitors in one run: interleaved, compile apart, medians and spread."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from experiments.harness.tables import markdown

__all__ = ["Timing", "interleave", "machine", "markdown", "sampled"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        median: of the samples.
        low, high: the first and third quartile.
        first: the first call, compilation included.
        samples: how many there are.
    """

    median: float
    low: float
    high: float
    first: float
    samples: int


def interleave(
    candidates: Mapping[str, Callable[[], Any]], rounds: int = 15, sample: float = 0.02
) -> dict[str, Timing]:
    """Times functions in turn, so that a busy moment of the machine hits all of them.

    Args:
        candidates: functions that return jax arrays (waited for) or anything else.
        rounds: samples of each.
        sample: seconds that one sample lasts at least; short calls are repeated.
    """
    import jax  # only who times needs it, and it takes a second

    first, repeats = {}, {}
    for name, call in candidates.items():
        began = time.perf_counter()
        jax.block_until_ready(call())
        first[name] = time.perf_counter() - began
        jax.block_until_ready(call())
        began = time.perf_counter()
        jax.block_until_ready(call())
        once = time.perf_counter() - began
        repeats[name] = max(1, int(sample / max(once, 1e-7)))
    return sampled(candidates, repeats, rounds, first)


def sampled(
    candidates: Mapping[str, Callable[[], Any]],
    repeats: Mapping[str, int],
    rounds: int,
    first: Mapping[str, float],
) -> dict[str, Timing]:
    """Times functions that are warm, in turn.

    Args:
        candidates: as for `interleave`.
        repeats: calls of each in one sample.
        rounds: samples of each, at least 2.
        first: seconds of each one's first call, for the result.
    """
    import jax

    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            began = time.perf_counter()
            for _ in range(repeats[name]):
                result = call()
            jax.block_until_ready(result)
            samples[name].append((time.perf_counter() - began) / repeats[name])
    timings = {}
    for name, values in samples.items():
        low, median, high = statistics.quantiles(values, n=4)
        timings[name] = Timing(median, low, high, first[name], len(values))
    return timings


def machine() -> str:
    """One line that says where figures come from."""
    from experiments.harness.record import environment

    about = environment()
    versions = ", ".join(f"{name} {about[name]}" for name in ("jax", "flax", "optax", "numpy"))
    try:
        from importlib import metadata

        versions += f", torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        pass
    where = f"{about['processor']}, {os.cpu_count()} cores, {about['device']}"
    return f"{where}; Python {about['python']}, {versions}"
