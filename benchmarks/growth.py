"""The growth of the cost of training, jaxnet beside PyTorch: python -m benchmarks.growth

A net 784-128-64-10 trains by SGD with one of four quantities varied: the rows of a batch,
the width of the first hidden layer, the steps of an epoch (one compiled call of jaxnet,
one loop of PyTorch), and the rows of the data that batches are drawn from. PyTorch runs
eagerly; both run in turn, after warm-up.

The first table has each point. The second one has the line `fixed + each * quantity` that
fits the points best by relative error, and the power with which the cost grows between the two
largest. The fixed cost is the cost that remains when the quantity goes to zero, of a step (batch,
width, data) or of an epoch (steps). The plot shows points that deviate from a line (by caches
and threads).

    python -m benchmarks.growth --out runs/growth
    python -m benchmarks.growth --only batch width --rounds 15
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import Timing, give, interleave, machine, markdown
from benchmarks.training import WORKLOADS, Workload, jaxnet_trainer, mlp, torch_trainers
from jaxnet import nn, plots

BASE = dataclasses.replace(WORKLOADS["MLP 784-128-64-10"], steps=10, rows=4096)
LIBRARIES = ("torch eager", "jaxnet")


def wide(width: int) -> Workload:
    """The training of the net with another width of the first hidden layer.

    Args:
        width: The number of units.
    """
    sizes = (784, width, 64, 10)
    return dataclasses.replace(
        BASE,
        ours=mlp(*sizes, activation=nn.ReLU),
        theirs=lambda t: t.mlp(*sizes, activation=t.nn.ReLU),
    )


@dataclasses.dataclass(frozen=True)
class Axis:
    """A quantity, with a training for each of its sizes.

    Attributes:
        title: The title of the panel.
        unit: The unit of the quantity.
        per: The unit that the cost is given for: "a step" or "an epoch".
        works: The trainings by size.
    """

    title: str
    unit: str
    per: str
    works: dict[int, Workload]


AXES = {
    "batch": Axis(
        "Batch size",
        "rows a batch",
        "a step",
        {n: dataclasses.replace(BASE, batch=n) for n in (1, 4, 16, 64, 256, 1024)},
    ),
    "width": Axis(
        "Model width", "units", "a step", {n: wide(n) for n in (16, 64, 256, 1024, 4096)}
    ),
    "steps": Axis(
        "Steps of an epoch",
        "steps",
        "an epoch",
        {n: dataclasses.replace(BASE, steps=n) for n in (1, 4, 16, 64, 256, 1024)},
    ),
    "data": Axis(
        "Rows of the data",
        "rows of data",
        "a step",
        {n: dataclasses.replace(BASE, rows=n) for n in (256, 1024, 4096, 16384, 65536)},
    ),
}


def measure(axis: Axis, rounds: int) -> dict[str, list[Timing]]:
    """The timings of both libraries for each size, in seconds of a step or an epoch.

    Args:
        axis: The quantity.
        rounds: The number of samples for each size.
    """
    found: dict[str, list[Timing]] = {library: [] for library in LIBRARIES}
    for work in axis.works.values():
        candidates = {"jaxnet": jaxnet_trainer(work)} | torch_trainers(work, ["eager"])
        timings = interleave(candidates, rounds)
        count = work.steps if axis.per == "a step" else 1
        for library in LIBRARIES:
            one = timings[library]
            scaled = {name: getattr(one, name) / count for name in ("median", "low", "high")}
            found[library].append(dataclasses.replace(one, **scaled))
    return found


def line(sizes: np.ndarray, cost: np.ndarray) -> tuple[float, float]:
    """The line `fixed + each * size` that is closest by relative error, with both at least 0.

    Args:
        sizes: The sizes (N,).
        cost: The costs (N,).

    Returns:
        The numbers `fixed` and `each`.
    """
    columns = np.stack([1 / cost, sizes / cost], 1)
    fixed, each = np.linalg.lstsq(columns, np.ones(len(cost)))[0]
    if min(fixed, each) < 0:
        column = columns[:, int(fixed < 0)]
        only = column.sum() / (column @ column)
        fixed, each = (0.0, only) if fixed < 0 else (only, 0.0)
    return float(fixed), float(each)


def points(axis: Axis, found: dict[str, list[Timing]]) -> list[list[str]]:
    """The lines of the first table.

    Args:
        axis: The quantity.
        found: The timings of each library.
    """
    lines = []
    for size, theirs, ours in zip(axis.works, *(found[name] for name in LIBRARIES), strict=True):
        spreads = [f"{(one.high - one.low) / one.median:.0%}" for one in (theirs, ours)]
        lines.append(
            [
                f"{size} {axis.unit}",
                f"{theirs.median * 1e3:.4g}",
                f"{ours.median * 1e3:.4g}",
                f"{theirs.median / ours.median:.2f}",
                *spreads,
                f"{ours.first:.2f}",
            ]
        )
    return lines


def growth(axis: Axis, found: dict[str, list[Timing]]) -> list[list[str]]:
    """The lines of the second table.

    Args:
        axis: The quantity.
        found: The timings of each library.
    """
    sizes, lines = np.array(list(axis.works), float), []
    for library in LIBRARIES:
        cost = np.array([one.median for one in found[library]])
        fixed, each = line(sizes, cost)
        power = np.log(cost[-1] / cost[-2]) / np.log(sizes[-1] / sizes[-2])
        lines.append(
            [
                axis.title,
                library,
                f"{fixed * 1e3:.3g} ms {axis.per}",
                f"{each * 1e6:.3g}",
                f"{power:.2f}",
            ]
        )
    return lines


def panel(axis: Axis, found: dict[str, list[Timing]]) -> plots.Panel:
    """A panel of cost against size, with the quartiles as a shaded band.

    Args:
        axis: The quantity.
        found: The timings of each library.
    """
    sizes = list(axis.works)
    series = [
        plots.Series(
            library,
            sizes,
            [one.median * 1e3 for one in timings],
            "o-",
            ([one.low * 1e3 for one in timings], [one.high * 1e3 for one in timings]),
        )
        for library, timings in found.items()
    ]
    ylabel = f"ms {axis.per}"
    return plots.Panel(axis.title, axis.unit, ylabel, series, log=True, log_x=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=AXES, default=list(AXES), help="quantities; by default all"
    )
    parser.add_argument("--rounds", type=int, default=9, help="samples of each point (9)")
    parser.add_argument("--out", type=Path, help="folder for growth.md and growth.png")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: a spread takes at least 2 samples")
    began, table, fits, panels = time.perf_counter(), [], [], []
    for name in options.only:
        axis = AXES[name]
        found = measure(axis, options.rounds)
        table += points(axis, found)
        fits += growth(axis, found)
        panels.append(panel(axis, found))
        print(f"[{time.perf_counter() - began:.0f} s] {axis.title}", flush=True)
    heads = ["quantity", "torch eager ms", "jaxnet ms", "torch / jaxnet"]
    heads += ["torch quartiles apart", "jaxnet quartiles apart", "jaxnet first call s"]
    text = (
        f"Milliseconds a step (steps: an epoch), medians of {options.rounds} interleaved samples; "
        f"784-128-64-10, batch {BASE.batch}, {BASE.rows} rows unless varied.\n{machine()}\n\n"
        f"{markdown(heads, table)}\n\n"
        f"{markdown(['quantity', 'library', 'fixed', 'each µs', 'power'], fits)}\n"
    )
    give(text, options.out, "growth.md")
    if options.out:
        plots.save_panels(options.out / "growth.png", panels)


if __name__ == "__main__":
    main()
