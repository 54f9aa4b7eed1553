"""Time series: hours into days, channels first, scaled, and cut into windows to forecast."""

import datetime
import os

import numpy as np

from jaxnet.data.tables import Table, one_hot, read_table

__all__ = [
    "days",
    "read_bikes",
    "scale_ordinal",
    "scale_to_unit",
    "weather_one_hot",
    "windows",
    "with_channels",
]

_BIKE_COLUMNS = [
    "instant",
    "dteday",
    "season",
    "yr",
    "mnth",
    "hr",
    "holiday",
    "weekday",
    "workingday",
    "weathersit",
    "temp",
    "atemp",
    "hum",
    "windspeed",
    "casual",
    "registered",
    "cnt",
]


def read_bikes(path: str | os.PathLike[str]) -> Table:
    """The hours of the bike sharing data, (hours, 17): 0 to 23 in turn, day after day.

    The date becomes the day of the month, as in the document. One day of the book's file is
    put together from two: 13 hours of 29 October 2012 and 11 of the 30th.

    Raises:
        ValueError: besides what `read_table` refuses: a day lacks an hour, as in
            UCI's own hour.csv (hour-fixed.csv has them filled in), is there twice or
            not in its place; a date is not written as 2011-01-31; the weather is not
            one of the four kinds.
    """
    table = read_table(path, columns=_BIKE_COLUMNS, converters={"dteday": _day_number})
    hours = table.column("hr")
    expected = np.arange(len(hours)) % 24
    if (hours != expected).any():
        row = int(np.argmax(hours != expected))
        raise ValueError(
            f"{path}, line {table.lines[row]}: hour {hours[row]:g} where hour {expected[row]} "
            "should be; every day needs all 24 hours (the book's hour-fixed.csv has them)"
        )
    if len(hours) % 24:
        raise ValueError(f"{path}: the last day ends after hour {hours[-1]:g}")
    dates = table.column("dteday")
    later = np.diff(dates)
    wrong = (later < (hours[1:] == 0)) | (later > 1)  # midnight comes with the next date
    if wrong.any():
        row = int(np.argmax(wrong)) + 1
        before, after = (datetime.date.fromordinal(int(d)) for d in dates[row - 1 : row + 1])
        raise ValueError(
            f"{path}, line {table.lines[row]}: hour {hours[row]:g} of {after} after hour "
            f"{hours[row - 1]:g} of {before}; the days have to come in turn, each once"
        )
    weather = table.column("weathersit")
    wrong = ~np.isin(weather, (1, 2, 3, 4))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{path}, line {table.lines[row]}, column 'weathersit': {weather[row]:g}; accepted is "
            "1 (clear) to 4 (heavy rain)"
        )
    months_days = [datetime.date.fromordinal(int(date)).day for date in dates]
    table.values[:, table.index("dteday")] = months_days
    return table


def _day_number(date: str) -> float:
    return datetime.date.fromisoformat(date.strip()).toordinal()  # float32 holds it: below 2^24


def days(hours: np.ndarray, length: int = 24) -> np.ndarray:
    """(N * length, C) into (N, length, C): `hours.view(-1, 24, C)`.

    Raises:
        ValueError: the last day is not complete.
    """
    if hours.ndim != 2 or len(hours) % length:
        raise ValueError(
            f"hours: shape {hours.shape}; accepted is (rows, channels) with a multiple of "
            f"{length} rows"
        )
    return hours.reshape(-1, length, hours.shape[1])


def weather_one_hot(
    daily: np.ndarray, channel: int = 9, classes: int = 4, *, axis: int = 1
) -> np.ndarray:
    """One channel of 1, 2, ... as `classes` channels of 0 and 1.

    This is the first of the document's two ways to give weather to a net; the
    second is `scale_ordinal`.

    Args:
        daily: (N, C, L), or (N, L, C) with axis=2.
        channel: the one to encode.
        classes: how many values it takes, from 1 on.
        axis: of the channels.

    Returns:
        The new channels, (N, classes, L) or (N, L, classes): see `with_channels`.
    """
    codes = np.take(daily, channel, axis=axis)  # (N, L)
    wrong = ~np.isin(codes, np.arange(1, classes + 1))
    if wrong.any():
        raise ValueError(
            f"daily: {codes[wrong][0]:g} in channel {channel}; accepted is 1 to {classes}"
        )
    return np.moveaxis(one_hot(codes - 1, classes, daily.dtype), -1, axis)


def with_channels(daily: np.ndarray, channels: np.ndarray, *, axis: int = 1) -> np.ndarray:
    """Further channels behind those that are there: `torch.cat((daily, channels), dim=1)`."""
    return np.concatenate([daily, channels], axis=axis)


def scale_ordinal(codes: np.ndarray, classes: int = 4) -> np.ndarray:
    """1, 2, ..., classes evenly onto 0 to 1: `(x - 1) / 3` for four kinds of weather.

    Of the codes' dtype; integers become float32.
    """
    if classes < 2:
        raise ValueError(f"classes: {classes}; at least 2")
    wrong = ~np.isin(codes, np.arange(1, classes + 1))
    if wrong.any():
        raise ValueError(f"codes: {codes[wrong].ravel()[0]:g}; accepted is 1 to {classes}")
    codes = _floating(codes)
    return (codes - 1) / np.asarray(classes - 1, codes.dtype)


def _floating(values: np.ndarray) -> np.ndarray:
    floating = np.issubdtype(values.dtype, np.floating)
    return values if floating else values.astype(np.float32)


def scale_to_unit(values: np.ndarray) -> np.ndarray:
    """(x - min) / (max - min): onto 0 to 1, of the values' dtype, float32 for integers.

    The document takes the minimum twice and so divides by (min - min) = 0, which
    gives nothing but nan and inf; its text says that 0 to 1 is meant.

    Raises:
        ValueError: all values are the same.
    """
    values = _floating(values)
    low, high = values.min(), values.max()
    if not low < high:
        raise ValueError(f"values: all are {low:g}; there is no range to scale")
    with np.errstate(over="ignore"):
        spread = high - low
    if not np.isfinite(spread):  # more than the dtype holds, though both ends are in it
        half = values.dtype.type(0.5)
        values, low, spread = values * half, low * half, high * half - low * half
    return (values - low) / spread


def windows(
    series: np.ndarray, past: int, future: int, *, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a series into pieces to forecast from and pieces to forecast.

    Args:
        series: (T,) or (T, C), in order of time.
        past: steps that a forecast is made from.
        future: steps after them that are to be forecast.
        stride: steps from one window to the next.

    Returns:
        (N, past, ...) and (N, future, ...): views, without copies.

    >>> past, future = windows(np.arange(6), past=3, future=1)
    >>> past[0], future[0], len(past)
    (array([0, 1, 2]), array([3]), 3)
    """
    if min(past, future, stride) < 1:
        raise ValueError(f"past, future, stride: {past}, {future}, {stride}; at least 1 each")
    if len(series) < past + future:
        raise ValueError(
            f"series: {len(series)} steps; windows of {past} and {future} need {past + future}"
        )
    cut = np.lib.stride_tricks.sliding_window_view(series, past + future, axis=0)[::stride]
    cut = np.moveaxis(cut, -1, 1)  # (N, past + future, ...)
    return cut[:, :past], cut[:, past:]
