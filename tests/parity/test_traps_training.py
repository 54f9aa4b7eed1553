"""Planted faults of losses, gradients, optimizers, schedules and runs are found and named."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
import pytest

from jaxnet import optim
from jaxnet.parity._update_causes import explain_updates
from tests.parity import training

pytestmark = pytest.mark.torch


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Traces of torch's optimizers by name, each recorded once."""
    import torch
    from torch.nn.utils import clip_grad_norm_, clip_grad_value_

    t = torch.optim
    falling = [0.1, 0.05, 0.025, 0.0125]
    bias = ("net.bias", "norm.weight")
    known: dict[str, tuple[Any, dict[str, Any]]] = {
        "sgd": (lambda p: t.SGD(p, 0.1), {}),
        "sgd momentum": (lambda p: t.SGD(p, 0.1, momentum=0.9), {}),
        "sgd decay": (lambda p: t.SGD(p, 0.1, momentum=0.9, weight_decay=0.01), {}),
        "sgd groups": (
            lambda p: t.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
            {"apart": bias},
        ),
        "sgd damped": (lambda p: t.SGD(p, 0.1, momentum=0.9, dampening=0.2), {}),
        "nesterov": (lambda p: t.SGD(p, 0.1, momentum=0.9, nesterov=True), {}),
        "sgd falling": (lambda p: t.SGD(p, 0.1, momentum=0.9), {"lrs": falling}),
        "adam": (lambda p: t.Adam(p, 1e-3), {}),
        "adam decay": (lambda p: t.Adam(p, 1e-3, weight_decay=0.1), {}),
        "adamw": (lambda p: t.AdamW(p, 1e-2), {}),
        "adamw groups": (lambda p: t.AdamW(p, 1e-2, weight_decay=0.1), {"apart": bias}),
        "adamw falling": (lambda p: t.AdamW(p, 0.1, weight_decay=0.1), {"lrs": falling}),
        "amsgrad": (lambda p: t.Adam(p, 1e-2, amsgrad=True), {}),
        "rmsprop": (lambda p: t.RMSprop(p, 1e-2), {}),
        "centered": (lambda p: t.RMSprop(p, 1e-2, centered=True), {}),
        "rmsprop falling": (lambda p: t.RMSprop(p, 0.1, momentum=0.9), {"lrs": falling}),
        "adagrad": (lambda p: t.Adagrad(p, 0.1), {}),
        "sgd clipped": (
            lambda p: t.SGD(p, 0.1, momentum=0.9),
            {"clip": lambda p: clip_grad_norm_(p, 1.0)},
        ),
        "sgd clipped by value": (
            lambda p: t.SGD(p, 0.1),
            {"clip": lambda p: clip_grad_value_(p, 0.5)},
        ),
        "sgd of two": (lambda p: t.SGD(p, 0.1), {"backwards": 2}),
    }
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            make, more = known[name]
            made[name] = training.record(tmp_path_factory.mktemp("trace") / "t", make, **more)
        return made[name]

    return get


def by_hand(rule: Callable[..., Any]) -> optax.GradientTransformation:
    """An optimizer from `rule(p, g, slots, t) -> (change, slots)` of one parameter."""

    def init(params: Any) -> Any:
        return 0, {name: {} for name in params}

    def update(grads: Any, state: Any, params: Any) -> Any:
        t, slots = state[0] + 1, {}
        changes = {}
        for name, p in params.items():
            changes[name], slots[name] = rule(p, grads[name], state[1][name], t)
        return changes, (t, slots)

    return optax.GradientTransformation(init, update)


def moments(g: Any, s: Any, t: int, b1: float = 0.9, b2: float = 0.999) -> Any:
    """Adam's moments, and both corrected."""
    m = b1 * s.get("m", 0 * g) + (1 - b1) * g
    v = b2 * s.get("v", 0 * g) + (1 - b2) * g * g
    return m / (1 - b1**t), v / (1 - b2**t), {"m": m, "v": v}


