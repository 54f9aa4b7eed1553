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
    """The table of (hours, 17): 0 to 23 in turn, day after day.

    The date becomes the day of the month, as in the document. One day of the book's file is
    put together from two: 13 hours of 29 October 2012 and 11 of the 30th.

    Raises:
        ValueError: Besides what `data.read_table` refuses: a day lacks an hour, as in
            UCI's own hour.csv (hour-fixed.csv has them filled in), is there twice or
            not in its place; a date is not written as 2011-01-31; the weather is not
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
    # Midnight comes with the next date; one more date within a day is the book's own.
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
    return datetime.date.fromisoformat(date.strip()).toordinal()  # float32 holds it: below 2^24
