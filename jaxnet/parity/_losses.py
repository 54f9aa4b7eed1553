"""A recorded loss, computed again in float64 from its recorded arguments.

The losses inside of which programs err are written out in numpy, one number an element, so that
their reductions, epsilons and axes can be changed; all others are jaxnet.losses'.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np

from jaxnet import losses
from jaxnet.parity._reference import of_function
from jaxnet.parity._trace import Function, Step, Trace
from jaxnet.parity._tree import from_json, keys_of

# The names of the arguments of each loss in torch's order, as far as they are given by position.
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "cross_entropy": ("input", "target", "weight", "size_average", "ignore_index"),
    "nll_loss": ("input", "target", "weight", "size_average", "ignore_index"),
    "binary_cross_entropy": ("input", "target", "weight"),
    "binary_cross_entropy_with_logits": ("input", "target", "weight"),
    "mse_loss": ("input", "target"),
    "l1_loss": ("input", "target"),
    "smooth_l1_loss": ("input", "target"),
    "huber_loss": ("input", "target"),
    "kl_div": ("input", "target"),
    "gaussian_nll_loss": ("input", "target", "var"),
    "poisson_nll_loss": ("input", "target"),
    "soft_margin_loss": ("input", "target"),
    "hinge_embedding_loss": ("input", "target"),
    "multi_margin_loss": ("input", "target"),
    "multilabel_margin_loss": ("input", "target"),
    "multilabel_soft_margin_loss": ("input", "target"),
    "cosine_embedding_loss": ("input1", "input2", "target"),
    "margin_ranking_loss": ("input1", "input2", "target"),
    "triplet_margin_loss": ("anchor", "positive", "negative"),
    "mean": ("input", "dim", "keepdim"),
    "sum": ("input", "dim", "keepdim"),
}
# The functions of torch's criteria.
CRITERIA: Mapping[str, str] = {
    "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "MSELoss": "mse_loss",
    "L1Loss": "l1_loss",
    "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss",
    "KLDivLoss": "kl_div",
    "GaussianNLLLoss": "gaussian_nll_loss",
    "PoissonNLLLoss": "poisson_nll_loss",
    "SoftMarginLoss": "soft_margin_loss",
    "HingeEmbeddingLoss": "hinge_embedding_loss",
    "MultiMarginLoss": "multi_margin_loss",
    "MultiLabelMarginLoss": "multilabel_margin_loss",
    "MultiLabelSoftMarginLoss": "multilabel_soft_margin_loss",
    "CosineEmbeddingLoss": "cosine_embedding_loss",
    "MarginRankingLoss": "margin_ranking_loss",
    "TripletMarginLoss": "triplet_margin_loss",
}
CLASSES = ("cross_entropy", "nll_loss")


@dataclasses.dataclass(frozen=True)
class LossRecord:
    """One call of a loss in one step.

    Attributes:
        step: The step of the trace.
        arguments: The arguments by torch's names, arrays in float64.
        rest: The functions between this one's output and the loss.
        site: The site of the output.
        known: The values of all functions of the step that `rest` takes, by site.
    """

    step: int
    arguments: Mapping[str, Any]
    rest: tuple[Function, ...] = ()
    site: str = ""
    known: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss in some steps: a reference for the traps of losses.

    Attributes:
        kind: The name of torch's function.
        records: The calls.
        changes: What a trap changes, by the words of `value`.
    """

    kind: str
    records: tuple[LossRecord, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def config(self) -> Mapping[str, Any]:
        """The arguments that are no arrays, and "weighted": whether there are class weights."""
        given = self.records[0].arguments
        plain = {k: v for k, v in given.items() if not isinstance(v, np.ndarray)}
        return {
            "reduction": "mean",
            "ignore_index": -100,
            "label_smoothing": 0.0,
            **plain,
            "weighted": given.get("weight") is not None,
            "positives": given.get("pos_weight") is not None,
            "shape": np.shape(given.get("input", 0)),
        }

    def altered(self, **changes: Any) -> Self:
        """The same loss with other arithmetic."""
        return dataclasses.replace(self, changes={**self.changes, **changes})

    def observe(self) -> dict[str, np.ndarray]:
        """The loss of each step: {"0:loss": ...}."""
        found = {}
        for record in self.records:
            out = value(self.kind, record.arguments, self.changes)
            whole = follow(record, np.asarray(out, np.float64))
            found[f"{record.step}:loss"] = whole * self.changes.get("factor", 1.0)
        return found


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


def follow(record: LossRecord, out: np.ndarray) -> np.ndarray:
    """The whole loss, where this call gave another output.

    Raises:
        ValueError: jaxnet has no function that comes in between.
    """
    known = {**record.known, record.site: out}
    for function in record.rest:
        given = from_json(function.inputs, known.__getitem__)
        out = of_function(function.function, given).observe()["output"]
        known[f"function:{function.name}"] = out
    return out


def loss_references(trace: Trace) -> list[Loss]:
    """The losses of a trace: each call of a loss on the way to the value of backward().

    Returns:
        A reference for each call, over all steps that were recorded in full.
    """
    found: dict[str, list[tuple[str, LossRecord]]] = {}
    for step in trace.steps:
        for kind, name, record in _records(trace, step):
            found.setdefault(name, []).append((kind, record))
    return [
        Loss(calls[0][0], tuple(record for _, record in calls))
        for calls in found.values()
        if len({kind for kind, _ in calls}) == 1
    ]


def _records(trace: Trace, step: Step) -> Iterator[tuple[str, str, LossRecord]]:
    """The kind, the name and the record of each loss of a step."""
    if not step.losses:
        return
    whole = step.double(step.losses[0])
    for kind, name, site, form, more in _calls(trace, step):
        rest: list[Function] = []
        known: dict[str, np.ndarray] = {}
        last, touched = site, {site}
        for later in step.functions:
            sites = set(keys_of(later.inputs).values())
            if not touched & sites or np.array_equal(step.double(last), whole):
                continue
            last = f"function:{later.name}"
            touched.add(last)
            rest.append(later)
            known |= {s: step.double(s) for s in sites if s in step.sites}
            if last not in step.sites:
                break
        if last not in step.sites or not np.array_equal(step.double(last), whole):
            continue
        names = ARGUMENTS[kind]
        arguments = {
            names[int(k)] if k.isdigit() and int(k) < len(names) else k: v
            for k, v in {**more, **from_json(form, step.double)}.items()
        }
        arguments = {k: v for k, v in arguments.items() if k not in ("size_average", "reduce")}
        yield kind, name, LossRecord(step.index, arguments, tuple(rest), site, known)


def _calls(
    trace: Trace, step: Step
) -> Iterator[tuple[str, str, str, Any, Mapping[str, np.ndarray]]]:
    """Kind, name, output, inputs and further arguments of what may be a loss."""
    for call in step.calls:
        module = trace.modules.get(call.module)
        kind = CRITERIA.get(module.cls) if module is not None else None
        if module is not None and kind is not None and f"forward:{call.name}" in step.sites:
            buffers = {
                name.rpartition(".")[2]: step.double(site)
                for name, site in step.of("buffer").items()
                if name.rpartition(".")[0] == call.module
            }
            yield (
                kind,
                call.name,
                f"forward:{call.name}",
                call.inputs,
                {**module.config, **buffers},
            )
    for function in step.functions:
        site = f"function:{function.name}"
        if function.function in ARGUMENTS and site in step.sites:
            yield function.function, function.name, site, function.inputs, {}
