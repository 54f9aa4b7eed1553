"""The straight line that the nets of `wine_regression` and `bike_forecast` have to beat."""

from typing import Any

import numpy as np

from experiments.harness.settings import Settings
from experiments.harness.tables import mean_and_spread


def least_squares(x: np.ndarray, y: np.ndarray, x_new: np.ndarray) -> np.ndarray:
    """The predictions of linear least squares, computed in float64.

    Args:
        x: The inputs (N, D) to fit.
        y: The targets (N,).
        x_new: The inputs (M, D) to predict for.

    Returns:
        The predictions (M,).
    """
    columns = [np.hstack([part, np.ones((len(part), 1))]).astype(np.float64) for part in (x, x_new)]
    return columns[1] @ np.linalg.lstsq(columns[0], y.astype(np.float64), rcond=None)[0]


def beats_line(net: str, error: np.ndarray, line: float, settings: Settings) -> dict[str, Any]:
    """The claim that the net's mean error is below the line's, with its verdict.

    The claim is about the experiment's default settings, with any seeds: a shorter run, or
    one with another learning rate, is not judged.

    Args:
        net: The name of the net.
        error: The errors of the net, one for each seed.
        line: The error of the line.
        settings: The settings of this run.

    Returns:
        A row with a "verdict" for the record.
    """
    other = [
        "--" + name.replace("_", "-")
        for name in settings.changed()
        if name not in ("seed", "seeds")
    ]
    better = bool(error.mean() < line)
    verdict = "not run" if other else "ok" if better else "OFF"
    print(f"{net} is {'better' if better else 'no better'} than the line", end="")
    print(f"; not judged with another {', '.join(other)}" if other else f": {verdict}")
    return {
        "claim": f"the error of {net} is below the line's",
        "net": f"{mean_and_spread(error, 4)} (n={len(error)})",
        "line": f"{line:.4g}",
        "verdict": verdict,
    }
