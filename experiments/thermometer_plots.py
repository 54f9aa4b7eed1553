"""The plots of thermometer: what was fitted, and how the losses fell or rose."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxnet import plots

_ERROR = "mean squared error"


def save_fits(
    path: Path,
    readings: tuple[np.ndarray, np.ndarray],
    grid: np.ndarray,
    drawn: Mapping[str, np.ndarray],
) -> None:
    """Draws the readings with a line, and with nets of many seeds.

    Args:
        path: Path of the PNG file.
        readings: The thermometer's units and degrees Celsius.
        grid: The units (N,) at which the fits are given.
        drawn: The degrees of the "line" (N,) and of the "net" for each seed, (seeds, N), and
            those of the net "at readings", (seeds, readings).
    """
    points = plots.Series("readings", *readings, "o")
    low, high = np.quantile(drawn["net"], [0.05, 0.95], axis=0)
    axes = "thermometer's units", "degrees Celsius"
    middle = plots.Series("fit, median", grid, np.median(drawn["net"], 0), "c-", (low, high))
    crosses = plots.Series("prediction", readings[0], np.median(drawn["at readings"], 0), "kx")
    title = f"8 tanh units, {len(drawn['net'])} seeds (shade: 5 to 95 %)"
    panels = [
        plots.Panel("A line, by SGD", *axes,
                    [points, plots.Series("fit", grid, drawn["line"], "C1-")]),
        plots.Panel(title, *axes, [points, middle, crosses]),
    ]  # fmt: skip
    plots.save_panels(path, panels)


def save_losses(path: Path, curves: Mapping[str, np.ndarray]) -> None:
    """Draws the losses of the descents by hand, of the lines, and of the net of 8 units.

    Args:
        path: Path of the PNG file.
        curves: The losses by epoch: "manual_diverging", "manual_small_lr", "sgd" and "adam",
            (epochs,) each; "net_train_loss" and "net_val_loss", (epochs, seeds) each.
    """
    by_hand = [
        _series("lr 1e-2 diverges, to infinity at epoch 11", curves["manual_diverging"][:20],
                "C3.-"),
        _series("lr 1e-4", curves["manual_small_lr"][:20], "C0.-"),
    ]  # fmt: skip
    lines = [
        _series("SGD, lr 1e-2, readings x 0.1", curves["sgd"], "C0-"),
        _series("Adam, lr 1e-1", curves["adam"], "C1-"),
    ]
    nets = [
        _over_seeds("training", curves["net_train_loss"], "C0-"),
        _over_seeds("validation", curves["net_val_loss"], "C1-"),
    ]
    panels = [
        plots.Panel("By hand, the first epochs", "epoch", _ERROR, by_hand, log=True),
        plots.Panel("Lines", "epoch", _ERROR, lines, log=True, log_x=True),
        plots.Panel(
            "8 tanh units: median and 5 to 95 % of seeds", "epoch", _ERROR, nets, log=True,
            log_x=True,
        ),
    ]  # fmt: skip
    plots.save_panels(path, panels)


def _series(name: str, losses: np.ndarray, style: str) -> plots.Series:
    """A curve without the epochs at which the loss is infinite or nan."""
    shown = np.isfinite(losses)
    return plots.Series(name, np.arange(1, len(losses) + 1)[shown], losses[shown], style)


def _over_seeds(name: str, losses: np.ndarray, style: str) -> plots.Series:
    """A curve of means over more and more epochs, because single ones oscillate at the end."""
    first = np.unique(np.geomspace(1, len(losses), 60).astype(int)) - 1  # of each span
    counts = np.diff([*first, len(losses)])
    means = np.add.reduceat(losses, first, axis=0) / counts[:, None]  # (spans, seeds)
    low, high = np.quantile(means, [0.05, 0.95], axis=1)
    return plots.Series(name, first + 1, np.median(means, axis=1), style, (low, high))
