"""Metrics of classes: accuracy, precision, recall, F1 and the confusion matrix."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnet._arrays import as_jax
from jaxnet.metrics._metric import Mean, Metric


def accuracy(
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    ignore_index: int = -100,
) -> Mean:
    """The share of targets whose class has the highest score.

    Among equal scores the first class is the predicted one.

    Args:
        outputs: The scores, (N, C) or (N, C, d1, ...); or the predicted classes, integers or
            booleans of the targets' shape. With one score for each sample give
            `scores > 0`.
        targets: The class numbers, integers or booleans (N,) or (N, d1, ...).
        ignore_index: The class number whose targets are left out.

    Returns:
        The share as a `Mean`, with the counts in int32.

    Raises:
        ValueError: The shapes do not match.
        TypeError: The targets are no integers.
    """
    predicted, target, _ = _read("accuracy", outputs, targets)
    counted = target != ignore_index
    return Mean(_count((predicted == target) & counted), _count(counted))


def top_k_accuracy(
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    k: int = 5,
    ignore_index: int = -100,
) -> Mean:
    """The share of targets whose class is among those with the k highest scores.

    Among equal scores the first classes come first.

    Args:
        outputs: The scores, (N, C) or (N, C, d1, ...). A nan is higher than every number.
        targets: The class numbers, integers (N,) or (N, d1, ...).
        k: The number of classes, at least 1.
        ignore_index: The class number whose targets are left out.

    Returns:
        The share as a `Mean`, with the counts in int32.

    Raises:
        ValueError: The shapes do not match, k is below 1,
            or the outputs are predicted classes.
        TypeError: The targets are no integers.
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
    # A target is counted if fewer than k classes are ahead of it. This needs no sorting, and the
    # negated comparison puts nan ahead.
    ahead = ~(scores <= own) | ((scores == own) & (number < place))
    counted = target != ignore_index
    return Mean(_count(inside & (ahead.sum(1) < k) & counted), _count(counted))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassCounts(Metric):
    """The counts of each class (C,) from which precision, recall and F1 are computed.

    Attributes:
        hits: The number of targets of the class that were predicted, int32.
        predicted: The number of predictions of the class, int32.
        actual: The number of targets of the class, int32.
        invalid: The number of targets or predictions that are no class, int32. If there
            are any, the results are nan.
        score: The name of the score that `compute` gives, static.
        average, zero_division: The arguments of that score, static.
    """

    hits: jax.Array
    predicted: jax.Array
    actual: jax.Array
    invalid: jax.Array
    score: str = dataclasses.field(default="f1", metadata={"static": True})
    average: str | None = dataclasses.field(default="macro", metadata={"static": True})
    zero_division: float = dataclasses.field(default=0.0, metadata={"static": True})

    def compute(self) -> jax.Array:
        """The score for which the counts were made, with its average and zero_division."""
        return getattr(self, self.score)(self.average, self.zero_division)

    def precision(self, average: str | None = "macro", zero_division: float = 0.0) -> jax.Array:
        """The share of predictions that are right. As in `jaxnet.metrics.precision`."""
        return self._score(lambda h, p, a: (h, p), average, zero_division)

    def recall(self, average: str | None = "macro", zero_division: float = 0.0) -> jax.Array:
        """The share of targets that were found. As in `jaxnet.metrics.recall`."""
        return self._score(lambda h, p, a: (h, a), average, zero_division)

    def f1(self, average: str | None = "macro", zero_division: float = 0.0) -> jax.Array:
        """2 hits / (predicted + actual). As in `jaxnet.metrics.f1`."""
        return self._score(lambda h, p, a: (2 * h, p + a), average, zero_division)

    def _score(
        self, parts: Callable[..., tuple[Any, ...]], average: str | None, zero_division: float
    ) -> jax.Array:
        """The averaged quotient of the two counts that `parts` gives of hits, predicted, actual."""
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
        """The scores of the classes averaged over the last axis."""
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
        # As in scikit-learn, classes that never occur and scores that are nan are left out. If the
        # weights that remain are all 0, the classes get equal weights.
        even = ((predicted + actual > 0) & ~jnp.isnan(each)).astype(each.dtype)
        part = even * actual if average == "weighted" else even
        part = jnp.where(part.sum(-1, keepdims=True) > 0, part, even)
        whole = part.sum(-1)
        mean = jnp.where(part > 0, each * part, 0).sum(-1) / jnp.where(whole > 0, whole, 1)
        return jnp.where(whole > 0, mean, zero_division)