def momentum(change: Callable[..., Any]) -> Callable[[], Any]:
    """SGD with momentum: `change(p, g, old buffer or None, t) -> (change, buffer)`."""

    def rule(p: Any, g: Any, s: Any, t: int) -> Any:
        step, buffer = change(p, g, s.get("b"), t)
        return step, {"b": buffer}

    return lambda: by_hand(rule)


def adam(change: Callable[..., Any]) -> Callable[[], Any]:
    """Adam: `change(p, g, corrected m, corrected v, t, slots) -> change`."""

    def rule(p: Any, g: Any, s: Any, t: int) -> Any:
        m, v, slots = moments(g, s, t)
        return change(p, g, m, v, t, slots), slots

    return lambda: by_hand(rule)


LRS = [0.1, 0.05, 0.025, 0.0125]


def rate(t: int) -> float:
    return LRS[t - 1]


def root(v: Any, eps: float = 1e-8) -> Any:
    return jnp.sqrt(v) + eps


def clip_value(bound: float) -> Any:
    return optax.chain(optax.clip(bound), optax.sgd(0.1))


# The trace, the planted optimizer, and the rows of the catalogue that must be named, the
# first of them first; the gradients that the optimizer is given are those before clipping.
PLANTS: list[tuple[str, str, Callable[[], Any], tuple[str, ...]]] = [
    ("lr", "sgd", lambda: optax.sgd(0.3), ("lr-value",)),
    ("lr unusual", "adam", lambda: optax.adam(0.00123), ("lr-value",)),
    ("ascent", "adam", lambda: optax.chain(optax.scale(-1.0), optax.adam(1e-3)), ("maximized",)),
    ("frozen", "adam", optax.set_to_zero, ("not-updated",)),
    ("adam for sgd", "sgd", lambda: optax.adam(0.1), ("other-class",)),
    ("sgd for adam", "adam", lambda: optax.sgd(1e-3), ("other-class",)),
    ("momentum", "sgd momentum", lambda: optax.sgd(0.1, 0.85), ("momentum-value",)),
    ("no momentum", "sgd momentum", lambda: optax.sgd(0.1), ("momentum-missing",)),
    ("nesterov", "sgd momentum", lambda: optax.sgd(0.1, 0.9, nesterov=True), ("nesterov",)),
    ("no nesterov", "nesterov", lambda: optax.sgd(0.1, 0.9), ("nesterov-missing",)),
    (
        "average",
        "sgd momentum",
        lambda: optax.chain(optax.ema(0.9, debias=False), optax.sgd(0.1)),
        ("momentum-average",),
    ),
    (
        "dampening",
        "sgd momentum",
        lambda: optim.SGD(0.1, momentum=0.9, dampening=0.3),
        ("dampening",),
    ),
    ("no dampening", "sgd damped", lambda: optax.sgd(0.1, 0.9), ("dampening-missing",)),
    (
        "first buffer damped",
        "sgd damped",
        momentum(lambda p, g, b, t: (-0.1 * (x := 0.9 * (0 if b is None else b) + 0.8 * g), x)),
        ("first-buffer",),
    ),
    (
        "first gradient scaled",
        "sgd momentum",
        momentum(lambda p, g, b, t: (-0.1 * (x := 0.3 * g if b is None else 0.9 * b + g), x)),
        ("first-step-scaled",),
    ),
    (
        "rate inside",
        "sgd falling",
        momentum(lambda p, g, b, t: (-(x := 0.9 * (0 if b is None else b) + rate(t) * g), x)),
        ("momentum-lr-inside",),
    ),
    (
        "decay decoupled",
        "sgd decay",
        lambda: optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.01), optax.scale(-0.1)),
        ("decay-decoupled",),
    ),
    (
        "adamw for adam",
        "adam decay",
        lambda: optax.adamw(1e-3, weight_decay=0.1),
        ("decay-decoupled",),
    ),
    ("adam for adamw", "adamw", lambda: optim.Adam(1e-2, weight_decay=1e-2), ("decay-coupled",)),
    ("no decay", "adamw", lambda: optax.adam(1e-2), ("decay-missing",)),
    ("optax's adamw", "adamw", lambda: optax.adamw(1e-2), ("decay-value",)),
    ("optax's adamw for adam", "adam", lambda: optax.adamw(1e-3), ("decay-other-form",)),
    (
        "decay of all",
        "adamw groups",
        lambda: optax.adamw(1e-2, weight_decay=0.1),
        ("decay-value",),
    ),
    (
        "decay by one",
        "adamw",
        adam(lambda p, g, m, v, t, s: -1e-2 * m / root(v) - 1e-2 * p),
        ("decay-unscaled",),
    ),
    (
        "decay relative",
        "adamw falling",
        adam(lambda p, g, m, v, t, s: -rate(t) * m / root(v) - 0.1 * rate(t) / rate(1) * p),
        ("decay-relative",),
    ),
    (
        "decay late",
        "adamw",
        adam(lambda p, g, m, v, t, s: (p - 1e-2 * m / root(v)) * (1 - 1e-4) - p),
        ("decay-late",),
    ),
    ("rate ahead", "adamw falling", lambda: _scheduled_adamw(1), ("schedule-step",)),
    ("rate behind", "adamw falling", lambda: _scheduled_adamw(-1), ("schedule-step",)),
    ("rate times 0.3", "adamw falling", lambda: _scheduled_adamw(0, 0.3), ("lr-factor",)),
    ("beta1", "adam", lambda: optax.adam(1e-3, b1=0.85), ("beta1",)),
    ("beta2", "adam", lambda: optax.adam(1e-3, b2=0.993), ("beta2",)),
    ("betas", "adam", lambda: optax.adam(1e-3, b1=0.8, b2=0.99), ("beta1", "beta2")),
    ("betas swapped", "adam", lambda: optax.adam(1e-3, b1=0.999, b2=0.9), ("betas-swapped",)),
    ("eps", "adam", lambda: optax.adam(1e-3, eps=1e-6), ("optimizer-epsilon",)),
    ("eps_root", "adam", lambda: optax.adam(1e-3, eps_root=1e-6), ("epsilon-root",)),
    (
        "eps inside",
        "adam",
        adam(lambda p, g, m, v, t, s: -1e-3 * m / jnp.sqrt(v + 1e-5)),
        ("epsilon-inside-root",),
    ),
    (
        "eps uncorrected",
        "adam",
        adam(
            lambda p, g, m, v, t, s: (
                -1e-3 * m * (1 - 0.999**t) ** 0.5 / (jnp.sqrt(v * (1 - 0.999**t)) + 1e-8)
            )
        ),
        ("epsilon-uncorrected",),
    ),
    (
        "no correction",
        "adam",
        adam(lambda p, g, m, v, t, s: -1e-3 * s["m"] / root(s["v"])),
        ("bias-correction-missing",),
    ),
    (
        "no first correction",
        "adam",
        adam(lambda p, g, m, v, t, s: -1e-3 * s["m"] / root(v)),
        ("bias-correction-first-missing",),
    ),
    (
        "no second correction",
        "adam",
        adam(lambda p, g, m, v, t, s: -1e-3 * m / root(s["v"])),
        ("bias-correction-second-missing",),
    ),
    (
        "correction ahead",
        "adam",
        adam(
            lambda p, g, m, v, t, s: (
                -1e-3 * (s["m"] / (1 - 0.9 ** (t + 1))) / root(s["v"] / (1 - 0.999 ** (t + 1)))
            )
        ),
        ("bias-correction-step",),
    ),
    ("amsgrad", "adam", lambda: optim.Adam(1e-3, amsgrad=True), ("amsgrad",)),
    ("no amsgrad", "amsgrad", lambda: optax.adam(1e-2), ("amsgrad-missing",)),
    ("optax's amsgrad", "amsgrad", lambda: optax.amsgrad(1e-2), ("amsgrad-corrected",)),
    ("nadam", "adam", lambda: optax.nadam(1e-3), ("nadam",)),
    ("alpha", "rmsprop", lambda: optim.RMSprop(1e-2, alpha=0.9), ("alpha",)),
    ("optax's rmsprop", "rmsprop", lambda: optax.rmsprop(1e-2), ("optax-rmsprop",)),
    ("centered", "rmsprop", lambda: optim.RMSprop(1e-2, centered=True), ("centered",)),
    ("not centered", "centered", lambda: optim.RMSprop(1e-2), ("centered-missing",)),
    (
        "corrected rmsprop",
        "rmsprop",
        lambda: optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False, bias_correction=True),
        ("rmsprop-bias-correction",),
    ),
    (
        "rmsprop from one",
        "rmsprop",
        lambda: optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False, initial_scale=1.0),
        ("initial-accumulator",),
    ),
    ("rmsprop inside", "rmsprop falling", lambda: _rmsprop_inside(), ("momentum-lr-inside",)),
    ("optax's adagrad", "adagrad", lambda: optax.adagrad(0.1), ("optax-adagrad",)),
    (
        "adagrad from 0.1",
        "adagrad",
        lambda: optim.Adagrad(0.1, initial_accumulator_value=0.1),
        ("initial-accumulator",),
    ),
    ("adagrad lr_decay", "adagrad", lambda: optim.Adagrad(0.1, lr_decay=0.1), ("lr-decay",)),
    # Gradients on their way to the optimizer
    ("no clipping", "sgd clipped", lambda: optax.sgd(0.1, 0.9), ("clip-missing",)),
    (  # in one of the parameters no gradient reaches the bound
        "clipped by value in place of the norm",
        "sgd clipped",
        lambda: optax.chain(optax.clip(1.7), optax.sgd(0.1, 0.9)),
        ("clip-value",),
    ),
    (
        "optax's clipping",
        "sgd clipped",
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9)),
        ("clip-without-epsilon",),
    ),
    (
        "clipped to 0.5",
        "sgd clipped",
        lambda: optim.chain(optim.clip_by_norm(0.5), optim.SGD(0.1, momentum=0.9)),
        ("clip-norm",),
    ),
    (
        "clipped by value",
        "sgd clipped",
        lambda: optax.chain(optax.clip(0.25), optax.sgd(0.1, 0.9)),
        ("clip-value",),
    ),
    ("clipped to 0.3", "sgd clipped by value", lambda: clip_value(0.3), ("clip-value",)),
    ("no clipping by value", "sgd clipped by value", lambda: optax.sgd(0.1), ("clip-missing",)),
    (
        "clipped each",
        "sgd clipped",
        lambda: _clipped(lambda g, norm, own: g * jnp.minimum(1.0, 1.0 / own)),
        ("clip-each-parameter",),
    ),
    (
        "normalised",
        "sgd clipped",
        lambda: _clipped(lambda g, norm, own: g / norm),
        ("clip-normalizes",),
    ),
    (
        "clipped while scaled",
        "sgd clipped",
        lambda: _clipped(
            lambda g, norm, own: 1024 * g * jnp.minimum(1, 1 / (1024 * norm + 1e-6)) / 1024
        ),
        ("clip-before-unscaling",),
    ),
    (
        "adaptive clipping",
        "sgd momentum",
        lambda: _clipped(_adaptive),
        ("clip-adaptive",),
    ),
    (
        "averaged",
        "sgd of two",
        lambda: optax.chain(optax.scale(0.5), optax.sgd(0.1)),
        ("accumulation",),
    ),
    (
        "gradients times three",
        "adamw",
        lambda: optax.chain(optax.scale(3.0), optax.adamw(1e-2, eps=1e-8, weight_decay=1e-2)),
        ("update-gradient-factor",),
    ),
    # Pairs
    (
        "eps and decay",
        "adamw",
        lambda: optax.adamw(1e-2, eps=1e-6, weight_decay=1e-4),
        ("decay-value", "optimizer-epsilon"),
    ),
    (
        "momentum and no decay",
        "sgd decay",
        lambda: optax.sgd(0.1, 0.8),
        ("decay-missing", "momentum-value"),
    ),
    (
        "no clipping and the rate",
        "sgd clipped",
        lambda: optax.sgd(0.2, 0.9),
        ("clip-missing", "lr-value"),
    ),
]


