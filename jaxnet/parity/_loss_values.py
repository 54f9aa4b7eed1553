"""The losses of torch in float64, whole or with a fault.

Those inside of which programs err are written out in numpy, one number an element, so that their
reductions, epsilons and axes can be changed; all others are jaxnet.losses'.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxnet import losses

CLASSES = ("cross_entropy", "nll_loss")


def value(kind: str, arguments: Mapping[str, Any], changes: Mapping[str, Any]) -> np.ndarray:
    """A loss of torch's, or one with a fault.

    Args:
        kind: The name of torch's function.
        arguments: Its arguments by name.
        changes: Other values of arguments, and
            "reduction": also "rows" (summed within samples, the mean over samples), "all" (the
            sum over the number of all targets, ignored ones too), "unweighted" (the sum over the
            number of targets that are not ignored) or "sequences" (the mean over samples of the
            means over their targets);
            "given": what the scores went through before: "softmax", "log_softmax", "sigmoid", or
            "exp" for log probabilities;
            "axis": the axis of the classes in the softmax;
            "epsilon": what is added to probabilities before the logarithm;
            "clip": the bound to which probabilities are clipped;
            "spread": "others" where label smoothing leaves out the right class;
            "pairs": whether each sample's input meets the targets of all samples;
            "scale": a factor;
            "square_root": whether the root of the result is taken;
            "swapped": whether input and target are exchanged.
    """
    merged = {**arguments, **changes}
    given = changes.get("given")
    if given:
        merged["input"] = _GIVEN[given](np.asarray(merged["input"], np.float64))
    if changes.get("pairs"):
        merged["input"] = np.asarray(merged["input"])[:, None]
        merged["target"] = np.asarray(merged["target"])[None]
    if changes.get("swapped"):
        merged["input"], merged["target"] = merged["target"], merged["input"]
    reduction = merged.get("reduction", "mean")
    if kind in ("mean", "sum"):
        return _plain_reduction(kind, merged)
    if kind in CLASSES:
        values, weights, count = _class_losses(kind, merged)
    elif kind in _ELEMENTS:
        values = _ELEMENTS[kind](merged)
        if merged.get("weight") is not None:
            values = values * merged["weight"]
        weights = count = None
    else:
        plain = {k: v for k, v in merged.items() if k not in ("scale", "square_root", "given")}
        with jax.enable_x64(True):
            values = np.asarray(getattr(losses, kind)(**{**plain, "reduction": "none"}))
        weights = count = None
    result = _reduced(values, weights, count, reduction) * changes.get("scale", 1.0)
    with np.errstate(invalid="ignore"):  # of a negative factor
        return np.sqrt(result) if changes.get("square_root") else result


def _reduced(
    values: np.ndarray, weights: np.ndarray | None, count: np.ndarray | None, reduction: str
) -> np.ndarray:
    """The losses of all elements as one number.

    Args:
        values: The losses, weighted.
        weights: The weights that the mean divides by; None for the number of elements.
        count: 1 for each target that is not ignored, 0 for the others; None where all count.
        reduction: The reduction.
    """
    ones = np.ones_like(values)
    weights = ones if weights is None else weights
    count = ones if count is None else count
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if reduction == "mean":
        return values.sum() / weights.sum()
    if reduction == "all":
        return values.mean()
    if reduction == "unweighted":
        return values.sum() / count.sum()
    if reduction == "batchmean" or (reduction == "rows" and values.ndim > 1):
        return values.sum() / (values.shape[0] if values.ndim else 1)
    if reduction == "sequences" and values.ndim > 1:
        rows = tuple(range(1, values.ndim))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.mean(values.sum(rows) / weights.sum(rows))
    raise ValueError(reduction)


def _plain_reduction(kind: str, h: Mapping[str, Any]) -> np.ndarray:
    kind = {"mean": "mean", "sum": "sum"}.get(h.get("reduction", kind), kind)
    values = np.asarray(h["input"])
    axis = h.get("dim")
    axis = tuple(axis) if isinstance(axis, list) else axis
    function = np.mean if kind == "mean" else np.sum
    result = function(values, axis=axis, keepdims=bool(h.get("keepdim", False)))
    return np.asarray(result * h.get("scale", 1.0))


def log_softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def _softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(x, min(x.ndim - 1, 1)))


_GIVEN: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "log_softmax": lambda x: log_softmax(x, min(x.ndim - 1, 1)),
    "sigmoid": sigmoid,
    "exp": np.exp,
}


def _class_losses(
    kind: str, h: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The weighted loss of each target, its weight, and whether it counts."""
    x, target = np.asarray(h["input"], np.float64), np.asarray(h["target"])
    axis = min(x.ndim - 1, 1)
    classes = x.shape[axis]
    log_p = x if kind == "nll_loss" else log_softmax(x, h.get("axis", axis))
    if "epsilon" in h:
        log_p = np.log(np.exp(log_p) + h["epsilon"])
    if "clip" in h:
        log_p = np.log(np.clip(np.exp(log_p), h["clip"], 1 - h["clip"]))
    weight = np.ones(classes) if h.get("weight") is None else np.asarray(h["weight"])
    along = weight.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    smoothing = h.get("label_smoothing", 0.0)
    if not 0 <= smoothing <= 1:
        raise ValueError("label_smoothing")
    if target.shape == x.shape:
        target = target * (1 - smoothing) + smoothing / classes
        return -(log_p * target * along).sum(axis), None, None
    ignored = target == h.get("ignore_index", -100)
    place = np.where(ignored, 0, target)
    if place.size and not (place.min() >= 0 and place.max() < classes):
        raise ValueError("a target is no class")
    picked = -np.take_along_axis(log_p, np.expand_dims(place, axis), axis).squeeze(axis)
    weights = np.where(ignored, 0.0, weight[place])
    values = picked * weights
    if smoothing:
        even = np.where(ignored, 0.0, -(log_p * along).sum(axis))
        if h.get("spread") == "others":
            values = (1 - smoothing) * values + smoothing / (classes - 1) * (even - values)
        else:
            values = (1 - smoothing) * values + smoothing / classes * even
    return values, weights, np.where(ignored, 0.0, 1.0)


