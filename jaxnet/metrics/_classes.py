"""Accuracy, precision, recall, F1 and confusion of classes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnet.metrics._metric import Mean, Metric


def accuracy(outputs: ArrayLike, targets: ArrayLike, ignore_index: int = -100) -> Mean:
    """The share of targets that have the highest score; of equal scores the first counts.

    Args:
        outputs: scores (N, C) or (N, C, d1, ...), or predicted classes, integers or
            booleans of the targets' shape; for one score a sample give `scores > 0`.
        targets: class numbers (N,) or (N, d1, ...).
        ignore_index: targets of this number are left out.
    """
    predicted, target, _ = _read("accuracy", outputs, targets)
    counted = target != ignore_index
    return Mean(_count((predicted == target) & counted), _count(counted))


def top_k_accuracy(
    outputs: ArrayLike, targets: ArrayLike, k: int = 5, ignore_index: int = -100
) -> Mean:
    """The share of targets among the k highest scores; of equal scores the first count.

    Args:
        outputs: scores (N, C) or (N, C, d1, ...). A nan beats every score.
        targets: class numbers (N,) or (N, d1, ...).
        k: at least 1.
        ignore_index: targets of this number are left out.
    """
    scores = jnp.asarray(outputs)
    _, target, _ = _read("top_k_accuracy", scores, targets)
    if k < 1:
        raise ValueError(f"top_k_accuracy: k {k}; it must be at least 1")
    if scores.ndim == target.ndim:
        raise ValueError("top_k_accuracy: outputs are classes; it needs scores (N, C)")
    inside = (target >= 0) & (target < scores.shape[1])
    place = jnp.expand_dims(jnp.where(inside, target, 0), 1)
    own = jnp.broadcast_to(jnp.take_along_axis(scores, place, 1), scores.shape)
    number = jax.lax.broadcasted_iota(place.dtype, scores.shape, 1)
    ahead = ~(scores <= own) | ((scores == own) & (number < place))
    counted = target != ignore_index
    return Mean(_count(inside & (ahead.sum(1) < k) & counted), _count(counted))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassCounts(Metric):
    """What precision, recall and F1 are made of, for each class (C,).

    Attributes:
        hits: targets of the class that were predicted, int32.
        predicted: how often the class was predicted, int32.
        actual: how many targets are of the class, int32.
        invalid: how many targets are no class at all, int32; if any is, results are nan.
        score, average, zero_division: what `compute` gives; static.
    """

    hits: jax.Array
    predicted: jax.Array
    actual: jax.Array
    invalid: jax.Array
    score: str = dataclasses.field(default="f1", metadata={"static": True})
    average: str | None = dataclasses.field(default="macro", metadata={"static": True})
    zero_division: float = dataclasses.field(default=0.0, metadata={"static": True})

    def compute(self) -> jax.Array:
        """The score, average and zero_division that the piece was made with."""
        return getattr(self, self.score)(self.average, self.zero_division)

    def precision(self, average: str | None = "macro", zero_division: float = 0.0) -> jax.Array:
        """The share of predictions that are right. See `jaxnet.metrics.precision`."""
        return self._score(lambda h, p, a: (h, p), average, zero_division)

    def recall(self, average: str | None = "macro", zero_division: float = 0.0) -> jax.Array:
        """The share of targets that were found. See `jaxnet.metrics.recall`."""
        return self._score(lambda h, p, a: (h, a), average, zero_division)

    def f1(self, average: str | None = "macro", zero_division: float = 0.0) -> jax.Array:
        """2 hits / (predicted + actual). See `jaxnet.metrics.f1`."""
        return self._score(lambda h, p, a: (2 * h, p + a), average, zero_division)

    def _score(
        self, parts: Callable[..., tuple[Any, ...]], average: str | None, zero_division: float
    ) -> jax.Array:
        accepted = ("micro", "macro", "weighted", "binary", None)
        if average not in accepted:
            raise ValueError(f"average: {average!r}; accepted are {accepted}")
        counts = [self.hits, self.predicted, self.actual]
        if average == "micro":
            counts = [count.sum(-1, keepdims=True) for count in counts]
        counts = [count.astype(jnp.result_type(float)) for count in counts]
        over, under = parts(*counts)
        none = under == 0
        each = jnp.where(none, zero_division, over / jnp.where(none, 1, under))
        if average is None:
            value, invalid = each, self.invalid[..., None]
        else:
            value, invalid = self._averaged(each, counts, average, zero_division), self.invalid
        return jnp.where(invalid > 0, jnp.nan, value)

    def _averaged(
        self, each: jax.Array, counts: list[jax.Array], average: str, zero_division: float
    ) -> jax.Array:
        if average == "micro":
            return each[..., 0]
        if average == "binary":
            if each.shape[-1] != 2:
                raise ValueError(
                    f"average: 'binary' with {each.shape[-1]} classes; it is for 2, of which "
                    "class 1 is scored"
                )
            return each[..., 1]
        _, predicted, actual = counts
        # As in scikit-learn: classes that never occur take no part, nor do nans, and
        # where no weight is left the classes weigh the same.
        even = ((predicted + actual > 0) & ~jnp.isnan(each)).astype(each.dtype)
        part = even * actual if average == "weighted" else even
        part = jnp.where(part.sum(-1, keepdims=True) > 0, part, even)
        whole = part.sum(-1)
        mean = jnp.where(part > 0, each * part, 0).sum(-1) / jnp.where(whole > 0, whole, 1)
        return jnp.where(whole > 0, mean, zero_division)


def precision(
    outputs: ArrayLike,
    targets: ArrayLike,
    average: str | None = "macro",
    zero_division: float = 0.0,
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> ClassCounts:
    """The share of predictions of a class that are right: sklearn's precision_score.

    Args:
        outputs: scores (N, C) or (N, C, d1, ...), or predicted classes, integers or
            booleans of the targets' shape; for one score a sample give `scores > 0`.
        targets: class numbers (N,) or (N, d1, ...).
        average: "macro" (the mean over the classes that occur in targets or
            predictions), "weighted" (by their number of targets), "micro" (all
            decisions counted alike), "binary" (class 1 of two), or None (all classes).
        zero_division: the result for a class with nothing to divide by; nan leaves it
            out of averages.
        ignore_index: targets of this number are left out.
        num_classes: C; needed only where outputs are predicted classes.

    Raises:
        ValueError: for shapes that do not match and numbers outside [0, C). Inside jit
            numbers cannot be looked at: there they make the result nan.
    """
    return _class_counts(
        "precision", outputs, targets, average, zero_division, ignore_index, num_classes
    )


def recall(
    outputs: ArrayLike,
    targets: ArrayLike,
    average: str | None = "macro",
    zero_division: float = 0.0,
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> ClassCounts:
    """The share of a class's targets that were found: sklearn's recall_score.

    Arguments and errors are those of `precision`.
    """
    return _class_counts(
        "recall", outputs, targets, average, zero_division, ignore_index, num_classes
    )


def f1(
    outputs: ArrayLike,
    targets: ArrayLike,
    average: str | None = "macro",
    zero_division: float = 0.0,
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> ClassCounts:
    """2 hits / (predictions + targets) of a class: sklearn's f1_score.

    Arguments and errors are those of `precision`.
    """
    return _class_counts("f1", outputs, targets, average, zero_division, ignore_index, num_classes)


def _class_counts(
    score: str,
    outputs: ArrayLike,
    targets: ArrayLike,
    average: str | None,
    zero_division: float,
    ignore_index: int,
    num_classes: int | None,
) -> ClassCounts:
    predicted, target, count, counted, invalid = _numbered(
        score, outputs, targets, ignore_index, num_classes
    )
    # One nan object: static fields are compared, and two nans differ.
    zero_division = math.nan if math.isnan(zero_division) else float(zero_division)

    def histogram(classes: jax.Array, chosen: jax.Array) -> jax.Array:
        return jnp.zeros(count, jnp.int32).at[classes].add(chosen.astype(jnp.int32), mode="drop")

    return ClassCounts(
        hits=histogram(target, counted & (predicted == target)),
        predicted=histogram(predicted, counted),
        actual=histogram(target, counted),
        invalid=invalid,
        score=score,
        average=average,
        zero_division=zero_division,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Confusion(Metric):
    """How often each class was taken for each.

    Attributes:
        matrix: (C, C), int32; rows are the targets, columns the predictions.
        invalid: how many targets are no class at all, int32.
    """

    matrix: jax.Array
    invalid: jax.Array

    def compute(self) -> jax.Array:
        """The matrix; filled with -1 if any target was no class."""
        return jnp.where(self.invalid[..., None, None] > 0, -1, self.matrix)

    def counts(self) -> ClassCounts:
        """What gives precision, recall and F1: `confusion.counts().f1("weighted")`."""
        return ClassCounts(
            hits=jnp.diagonal(self.matrix, axis1=-2, axis2=-1),
            predicted=self.matrix.sum(-2),
            actual=self.matrix.sum(-1),
            invalid=self.invalid,
        )


def confusion(
    outputs: ArrayLike,
    targets: ArrayLike,
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> Confusion:
    """How often each class was taken for each: sklearn's confusion_matrix, labels 0 to C - 1.

    Arguments and errors are those of `precision`; a loop keeps C * C numbers a step.
    """
    predicted, target, count, counted, invalid = _numbered(
        "confusion", outputs, targets, ignore_index, num_classes
    )
    matrix = jnp.zeros((count, count), jnp.int32)
    matrix = matrix.at[target, predicted].add(counted.astype(jnp.int32), mode="drop")
    return Confusion(matrix, invalid)


def _numbered(
    metric: str,
    outputs: ArrayLike,
    targets: ArrayLike,
    ignore_index: int,
    num_classes: int | None,
) -> tuple[jax.Array, jax.Array, int, jax.Array, jax.Array]:
    """Predictions, targets, C, which of them count, and how many are no class."""
    predicted, target, count = _read(metric, outputs, targets)
    if count is None:
        if num_classes is None:
            raise ValueError(f"{metric}: outputs are predicted classes; give num_classes too")
        count = num_classes
    elif num_classes not in (None, count):
        raise ValueError(f"{metric}: num_classes {num_classes} for scores of {count} classes")
    kept = target != ignore_index
    strange = kept & ((target < 0) | (target >= count) | (predicted < 0) | (predicted >= count))
    if not isinstance(strange, jax.core.Tracer) and strange.is_fully_addressable:
        where = np.asarray(strange)
        if where.any():
            raise ValueError(
                f"{metric}: target {np.asarray(target)[where][0]} predicted as "
                f"{np.asarray(predicted)[where][0]}; accepted are classes 0 to {count - 1}, "
                f"and the target {ignore_index} for what is ignored"
            )
    return predicted, target, count, kept & ~strange, _count(strange)


def _read(
    metric: str, outputs: ArrayLike, targets: ArrayLike
) -> tuple[jax.Array, jax.Array, int | None]:
    """Predicted and true classes; the number of classes if scores tell it."""
    output, target = jnp.asarray(outputs), jnp.asarray(targets)
    output, target = (x.astype(jnp.int32) if x.dtype == bool else x for x in (output, target))
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise TypeError(f"{metric}: targets of dtype {target.dtype}; give class numbers")
    target = target.astype(jnp.int32) if target.dtype.itemsize < 4 else target
    if output.shape == target.shape and jnp.issubdtype(output.dtype, jnp.integer):
        return output, target, None
    if output.ndim >= 2 and output.shape[:1] + output.shape[2:] == target.shape:
        return output.argmax(1), target, output.shape[1]
    raise ValueError(
        f"{metric}: outputs {output.shape} of {output.dtype} and targets {target.shape} do not "
        "match; accepted are scores (N, C) or (N, C, d1, ...) with classes (N,) or (N, d1, ...), "
        "or predicted classes, integers or booleans of the targets' shape"
    )


def _count(chosen: jax.Array) -> jax.Array:
    return chosen.sum(dtype=jnp.int32)