def _scheduled_adamw(shift: int, factor: float = 1.0) -> Any:
    rates = jnp.array([factor * LRS[min(max(k + shift, 0), 3)] for k in range(4)])
    # After the last recorded rate torch's is not known, so that the one ahead stays.
    return optax.adamw(lambda count: rates[count], weight_decay=0.1)


def _rmsprop_inside() -> Any:
    def rule(p: Any, g: Any, s: Any, t: int) -> Any:
        v = 0.99 * s.get("v", 0 * g) + 0.01 * g * g
        b = 0.9 * s.get("b", 0 * g) + rate(t) * g / (jnp.sqrt(v) + 1e-8)
        return -b, {"v": v, "b": b}

    return by_hand(rule)


def _clipped(change: Callable[..., Any]) -> Any:
    """Clipping by a function of (gradient, norm of all, own norm) before SGD."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        norm = optax.tree.norm(grads)
        new = {
            n: change(g, norm, params[n] if change is _adaptive else jnp.linalg.norm(g))
            for n, g in grads.items()
        }
        return new, state

    clip = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(clip, optax.sgd(0.1, 0.9))


def _adaptive(g: Any, norm: Any, p: Any) -> Any:
    """Clipping to 0.3 of the norm of each row, or of all of a vector."""
    axes = tuple(range(1, p.ndim)) if p.ndim > 1 else None
    sizes, units = (jnp.sqrt(jnp.sum(x * x, axes, keepdims=True)) for x in (p, g))
    largest = 0.3 * jnp.maximum(sizes, 1e-3)
    return jnp.where(units > largest, g * largest / jnp.maximum(units, 1e-6), g)


@pytest.mark.parametrize(
    ("name", "trace", "plant", "rows"), PLANTS, ids=[plant[0] for plant in PLANTS]
)
def test_a_planted_optimizer_is_named(
    traces: Any, name: str, trace: str, plant: Any, rows: tuple[str, ...]
) -> None:
    recorded = traces(trace)
    jax32, jax64 = training.updated(recorded, plant, given="param_grad")
    (found,) = explain_updates(recorded, jax32, jax64, carried=True)
    assert sorted(found.traps) == sorted(rows), (found.words, found.alternatives)


CLEAN = {
    "sgd": lambda: optax.sgd(0.1),
    "sgd momentum": lambda: optim.SGD(0.1, momentum=0.9),
    "sgd decay": lambda: optim.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "sgd damped": lambda: optim.SGD(0.1, momentum=0.9, dampening=0.2),
    "nesterov": lambda: optax.sgd(0.1, 0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-3),
    "adam decay": lambda: optim.Adam(1e-3, weight_decay=0.1),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=1e-2),
    "amsgrad": lambda: optim.Adam(1e-2, amsgrad=True),
    "centered": lambda: optim.RMSprop(1e-2, centered=True),
    "rmsprop": lambda: optax.rmsprop(1e-2, 0.99, eps_in_sqrt=False),
    "adagrad": lambda: optim.Adagrad(0.1),
    "adamw falling": lambda: _scheduled_adamw(0),
    "sgd clipped": lambda: optim.chain(optim.clip_by_norm(1.0), optim.SGD(0.1, momentum=0.9)),
}


@pytest.mark.parametrize("trace", CLEAN)
def test_the_same_optimizer_has_no_cause(traces: Any, trace: str) -> None:
    runs = training.updated(traces(trace), CLEAN[trace], given="param_grad")
    assert explain_updates(traces(trace), *runs, carried=True) == []


def test_a_learning_rate_that_is_known_is_no_cause(traces):
    """Half the gradients give the same updates as half the learning rate, where nothing else is."""
    trace = traces("sgd of two")
    numbers = training.updated(trace, lambda: optax.sgd(0.05))
    (both,) = explain_updates(trace, *numbers)
    assert "batches of a step are averaged" in both.words
    assert both.alternatives == ("The learning rate is 0.05; torch's is 0.1.",)
    assert "Adam" in both.apart
    (gradients,) = explain_updates(trace, *numbers, known_rates=True)
    assert "batches of a step are averaged" in gradients.words
    assert not gradients.alternatives
    assert not gradients.apart
