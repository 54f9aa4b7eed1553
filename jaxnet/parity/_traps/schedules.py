"""Faults of schedules: which learning rate an update has."""

import dataclasses
import math
from collections.abc import Callable, Mapping

from jaxnet.parity._schedules import PLATEAU, Rates
from jaxnet.parity._traps._trap import Trap, setting

CLASSES = (
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "OneCycleLR",
)
ALL = ("lr", PLATEAU, *CLASSES)
# The arguments that count steps of the schedule.
_LENGTHS: Mapping[str, str] = {
    "StepLR": "step_size",
    "ConstantLR": "total_iters",
    "LinearLR": "total_iters",
    "PolynomialLR": "total_iters",
    "CosineAnnealingLR": "T_max",
    "CosineAnnealingWarmRestarts": "T_0",
    "OneCycleLR": "total_steps",
}


def _shifted(rates: Rates, shift: int) -> Rates:
    every = rates.config["every"]
    return rates.moved(lambda update: update // every + shift)


def _per_batch(rates: Rates) -> Rates:
    return rates.moved(lambda update: update)


def _per_epoch(rates: Rates, batches: int) -> Rates:
    return rates.moved(lambda update: update // batches)


def _epochs(rates: Rates) -> list[int]:
    return [*range(2, rates.config["steps"] + 1)]


def _updates(rates: Rates) -> list[int]:
    count = rates.config["steps"]
    return [n for k in range(1, count) for n in (k, -k)]


def _constant(rates: Rates) -> Rates:
    return dataclasses.replace(rates, formula=lambda r, step: float(r.config["initial"]["lr"]))


def _longer(rates: Rates, argument: str, longer: int) -> Rates:
    return rates.altered(**{argument: int(rates.config[argument]) + longer})


def _cosine_stays(rates: Rates) -> Rates:
    """optax.cosine_decay_schedule: after the last step the rate stays low."""

    def formula(r: Rates, step: int) -> float:
        first, low, length = r.config["initial"]["lr"], r.config["eta_min"], r.config["T_max"]
        share = (1 + math.cos(math.pi * min(step, length) / length)) / 2
        return float(low + (first - low) * share)

    return dataclasses.replace(rates, formula=formula)


def _from(start: int) -> Callable[[Rates], Rates]:
    """A warm-up that is a plain share of the steps, (step + start) / total."""

    def change(rates: Rates) -> Rates:
        def formula(r: Rates, step: int) -> float:
            share = min(1.0, (step + start) / r.config["total_iters"])
            return float(r.config["initial"]["lr"] * share * r.config.get("end_factor", 1.0))

        return dataclasses.replace(rates, formula=formula)

    return change


def _other_anneal(rates: Rates) -> Rates:
    linear = rates.config.get("anneal_strategy") == "linear"
    return rates.altered(anneal_strategy="cos" if linear else "linear")


TRAPS: tuple[Trap, ...] = (
    Trap(
        "schedule-missing",
        ALL,
        _constant,
        "The learning rate stays at {torch[initial][lr]:.6g}; torch's is scheduled.",
        "optim.scheduled(optimizer, schedule, steps), or schedule.apply in each step",
    ),
    Trap(
        "schedule-step",
        ("lr", *CLASSES),
        _shifted,
        "The learning rate is that of the schedule's step {shift:+d} from torch's: torch's first "
        "update has step 0.",
        "the schedule at the number of updates (or epochs) before this one",
        options={"shift": (1, -1, 2, -2)},
    ),
    Trap(
        "schedule-per-batch",
        CLASSES,
        _per_batch,
        "The schedule goes on with every update; torch's scheduler steps once an epoch.",
        "schedule(epoch), or optim.scheduled(..., every=batches of an epoch)",
        when=lambda config: config["every"] > 1,
    ),
    Trap(
        "schedule-per-epoch",
        ALL,
        _per_epoch,
        "The schedule goes on every {batches} updates; torch's scheduler steps with every update.",
        "schedule(number of updates)",
        when=lambda config: config["every"] == 1,
        options={"batches": _epochs},
    ),
    Trap(
        "schedule-length",
        tuple(_LENGTHS),
        _longer,
        "{argument} is torch's {longer:+d}.",
        "{argument} as in the torch program",
        options={
            "argument": lambda rates: (_LENGTHS[rates.kind],),
            "longer": (-1, 1, -2, 2),
        },
    ),
    Trap(
        "schedule-milestones",
        ("MultiStepLR",),
        lambda rates, later: rates.altered(
            milestones=[m + later for m in rates.config["milestones"]]
        ),
        "The milestones are {later:+d} steps from torch's.",
        "milestones={torch[milestones]}",
        options={"later": (-1, 1)},
    ),
    Trap(
        "schedule-gamma",
        ("StepLR", "MultiStepLR", "ExponentialLR"),
        setting(),
        "The factor of the learning rate is {gamma:.6g}; torch's gamma is {torch[gamma]:.6g}.",
        "gamma={torch[gamma]:.6g}",
        constants={"gamma": (0.1, 0.5, 0.9, 0.95, 0.99, 0.2)},
    ),
    Trap(
        "schedule-lowest",
        ("CosineAnnealingLR", "CosineAnnealingWarmRestarts"),
        setting(),
        "The lowest learning rate is {eta_min:.6g}; torch's eta_min is {torch[eta_min]:.6g}.",
        "eta_min={torch[eta_min]:.6g}",
        constants={"eta_min": (1e-5, 1e-6, 1e-4, 0.0)},
    ),
    Trap(
        "schedule-cosine-stays",
        ("CosineAnnealingLR",),
        _cosine_stays,
        "After T_max the learning rate stays at its lowest (as optax.cosine_decay_schedule does); "
        "torch's rises again.",
        "optim.CosineAnnealingLR",
    ),
    Trap(
        "warmup-start",
        ("LinearLR",),
        setting(),
        "The warm-up begins at {start_factor:.6g} times the learning rate; torch's start_factor "
        "is {torch[start_factor]:.6g}.",
        "start_factor={torch[start_factor]:.6g}",
        constants={"start_factor": (1 / 3, 0.1, 0.01, 1e-3, 0.5)},
    ),
    Trap(
        "warmup-from-zero",
        ("LinearLR",),
        _from(0),
        "The warm-up begins at 0; torch's begins at {torch[start_factor]:.6g} times the learning "
        "rate.",
        "start_factor={torch[start_factor]:.6g}",
    ),
    Trap(
        "warmup-share",
        ("LinearLR",),
        _from(1),
        "The first update of the warm-up has 1 / {torch[total_iters]} of the learning rate; "
        "torch's begins at {torch[start_factor]:.6g} times it.",
        "start_factor={torch[start_factor]:.6g}",
    ),
    Trap(
        "schedule-power",
        ("PolynomialLR",),
        setting(),
        "The power is {power:.6g}; torch's is {torch[power]:.6g}.",
        "power={torch[power]:.6g}",
        constants={"power": (1.0, 2.0, 0.9, 0.5)},
    ),
    Trap(
        "one-cycle-anneal",
        ("OneCycleLR",),
        _other_anneal,
        "The learning rate goes down by another curve (cosine or linear) than torch's "
        "anneal_strategy.",
        "anneal_strategy as in the torch program ('cos' by default)",
    ),
    Trap(
        "one-cycle-rise",
        ("OneCycleLR",),
        setting(),
        "The share of the rise is {pct_start:.6g}; torch's pct_start is another.",
        "pct_start as in the torch program (0.3 by default)",
        constants={"pct_start": (0.3, 0.25, 0.1, 0.5, 0.2)},
    ),
    Trap(
        "one-cycle-start",
        ("OneCycleLR",),
        setting(),
        "The first learning rate is the highest over {div_factor:.6g}; torch's div_factor is "
        "another.",
        "div_factor as in the torch program (25 by default)",
        constants={"div_factor": (25.0, 10.0, 100.0)},
    ),
    Trap(
        "plateau-patience",
        (PLATEAU,),
        lambda rates, earlier: rates.moved(lambda update: update + earlier),
        "The learning rate is lowered {earlier:+d} updates earlier than torch's, which lowers it "
        "when the bad epochs are more than patience (optax: when they are as many).",
        "optim.ReduceLROnPlateau, or a patience of one more with optax",
        options={"earlier": _updates},
    ),
    Trap(
        "schedule-factor",
        ALL,
        lambda rates, factor: (
            rates.altered(
                initial={**rates.config["initial"], "lr": rates.config["initial"]["lr"] * factor}
            )
            if rates.kind not in ("lr", PLATEAU)
            else dataclasses.replace(rates, known=tuple(lr * factor for lr in rates.known))
        ),
        "The learning rate is {factor:.6g} times torch's in every update.",
        "the first learning rate of the torch program, {torch[initial][lr]:.6g}",
        constants={"factor": (0.1, 10.0, 0.5, 2.0)},
    ),
)
