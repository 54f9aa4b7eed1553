"""Rows of the catalogue about training, planted in plain flax and optax programs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.parity import flax_training as by_hand
from tests.parity.architectures import WIDTH, WORDS, Layer, Recipe, chain, layer
from tests.parity.faulty_layers import altered, scaled_gradient, stopped
from tests.parity.flax_programs import (
    Program,
    in_tokens,
    in_vectors,
    planted,
    said,
    trained,
)
from tests.parity.plants import Plant

Array = jax.Array

# Optimizers.
_SGD = ("SGD", {"lr": 0.1})
_DECAY = {"weight_decay": 0.1}
_HEAVY = ("SGD", {"lr": 0.1, "momentum": 0.9})


def _adam(lr: float = 1e-2, **options: Any) -> tuple[str, dict[str, Any]]:
    return "Adam", {"lr": lr, **options}


def _in(*parts: Any) -> Any:
    """A function of the number of steps that gives a chain."""
    return lambda steps: optax.chain(*parts)


def _falling(t: Any) -> Any:
    return 0.1 * 0.5**t


_HALVING = ("ExponentialLR", {"gamma": 0.5})
_PARTS = (optax.scale_by_adam(), optax.add_decayed_weights(0.1))
SGD = trained("sgd", Recipe(_SGD), _in(optax.sgd(0.1)))
ADAM = trained("adam", Recipe(_adam()), _in(optax.adam(1e-2)))
ADAMW = trained(
    "adamw", Recipe(("AdamW", {"lr": 1e-2, **_DECAY})), _in(optax.adamw(1e-2, **_DECAY))
)
COUPLED = trained("adam, decay", Recipe(_adam(**_DECAY)), _in(optax.add_decayed_weights(0.1),
    optax.adam(1e-2)))  # fmt: skip
FALLING = trained("adamw, falling", Recipe(("AdamW", {"lr": 0.1, **_DECAY}), _HALVING),
    _in(*_PARTS, optax.scale_by_learning_rate(_falling)))  # fmt: skip
HEAVY = trained("momentum", Recipe(_HEAVY), _in(optax.sgd(0.1, 0.9)))
DAMPED = trained("dampening", Recipe(("SGD", {**_HEAVY[1], "dampening": 0.1})),
    _in(by_hand.momentum(dampening=0.1)))  # fmt: skip
SLOWING = trained("momentum, falling", Recipe(_HEAVY, _HALVING), _in(optax.trace(0.9),
    optax.scale_by_learning_rate(_falling)))  # fmt: skip
NESTEROV = trained("nesterov", Recipe(("SGD", {**_HEAVY[1], "nesterov": True})),
    _in(optax.sgd(0.1, 0.9, nesterov=True)))  # fmt: skip
AMSGRAD = trained("amsgrad", Recipe(_adam(amsgrad=True)), _in(by_hand.adam(largest=True)))
EPSILON = trained("adam, eps", Recipe(_adam(eps=1e-4)), _in(optax.adam(1e-2, eps=1e-4)))
RMSPROP = trained("rmsprop", Recipe(("RMSprop", {"lr": 1e-2})), _in(optax.rmsprop(1e-2, 0.99,
    eps_in_sqrt=False)))  # fmt: skip
CENTERED = trained("rmsprop, centered", Recipe(("RMSprop", {"lr": 1e-2, "centered": True})),
    _in(optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False, centered=True)))  # fmt: skip
ADAGRAD = trained("adagrad", Recipe(("Adagrad", {"lr": 0.1})), _in(by_hand.adagrad()))
SHRUNK = trained("sgd, decay", Recipe(("SGD", {"lr": 0.1, **_DECAY})), _in(
    optax.add_decayed_weights(0.1), optax.sgd(0.1)))  # fmt: skip

_UPDATE = {"place": "update|state"}


def _row(trap: str, program: Program, *parts: Any, **more: Any) -> Plant:
    return planted(trap, program, optimizer=_in(*parts), **{**_UPDATE, **more})


OPTIMIZERS: list[Plant] = [
    _row("decay-decoupled", COUPLED, optax.adamw(1e-2, **_DECAY)),
    _row("decay-coupled", ADAMW, optax.add_decayed_weights(0.1), optax.adam(1e-2)),
    _row("decay-missing", ADAMW, optax.adam(1e-2)),
    _row("decay-value", ADAMW, optax.adamw(1e-2), weight_decay=1e-4),
    _row("decay-other-form", ADAM, optax.adamw(1e-2), weight_decay=1e-4),
    _row("decay-unscaled", ADAMW, optax.adam(1e-2), optax.add_decayed_weights(-0.1)),
    _row("decay-relative", FALLING, optax.scale_by_adam(), optax.scale_by_learning_rate(_falling),
        by_hand.changed(lambda p, u, t: u - 0.1 * 0.5 ** (t - 1) * p)),
    _row("decay-late", ADAMW, optax.adam(1e-2), by_hand.changed(
        lambda p, u, t: (p + u) * (1 - 1e-3) - p)),
    _row("lr-value", SGD, optax.sgd(0.05), lr=0.05),
    _row("lr-factor", FALLING, *_PARTS, optax.scale_by_learning_rate(lambda t: _falling(t) / 2),
        lr_factor=0.5),
    _row("maximized", ADAM, optax.scale(-1.0), optax.adam(1e-2)),
    _row("not-updated", ADAM, optax.adam(1e-2), optax.masked(optax.set_to_zero(), lambda params:
        jax.tree.map(lambda p: p.ndim == 1, params))),
    _row("other-class", ADAM, optax.sgd(1e-2), cls="SGD"),
    _row("momentum-missing", HEAVY, optax.sgd(0.1), step=1),
    _row("momentum-value", HEAVY, optax.sgd(0.1, 0.8), momentum=0.8, step=1),
    _row("momentum-average", HEAVY, optax.ema(0.9, debias=False), optax.scale(-0.1)),
    _row("dampening", HEAVY, by_hand.momentum(dampening=0.1), dampening=0.1, step=1),
    _row("dampening-missing", DAMPED, optax.sgd(0.1, 0.9), step=1),
    _row("first-buffer", DAMPED, by_hand.momentum(dampening=0.1, first=0.9)),
    _row("first-step-scaled", HEAVY, by_hand.momentum(first=0.1), first=0.1),
    _row("momentum-lr-inside", SLOWING, optax.scale_by_learning_rate(_falling), optax.trace(0.9),
        step=1),
    _row("nesterov-missing", NESTEROV, optax.sgd(0.1, 0.9)),
    _row("nesterov", HEAVY, optax.sgd(0.1, 0.9, nesterov=True)),
    _row("beta1", ADAM, optax.adam(1e-2, b1=0.8), beta1=0.8, step=1),
    _row("beta2", ADAM, optax.adam(1e-2, b2=0.99), beta2=0.99, step=1),
    _row("betas-swapped", ADAM, optax.adam(1e-2, b1=0.999, b2=0.9), step=1),
    _row("bias-correction-missing", ADAM, by_hand.adam(correct=(False, False))),
    _row("bias-correction-first-missing", ADAM, by_hand.adam(correct=(False, True))),
    _row("bias-correction-second-missing", ADAM, by_hand.adam(correct=(True, False))),
    _row("bias-correction-step", ADAM, by_hand.adam(shift=1), t_shift=1),
    _row("amsgrad", ADAM, by_hand.adam(largest=True), step=1),
    _row("amsgrad-missing", AMSGRAD, optax.adam(1e-2), step=1),
    _row("amsgrad-corrected", AMSGRAD, optax.amsgrad(1e-2), step=1),
    _row("nadam", ADAM, optax.nadam(1e-2)),
    _row("optimizer-epsilon", ADAM, optax.adam(1e-2, eps=1e-6), eps=1e-6),
    _row("epsilon-inside-root", RMSPROP, optax.rmsprop(1e-2, 0.99), eps=1e-8),
    _row("epsilon-root", ADAM, optax.adam(1e-2, eps_root=1e-8), eps_root=1e-8),
    _row("epsilon-uncorrected", EPSILON, by_hand.adam(eps=1e-4, epsilon="uncorrected")),
    _row("alpha", RMSPROP, optax.rmsprop(1e-2, 0.9, eps_in_sqrt=False), alpha=0.9),
    _row("optax-rmsprop", RMSPROP, optax.rmsprop(1e-2)),
    _row("centered", RMSPROP, optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False, centered=True)),
    _row("centered-missing", CENTERED, optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False)),
    _row("rmsprop-bias-correction", RMSPROP, optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False,
        bias_correction=True)),
    _row("initial-accumulator", RMSPROP, optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False,
        initial_scale=0.1), initial=0.1),
    _row("optax-adagrad", ADAGRAD, optax.adagrad(0.1)),
    _row("lr-decay", ADAGRAD, by_hand.adagrad(0.1), lr_decay=0.1, step=1),
]  # fmt: skip

# Gradients.
_CLIP = Recipe(_SGD, clip=("norm", 0.1))
_BOUND = 0.1
CLIPPED = trained("clipped", _CLIP, _in(by_hand.clip_norm(_BOUND), optax.sgd(0.1)))
WIDE = trained("hardly clipped", Recipe(_SGD, clip=("norm", 2.0)), _in(by_hand.clip_norm(2.0),
    optax.sgd(0.1)))  # fmt: skip
VALUES = trained("clipped by value", Recipe(_SGD, clip=("value", 0.1)), _in(optax.clip(0.1),
    optax.sgd(0.1)))  # fmt: skip


def _several(use_grad_mean: bool) -> Any:
    def make(steps: int) -> Any:
        return optax.MultiSteps(
            optax.sgd(0.1), 2, use_grad_mean=use_grad_mean
        ).gradient_transformation()

    return make


SEVERAL = trained("MultiSteps", Recipe(_SGD, parts=2), _several(False))


def _tied(**options: Any) -> Any:
    network = Layer("Tied", parts=(layer("Embedding", WORDS, WIDTH), chain(layer("Tanh")),
        layer("Linear", WIDTH, WORDS, bias=False)))  # fmt: skip
    program = in_tokens("tied", layer("Tanh"), jnp.tanh, model=Tied, place="embedding.weight")
    return dataclasses.replace(program, task=dataclasses.replace(program.task, network=network))


Copied = altered(nnx.Embed, lambda m, run, i: stopped(m.embedding[...])[i])


class Tied(nnx.Module):
    """Scores by the embedding's own rows, of which one use may be without a gradient."""

    def __init__(self, middle: Any, still: str = "") -> None:
        kind = Copied if still == "table" else nnx.Embed
        self.embedding = kind(WORDS, WIDTH, rngs=nnx.Rngs(0))
        self.middle, self.still = middle, still

    def __call__(self, tokens: Array) -> Array:
        x = self.middle(self.embedding(tokens))
        rows = self.embedding.embedding[...]
        return x @ (stopped(rows) if self.still == "scores" else rows).T


