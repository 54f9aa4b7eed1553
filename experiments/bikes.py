"""Two years of shared bikes: hours into days, weather one-hot, temperature scaled.

The program and the figures are those of the notes on the book "Deep Learning with PyTorch"
(docs/pages/book.md), called the document. 17,520 hours with 17 columns become (730, 17, 24):
days, channels, hours. The weather becomes four channels of 0 and 1, or one channel from 0 to 1.
The document scales the temperature by (x - min) / (min - min), an error that gives only nan and
inf; its text says 0 to 1, so here it is (x - min) / (max - min).

    python -m experiments bikes

Result: shapes and printed rows of the document hold.
"""

import dataclasses
from pathlib import Path

import numpy as np

from experiments.bike_data import read_bikes
from experiments.harness import ledger
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Settings
from experiments.harness.tables import save_ledger
from jaxnet import data, plots

DATA = ("bikes",)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of bikes."""


def weather_one_hot(daily: np.ndarray, channel: int) -> np.ndarray:
    """The weather as four channels of 0 and 1, (N, 4, 24).

    Args:
        daily: The days (N, C, 24).
        channel: The number of the channel of the weather, with values 1 to 4.
    """
    return data.one_hot(daily[:, channel] - 1, 4, daily.dtype).transpose(0, 2, 1)


def scale_to_unit(values: np.ndarray) -> np.ndarray:
    """Values scaled to the range from 0 to 1: (x - min) / (max - min).

    Args:
        values: The values, of any shape.

    Raises:
        ValueError: All values are the same.
    """
    low, high = values.min(), values.max()
    if not low < high:
        raise ValueError(f"all values are {low:g}; there is no range to scale")
    return (values - low) / (high - low)


def main(config: Config, run: Run) -> None:
    """Reshapes and scales the series."""
    path = find("bikes", config.data_dir)
    table = read_bikes(path)
    hours = table.values
    daily = hours.reshape(-1, 24, hours.shape[1])  # (730, 24, 17)
    channels_first = daily.transpose(0, 2, 1)  # (730, 17, 24)
    weather, temperature = table.index("weathersit"), table.index("temp")

    one_hot = weather_one_hot(channels_first, weather)  # (730, 4, 24)
    with_weather = np.concatenate([channels_first, one_hot], axis=1)  # (730, 21, 24)
    scaled = with_weather.copy()
    scaled[:, weather] = (scaled[:, weather] - 1) / 3  # the second way: 1 to 4 onto 0 to 1
    try:
        scaled[:, temperature] = scale_to_unit(scaled[:, temperature])
    except ValueError as error:
        raise ValueError(f"{path}, column 'temp': {error}") from error
    for name, channel in (("weather", weather), ("temperature", temperature)):
        before, after = with_weather[:, channel], scaled[:, channel]
        print(
            f"{name}: {before.min():g} to {before.max():g} becomes {after.min():g} to "
            f"{after.max():g}"
        )
    print("temperature: the document divides by (min - min) = 0; (max - min) is meant")
    run.metrics |= {
        "one_hot_rows": {str(i + 1): int(one_hot[:, i].sum()) for i in range(4)},
        "temperature": {
            "lowest": scaled[:, temperature].min(),
            "highest": scaled[:, temperature].max(),
        },
    }
    figures = {
        "hours": hours.shape,
        "days": daily.shape,
        "channels_first": channels_first.shape,
        "one_hot": one_hot.shape,
        "with_weather": with_weather.shape,
        "first_rows": hours[:3, :3],
        "last_rows": hours[-3:, :3],
        "first_counts": hours[:3, -3:],
        "last_counts": hours[-3:, -3:],
    }
    save_ledger(run, ledger.compare("bikes", figures))
    counts = daily[:, :, table.index("cnt")]
    working = daily[:, 0, table.index("workingday")] == 1
    _plot(run.folder / "bikes.png", counts, working)


def _plot(path: Path, counts: np.ndarray, working: np.ndarray) -> None:
    clock, days, totals = np.arange(24), np.arange(len(counts)), counts.sum(axis=1)
    smooth = np.convolve(totals, np.full(30, 1 / 30), mode="valid")
    panels = [
        plots.Panel(
            "Bikes over the day",
            "hour",
            "bikes an hour, mean",
            [
                plots.Series("working days", clock, counts[working].mean(axis=0)),
                plots.Series("other days", clock, counts[~working].mean(axis=0)),
            ],
        ),
        plots.Panel(
            "Bikes over two years",
            "day, from 1 January 2011 on",
            "bikes a day",
            [
                plots.Series("a day", days, totals, "C7."),
                plots.Series("mean of 30 days", days[29:], smooth, "C0-"),
            ],
        ),
    ]
    plots.save_panels(path, panels)
