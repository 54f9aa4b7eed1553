"""Faults of losses: what a program's loss has that torch's has not."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnet.parity._loss_values import CLASSES
from jaxnet.parity._losses import ARGUMENTS, Loss
from jaxnet.parity._traps._trap import Trap, setting

ALL = tuple(ARGUMENTS)
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
SCORES = ("cross_entropy", "binary_cross_entropy_with_logits")
REDUCED = tuple(kind for kind in ALL if kind not in ("mean", "sum"))
_EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-9, 1e-10, 1e-12, 1e-3, 1e-4)


def _reductions(loss: Loss) -> list[str]:
    return [r for r in ("mean", "sum") if r != loss.config["reduction"]]


def _mean_of_classes(config: Mapping[str, Any]) -> bool:
    return bool(config["reduction"] == "mean")


def _has_ignored(loss: Loss) -> None:
    if not any(np.any(r.arguments["target"] == loss.config["ignore_index"]) for r in loss.records):
        raise ValueError("no target is ignored")


def _ignored_count(loss: Loss) -> Loss:
    _has_ignored(loss)
    return loss.altered(reduction="all")


def _ignored_kept(loss: Loss) -> Loss:
    """An index of -100 that JAX's indexing moves to the first class."""
    _has_ignored(loss)
    records = []
    for record in loss.records:
        target = record.arguments["target"]
        moved = np.where(target == loss.config["ignore_index"], 0, target)
        records.append((record, moved))
    return _with_targets(loss, records).altered(ignore_index=-1)


def _not_ignored(loss: Loss) -> Loss:
    _has_ignored(loss)
    return loss.altered(ignore_index=-1)


def _with_targets(loss: Loss, records: list[tuple[Any, Any]]) -> Loss:
    return dataclasses.replace(
        loss,
        records=tuple(
            dataclasses.replace(record, arguments={**record.arguments, "target": target})
            for record, target in records
        ),
    )


def _ignored_other(loss: Loss, ignore_index: int) -> Loss:
    used = any(np.any(r.arguments["target"] == ignore_index) for r in loss.records)
    if ignore_index == loss.config["ignore_index"] or not used:
        raise ValueError("the index is torch's, or there is no such target")
    return loss.altered(ignore_index=ignore_index)


def _other_axis(loss: Loss, axis: int) -> Loss:
    shape = loss.config["shape"]
    if axis >= len(shape) or axis == min(len(shape) - 1, 1):
        raise ValueError("there is no such other axis")
    return loss.altered(axis=axis)


def _summed(loss: Loss, reduction: str) -> Loss:
    if reduction == loss.kind:
        raise ValueError("the reduction is torch's")
    return loss.altered(reduction=reduction)


def _counts(loss: Loss) -> list[float]:
    """Factors that come from dividing by the number of batches, or from not doing so."""
    count = loss.config["batches"]
    return [1 / count, float(count)]


