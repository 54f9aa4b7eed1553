"""Faults of whole runs: averages of the weights, running statistics, numbers of updates."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxnet.parity._traps._trap import Trap

AVERAGE, STATISTICS = "average", "running statistics"


@dataclasses.dataclass(frozen=True)
class Average:
    """The exponential moving average of one parameter: a reference for its traps.

    Attributes:
        config: "decay".
        start: The average before the first recorded update.
        values: The parameter before the first recorded update and after each of them.
        changes: What a trap changes.
    """

    config: Mapping[str, Any]
    start: np.ndarray
    values: tuple[np.ndarray, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kind: str = AVERAGE

    def altered(self, **changes: Any) -> Self:
        """The same average by another rule."""
        return dataclasses.replace(self, changes={**self.changes, **changes})

    def observe(self) -> dict[str, np.ndarray]:
        """The average after each update: {"0:average": ...}."""
        h = {**self.config, **self.changes}
        average = {"zeros": np.zeros_like(self.start), "first": self.values[1]}.get(
            h.get("begin", ""), self.start
        )
        late, found = h.get("late", False), {}
        for step, value in enumerate(self.values[:-1] if late else self.values[1:]):
            decay = h["decay"]
            if h.get("warm"):
                decay = min(decay, (1 + step) / (10 + step))
            if step % h.get("every", 1) == 0:
                average = decay * average + (1 - decay) * value
            out = average
            if h.get("corrected"):
                out = average / (1 - decay ** (step + 1))
            found[f"{step}:average"] = out
        return found


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The running statistics of a normalisation in one step: a reference for their traps.

    Attributes:
        config: "momentum", the weight of the new value.
        before: The statistics before the step.
        after: Torch's after it.
        updates: The number of times that they are moved towards the batch's.
    """

    config: Mapping[str, Any]
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    updates: int = 1
    kind: str = STATISTICS

    def observe(self) -> dict[str, np.ndarray]:
        """The statistics after the step by the buffers' names."""
        keep = 1 - self.config["momentum"]
        left = keep**self.updates
        found = {}
        for name, before in self.before.items():
            new = (self.after[name] - keep * before) / (1 - keep)
            found[name] = left * before + (1 - left) * new
        return found


def _set(**fixed: Any) -> Callable[..., Average]:
    return lambda average, **values: average.altered(**fixed, **values)


def _updated(statistics: Statistics, updates: int) -> Statistics:
    return dataclasses.replace(statistics, updates=updates)


TRAPS: tuple[Trap, ...] = (
    Trap(
        "average-decay",
        (AVERAGE,),
        _set(),
        "The decay of the averaged weights is {decay:.6g}; torch's is {torch[decay]:.6g}.",
        "decay={torch[decay]:.6g}",
        constants={"decay": (0.999, 0.9999, 0.99, 0.9, 0.995)},
    ),
    Trap(
        "average-complement",
        (AVERAGE,),
        lambda average: average.altered(decay=1 - average.config["decay"]),
        "The decay is taken for its complement: the average moves by the decay {torch[decay]:.6g} "
        "towards the new weights.",
        "decay * average + (1 - decay) * weights",
    ),
    Trap(
        "average-before-update",
        (AVERAGE,),
        _set(late=True),
        "The average takes the weights before the update; torch's takes those after it.",
        "the average after the optimizer's update",
    ),
    Trap(
        "average-from-zero",
        (AVERAGE,),
        _set(begin="zeros"),
        "The average begins at 0; torch's begins with the weights.",
        "a copy of the weights as the first average",
    ),
    Trap(
        "average-from-zero-corrected",
        (AVERAGE,),
        _set(begin="zeros", corrected=True),
        "The average begins at 0 and is corrected for it (optax.ema(debias=True)); torch's begins "
        "with the weights.",
        "a copy of the weights as the first average, without correction",
    ),
    Trap(
        "average-from-first-update",
        (AVERAGE,),
        _set(begin="first"),
        "The average begins with the weights after the first update; torch's begins with those "
        "before.",
        "a copy of the weights before the first update",
    ),
    Trap(
        "average-warm-up",
        (AVERAGE,),
        _set(warm=True),
        "The decay is at most (1 + t) / (10 + t) in the first updates; torch's program has it "
        "constant.",
        "a constant decay",
    ),
    Trap(
        "average-interval",
        (AVERAGE,),
        _set(),
        "The average is taken every {every} updates; torch's with every update.",
        "an average with every update",
        options={"every": (2, 3, 4, 5, 10)},
    ),
    Trap(
        "statistics-moved-again",
        (STATISTICS,),
        _updated,
        "The running statistics are moved {updates} times by the batch of one step; torch moves "
        "them once (a second forward pass in training mode does it, as one for the metrics).",
        "model.eval() for passes beside the training step",
        options={"updates": (2, 3, 4)},
    ),
    Trap(
        "statistics-not-moved",
        (STATISTICS,),
        lambda statistics: _updated(statistics, 0),
        "The running statistics do not change; torch's are moved in training mode.",
        "model.train(), and the new buffers in the state",
    ),
)


def of_batches(torch: Sequence[int], jax: Sequence[int]) -> str | None:
    """What differs in the sizes of the batches of an epoch, in a sentence; None if nothing does.

    Args:
        torch: The number of samples in each of torch's batches.
        jax: The same of the JAX program.
    """
    torch, jax = list(torch), list(jax)
    if torch == jax:
        return None
    if jax == torch[:-1] and torch[-1] < max(torch):
        return (
            f"The last batch, of {torch[-1]} samples, is left out (drop_last=True); torch's "
            "program trains on it."
        )
    if torch == jax[:-1] and jax[-1] < max(jax):
        return (
            f"There is a last batch of {jax[-1]} samples; torch's program leaves it out "
            "(drop_last=True)."
        )
    if len(torch) != len(jax) and sum(torch) == sum(jax):
        return f"The batches have {max(jax)} samples; torch's have {max(torch)}."
    if len(torch) != len(jax):
        return f"There are {len(jax)} updates; torch's program makes {len(torch)}."
    k = next(i for i, (a, b) in enumerate(zip(torch, jax, strict=True)) if a != b)
    return f"Batch {k} has {jax[k]} samples; torch's has {torch[k]}."


def of_sharing(
    torch: Mapping[str, Sequence[str]], jax: Mapping[str, Sequence[str]]
) -> list[tuple[str, str]]:
    """Parameters that one program shares and the other does not.

    Args:
        torch: For each of torch's parameters all its names.
        jax: The same of the JAX program.

    Returns:
        Pairs of the first name and a sentence.
    """
    mine = {name: first for first, names in jax.items() for name in names}
    theirs = {name: first for first, names in torch.items() for name in names}
    found = []
    for first, names in torch.items():
        copies = sorted({mine[name] for name in names if name in mine})
        if len(copies) > 1:
            found.append(
                (
                    first,
                    f"{' and '.join(copies)} are {len(copies)} parameters; in torch they are one "
                    "(n * [module], or tied weights), whose gradients are added.",
                )
            )
    for first, names in jax.items():
        originals = sorted({theirs[name] for name in names if name in theirs})
        if len(originals) > 1:
            found.append(
                (
                    first,
                    f"{' and '.join(originals)} are one parameter; in torch they are "
                    f"{len(originals)}.",
                )
            )
    return found
