"""Metrics of outputs and targets, computed batch by batch, also inside a compiled loop.

A metric is a function of the outputs and targets of a batch that gives a small pytree of
sums. The results of several batches are added with `+`, or with `total` along the axis on
which a loop has stacked them, and `compute()` gives the number. It is the number for all
the data at once, even if the batches have different sizes.

>>> import jax.numpy as jnp
>>> from jaxnet import metrics
>>> first = metrics.accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1]))
>>> second = metrics.accuracy(jnp.array([[0.3, 0.7]]), jnp.array([1]))
>>> float((first + second).compute())  # 2 of 3
0.6666666865348816

For metrics with options, `functools.partial(metrics.f1, average="micro")` is such a
function too. Counts are int32: exact up to 2**31 - 1 counted things.
"""

from jaxnet.metrics._classes import (
    ClassCounts,
    Confusion,
    accuracy,
    confusion,
    f1,
    precision,
    recall,
    top_k_accuracy,
)
from jaxnet.metrics._metric import Mean, Metric, compute, mean_loss, total
from jaxnet.metrics._regression import R2, mae, mse, r2

__all__ = [
    "R2",
    "ClassCounts",
    "Confusion",
    "Mean",
    "Metric",
    "accuracy",
    "compute",
    "confusion",
    "f1",
    "mae",
    "mean_loss",
    "mse",
    "precision",
    "r2",
    "recall",
    "top_k_accuracy",
    "total",
]
