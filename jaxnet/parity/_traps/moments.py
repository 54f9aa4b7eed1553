"""Faults of optimizers in what they keep of earlier gradients: momentum, moments, epsilon."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnet.parity._traps._trap import Trap, setting
from jaxnet.parity._traps.optimizers import ADAM
from jaxnet.parity._updates import Update

MOMENTUM = ("SGD", "RMSprop")
EPSILON = ("Adam", "AdamW", "RMSprop", "Adagrad")
_MOMENTA = (0.9, 0.99, 0.95, 0.8, 0.5, 0.85, 0.98)
_EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-3, 1e-10, 1e-12, 1e-15, 1e-4, 1.0)
_SECONDS = (0.999, 0.99, 0.95, 0.98, 0.9, 0.9999, 0.995)


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: all(config.get(name) for name in names)


def _lacks(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: not config.get(name)


def _plain_momentum(config: Mapping[str, Any]) -> bool:
    return bool(config.get("momentum")) and not config.get("nesterov")


def _swapped_betas(update: Update) -> Update:
    return update.altered(betas=tuple(reversed(update.config["betas"])))


def _average(update: Update) -> Update:
    return update.altered(dampening=update.config["momentum"], first="damped")


TRAPS: tuple[Trap, ...] = (
    # Momentum
    Trap(
        "momentum-missing",
        MOMENTUM,
        setting(momentum=0.0, nesterov=False),
        "There is no momentum; torch's is {torch[momentum]:.4g}.",
        "momentum={torch[momentum]:.4g}",
        when=_has("momentum"),
    ),
    Trap(
        "momentum-value",
        MOMENTUM,
        setting(),
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
        setting(),
        "A new gradient counts 1 - {dampening:.6g} in the buffer; torch's dampening is "
        "{torch[dampening]:.4g}.",
        "dampening={torch[dampening]:.4g}",
        when=_has("momentum"),
        constants={"dampening": (0.9, 0.99, 0.5, 0.1)},
    ),
    Trap(
        "dampening-missing",
        ("SGD",),
        setting(dampening=0.0),
        "There is no dampening; torch's is {torch[dampening]:.4g}.",
        "dampening={torch[dampening]:.4g}",
        when=_has("momentum", "dampening"),
    ),
    Trap(
        "first-buffer",
        ("SGD",),
        setting(first="damped"),
        "The first gradient counts 1 - dampening in the buffer; in torch the first one counts 1.",
        "buffer = gradient in the first step",
        when=_has("momentum", "dampening"),
    ),
    Trap(
        "first-step-scaled",
        ("SGD",),
        setting(),
        "The first gradient counts {first:.6g} in the empty buffer; in torch it counts 1.",
        "buffer = gradient in the first step",
        when=_has("momentum"),
        constants={"first": (0.1, 0.01, 0.5)},
    ),
    Trap(
        "momentum-lr-inside",
        MOMENTUM,
        setting(lr_inside=True),
        "The buffer holds the gradients times the learning rate; torch's holds the gradients, and "
        "the learning rate of the step multiplies all of it.",
        "the learning rate after the momentum, as optim.SGD and optax.sgd do",
        when=_has("momentum"),
    ),
    Trap(
        "nesterov-missing",
        ("SGD",),
        setting(nesterov=False),
        "The momentum is plain; torch's is Nesterov's.",
        "nesterov=True",
        when=_has("nesterov"),
    ),
    Trap(
        "nesterov",
        MOMENTUM,
        setting(nesterov=True),
        "The momentum is Nesterov's; torch's is plain.",
        "nesterov=False",
        when=_plain_momentum,
    ),
    # Adam
    Trap(
        "beta1",
        ADAM,
        setting(),
        "The first beta is {beta1:.6g}; torch's is {torch[betas][0]:.6g}.",
        "betas={torch[betas]}",
        constants={"beta1": (*_MOMENTA, 0.0)},
    ),
    Trap(
        "beta2",
        ADAM,
        setting(),
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
        setting(correct1=False, correct2=False),
        "The moments are not corrected for their start at 0.",
        "m / (1 - beta1**t) and v / (1 - beta2**t)",
    ),
    Trap(
        "bias-correction-first-missing",
        ADAM,
        setting(correct1=False),
        "The first moment is not corrected for its start at 0.",
        "m / (1 - beta1**t)",
    ),
    Trap(
        "bias-correction-second-missing",
        ADAM,
        setting(correct2=False),
        "The second moment is not corrected for its start at 0.",
        "v / (1 - beta2**t)",
    ),
    Trap(
        "bias-correction-step",
        ADAM,
        setting(),
        "The bias correction counts the updates with {t_shift:+d}; torch's first update has 1.",
        "1 - beta**t with t = 1 in the first update",
        options={"t_shift": (-1, 1, -2, 2)},
    ),
    Trap(
        "amsgrad",
        ADAM,
        setting(amsgrad=True),
        "The largest second moment so far is used (amsgrad=True); torch uses the last one.",
        "amsgrad=False",
        when=_lacks("amsgrad"),
    ),
    Trap(
        "amsgrad-missing",
        ADAM,
        setting(amsgrad=False),
        "The last second moment is used; torch uses the largest one so far (amsgrad=True).",
        "amsgrad=True",
        when=_has("amsgrad"),
    ),
    Trap(
        "amsgrad-corrected",
        ADAM,
        setting(amsgrad="corrected"),
        "The largest of the corrected second moments is used; torch takes the largest one and "
        "corrects it after that.",
        "max(v), and then its bias correction (optim.Adam(amsgrad=True))",
        when=_has("amsgrad"),
    ),
    Trap(
        "nadam",
        ADAM,
        setting(nesterov=True),
        "The first moment looks ahead (Nesterov's form of Adam); torch's does not.",
        "nesterov=False",
    ),
    # Epsilon
    Trap(
        "optimizer-epsilon",
        EPSILON,
        setting(),
        "The epsilon is {eps:.4g}; torch's is {torch[eps]:.4g}.",
        "eps={torch[eps]:.4g}",
        constants={"eps": _EPSILONS},
    ),
    Trap(
        "epsilon-inside-root",
        EPSILON,
        setting(eps_at="inside"),
        "The epsilon is {eps:.4g} and inside of the root; torch adds {torch[eps]:.4g} to the root.",
        "sqrt(v) + {torch[eps]:.4g} (optax.rmsprop: eps_in_sqrt=False)",
        constants={"eps": _EPSILONS},
    ),
    Trap(
        "epsilon-root",
        ADAM,
        setting(),
        "There is a second epsilon, {eps_root:.4g}, inside of the root (optax's eps_root); torch "
        "has none.",
        "eps_root=0",
        constants={"eps_root": _EPSILONS},
    ),
    Trap(
        "epsilon-uncorrected",
        ADAM,
        setting(eps_at="uncorrected"),
        "The epsilon {torch[eps]:.4g} is added to the root before its bias correction; torch adds "
        "it after.",
        "sqrt(v) / sqrt(1 - beta2**t) + eps",
        when=_has("eps"),
    ),
    # RMSprop and Adagrad
    Trap(
        "alpha",
        ("RMSprop",),
        setting(),
        "The factor of the running mean is {alpha:.6g}; torch's alpha is {torch[alpha]:.6g}.",
        "alpha={torch[alpha]:.6g} (optax: decay=)",
        constants={"alpha": (0.9, 0.99, 0.999, 0.95)},
    ),
    Trap(
        "optax-rmsprop",
        ("RMSprop",),
        setting(alpha=0.9, eps=1e-8, eps_at="inside"),
        "The arguments are the defaults of optax.rmsprop: decay=0.9, and eps=1e-8 inside of the "
        "root; torch has alpha={torch[alpha]:.4g} and eps={torch[eps]:.4g} outside.",
        "optax.rmsprop(decay={torch[alpha]:.4g}, eps={torch[eps]:.4g}, eps_in_sqrt=False)",
    ),
    Trap(
        "centered",
        ("RMSprop",),
        setting(centered=True),
        "The gradient is divided by its estimated standard deviation (centered=True).",
        "centered=False",
        when=_lacks("centered"),
    ),
    Trap(
        "centered-missing",
        ("RMSprop",),
        setting(centered=False),
        "The gradient is divided by the root of its mean square; torch subtracts the square of "
        "the mean before (centered=True).",
        "centered=True",
        when=_has("centered"),
    ),
    Trap(
        "rmsprop-bias-correction",
        ("RMSprop",),
        setting(correct2=True),
        "The mean square is corrected for its start at 0; torch's RMSprop does not correct it.",
        "bias_correction=False",
    ),
    Trap(
        "initial-accumulator",
        ("RMSprop", "Adagrad"),
        setting(),
        "The accumulator begins at {initial:.4g}; torch's begins at another value (0 by default).",
        "initial_accumulator_value=0 (optax.rmsprop: initial_scale=0)",
        constants={"initial": (0.1, 1.0, 0.01, 0.0)},
    ),
    Trap(
        "optax-adagrad",
        ("Adagrad",),
        setting(eps=1e-7, eps_at="inside"),
        "The arguments are the defaults of optax.adagrad: initial_accumulator_value=0.1, and "
        "eps=1e-7 inside of the root; torch has 0 and eps={torch[eps]:.4g} outside.",
        "optim.Adagrad(eps={torch[eps]:.4g})",
        # A program's state may begin in float32 where it is computed in float64.
        options={"initial": (0.1, float(np.float32(0.1)))},
    ),
    Trap(
        "lr-decay",
        ("Adagrad",),
        setting(),
        "lr_decay is {lr_decay:.4g}; torch's is {torch[lr_decay]:.4g}.",
        "lr_decay={torch[lr_decay]:.4g}",
        constants={"lr_decay": (0.0, 1e-3, 1e-2, 1e-1, 1e-4, 1e-6)},
    ),
)
