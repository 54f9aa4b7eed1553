"""The hours of the bike sharing data, as `bikes` and `bike_forecast` read them."""

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxnet import data

_COLUMNS = [
    *("instant", "dteday", "season", "yr", "mnth", "hr", "holiday", "weekday", "workingday"),
    *("weathersit", "temp", "atemp", "hum", "windspeed", "casual", "registered", "cnt"),
]


def read_bikes(path: Path) -> data.Table:
    """The table of the bike sharing data, (hours, 17), with the hours 0 to 23 of every day.

    The date becomes the day of the month, as in the document. One day of the book's file
    consists of two: 13 hours of 29 October 2012 and 11 of the 30th.

    Args:
        path: Path of the file hour-fixed.csv of the book "Deep Learning with PyTorch".

    Raises:
        ValueError: `data.read_table` refuses the file; a day lacks an hour, as in
            UCI's own hour.csv (hour-fixed.csv has them filled in); a day is there twice or
            in the wrong order; a date is not written like 2011-01-31; or the weather is not
            one of the four kinds.
    """
    table = data.read_table(path, columns=_COLUMNS, converters={"dteday": _day_number})
    hours, dates = table.column("hr"), table.column("dteday")

    def refuse(wrong: np.ndarray, words: Callable[[int], str]) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(f"{path}, line {table.lines[row]}{words(row)}")

    def hour(row: int) -> str:
        return f"hour {hours[row]:g} of {datetime.date.fromordinal(int(dates[row]))}"

    refuse(
        hours != np.arange(len(hours)) % 24,
        lambda row: (
            f": {hour(row)} where hour {row % 24} should be; every day needs all 24 hours "
            "(the book's hour-fixed.csv has them)"
        ),
    )
    if len(hours) % 24:
        raise ValueError(f"{path}: the last day ends after hour {hours[-1]:g}")
    later = np.diff(dates, prepend=dates[0] - 1)
    # The date changes at midnight; the book's file has one more change within a day.
    refuse(
        (later < (hours == 0)) | (later > 1),
        lambda row: (
            f": {hour(row)} after {hour(row - 1)}; the days have to come in turn, each once"
        ),
    )
    weather = table.column("weathersit")
    refuse(
        ~np.isin(weather, (1, 2, 3, 4)),
        lambda row: (
            f", column 'weathersit': {weather[row]:g}; accepted is 1 (clear) to 4 (heavy rain)"
        ),
    )
    days = [datetime.date.fromordinal(int(date)).day for date in dates]
    table.values[:, table.index("dteday")] = days
    return table


def _day_number(date: str) -> float:
    # The number is below 2^24, so that float32 represents it exactly.
    return datetime.date.fromisoformat(date.strip()).toordinal()
