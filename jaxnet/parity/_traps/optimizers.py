"""Faults of optimizers: what a program's update of a parameter has that torch's has not."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxnet.parity._traps._trap import Trap, always
from jaxnet.parity._updates import KINDS, Update

ADAM = ("Adam", "AdamW")
MOMENTUM = ("SGD", "RMSprop")
EPSILON = ("Adam", "AdamW", "RMSprop", "Adagrad")

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
_MOMENTA = (0.9, 0.99, 0.95, 0.8, 0.5, 0.85, 0.98)
_EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-3, 1e-10, 1e-12, 1e-15, 1e-4, 1.0)
_SECONDS = (0.999, 0.99, 0.95, 0.98, 0.9, 0.9999, 0.995)


def _set(**fixed: Any) -> Callable[..., Update]:
    """A change of hyperparameters, and of the constants and options of the row."""

    def change(update: Update, **values: Any) -> Update:
        return update.altered(**fixed, **values)

    return change


def _decays(config: Mapping[str, Any]) -> bool:
    return bool(config.get("weight_decay"))


def _decoupled(config: Mapping[str, Any]) -> bool:
    return _decays(config) and bool(config.get("decoupled_weight_decay"))


def _coupled(config: Mapping[str, Any]) -> bool:
    return _decays(config) and not config.get("decoupled_weight_decay")


def _has(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: bool(config.get(name))


def _lacks(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: not config.get(name)


def _plain_momentum(config: Mapping[str, Any]) -> bool:
    return bool(config.get("momentum")) and not config.get("nesterov")


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


def _swapped_betas(update: Update) -> Update:
    return update.altered(betas=tuple(reversed(update.config["betas"])))


def _average(update: Update) -> Update:
    return update.altered(dampening=update.config["momentum"], first="damped")


TRAPS: tuple[Trap, ...] = (
    # Weight decay
    Trap(
        "decay-decoupled",
        KINDS,
        _set(coupled=False),
        "The weight decay {torch[weight_decay]:.4g} is decoupled: it shrinks the parameter; "
        "torch adds it to the gradient.",
        "optax.chain(optax.add_decayed_weights({torch[weight_decay]:.4g}), ...) before the "
        "optimizer, as jaxnet.optim does",
        when=_coupled,
    ),
    Trap(
        "decay-coupled",
        KINDS,
        _set(coupled=True),
        "The weight decay {torch[weight_decay]:.4g} is added to the gradient; torch's is "
        "decoupled: it shrinks the parameter (AdamW).",
        "optim.AdamW, or optax.adamw(weight_decay={torch[weight_decay]:.4g})",
        when=_decoupled,
    ),
    Trap(
        "decay-missing",
        KINDS,
        _set(weight_decay=0.0),
        "There is no weight decay; torch's is {torch[weight_decay]:.4g}.",
        "weight_decay={torch[weight_decay]:.4g} for these parameters",
        when=_decays,
    ),
    Trap(
        "decay-value",
        KINDS,
        _set(),
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
        _set(coupled=False, decay_by="one"),
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
        _set(coupled=False, decay_late=True),
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
        _set(gradient_factor=-1.0),
        "The step goes up the gradient instead of down.",
        "the update with a minus sign; maximize=False",
    ),
    Trap(
        "not-updated",
        KINDS,
        _set(frozen=True),
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
    # Momentum
    Trap(
        "momentum-missing",
        MOMENTUM,
        _set(momentum=0.0, nesterov=False),
        "There is no momentum; torch's is {torch[momentum]:.4g}.",
        "momentum={torch[momentum]:.4g}",
        when=_has("momentum"),
    ),
    Trap(
        "momentum-value",
        MOMENTUM,
        _set(),
        "The momentum is {momentum:.6g}; torch's is {torch[momentum]:.4g}.",
        "momentum={torch[momentum]:.4g}",
        constants={"momentum": _MOMENTA},
    ),
    Trap(
        "momentum-average",
        ("SGD",),
        _average,
        "The buffer is an average: a new gradient counts 1 - momentum, the first one too; in "
        "torch it counts 1.",
        "buffer = momentum * buffer + gradient (optax.trace, not optax.ema)",
        when=_has("momentum"),
    ),
    Trap(
        "dampening",
        ("SGD",),
        _set(),
        "A new gradient counts 1 - {dampening:.6g} in the buffer; torch's dampening is "
        "{torch[dampening]:.4g}.",
        "dampening={torch[dampening]:.4g}",
        when=_has("momentum"),
        constants={"dampening": (0.9, 0.99, 0.5, 0.1)},
    ),
    Trap(
        "dampening-missing",
        ("SGD",),
        _set(dampening=0.0),
        "There is no dampening; torch's is {torch[dampening]:.4g}.",
        "dampening={torch[dampening]:.4g}",
        when=lambda config: bool(config.get("momentum") and config.get("dampening")),
    ),
    Trap(
        "first-buffer",
        ("SGD",),
        _set(first="damped"),
        "The first gradient counts 1 - dampening in the buffer; in torch the first one counts 1.",
        "buffer = gradient in the first step",
        when=lambda config: bool(config.get("momentum") and config.get("dampening")),
    ),
    Trap(
        "first-step-scaled",
        ("SGD",),
        _set(),
        "The first gradient counts {first:.6g} in the empty buffer; in torch it counts 1.",
        "buffer = gradient in the first step",
        when=_has("momentum"),
        constants={"first": (0.1, 0.01, 0.5)},
    ),
    Trap(
        "momentum-lr-inside",
        MOMENTUM,
        _set(lr_inside=True),
        "The buffer holds the gradients times the learning rate; torch's holds the gradients, and "
        "the learning rate of the step multiplies all of it.",
        "the learning rate after the momentum, as optim.SGD and optax.sgd do",
        when=_has("momentum"),
    ),
    Trap(
        "nesterov-missing",
        ("SGD",),
        _set(nesterov=False),
        "The momentum is plain; torch's is Nesterov's.",
        "nesterov=True",
        when=_has("nesterov"),
    ),
    Trap(
        "nesterov",
        MOMENTUM,
        _set(nesterov=True),
        "The momentum is Nesterov's; torch's is plain.",
        "nesterov=False",
        when=_plain_momentum,
    ),
    # Adam
    Trap(
        "beta1",
        ADAM,
        _set(),
        "The first beta is {beta1:.6g}; torch's is {torch[betas][0]:.6g}.",
        "betas={torch[betas]}",
        constants={"beta1": (*_MOMENTA, 0.0)},
    ),
    Trap(
        "beta2",
        ADAM,
        _set(),
        "The second beta is {beta2:.6g}; torch's is {torch[betas][1]:.6g}.",
        "betas={torch[betas]}",
        constants={"beta2": _SECONDS},
    ),
    Trap(
        "betas-swapped",
        ADAM,
        _swapped_betas,
        "The two betas are in the other order; torch's are {torch[betas]}.",
        "betas={torch[betas]}",
    ),
    Trap(
        "bias-correction-missing",
        ADAM,
        _set(correct1=False, correct2=False),
        "The moments are not corrected for their start at 0.",
        "m / (1 - beta1**t) and v / (1 - beta2**t)",
    ),
    Trap(
        "bias-correction-first-missing",
        ADAM,
        _set(correct1=False),
        "The first moment is not corrected for its start at 0.",
        "m / (1 - beta1**t)",
    ),
    Trap(
        "bias-correction-second-missing",
        ADAM,
        _set(correct2=False),
        "The second moment is not corrected for its start at 0.",
        "v / (1 - beta2**t)",
    ),
    Trap(
        "bias-correction-step",
        ADAM,
        _set(),
        "The bias correction counts the updates with {t_shift:+d}; torch's first update has 1.",
        "1 - beta**t with t = 1 in the first update",
        options={"t_shift": (-1, 1, -2, 2)},
    ),
    Trap(
        "amsgrad",
        ADAM,
        _set(amsgrad=True),
        "The largest second moment so far is used (amsgrad=True); torch uses the last one.",
        "amsgrad=False",
        when=_lacks("amsgrad"),
    ),
    Trap(
        "amsgrad-missing",
        ADAM,
        _set(amsgrad=False),
        "The last second moment is used; torch uses the largest one so far (amsgrad=True).",
        "amsgrad=True",
        when=_has("amsgrad"),
    ),
    Trap(
        "amsgrad-corrected",
        ADAM,
        _set(amsgrad="corrected"),
        "The largest of the corrected second moments is used; torch takes the largest one and "
        "corrects it after that.",
        "max(v), and then its bias correction (optim.Adam(amsgrad=True))",
        when=_has("amsgrad"),
    ),
    Trap(
        "nadam",
        ADAM,
        _set(nesterov=True),
        "The first moment looks ahead (Nesterov's form of Adam); torch's does not.",
        "nesterov=False",
    ),
    # Epsilon
    Trap(
        "optimizer-epsilon",
        EPSILON,
        _set(),
        "The epsilon is {eps:.4g}; torch's is {torch[eps]:.4g}.",
        "eps={torch[eps]:.4g}",
        constants={"eps": _EPSILONS},
    ),
    Trap(
        "epsilon-inside-root",
        EPSILON,
        _set(eps_at="inside"),
        "The epsilon is {eps:.4g} and inside of the root; torch adds {torch[eps]:.4g} to the root.",
        "sqrt(v) + {torch[eps]:.4g} (optax.rmsprop: eps_in_sqrt=False)",
        constants={"eps": _EPSILONS},
    ),
    Trap(
        "epsilon-root",
        ADAM,
        _set(),
        "There is a second epsilon, {eps_root:.4g}, inside of the root (optax's eps_root); torch "
        "has none.",
        "eps_root=0",
        constants={"eps_root": _EPSILONS},
    ),
    Trap(
        "epsilon-uncorrected",
        ADAM,
        _set(eps_at="uncorrected"),
        "The epsilon {torch[eps]:.4g} is added to the root before its bias correction; torch adds "
        "it after.",
        "sqrt(v) / sqrt(1 - beta2**t) + eps",
        when=_has("eps"),
    ),
    # RMSprop and Adagrad
    Trap(
        "alpha",
        ("RMSprop",),
        _set(),
        "The factor of the running mean is {alpha:.6g}; torch's alpha is {torch[alpha]:.6g}.",
        "alpha={torch[alpha]:.6g} (optax: decay=)",
        constants={"alpha": (0.9, 0.99, 0.999, 0.95)},
    ),
    Trap(
        "optax-rmsprop",
        ("RMSprop",),
        _set(alpha=0.9, eps=1e-8, eps_at="inside"),
        "The arguments are the defaults of optax.rmsprop: decay=0.9, and eps=1e-8 inside of the "
        "root; torch has alpha={torch[alpha]:.4g} and eps={torch[eps]:.4g} outside.",
        "optax.rmsprop(decay={torch[alpha]:.4g}, eps={torch[eps]:.4g}, eps_in_sqrt=False)",
    ),
    Trap(
        "centered",
        ("RMSprop",),
        _set(centered=True),
        "The gradient is divided by its estimated standard deviation (centered=True).",
        "centered=False",
        when=_lacks("centered"),
    ),
    Trap(
        "centered-missing",
        ("RMSprop",),
        _set(centered=False),
        "The gradient is divided by the root of its mean square; torch subtracts the square of "
        "the mean before (centered=True).",
        "centered=True",
        when=_has("centered"),
    ),
    Trap(
        "rmsprop-bias-correction",
        ("RMSprop",),
        _set(correct2=True),
        "The mean square is corrected for its start at 0; torch's RMSprop does not correct it.",
        "bias_correction=False",
    ),
    Trap(
        "initial-accumulator",
        ("RMSprop", "Adagrad"),
        _set(),
        "The accumulator begins at {initial:.4g}; torch's begins at another value (0 by default).",
        "initial_accumulator_value=0 (optax.rmsprop: initial_scale=0)",
        constants={"initial": (0.1, 1.0, 0.01, 0.0)},
    ),
    Trap(
        "optax-adagrad",
        ("Adagrad",),
        _set(initial=0.1, eps=1e-7, eps_at="inside"),
        "The arguments are the defaults of optax.adagrad: initial_accumulator_value=0.1, and "
        "eps=1e-7 inside of the root; torch has 0 and eps={torch[eps]:.4g} outside.",
        "optim.Adagrad(eps={torch[eps]:.4g})",
    ),
    Trap(
        "lr-decay",
        ("Adagrad",),
        _set(),
        "lr_decay is {lr_decay:.4g}; torch's is {torch[lr_decay]:.4g}.",
        "lr_decay={torch[lr_decay]:.4g}",
        when=always,
        constants={"lr_decay": (1e-3, 1e-2, 1e-1, 1e-4, 1e-6)},
    ),
)
