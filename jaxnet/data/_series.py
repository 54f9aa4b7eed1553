"""Time series: cut into windows to forecast."""

import numpy as np


def windows(
    series: np.ndarray, past: int, future: int, *, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a series into pieces to forecast from and pieces to forecast.

    Args:
        series: The series, (T,) or (T, C), in order of time.
        past: The steps that a forecast is made from.
        future: The steps after them that are to be forecast.
        stride: The steps from one window to the next.

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