TRAPS: tuple[Trap, ...] = (
    Trap(
        "loss-accumulated",
        ALL,
        setting(),
        "Each of the {torch[batches]} batches of a step counts {scale:.6g} times torch's: their "
        "gradients are averaged where torch adds them, or the other way round.",
        "optax.MultiSteps(..., use_grad_mean=False) for a sum, or the loss divided where the "
        "torch program divides it",
        when=lambda config: config.get("batches", 1) > 1,  # a layer has none
        options={"scale": _counts},
    ),
    Trap(
        "loss-reduction",
        REDUCED,
        setting(),
        "The loss is reduced by {reduction!r}; torch's reduction is {torch[reduction]!r}.",
        "reduction={torch[reduction]!r}",
        options={"reduction": _reductions},
    ),
    Trap(
        "loss-mean-or-sum",
        ("mean", "sum"),
        _summed,
        "The loss is reduced by {reduction}(); torch's program takes the other one.",
        "the same reduction as the torch program",
        options={"reduction": ("mean", "sum")},
    ),
    Trap(
        "loss-per-sample",
        REDUCED,
        setting(reduction="rows"),
        "The loss is summed within each sample and averaged over the batch; torch's reduction is "
        "{torch[reduction]!r} over all elements.",
        "reduction={torch[reduction]!r}",
        when=lambda config: config["reduction"] in ("mean", "sum") and len(config["shape"]) > 1,
    ),
    Trap(
        "loss-per-element",
        ("kl_div",),
        setting(reduction="mean"),
        "The loss is averaged over all elements; torch divides by the batch size ('batchmean').",
        "reduction='batchmean'",
        when=lambda config: config["reduction"] == "batchmean",
    ),
    Trap(
        "loss-ignored-counted",
        CLASSES,
        _ignored_count,
        "The mean divides by the number of all targets; torch divides by that of the targets "
        "that are not ignored.",
        "loss.sum() / (targets != {torch[ignore_index]}).sum()",
        when=_mean_of_classes,
    ),
    Trap(
        "loss-ignored-kept",
        CLASSES,
        _ignored_kept,
        "Targets that torch ignores count as class 0.",
        "jnp.where(targets == {torch[ignore_index]}, 0, loss)",
        when=lambda config: config["ignore_index"] < 0,
    ),
    Trap(
        "loss-not-ignored",
        CLASSES,
        _not_ignored,
        "No targets are ignored; torch ignores those of {torch[ignore_index]}.",
        "ignore_index={torch[ignore_index]}",
        when=lambda config: config["ignore_index"] >= 0,
    ),
    Trap(
        "loss-ignore-index",
        CLASSES,
        _ignored_other,
        "Targets of {ignore_index} are ignored; torch ignores {torch[ignore_index]}.",
        "ignore_index={torch[ignore_index]}",
        options={"ignore_index": (0, -1, -100, 1, 255)},
    ),
    Trap(
        "loss-weights-not-in-mean",
        CLASSES,
        setting(reduction="unweighted"),
        "The mean of the weighted losses divides by the number of targets; torch divides by the "
        "sum of their weights.",
        "loss.sum() / weight[targets].sum()",
        when=lambda config: config["weighted"] and config["reduction"] == "mean",
    ),
    Trap(
        "loss-weights-missing",
        REDUCED,
        setting(weight=None),
        "The weights are missing.",
        "weight=, as in the torch program",
        when=lambda config: config["weighted"],
    ),
    Trap(
        "loss-pos-weight-missing",
        ("binary_cross_entropy_with_logits",),
        setting(pos_weight=None),
        "The weights of the positive targets (pos_weight) are missing.",
        "pos_weight=, as in the torch program",
        when=lambda config: config["positives"],
    ),
    Trap(
        "loss-per-sequence",
        CLASSES,
        setting(reduction="sequences"),
        "The loss is averaged within each sequence and then over the sequences; torch averages "
        "over all targets, so that long sequences count more.",
        "loss.sum() / count of all targets",
        when=lambda config: config["reduction"] == "mean" and len(config["shape"]) > 2,
    ),
    Trap(
        "loss-smoothing-missing",
        CLASSES,
        setting(label_smoothing=0.0),
        "There is no label smoothing; torch's is {torch[label_smoothing]:.4g}.",
        "label_smoothing={torch[label_smoothing]:.4g}",
        when=lambda config: bool(config["label_smoothing"]),
    ),
    Trap(
        "loss-smoothing-of-others",
        CLASSES,
        setting(spread="others"),
        "Label smoothing spreads {torch[label_smoothing]:.4g} over the other classes; torch "
        "spreads it over all classes, the right one too.",
        "(1 - s) * one_hot + s / classes (optax.smooth_labels)",
        when=lambda config: bool(config["label_smoothing"]),
    ),
    Trap(
        "loss-smoothing-value",
        CLASSES,
        setting(),
        "The label smoothing is {label_smoothing:.4g}; torch's is {torch[label_smoothing]:.4g}.",
        "label_smoothing={torch[label_smoothing]:.4g}",
        constants={"label_smoothing": (0.1, 0.05, 0.2, 0.01)},
    ),
    Trap(
        "loss-of-probabilities",
        SCORES,
        setting(given="sigmoid"),
        "The loss is given sigmoids; torch's takes scores (logits) and applies the function "
        "itself.",
        "the scores, without a sigmoid before the loss",
    ),
    Trap(
        "loss-of-softmax",
        ("cross_entropy",),
        setting(given="softmax"),
        "The loss is given probabilities; torch's takes scores (logits) and applies softmax "
        "itself.",
        "the scores, without a softmax before the loss",
    ),
    Trap(
        "loss-without-logarithm",
        ("nll_loss",),
        setting(given="exp"),
        "The loss is given probabilities; torch's takes their logarithms.",
        "log_softmax of the scores",
    ),
    Trap(
        "loss-with-softmax",
        ("nll_loss",),
        setting(given="log_softmax"),
        "log_softmax is applied once more; torch's loss takes its input as it is.",
        "the input as it is (-input[target])",
    ),
    Trap(
        "loss-scores-as-probabilities",
        ("binary_cross_entropy",),
        setting(given="sigmoid"),
        "A sigmoid is applied once more; torch's loss takes probabilities.",
        "the loss of probabilities, or the scores before the sigmoid",
    ),
    Trap(
        "loss-axis",
        ("cross_entropy",),
        _other_axis,
        "The softmax is over axis {axis}; torch's classes are along axis 1.",
        "axis=1, or logits with the classes last",
        options={"axis": (0, 2, 3)},
    ),
    Trap(
        "loss-epsilon",
        (*CLASSES, *BINARY),
        setting(),
        "{epsilon:.4g} is added to the probabilities before the logarithm; torch adds nothing.",
        "log_softmax or log_sigmoid of the scores",
        constants={"epsilon": _EPSILONS},
    ),
    Trap(
        "loss-clipped",
        (*CLASSES, *BINARY),
        setting(),
        "The probabilities are clipped to [{clip:.4g}, 1 - {clip:.4g}]; torch limits only the "
        "logarithm of binary_cross_entropy, at -100.",
        "log_softmax or log_sigmoid of the scores; jnp.maximum(jnp.log(p), -100)",
        constants={"clip": (*_EPSILONS, 1e-2, 0.1, 0.4)},
    ),
    Trap(
        "loss-all-pairs",
        ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", *BINARY),
        setting(pairs=True),
        "Inputs and targets are broadcast against each other, so that each sample meets the "
        "targets of all (shapes such as (N, 1) and (N,)).",
        "inputs and targets of one shape",
        when=lambda config: len(config["shape"]) > 0,
    ),
    Trap(
        "loss-half",
        ("mse_loss",),
        setting(scale=0.5),
        "The squared differences are halved (as optax.l2_loss does); torch's are not.",
        "jnp.mean((a - b) ** 2)",
    ),
    Trap(
        "loss-root",
        ("mse_loss",),
        setting(square_root=True),
        "The root of the mean square is taken; torch's is the mean square.",
        "the mean without a root",
    ),
    Trap(
        "loss-beta",
        ("smooth_l1_loss",),
        setting(),
        "The parabola ends at {beta:.4g}; torch's beta is another.",
        "beta= as in the torch program (1 by default)",
        constants={"beta": (1.0, 0.1, 0.5, 2.0)},
    ),
    Trap(
        "loss-delta",
        ("huber_loss",),
        setting(),
        "The parabola ends at {delta:.4g}; torch's delta is another.",
        "delta= as in the torch program (1 by default)",
        constants={"delta": (1.0, 0.1, 0.5, 2.0)},
    ),
    Trap(
        "loss-huber-scale",
        ("smooth_l1_loss",),
        lambda loss: loss.altered(scale=loss.config.get("beta", 1.0)),
        "The loss is Huber's, which is not divided by beta; torch's smooth_l1_loss is.",
        "the loss divided by beta",
        when=lambda config: config.get("beta", 1.0) != 1.0,
    ),
    Trap(
        "loss-log-target",
        ("kl_div",),
        lambda loss: loss.altered(log_target=not loss.config.get("log_target", False)),
        "The target is taken for its logarithm, or the other way round.",
        "log_target as in the torch program",
    ),
    Trap(
        "loss-arguments-swapped",
        ("kl_div", "binary_cross_entropy"),
        setting(swapped=True),
        "Input and target are exchanged.",
        "the arguments in torch's order: input, target",
    ),
    Trap(
        "loss-factor",
        ALL,
        setting(),
        "The loss is {scale:.6g} times torch's.",
        "the loss without this factor",
        constants={"scale": (0.5, 2.0, 0.25, 4.0, 0.1, 10.0, -1.0)},
    ),
)
