"""Two years of shared bikes: hours into days, weather one-hot, temperature scaled.

17,520 hours with 17 columns become (730, 17, 24): days, channels, hours. Weather
comes as four channels of 0 and 1, or as one channel from 0 to 1. The document
scales the temperature by (x - min) / (min - min), a slip that gives only nan and
inf; its text says 0 to 1, so here it is (x - min) / (max - min).

    python -m experiments bikes

Result: shapes and printed rows of the document hold.
"""

import dataclasses

import numpy as np

from experiments import ledger
from experiments.result_table import save_ledger
from experiments.settings import Settings, from_file
from jaxnet import data, report, train

DATA = ("bikes",)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of bikes."""


def main(config: Config) -> int:
    """Shapes the series; returns how many figures are off."""
    config.validate()
    with train.Run(config.out, "bikes", config) as run:
        path = data.find("bikes", config.data_dir)
        table = data.read_bikes(path)
        hours = table.values
        daily = data.days(hours)  # (730, 24, 17)
        channels_first = daily.transpose(0, 2, 1)  # (730, 17, 24)
        weather, temperature = table.index("weathersit"), table.index("temp")

        one_hot = data.weather_one_hot(channels_first, weather)  # (730, 4, 24)
        with_weather = data.with_channels(channels_first, one_hot)  # (730, 21, 24)
        scaled = with_weather.copy()
        scaled[:, weather] = data.scale_ordinal(scaled[:, weather])
        with from_file(path):
            scaled[:, temperature] = data.scale_to_unit(scaled[:, temperature])
        for name, channel in (("weather", weather), ("temperature", temperature)):
            before, after = with_weather[:, channel], scaled[:, channel]
            print(
                f"{name}: {before.min():g} to {before.max():g} becomes {after.min():g} to "
                f"{after.max():g}"
            )
        print("temperature: the document divides by (min - min) = 0; (max - min) is meant")
        run.metrics |= {
            "one_hot_rows": {str(i + 1): int(one_hot[:, i].sum()) for i in range(4)},
            "temperature": {"lowest": scaled[:, temperature].min(),
                            "highest": scaled[:, temperature].max()},
        }  # fmt: skip
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
        rows = ledger.compare("bikes", figures)
        save_ledger(run, config, rows)

        counts = daily[:, :, table.index("cnt")]
        working = daily[:, 0, table.index("workingday")] == 1
        clock = np.arange(24)
        panels = [
            report.Panel(
                "Bikes over the day",
                "hour",
                "bikes an hour, mean",
                [
                    report.Series("working days", clock, counts[working].mean(axis=0)),
                    report.Series("other days", clock, counts[~working].mean(axis=0)),
                ],
            ),
            report.Panel(
                "Bikes over two years",
                "day",
                "bikes a day",
                [report.Series("all", np.arange(len(counts)), counts.sum(axis=1), ".")],
            ),
        ]
        report.save_panels(run.folder / "bikes.png", panels)
    print(f"record, plot and table: {run.folder}")
    return ledger.failed(rows)
