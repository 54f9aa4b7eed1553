"""Timing of several functions in turn: medians and quartiles, the first call apart."""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.harness.tables import markdown

__all__ = ["Timing", "give", "interleave", "machine", "markdown", "sampled"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """The seconds of one call of a function.

    Attributes:
        median: The median of the samples.
        low, high: The first and the third quartile.
        first: The seconds of the first call, compilation included.
        samples: The number of samples.
    """

    median: float
    low: float
    high: float
    first: float
    samples: int


def interleave(
    candidates: Mapping[str, Callable[[], Any]], rounds: int = 15, sample: float = 0.02
) -> dict[str, Timing]:
    """Times functions in turn, so that a busy moment of the machine affects all of them.

    Args:
        candidates: The functions by name. If they return JAX arrays, these are waited for.
        rounds: The number of samples of each function.
        sample: The least duration of a sample in seconds; short calls are repeated.

    Returns:
        The timing of each function.
    """
    import jax  # here, since benchmarks.startup needs this module without JAX

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
    """Times functions in turn that have been called before.

    Args:
        candidates: The functions by name. If they return JAX arrays, these are waited for.
        repeats: The number of calls in a sample, for each function.
        rounds: The number of samples of each function, at least 2.
        first: The seconds of each function's first call, for the result.

    Returns:
        The timing of each function.
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


def give(text: str, out: Path | None, name: str) -> None:
    """Prints the text of a benchmark, and writes it into a folder if there is one.

    Args:
        text: The tables, in Markdown.
        out: Path of the folder.
        name: The name of the file.
    """
    print("\n" + text)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text, encoding="utf-8")


def machine() -> str:
    """The processor and the versions of the packages, in a line for a table's caption."""
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
