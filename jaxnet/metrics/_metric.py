"""The base class of metrics, which add up over batches, and the mean."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp


class Metric:
    """The sums of a metric over some samples.

    Two of them add up with `+` to that of all their samples, and `compute()` gives the
    number. A subclass is a dataclass of arrays, registered as a pytree.
    """

    def merge(self, other: Self) -> Self:
        """The metric for the samples of both: the method behind `+`.

        Args:
            other: A metric of the same class and shapes.

        Raises:
            ValueError: The shapes differ.
        """
        ours, theirs = ([leaf.shape for leaf in jax.tree.leaves(m)] for m in (self, other))
        if ours != theirs:
            raise ValueError(
                f"{type(self).__name__}: shapes {ours} and {theirs} do not belong together"
            )
        return self._merged(other)

    def _merged(self, other: Self) -> Self:
        """The sums added; overridden where they do not simply add up."""
        return jax.tree.map(jnp.add, self, other)

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.merge(other)

    def compute(self) -> jax.Array:
        """The number (or numbers) for the samples in this metric."""
        raise NotImplementedError(f"{type(self).__name__} defines no compute")


def total(stacked: Any) -> Any:
    """Adds up the metrics that a loop has stacked along axis 0.

    Args:
        stacked: The metric, whose arrays have one entry for each step along axis 0, or a
            dictionary or other pytree of such metrics. Plain arrays among them (such as
            the loss of each step) are returned unchanged.

    Returns:
        The same pytree with one metric for all steps in place of each stacked one.

    Raises:
        ValueError: The arrays of a metric have different numbers of steps, or none.
    """

    def joined(metric: Any) -> Any:
        if not isinstance(metric, Metric):
            return metric
        steps = {leaf.shape[:1] for leaf in jax.tree.leaves(metric)}
        if len(steps) != 1 or steps & {(), (0,)}:
            raise ValueError(
                f"total: a {type(metric).__name__} whose arrays begin with {sorted(steps)}; "
                "it needs one entry a step along axis 0, and at least one step"
            )
        # Added in pairs, then in pairs of pairs: a sum of many floats loses fewer digits in this
        # way than one after another.
        ((length,),) = steps
        while length > 1:
            half = length // 2
            pairs = _part(metric, 0, half).merge(_part(metric, half, 2 * half))
            if length % 2:
                last = _part(metric, length - 1, length)
                pairs = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pairs, last)
            metric, length = pairs, length - half
        return jax.tree.map(lambda leaf: leaf[0], metric)

    return jax.tree.map(joined, stacked, is_leaf=lambda node: isinstance(node, Metric))


def _part(metric: Any, start: int, stop: int) -> Any:
    """The steps from start to stop of a stacked metric."""
    return jax.tree.map(lambda leaf: leaf[start:stop], metric)


def compute(tree: Any) -> Any:
    """The numbers of all metrics in a pytree.

    Args:
        tree: A metric, or a dictionary or other pytree of metrics and arrays.

    Returns:
        The same pytree with `compute()` of each metric. Plain arrays are unchanged.
    """
    return jax.tree.map(
        lambda node: node.compute() if isinstance(node, Metric) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Metric),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean(Metric):
    """A mean, stored as a sum and a count.

    Attributes:
        sum: The sum of the values; int32 where the values are counts, so that nothing is
            rounded.
        count: The number of the values, int32.
    """

    sum: jax.Array
    count: jax.Array

    def compute(self) -> jax.Array:
        """sum / count; nan if there are no values."""
        return self.sum / jnp.asarray(self.count, jnp.result_type(self.sum))


def mean_loss(criterion: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], Mean]:
    """Makes a metric of a loss: its mean over all samples.

    Each batch has the weight of its number of samples.

    Args:
        criterion: The loss, a function of outputs and targets that gives the mean over the
            batch.

    Returns:
        A function of outputs and targets (with the samples along axis 0) that gives a
        `Mean`.
    """

    def measure(outputs: Any, targets: Any) -> Mean:
        rows = jax.tree.leaves(targets)[0].shape[0]
        value = criterion(outputs, targets)
        return Mean(value * jnp.asarray(rows, value.dtype), jnp.asarray(rows, jnp.int32))

    return measure
