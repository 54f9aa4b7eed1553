"""The losses of a trace, computed again in float64 from their recorded arguments."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from jaxnet.parity._loss_values import value
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
        batches: The number of batches whose gradients a step adds up.
    """

    kind: str
    records: tuple[LossRecord, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batches: int = 1

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
            "batches": self.batches,
        }

    def altered(self, **changes: Any) -> Self:
        """The same loss with other arithmetic."""
        return dataclasses.replace(self, changes={**self.changes, **changes})

    def observe(self) -> dict[str, np.ndarray]:
        """The loss of each step: {"0:loss": ...}."""
        found = {}
        for record in self.records:
            out = value(self.kind, record.arguments, self.changes)
            found[f"{record.step}:loss"] = follow(record, np.asarray(out, np.float64))
        return found


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
    batches = max((step.collected for step in trace.steps), default=1)
    return [
        Loss(calls[0][0], tuple(record for _, record in calls), batches=batches)
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
