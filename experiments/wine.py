"""White wines: class means, and how far one threshold on sulfur dioxide gets.

The program and the figures are those of the notes on the book "Deep Learning with PyTorch"
(docs/pages/book.md), called the document: 4,898 wines with 11 measurements and a quality from
0 to 10. The quality becomes one-hot, the measurements are standardised, the means of classes
are compared, and wines with little sulfur dioxide are guessed to be good.

    python -m experiments wine

Result: every figure that the document prints holds: precision 74.0 %, recall 61.9 %.
"""

import dataclasses
from pathlib import Path

import numpy as np

from experiments.harness import ledger, tables
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Settings, from_file
from jaxnet import data, plots

DATA = ("wine",)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of wine."""

    threshold: float = 141.83
    """Total sulfur dioxide below which a wine is guessed to be good."""


def qualities(table: data.Table) -> np.ndarray:
    """The column "quality" as whole numbers 0 to 9, int32 (rows,).

    Args:
        table: The table of wines.

    Raises:
        ValueError: The column contains another number; the message names file and line.
    """
    given = table.column("quality")
    wrong = (given != given.round()) | (given < 0) | (given > 9)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{table.source}, line {table.lines[row]}, column 'quality': {given[row]:g}; a quality "
            "is a whole number from 0 to 9"
        )
    return given.astype(np.int32)


def class_means(values: np.ndarray, classes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The mean of every column over the rows of each class, rounded as torch rounds it.

    Args:
        values: Float32 (rows, columns).
        classes: Booleans (rows,) by the name of the class.

    Raises:
        ValueError: A class has no rows.
    """
    means = {}
    for name, rows in classes.items():
        if not rows.any():
            raise ValueError(f"classes: {name!r} has no rows")
        # In float64, so that the rounded sum does not depend on the order of the additions.
        total = values[rows].sum(axis=0, dtype=np.float64).astype(values.dtype)
        means[name] = total / values.dtype.type(rows.sum())  # torch divides the rounded sum too
    return means


def main(config: Config, run: Run) -> None:
    """Computes the figures of the table."""
    path = find("wine", config.data_dir)
    table = data.read_table(path, delimiter=";")
    wines, target = table.split("quality")[0], qualities(table)
    classes = {
        "bad": target <= 3,
        "mid": (target > 3) & (target < 7),
        "good": target >= 7,
    }
    with from_file(path):
        one_hot = data.one_hot(target, 10)
        normalized = data.standardize(wines.values)
        means = class_means(wines.values, classes)
    off = float(np.abs(normalized.mean(axis=0, dtype=np.float64)).max())
    print(f"standardised: the columns' means are at most {off:.0e}")
    tables.show(
        ("", "mean of", *means),
        [
            (i, name, *(f"{mean[i]:.2f}" for mean in means.values()))
            for i, name in enumerate(wines.columns)
        ],
    )

    predicted = wines.column("total sulfur dioxide") < np.float32(config.threshold)
    actual = target > 5
    matches = int((predicted & actual).sum())
    threshold = {
        "predicted": int(predicted.sum()),
        "actual": int(actual.sum()),
        "matches": matches,
        "precision": matches / max(int(predicted.sum()), 1),
        "recall": matches / int(actual.sum()),
    }
    figures = {
        "shape": table.values.shape,
        "one_hot_shape": one_hot.shape,
        **{f"means_{name}": mean for name, mean in means.items()},
        "rows": {name: int(rows.sum()) for name, rows in classes.items()},
    }
    rows = ledger.compare("wine", figures | {"threshold": threshold})
    if config.threshold != Config.threshold:
        print(f"threshold {config.threshold}: the document's figures are for 141.83")
        rows = [row for row in rows if ".threshold." not in row.figure]
    tables.save_ledger(run, rows)
    run.result = f"precision {threshold['precision']:.3f}, recall {threshold['recall']:.3f}"
    print(f"a threshold of {config.threshold:g}: {run.result}")
    run.metrics |= figures | {"threshold": threshold}
    _plot(run.folder / "wine.png", wines, target, actual, config.threshold)


def _plot(
    path: Path, wines: data.Table, target: np.ndarray, actual: np.ndarray, threshold: float
) -> None:
    sulfur = wines.column("total sulfur dioxide")
    cuts = np.linspace(40, 300, 100)
    hits = np.array([((sulfur < cut) & actual).sum() for cut in cuts])
    guesses = np.array([(sulfur < cut).sum() for cut in cuts])
    qualities = np.unique(target)
    medians = [np.median(sulfur[target == q]) for q in qualities]
    low, high = (
        [np.quantile(sulfur[target == q], part) for q in qualities] for part in (0.25, 0.75)
    )
    panels = [
        plots.Panel(
            "Sulfur dioxide by quality: median, shade: half of the wines",
            "quality, 0 (bad) to 10 (excellent)",
            "total sulfur dioxide, mg / l",
            [plots.Series("median", qualities, medians, "o-", (low, high))],
        ),
        plots.Panel(
            "Guessing by a threshold",
            "threshold on total sulfur dioxide, mg / l",
            "fraction of wines",
            [
                plots.Series("precision", cuts, hits / np.maximum(guesses, 1)),
                plots.Series("recall", cuts, hits / actual.sum()),
                plots.Series(f"threshold {threshold:g} mg / l", [threshold] * 2, [0, 1], "k--"),
            ],
        ),
    ]
    plots.save_panels(path, panels)
