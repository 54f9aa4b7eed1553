"""Numbers as JSON and the records of a run take them."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

LINE = ("epoch", "step", "in_epoch")
"""What a line of the history or the records says beside metrics."""

RATES = ("seconds", "samples_per_second")
"""What the records say besides of an epoch."""


def plain(value: Any) -> Any:
    """A value in the types of JSON; nan and infinities, which JSON lacks, become strings."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an epoch or a step that are one number each."""
    return {
        name: value
        for name, value in line.items()
        if isinstance(value, float | int) and name not in LINE
    }
