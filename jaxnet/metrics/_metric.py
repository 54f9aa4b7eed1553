"""Pieces that add up, and the mean."""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp


class Metric:
    """What pieces of a metric have in common: they are joined, and give a result."""

    def merge(self, other: Self) -> Self:
        """The piece for the data of both."""
        ours, theirs = ([leaf.shape for leaf in jax.tree.leaves(m)] for m in (self, other))
        if ours != theirs:
            raise ValueError(
                f"{type(self).__name__}: shapes {ours} and {theirs} do not belong together"
            )
        return self._merged(other)

    def _merged(self, other: Self) -> Self:
        return jax.tree.map(jnp.add, self, other)

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, type(self)):
            return NotImplemented
        return self.merge(other)

    def compute(self) -> jax.Array:
        """The result for the data of this piece."""
        raise NotImplementedError(f"{type(self).__name__} defines no compute")


def total(stacked: Any) -> Any:
    """Joins the pieces that a loop stacked along axis 0.

    Args:
        stacked: a metric whose arrays have one entry a step along axis 0, or a
            dictionary or other pytree of such metrics. Plain arrays among them (the
            loss of each step) come back as they are.

    Returns:
        The same with every metric joined to one.
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
        # In pairs, then pairs of pairs: sums of many floats lose few digits that way.
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
    return jax.tree.map(lambda leaf: leaf[start:stop], metric)


def compute(tree: Any) -> Any:
    """The result of every metric in a pytree; plain arrays come back as they are."""
    return jax.tree.map(
        lambda node: node.compute() if isinstance(node, Metric) else node,
        tree,
        is_leaf=lambda node: isinstance(node, Metric),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean(Metric):
    """A mean in two pieces.

    Attributes:
        sum: of the values; int32 where they are counted, so that nothing is rounded.
        count: how many they are, int32.
    """

    sum: jax.Array
    count: jax.Array

    def compute(self) -> jax.Array:
        """sum / count; nan of nothing."""
        return self.sum / jnp.asarray(self.count, jnp.result_type(self.sum))


def mean_loss(criterion: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], Mean]:
    """A metric: the mean of a loss over samples, each batch weighing as much as it has.

    Args:
        criterion: of outputs and targets; it gives the mean over the batch.

    Returns:
        A function of outputs and targets (with the samples along axis 0).
    """

    def measure(outputs: Any, targets: Any) -> Mean:
        rows = jax.tree.leaves(targets)[0].shape[0]
        value = criterion(outputs, targets)
        return Mean(value * jnp.asarray(rows, value.dtype), jnp.asarray(rows, jnp.int32))

    return measure
