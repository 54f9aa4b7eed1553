"""Faults of optimizers: what a program's update of a parameter has that torch's has not."""

import math
from collections.abc import Mapping
from typing import Any

from jaxnet.parity._rules import KINDS
from jaxnet.parity._traps._trap import Trap, setting
from jaxnet.parity._updates import Update

ADAM = ("Adam", "AdamW")

_RATES = (
    1e-3,
    1e-2,
    1e-1,
    1e-4,
    3e-4,
    5e-4,
    2e-3,
    3e-3,
    5e-3,
    5e-2,
    2e-2,
    1e-5,
    2e-5,
    5e-5,
    1.0,
    0.0,
)
_DECAYS = (1e-4, 1e-2, 5e-4, 1e-3, 5e-2, 1e-1, 1e-5, 1e-6, 2e-5, 4e-5)


def _decays(config: Mapping[str, Any]) -> bool:
    return bool(config.get("weight_decay"))


def _decoupled(config: Mapping[str, Any]) -> bool:
    return _decays(config) and bool(config.get("decoupled_weight_decay"))


def _coupled(config: Mapping[str, Any]) -> bool:
    return _decays(config) and not config.get("decoupled_weight_decay")


def _rates(update: Update) -> set[float]:
    return {float(record.config["lr"]) for record in update.records}


def _constant_lr(update: Update, lr: float) -> Update:
    if len(_rates(update)) > 1:
        raise ValueError("the learning rate is not constant")
    return update.altered(lr=lr)


def _lr_factor(update: Update, lr_factor: float) -> Update:
    if len(_rates(update)) == 1:
        raise ValueError("the learning rate is constant")
    return update.altered(lr_factor=lr_factor)


def _relative_decay(update: Update) -> Update:
    if len(_rates(update)) == 1:
        raise ValueError("the learning rate is constant")
    return update.altered(coupled=False, decay_by="relative")


def _other_form(update: Update, weight_decay: float) -> Update:
    if math.isclose(weight_decay, update.config.get("weight_decay", 0.0), rel_tol=1e-6):
        raise ValueError("the weight decay is torch's")
    decoupled = bool(update.config.get("decoupled_weight_decay"))
    return update.altered(weight_decay=weight_decay, coupled=decoupled)


# The defaults of each class but for the learning rate, for programs that have another optimizer.
_CLASSES: Mapping[str, Mapping[str, Any]] = {
    "SGD": {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False, "dampening": 0.0},
    "Adam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False},
    "RMSprop": {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "weight_decay": 0.0},
    "Adagrad": {"eps": 1e-10, "weight_decay": 0.0, "lr_decay": 0.0},
}


def _other_class(update: Update, cls: str) -> Update:
    same = {cls, update.kind} <= set(ADAM)
    if cls == update.kind or same:
        raise ValueError("the class is the same")
    nothing = {"coupled": True, "nesterov": False, "centered": False}
    return update.altered(cls, **{**nothing, **_CLASSES[cls]})


TRAPS: tuple[Trap, ...] = (
    # Weight decay
    Trap(
        "decay-decoupled",
        KINDS,
        setting(coupled=False),
        "The weight decay {torch[weight_decay]:.4g} is decoupled: it shrinks the parameter; "
        "torch adds it to the gradient.",
        "optax.chain(optax.add_decayed_weights({torch[weight_decay]:.4g}), ...) before the "
        "optimizer, as jaxnet.optim does",
        when=_coupled,
    ),
    Trap(
        "decay-coupled",
        KINDS,
        setting(coupled=True),
        "The weight decay {torch[weight_decay]:.4g} is added to the gradient; torch's is "
        "decoupled: it shrinks the parameter (AdamW).",
        "optim.AdamW, or optax.adamw(weight_decay={torch[weight_decay]:.4g})",
        when=_decoupled,
    ),
    Trap(
        "decay-missing",
        KINDS,
        setting(weight_decay=0.0),
        "There is no weight decay; torch's is {torch[weight_decay]:.4g}.",
        "weight_decay={torch[weight_decay]:.4g} for these parameters",
        when=_decays,
    ),
    Trap(
        "decay-value",
        KINDS,
        setting(),
        "The weight decay is {weight_decay:.4g}; torch's, of the group of these parameters, is "
        "{torch[weight_decay]:.4g}.",
        "weight_decay={torch[weight_decay]:.4g} for these parameters (optax: mask=)",
        constants={"weight_decay": _DECAYS},
    ),
    Trap(
        "decay-other-form",
        KINDS,
        _other_form,
        "There is a weight decay of {weight_decay:.4g} in the other form (added to the gradient "
        "or shrinking the parameter); torch's is {torch[weight_decay]:.4g}.",
        "weight_decay={torch[weight_decay]:.4g}, in torch's form (optim.Adam adds it to the "
        "gradient, optim.AdamW and optax.adamw shrink the parameter)",
        constants={"weight_decay": _DECAYS},
    ),
    Trap(
        "decay-unscaled",
        KINDS,
        setting(coupled=False, decay_by="one"),
        "The weight decay {torch[weight_decay]:.4g} is not multiplied by the learning rate.",
        "p * (1 - lr * weight_decay), as optim.AdamW does",
        when=_decays,
    ),
    Trap(
        "decay-relative",
        KINDS,
        _relative_decay,
        "The weight decay is multiplied by the learning rate over the first learning rate; torch "
        "multiplies it by the learning rate.",
        "p * (1 - lr * weight_decay), as optim.AdamW does",
        when=_decays,
    ),
    Trap(
        "decay-late",
        KINDS,
        setting(coupled=False, decay_late=True),
        "The weight decay shrinks the parameter after the step; torch shrinks it before.",
        "the decay before the step, as optim.AdamW does",
        when=_decays,
    ),
    # Learning rate
    Trap(
        "lr-value",
        KINDS,
        _constant_lr,
        "The learning rate is {lr:.6g}; torch's is {torch[lr]:.6g}.",
        "lr={torch[lr]:.6g}",
        constants={"lr": _RATES},
    ),
    Trap(
        "lr-factor",
        KINDS,
        _lr_factor,
        "The learning rate is {lr_factor:.6g} times torch's in every step.",
        "the learning rate of torch's optimizer, {torch[lr]:.6g} in the first step",
        constants={"lr_factor": (0.1, 10.0, 0.5, 2.0, 0.01, 100.0)},
    ),
    Trap(
        "maximized",
        KINDS,
        setting(gradient_factor=-1.0),
        "The step goes up the gradient instead of down.",
        "the update with a minus sign; maximize=False",
    ),
    Trap(
        "not-updated",
        KINDS,
        setting(frozen=True),
        "These parameters are not updated; torch's optimizer trains them.",
        "the parameters in the optimizer (optax.masked and optax.multi_transform leave some out)",
    ),
    Trap(
        "other-class",
        KINDS,
        _other_class,
        "The optimizer is {cls} with its other arguments at their defaults.",
        "the optimizer of the torch program",
        options={"cls": tuple(_CLASSES)},
    ),
)
