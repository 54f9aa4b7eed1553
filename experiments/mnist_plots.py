"""The plots of mnist_mlp: digits beside their probabilities, curves, figures of each digit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet import data, plots, train


def view_classify(
    path: Path,
    images: np.ndarray,
    ps: np.ndarray,
    titles: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Draws each image beside a bar chart of its class probabilities.

    Args:
        path: Path of the PNG file.
        images: The images, uint8 (N, H, W, C) with one or three channels.
        ps: The probabilities (N, classes).
        titles: A title for each image.
        classes: The names of the classes.
    """
    figure, all_axes = plots.make_figure(2, rows=len(images), width=3.0, height=2.6)
    positions = np.arange(len(classes))
    rows = zip(all_axes[::2], all_axes[1::2], images, ps, titles, strict=True)
    for picture, chart, image, p, title in rows:
        picture.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray")
        picture.axis("off")
        picture.set_title(title, fontsize=9)
        chart.barh(positions, p)
        chart.set_yticks(positions, list(classes))
        chart.invert_yaxis()
        chart.set_xlim(0, 1)
        chart.set_title("Class probability", fontsize=9)
    said = (
        f"{title}, most likely {classes[int(p.argmax())]} with {p.max():.2f}"
        for title, p in zip(titles, ps, strict=True)
    )
    caption = "Images beside their class probabilities"
    plots.save_figure(figure, path, caption, f"{caption}. {'; '.join(said)}.")


def save_digits(
    path: Path, name: str, stored: data.Labelled, untrained: np.ndarray, ps: np.ndarray
) -> None:
    """Draws digits beside the net's probabilities.

    Args:
        path: Path of the PNG file.
        name: The name of the net.
        stored: The test images.
        untrained: The probabilities (1, 10) of the first test image, before training.
        ps: The probabilities (N, 10) of all test images, after training.
    """
    guesses = ps.argmax(axis=1)
    # The first test image, the image that the net is least sure of, and its surest mistake.
    surest = np.where(guesses != stored.labels, ps.max(axis=1), 0).argmax()
    chosen = [0, int(ps.max(axis=1).argmin()), int(surest)]
    before = f"{name}, untrained: says {untrained.argmax()}, is {stored.labels[0]}"
    after = [f"{name}: says {guesses[i]}, is {stored.labels[i]}" for i in chosen]
    view_classify(
        path,
        stored.images[[0, *chosen]],
        np.concatenate([untrained, ps[chosen]]),
        [before, *after],
        stored.classes,
    )


def show(board: train.Visdom, images: np.ndarray, ps: jax.Array) -> None:
    """Shows test images and the net's answers in the Visdom windows "x" and "pred".

    Args:
        board: The Visdom server's windows.
        images: The images (N, H, W, C).
        ps: The probabilities (N, 10).
    """
    board.images(images.transpose(0, 3, 1, 2), "x", columns=20)
    board.text(" ".join(map(str, np.asarray(ps).argmax(axis=1))), "pred")
    board.close()


def save_results(folder: Path, results: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Draws loss and accuracy by epoch, and precision and recall of every digit.

    Args:
        folder: Path of the folder for the PNG files.
        results: The figures of each run, by net and seed.
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
            band = (values.min(axis=0), values.max(axis=0)) if len(values) > 1 else None
            series.append(plots.Series(name, list(curves[0]), values.mean(axis=0), f"C{k}.-", band))
        panels.append(plots.Panel(title, "epoch", label, series, log=figure == "train_loss"))
    plots.save_panels(folder / "curves.png", panels)
    for name, runs in results.items():
        bars = {
            figure: list(np.array([curves[figure] for curves in runs.values()]).T)
            for figure in ("precision", "recall")
        }
        seeds = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
        title = f"{name}: each digit, {seeds}"
        names = [str(digit) for digit in range(10)]
        plots.save_bars(folder / f"{name}_digits.png", names, bars, title, "fraction", top=1.0)