def _binary(h: Mapping[str, Any]) -> np.ndarray:
    p, t = np.asarray(h["input"], np.float64), np.asarray(h["target"])
    if p.size and (p.min() < 0 or p.max() > 1):
        raise ValueError("no probabilities")
    if "clip" in h:
        p = np.clip(p, h["clip"], 1 - h["clip"])
    more = h.get("epsilon", 0.0)
    with np.errstate(divide="ignore"):
        if "epsilon" in h or "clip" in h:
            return -(t * np.log(p + more) + (1 - t) * np.log(1 - p + more))
        below, above = np.maximum(np.log(p), -100), np.maximum(np.log1p(-p), -100)
    return -(t * below + (1 - t) * above)


def _binary_of_scores(h: Mapping[str, Any]) -> np.ndarray:
    x, t = np.asarray(h["input"], np.float64), np.asarray(h["target"])
    if "clip" in h or "epsilon" in h:
        return _binary({**h, "input": sigmoid(x)})
    positives = 1.0 if h.get("pos_weight") is None else np.asarray(h["pos_weight"])
    return (1 - t) * np.logaddexp(0, x) + positives * t * np.logaddexp(0, -x)


def _distance(h: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(np.abs(np.asarray(h["input"], np.float64) - h["target"]))


def _smooth(h: Mapping[str, Any]) -> np.ndarray:
    d, beta = _distance(h), h.get("beta", 1.0)
    return np.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta) if beta else d


def _huber(h: Mapping[str, Any]) -> np.ndarray:
    d, delta = _distance(h), h.get("delta", 1.0)
    return np.where(d < delta, 0.5 * d * d, delta * (d - 0.5 * delta))


def _divergence(h: Mapping[str, Any]) -> np.ndarray:
    x, t = np.asarray(h["input"], np.float64), np.asarray(h["target"], np.float64)
    if h.get("log_target", False):
        return np.exp(t) * (t - x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(t == 0, 0.0, t * np.log(np.where(t == 0, 1.0, t))) - t * x


_ELEMENTS = {
    "binary_cross_entropy": _binary,
    "binary_cross_entropy_with_logits": _binary_of_scores,
    "mse_loss": lambda h: _distance(h) ** 2,
    "l1_loss": _distance,
    "smooth_l1_loss": _smooth,
    "huber_loss": _huber,
    "kl_div": _divergence,
}
