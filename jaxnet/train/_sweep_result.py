"""What `sweep` gives back: the numbers of many runs, with their spread."""

import dataclasses
import math
import os
from html import escape
from typing import Any

import jax
import numpy as np

from jaxnet.plots import Panel, Series, save_panels

_SHOWN = 8  # settings at both ends of a long table


@dataclasses.dataclass(frozen=True, repr=False)
class Sweep:
    """What `sweep` gives back.

    Attributes:
        settings: The settings, a dictionary each.
        seeds: The seeds that each setting was run with.
        history: The metrics of all runs by name, arrays (settings, seeds, epochs, ...).
        finite: Whether the loss of a run was finite in every epoch, (settings, seeds).
        states: The states after the last epoch, with the axes (settings, seeds) in front of
            every array; `state` gives that of one run.
        method: How the runs were computed: "together" or "one by one".
    """

    settings: list[dict[str, float]]
    seeds: list[int]
    history: dict[str, np.ndarray]
    finite: np.ndarray
    states: Any
    method: str

    def state(self, setting: int = 0, seed: int = 0) -> Any:
        """The state of one run, by the positions of its setting and its seed."""
        return jax.tree.map(lambda x: x[setting, seed], self.states)

    def summary(self, metric: str = "loss", epoch: int = -1) -> list[dict[str, float]]:
        """Mean, spread and confidence interval of a metric for each setting.

        Args:
            metric: The name of the metric, such as "val_loss"; one number an epoch.
            epoch: The position of the epoch; by default the last one.

        Returns:
            For each setting its values, then "mean" and "std" (that of a sample, over the finite
            runs), "low" and "high" (the ends of the 95 % confidence interval of the mean, by
            Student's t distribution), "runs" and "failed" (their number, and how many of them
            were not finite). What needs more finite runs than there are is nan.

        Raises:
            ValueError: There is no such metric, or it is not one number an epoch.
        """
        values = self._numbers(metric)[..., epoch]
        return [
            {
                **setting,
                **_statistics(row[fine]),
                "runs": row.size,
                "failed": int((~fine).sum()),
            }
            for setting, row, fine in zip(self.settings, values, self.finite, strict=True)
        ]

    def plot(self, path: str | os.PathLike[str], metric: str = "loss", log: bool = False) -> None:
        """Draws a metric into a PNG file.

        Where one number is varied, its last value against that number, with the confidence
        interval as a band and crosses for settings without a finite run; else the mean over the
        seeds against the epoch, a line for every setting.

        Args:
            path: Path of the PNG file.
            metric: The name of the metric; one number an epoch.
            log: Whether the axis of the metric is logarithmic.
        """
        numbers = self._numbers(metric)
        varied = [n for n in self.settings[0] if len({s[n] for s in self.settings}) > 1]
        failed = int((~self.finite).sum())
        title = f"{self.finite.size} runs" + (f", {failed} not finite" if failed else "")
        if len(varied) == 1:
            lines = sorted(self.summary(metric), key=lambda line: line[varied[0]])
            x, mean, low, high = (
                np.array([line[name] for line in lines])
                for name in (varied[0], "mean", "low", "high")
            )
            band = None if np.isnan(low).all() else (low, high)
            series = [Series("mean", x, mean, ".-", band)]
            if (lost := np.isnan(mean)).any() and not lost.all():
                series.append(
                    Series("no finite run", x[lost], np.full(lost.sum(), np.nanmax(mean)), "kx")
                )
            wide = bool(x[0] > 0 and x[-1] >= 20 * x[0])
            save_panels(path, [Panel(title, varied[0], metric, series, log, wide)])
            return
        epochs = np.arange(1, numbers.shape[2] + 1)
        series = [
            Series(
                ", ".join(f"{name} {setting[name]:g}" for name in varied) or metric,
                epochs,
                rows[fine].mean(0) if fine.any() else np.full(len(epochs), np.nan),
            )
            for setting, rows, fine in zip(self.settings, numbers, self.finite, strict=True)
        ]
        save_panels(path, [Panel(title, "epoch", metric, series, log)])

    def _numbers(self, metric: str) -> np.ndarray:
        values = self.history.get(metric)
        if values is None or values.ndim != 3:
            known = [name for name, value in self.history.items() if value.ndim == 3]
            raise ValueError(
                f"metric: {metric!r}; accepted are the metrics that are one number an epoch, "
                f"here {', '.join(known)}"
            )
        return values

    def __repr__(self) -> str:
        settings, seeds = self.finite.shape
        failed = int((~self.finite).sum())
        return (
            f"Sweep({settings} setting{'s' * (settings != 1)} with {seeds} "
            f"seed{'s' * (seeds != 1)}, {self.method}, {failed} of {self.finite.size} runs not "
            "finite)"
        )

    def __str__(self) -> str:
        """The summary of the loss as a table; of many settings the first and the last ones."""
        lines = self.summary()
        names = list(lines[0])
        cells = [names, *([f"{line[name]:.4g}" for name in names] for line in lines)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        ]
        if len(rows) > 2 * _SHOWN + 2:
            left = f"... {len(rows) - 1 - 2 * _SHOWN} more settings"
            rows[_SHOWN + 1 : -_SHOWN] = [left]
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p><pre>{escape(str(self))}</pre>"


def _statistics(values: np.ndarray) -> dict[str, float]:
    n = values.size
    values = values.astype(np.float64)
    mean = float(values.mean()) if n else math.nan
    std = float(values.std(ddof=1)) if n > 1 else math.nan
    half = math.nan
    if n > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {"mean": mean, "std": std, "low": mean - half, "high": mean + half}