def precision(
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    average: str | None = "macro",
    zero_division: float = 0.0,
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> ClassCounts:
    """The share of predictions of a class that are right: sklearn.metrics.precision_score.

    Args:
        outputs: The scores, (N, C) or (N, C, d1, ...); or the predicted classes, integers or
            booleans of the targets' shape. With one score for each sample give
            `scores > 0`.
        targets: The class numbers, integers or booleans (N,) or (N, d1, ...).
        average: The average over the classes: "macro" (the mean over the classes that occur
            in targets or predictions), "weighted" (the mean weighted by the number of
            targets), "micro" (one score for all classes together), "binary" (the score of
            class 1 of two), or None (the scores of all classes).
        zero_division: The score of a class whose denominator is 0. With nan such a class is
            left out of averages.
        ignore_index: The class number whose targets are left out.
        num_classes: The number C of classes. It is needed only if outputs are predicted
            classes.

    Returns:
        The counts of the classes; `compute()` gives the score.

    Raises:
        ValueError: The shapes do not match, or a class number is outside [0, C). Inside jit
            the class numbers are not known; there such a number makes the result nan.
        TypeError: The targets are no integers.
    """
    return _class_counts(
        "precision", outputs, targets, average, zero_division, ignore_index, num_classes
    )


def recall(
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    average: str | None = "macro",
    zero_division: float = 0.0,
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> ClassCounts:
    """The share of the targets of a class that were found: sklearn.metrics.recall_score.

    The arguments, the result and the errors are those of `precision`.
    """
    return _class_counts(
        "recall", outputs, targets, average, zero_division, ignore_index, num_classes
    )


def f1(
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    average: str | None = "macro",
    zero_division: float = 0.0,
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> ClassCounts:
    """The F1 score of a class, 2 hits / (predictions + targets): sklearn.metrics.f1_score.

    The arguments, the result and the errors are those of `precision`.
    """
    return _class_counts("f1", outputs, targets, average, zero_division, ignore_index, num_classes)


def _class_counts(
    score: str,
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    average: str | None,
    zero_division: float,
    ignore_index: int,
    num_classes: int | None,
) -> ClassCounts:
    """The counts for precision, recall or F1."""
    predicted, target, count, counted, invalid = _numbered(
        score, outputs, targets, ignore_index, num_classes
    )
    # Always the same nan object: JAX compares static fields, and two nan objects are not equal.
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
    """A confusion matrix.

    Attributes:
        matrix: The numbers of samples, int32 (C, C). The row is the target, the column the
            prediction.
        invalid: The number of targets or predictions that are no class, int32.
    """

    matrix: jax.Array
    invalid: jax.Array

    def compute(self) -> jax.Array:
        """The matrix; all its entries are -1 if a target or prediction was no class."""
        return jnp.where(self.invalid[..., None, None] > 0, -1, self.matrix)

    def counts(self) -> ClassCounts:
        """The counts for precision, recall and F1, as in `confusion.counts().f1("weighted")`."""
        return ClassCounts(
            hits=jnp.diagonal(self.matrix, axis1=-2, axis2=-1),
            predicted=self.matrix.sum(-2),
            actual=self.matrix.sum(-1),
            invalid=self.invalid,
        )


def confusion(
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    ignore_index: int = -100,
    num_classes: int | None = None,
) -> Confusion:
    """The confusion matrix: sklearn.metrics.confusion_matrix with the labels 0 to C - 1.

    The arguments and errors are those of `precision`. A loop stores C * C numbers for each
    step.

    Returns:
        The matrix as a `Confusion`.
    """
    predicted, target, count, counted, invalid = _numbered(
        "confusion", outputs, targets, ignore_index, num_classes
    )
    matrix = jnp.zeros((count, count), jnp.int32)
    matrix = matrix.at[target, predicted].add(counted.astype(jnp.int32), mode="drop")
    return Confusion(matrix, invalid)


def _numbered(
    metric: str,
    outputs: Shaped[ArrayLike, " N *rest"],
    targets: Shaped[ArrayLike, " N *d"],
    ignore_index: int,
    num_classes: int | None,
) -> tuple[jax.Array, jax.Array, int, jax.Array, jax.Array]:
    """The checked class numbers.

    Returns:
        The predictions, the targets, C, which targets are counted, and the number of targets
        or predictions that are no class.
    """
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
    metric: str, outputs: Shaped[ArrayLike, " N *rest"], targets: ArrayLike
) -> tuple[jax.Array, jax.Array, int | None]:
    """The predicted classes, the targets, and the number of classes (None without scores)."""
    output, target = as_jax(f"{metric}: outputs", outputs), as_jax(f"{metric}: targets", targets)
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
    """The number of True entries, int32."""
    return chosen.sum(dtype=jnp.int32)
