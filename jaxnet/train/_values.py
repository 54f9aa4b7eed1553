"""The metrics of many steps as one, and numbers as JSON and the records of a run take them."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxnet import metrics as metric_functions
from jaxnet._names import named_leaves

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


def joined(parts: list[Any]) -> Any:
    """The metrics of several calls as those of one.

    Raises:
        ValueError: The shape of a metric depends on the rows of the batch.
    """
    named = [named_leaves(part) for part in parts]
    for name in named[0]:
        shapes = {leaves[name].shape[1:] for leaves in named}
        if len(shapes) > 1:
            raise ValueError(
                f"metrics: {name}: of shapes {sorted(shapes)} in batches of different sizes; "
                "accepted are numbers and arrays of one shape, so take the mean over the rows"
            )
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def mean_metrics(metrics: Any, weights: np.ndarray | None = None) -> dict[str, Any]:
    """The metrics of many steps, one entry a step along axis 0, as plain numbers.

    Args:
        metrics: Arrays by name, of which the mean is taken, and `jaxnet.metrics.Metric`s,
            which are joined over all rows.
        weights: The weight of each step in the means; all the same unless given.

    Raises:
        TypeError: A metric holds several, by name or by number.
    """
    found = {}
    for name, value in sorted(metrics.items(), key=lambda item: (item[0] != "loss", item[0])):
        if isinstance(value, metric_functions.Metric):
            value = metric_functions.compute(metric_functions.total(value))
        elif isinstance(value, Mapping | list | tuple):
            raise TypeError(
                f"metrics: {name}: a {type(value).__name__}; accepted are numbers, arrays of "
                "numbers, and what jaxnet.metrics gives, each under a name of its own"
            )
        else:
            value = np.average(np.asarray(value, np.float64), axis=0, weights=weights)
        value = np.asarray(value)
        found[name] = float(value) if value.ndim == 0 else value.tolist()
    return found
