"""What mnist_mlp draws: digits beside their probabilities, curves, figures of each digit."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet import data, report, train

__all__ = ["save_digits", "save_results", "show"]


def save_digits(
    path: Path, name: str, stored: data.Labelled, untrained: np.ndarray, ps: np.ndarray
) -> None:
    """Draws digits and what the net says they are.

    Args:
        path: the picture.
        name: of the net.
        stored: the test images.
        untrained: probabilities (1, 10) of the first of them, before training.
        ps: probabilities (N, 10) of all, after it.
    """
    guesses = ps.argmax(axis=1)
    # The first of the test images, its least sure, and the surest of the mistakes.
    surest = np.where(guesses != stored.labels, ps.max(axis=1), 0).argmax()
    chosen = [0, int(ps.max(axis=1).argmin()), int(surest)]
    before = f"{name}, untrained: says {untrained.argmax()}, is {stored.labels[0]}"
    after = [f"{name}: says {guesses[i]}, is {stored.labels[i]}" for i in chosen]
    report.view_classify(
        path,
        stored.images[[0, *chosen]],
        np.concatenate([untrained, ps[chosen]]),
        [before, *after],
        stored.classes,
    )


def show(board: train.Visdom, images: np.ndarray, ps: jax.Array) -> None:
    """Test images (N, H, W, C) and what the net says they are, in windows "x" and "pred"."""
    board.images(images.transpose(0, 3, 1, 2), "x", columns=20)
    board.text(" ".join(map(str, np.asarray(ps).argmax(axis=1))), "pred")
    board.close()


def save_results(folder: Path, results: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Draws loss and accuracy by epoch, and precision and recall of every digit.

    Args:
        results: the figures of a run by net and seed.
    """
    panels = []
    for figure, title, label in (
        ("train_loss", "Training loss", "mean of the batches' losses"),
        ("test_accuracy", "10,000 test images", "fraction right"),
    ):
        series = []
        for k, (name, runs) in enumerate(results.items()):
            curves = [runs[seed][figure] for seed in runs]
            values = np.array([list(curve.values()) for curve in curves])  # (seeds, epochs)
            band = (values.min(axis=0), values.max(axis=0))
            series.append(
                report.Series(name, list(curves[0]), values.mean(axis=0), f"C{k}.-", band)
            )
        panels.append(report.Panel(title, "epoch", label, series, log=figure == "train_loss"))
    report.save_panels(folder / "curves.png", panels)
    for name, runs in results.items():
        bars = {
            figure: list(np.array([curves[figure] for curves in runs.values()]).T)
            for figure in ("precision", "recall")
        }
        title = f"{name}: each digit, {len(runs)} seed(s)"
        names = [str(digit) for digit in range(10)]
        report.save_bars(
            folder / f"{name}_digits.png", names, bars, title, "fraction", from_zero=False
        )