class Scaled(nnx.Module):
    """A factor of the program's own for each feature."""

    def __init__(self, function: Any, *, rngs: Any) -> None:
        self.scale, self.function = nnx.Param(jnp.ones(8)), function

    def __call__(self, x: Array) -> Array:
        return x * self.function(self.scale[...])


def _scaled() -> Any:
    import torch

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, 8))

        def forward(self, x: Any) -> Any:
            return x * self.scale

    return Own()


TIED = _tied()
SCALED = in_vectors("a factor of its own", Layer(_scaled), layer(Scaled, lambda s: s),
    place="1.scale")  # fmt: skip
SCALED2 = in_vectors("a factor of its own, two batches", Layer(_scaled), layer(Scaled, lambda s: s),
    place="1.scale", recipe=Recipe(_SGD, parts=2), optimizer=_several(False))  # fmt: skip

GRADIENTS: list[Plant] = [
    _row("clip-missing", CLIPPED, optax.sgd(0.1)),
    _row("clip-missing", VALUES, optax.sgd(0.1), title="by value"),
    _row("clip-without-epsilon", CLIPPED, optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
    _row("clip-each-parameter", CLIPPED, by_hand.clip_each(0.1), optax.sgd(0.1)),
    _row("clip-normalizes", WIDE, by_hand.normalized(2.0), optax.sgd(0.1)),
    _row("clip-before-unscaling", CLIPPED, by_hand.clip_norm(0.1, 1024.0), optax.sgd(0.1),
        scale=1024.0),
    _row("clip-norm", CLIPPED, by_hand.clip_norm(0.25), optax.sgd(0.1), bound=0.25),
    _row("clip-norm-without-epsilon", CLIPPED, optax.clip_by_global_norm(0.25), optax.sgd(0.1),
        bound=0.25),
    _row("clip-value", CLIPPED, optax.clip(0.1), optax.sgd(0.1), bound=0.1),
    _row("clip-adaptive", SGD, optax.adaptive_grad_clip(0.1), optax.sgd(0.1), bound=0.1),
    planted("loss-accumulated", SEVERAL, optimizer=_several(True), place="loss", scale=0.5),
    _row("update-gradient-factor", SHRUNK, optax.scale(0.5), optax.add_decayed_weights(0.1),
        optax.sgd(0.1), gradient_factor=0.5),
    planted("gradient-stopped", SCALED, layer(Scaled, stopped)),
    planted("gradient-counts", SCALED2, layer(Scaled, lambda s: scaled_gradient(s, 0.5)),
        factor=0.5),
    planted("gradient-factor", SCALED, layer(Scaled, lambda s: scaled_gradient(s, 0.1)),
        factor=0.1),
    planted("gradient-use-missing", TIED, model=lambda *m: Tied(*m, still="scores"),
        call="decoder#0"),
    planted("gradient-of-one-use", TIED, model=lambda *m: Tied(*m, still="table"),
        call="decoder#0"),
]  # fmt: skip


# Schedules.
def _rates(rate: Any) -> Any:
    return lambda steps: optax.sgd(rate)


class _Seldom(Recipe):
    """A recipe whose scheduler goes on with every second update."""

    def of_torch(self, model: Any) -> tuple[Any, Any]:
        optimizer, scheduler = super().of_torch(model)
        return optimizer, _Every(scheduler)


class _Every:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.count = scheduler, 0

    def step(self) -> None:
        self.count += 1
        if self.count % 2 == 0:
            self.scheduler.step()


class _Flat(Recipe):
    """A recipe whose scheduler is told that nothing gets better."""

    def of_torch(self, model: Any) -> tuple[Any, Any]:
        optimizer, scheduler = super().of_torch(model)
        return optimizer, _Told(scheduler)


class _Told:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def step(self) -> None:
        self.scheduler.step(1.0)


def _scheduled(name: str, schedule: tuple[str, Mapping[str, Any]], right: Any,
               recipe: Any = Recipe, **more: Any) -> Program:  # fmt: skip
    return trained(name, recipe(_SGD, schedule), _rates(right), place="update|lr", **more)


def _cycle(low: float, up: float, linear: bool = False) -> Any:
    """torch's OneCycleLR of 10 steps up to 0.1."""

    def rate(t: Any) -> Any:
        peak = up * 10 - 1
        rising = t <= peak
        share = jnp.where(rising, t / peak, (t - peak) / (9 - peak))
        first, last = jnp.where(rising, low, 0.1), jnp.where(rising, 0.1, low / 1e4)
        share = share if linear else (1 - jnp.cos(jnp.pi * share)) / 2
        return first + (last - first) * share

    return rate


STEPS = _scheduled("StepLR", ("StepLR", {"step_size": 2, "gamma": 0.5}), optax.exponential_decay(
    0.1, 2, 0.5, staircase=True))  # fmt: skip
EXPONENTIAL = _scheduled("ExponentialLR", ("ExponentialLR", {"gamma": 0.9}),
    optax.exponential_decay(0.1, 1, 0.9))  # fmt: skip
SELDOM = _scheduled("ExponentialLR by epochs", ("ExponentialLR", {"gamma": 0.9}),
    lambda t: 0.1 * 0.9 ** (t // 2), _Seldom)  # fmt: skip
COSINE = _scheduled("CosineAnnealingLR", ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.01}),
    optax.cosine_decay_schedule(0.1, 5, 0.1))  # fmt: skip
RISING = _scheduled("CosineAnnealingLR, rising", ("CosineAnnealingLR", {"T_max": 2}),
    lambda t: 0.05 * (1 + jnp.cos(jnp.pi * t / 2)), steps=5)  # fmt: skip
MILESTONES = _scheduled("MultiStepLR", ("MultiStepLR", {"milestones": [1, 3], "gamma": 0.3}),
    optax.piecewise_constant_schedule(0.1, {1: 0.3, 3: 0.3}), steps=5)  # fmt: skip
WARMUP = _scheduled("LinearLR", ("LinearLR", {"total_iters": 4}), optax.linear_schedule(
    0.1 / 3, 0.1, 4))  # fmt: skip
POLYNOMIAL = _scheduled("PolynomialLR", ("PolynomialLR", {"total_iters": 6, "power": 2.0}),
    optax.polynomial_schedule(0.1, 0.0, 2, 6))  # fmt: skip
CYCLE = _scheduled("OneCycleLR", ("OneCycleLR", {"max_lr": 0.1, "total_steps": 10,
    "cycle_momentum": False}), _cycle(0.004, 0.3), steps=6)  # fmt: skip
PLATEAU = _scheduled("ReduceLROnPlateau", ("ReduceLROnPlateau", {"patience": 1, "factor": 0.5}),
    lambda t: jnp.where(t < 3, 0.1, 0.05), _Flat, steps=5)  # fmt: skip


def _at(trap: str, program: Program, rate: Any, step: int, **values: Any) -> Plant:
    return planted(trap, program, optimizer=_rates(rate), step=step, **values)


SCHEDULES: list[Plant] = [
    _at("schedule-missing", STEPS, 0.1, 2),
    _at("schedule-step", COSINE, lambda t: optax.cosine_decay_schedule(0.1, 5, 0.1)(t + 1), 0,
        shift=1),
    _at("schedule-per-batch", SELDOM, lambda t: 0.1 * 0.9**t, 1),
    _at("schedule-per-epoch", EXPONENTIAL, lambda t: 0.1 * 0.9 ** (t // 2), 1, batches=2),
    _at("schedule-length", COSINE, optax.cosine_decay_schedule(0.1, 4, 0.1), 1, longer=-1),
    _at("schedule-milestones", MILESTONES, optax.piecewise_constant_schedule(0.1, {2: 0.3,
        4: 0.3}), 1, later=1),
    _at("schedule-gamma", STEPS, optax.exponential_decay(0.1, 2, 0.1, staircase=True), 2,
        gamma=0.1),
    _at("schedule-lowest", COSINE, optax.cosine_decay_schedule(0.1, 5), 1, eta_min=0.0),
    _at("schedule-cosine-stays", RISING, optax.cosine_decay_schedule(0.1, 2), 3),
    _at("warmup-start", WARMUP, optax.linear_schedule(0.01, 0.1, 4), 0, start_factor=0.1),
    _at("warmup-from-zero", WARMUP, optax.linear_schedule(0.0, 0.1, 4), 0),
    _at("warmup-share", WARMUP, lambda t: 0.1 * jnp.minimum(1, (t + 1) / 4), 0),
    _at("schedule-power", POLYNOMIAL, optax.linear_schedule(0.1, 0.0, 6), 1, power=1.0),
    _at("one-cycle-anneal", CYCLE, _cycle(0.004, 0.3, linear=True), 3),
    _at("one-cycle-rise", CYCLE, _cycle(0.004, 0.2), 1, pct_start=0.2),
    _at("one-cycle-start", CYCLE, _cycle(0.01, 0.3), 0, div_factor=10.0),
    _at("plateau-patience", PLATEAU, lambda t: jnp.where(t < 2, 0.1, 0.05), 2, earlier=1),
    # The learning rates of optax are read from the updates, where this row and lr-factor are one.
    _at("schedule-factor", EXPONENTIAL, lambda t: 0.05 * 0.9**t, 0,
        says=said("lr-factor", lr_factor=0.5)),
]  # fmt: skip


# Weights.
def _own(change: Any) -> Any:
    """A loading of torch's weights, of which that of the middle is changed."""

    def load(model: Any, torch: Mapping[str, Any]) -> None:
        for name, part in (("0", model.first), ("1", model.middle.layers[0]), ("2", model.last)):
            weight = torch[f"{name}.weight"]
            part.kernel[...] = (change(weight) if name == "1" else weight).T
            part.bias[...] = torch[f"{name}.bias"]

    return load


OWN = in_vectors("weights of its own", layer("Linear", 8, 8), layer(nnx.Linear, 8, 8),
    load=_own(lambda w: w), place="before:1.weight")  # fmt: skip

WEIGHTS: list[Plant] = [
    planted("value-transposed", OWN, load=_own(lambda w: w.T)),
    planted("value-rounded", OWN, load=_own(lambda w: w.astype("float16")), dtype="float16"),
    planted("weights-constant", OWN, load=_own(lambda w: 0 * w), constant=0.0),
    planted("weights-scaled", OWN, load=_own(lambda w: 2 * w), factor=2.0),
]

# Rows that no program of plain flax can show, and why.
LEFT_OUT = {
    "accumulation": "the mean that optax.MultiSteps takes is counted with the loss, where it is "
    "the row loss-accumulated",
    "gradient-clipped": "the check differentiates the loss itself, so that a program of plain flax "
    "has no place before its optimizer in which gradients are clipped; in a step of its own, of "
    "which no gradients are seen, it is a row of the update",
}

TRAINING = [*OPTIMIZERS, *GRADIENTS, *SCHEDULES, *WEIGHTS]
PROGRAMS = [one for one in globals().values() if isinstance(one, Program)]
