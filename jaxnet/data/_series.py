"""Windows of a time series for forecasts."""

import numpy as np


def windows(
    series: np.ndarray, past: int, future: int, *, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a time series into the inputs and the targets of forecasts.

    Args:
        series: The series, (T,) or (T, C), in order of time.
        past: The number of steps in an input.
        future: The number of steps after them in a target.
        stride: The number of steps from the start of one window to that of the next.

    Returns:
        The inputs, (N, past, ...), and the targets, (N, future, ...). Both are views of the
        series and not copies.

    Raises:
        ValueError: A number is below 1, or the series is too short.

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
