"""Schedules against torch's recurrences, on the host and compiled."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnet import optim
from tests.optim.schedules import ROWS, SHOWN, STEPS, our_values, ours, torch_values
from tests.table import GOLDEN

SGD = optim.SGD(lr=0.1, momentum=0.9)
PARAMS = {"w": jnp.zeros(2)}


@pytest.mark.parametrize("name", ROWS)
def test_equals_golden(name: str) -> None:
    with np.load(GOLDEN / "optim_schedules.npz") as archive:
        expected = archive[name]
    np.testing.assert_allclose(our_values(name)[SHOWN], expected, rtol=1e-12, atol=1e-18)


@pytest.mark.torch
@pytest.mark.parametrize("name", ROWS)
def test_equals_torch(name: str) -> None:
    with warnings.catch_warnings():
        # torch's SequentialLR warns about its own calls
        warnings.simplefilter("ignore")
        theirs = torch_values(name)
    np.testing.assert_allclose(our_values(name), theirs, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("name", ["CosineAnnealingLR", "OneCycleLR", "OneCycleLR epochs"])
@pytest.mark.parametrize("every", [1, 3])
def test_compiled_per_step_and_per_epoch(name: str, every: int) -> None:
    plain, schedule = ours(name)
    optimizer = optim.scheduled(plain, schedule, steps=STEPS, every=every)

    def step(state: Any, _: Any) -> Any:
        _, state = optimizer.update(PARAMS, state, PARAMS)
        h = optim.get_hyperparams(state)
        return state, (h["lr"], h["betas"][0] if "betas" in h else h["momentum"])

    _, seen = jax.jit(lambda s: lax.scan(step, s, length=STEPS * every))(optimizer.init(PARAMS))
    expected = our_values(name).repeat(every, axis=0)
    # float32 rounds the value itself, once
    np.testing.assert_allclose(np.stack(seen, axis=1), expected, rtol=1e-7)


def test_the_rate_of_a_step_is_used_in_that_step() -> None:
    optimizer = optim.scheduled(optim.SGD(1.0), optim.StepLR(optim.SGD(1.0), 2, 0.5), steps=5)
    state = optimizer.init(PARAMS)
    seen = []
    for _ in range(7):
        updates, state = optimizer.update({"w": jnp.ones(2)}, state, PARAMS)
        seen.append(-float(updates["w"][0]))
    assert seen == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_by_hand_and_by_group() -> None:
    pair = optim.groups([("*.bias", optim.SGD(1.0))], optim.SGD(0.1))
    params = {"a.bias": jnp.zeros(1), "a.weight": jnp.zeros(1)}
    schedule = optim.LambdaLR(pair, [lambda t: 0.5**t, lambda t: 1.0])
    assert schedule.lr(2) == [0.25, 0.1]
    state = schedule.apply(pair.init(params), 3)
    rates = [float(optim.get_hyperparams(state, group=i)["lr"]) for i in range(2)]
    np.testing.assert_allclose(rates, [0.125, 0.1], rtol=1e-7)
    optimizer = optim.scheduled(pair, schedule, steps=4)
    state = optimizer.init(params)
    for _ in range(3):
        _, state = optimizer.update(params, state, params)
    rates = [float(optim.get_hyperparams(state, group=i)["lr"]) for i in range(2)]
    np.testing.assert_allclose(rates, [0.25, 0.1], rtol=1e-7)
    table = schedule.table(3)
    np.testing.assert_array_equal(table[0]["lr"], [1.0, 0.5, 0.25])


REFUSED = [
    (lambda: optim.StepLR(SGD, 0), ValueError, "StepLR: step_size: 0"),
    (lambda: optim.StepLR(0.1, 3), TypeError, "StepLR: optimizer: float"),
    (lambda: optim.ConstantLR(SGD, 1.5), ValueError, "ConstantLR: factor: 1.5"),
    (lambda: optim.LinearLR(SGD, 0.0), ValueError, r"start_factor: 0.0; accepted is \(0, 1\]"),
    (lambda: optim.LinearLR(SGD, 1.0, -1.0), ValueError, "end_factor: -1.0"),
    (lambda: optim.PolynomialLR(SGD, 0), ValueError, "total_iters: 0"),
    (lambda: optim.CosineAnnealingLR(SGD, 0), ValueError, "T_max: 0"),
    (lambda: optim.CosineAnnealingWarmRestarts(SGD, 0), ValueError, "T_0: 0"),
    (lambda: optim.CosineAnnealingWarmRestarts(SGD, 5, 1.5), ValueError, "T_mult: 1.5"),
    (lambda: optim.CyclicLR(SGD, 0.1, 1.0, mode="square"), ValueError, "mode: 'square'"),
    (lambda: optim.CyclicLR(optim.SGD(), 0.1, 1.0), ValueError, "keeps no momentum buffer"),
    (lambda: optim.CyclicLR(optim.Adagrad(), 0.1, 1.0), ValueError, "neither momentum nor betas"),
    (lambda: optim.OneCycleLR(SGD, 0.1), ValueError, "give total_steps, or both"),
    (lambda: optim.OneCycleLR(SGD, 0.1, 0), ValueError, "total_steps: 0"),
    (lambda: optim.OneCycleLR(SGD, 0.1, 9, pct_start=2.0), ValueError, "pct_start: 2.0"),
    (lambda: optim.OneCycleLR(SGD, 0.1, 9)(10), ValueError, "step: 10; the cycle has 9"),
    (lambda: optim.OneCycleLR(SGD, 0.1, 9, anneal_strategy="x"), ValueError, "strategy: 'x'"),
    (lambda: optim.SWALR(SGD, 0.1, -1), ValueError, "anneal_epochs: -1"),
    (lambda: optim.LambdaLR(SGD, 0.5), TypeError, "lr_lambda: 0.5"),
    (lambda: optim.LambdaLR(SGD, [abs, abs]), ValueError, "2 values; the optimizer has 1"),
    (lambda: optim.ChainedScheduler([]), ValueError, "schedulers: it is empty"),
    (
        lambda: optim.SequentialLR(SGD, [optim.ReduceLROnPlateau(SGD)], []),
        TypeError,
        "it needs a metric",
    ),
    (
        lambda: optim.SequentialLR(SGD, [optim.StepLR(SGD, 1)], [5]),
        ValueError,
        "1 milestones for 1 schedulers",
    ),
    (
        lambda: optim.ChainedScheduler([optim.StepLR(SGD, 1), optim.StepLR(optim.SGD(), 1)]),
        ValueError,
        "built for another optimizer",
    ),
    (lambda: optim.StepLR(SGD, 1)(-1), ValueError, "step: -1"),
    (lambda: optim.StepLR(SGD, 1).table(0), ValueError, "steps: 0"),
    (
        lambda: optim.scheduled(optim.SGD(), optim.StepLR(SGD, 1), 5),
        ValueError,
        "the schedule was built for",
    ),
    (lambda: optim.scheduled(SGD, optim.StepLR(SGD, 1), 5, every=0), ValueError, "every: 0"),
    (lambda: optim.ReduceLROnPlateau(SGD, factor=1.0), ValueError, "factor: 1.0"),
    (lambda: optim.ReduceLROnPlateau(SGD, mode="up"), ValueError, "mode: 'up'"),
    (lambda: optim.ReduceLROnPlateau(SGD, threshold_mode="x"), ValueError, "threshold_mode: 'x'"),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_arguments_out_of_range_are_refused(make: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


PLATEAUS = [
    {"patience": 2},
    {"patience": 0, "factor": 0.5, "cooldown": 3, "min_lr": 0.01},
    {"mode": "max", "patience": 1, "threshold": 0.05, "factor": 0.3},
    {"threshold_mode": "abs", "threshold": 0.1, "patience": 3, "factor": 0.7, "cooldown": 1},
    {"mode": "max", "threshold_mode": "abs", "threshold": 0.01, "patience": 1, "eps": 1e-3},
]


def metrics() -> np.ndarray:
    rng = np.random.RandomState(3)
    return np.abs(np.exp(-np.arange(STEPS) / 40) + 0.1 * rng.standard_normal(STEPS))


def plateau_rates(kwargs: Any, x64: bool, compiled: bool) -> np.ndarray:
    with jax.enable_x64(x64):
        plateau = optim.ReduceLROnPlateau(SGD, **kwargs)
        step = jax.jit(plateau.step) if compiled else plateau.step
        state, opt_state = plateau.init(), SGD.init({"w": jnp.zeros(1)})
        rates = []
        for metric in metrics():
            state, opt_state = step(state, metric, opt_state)
            rates.append(float(optim.get_hyperparams(opt_state)["lr"]))
    return np.array(rates)


def torch_plateau_rates(kwargs: Any) -> np.ndarray:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **kwargs)
    rates = []
    for metric in metrics():
        plateau.step(metric)
        rates.append(optimizer.param_groups[0]["lr"])
    return np.array(rates)


def golden_plateau(i: int) -> np.ndarray:
    with np.load(GOLDEN / "optim_schedules.npz") as archive:
        return archive[f"plateau {i}"]


@pytest.mark.torch
@pytest.mark.parametrize("i", range(len(PLATEAUS)))
def test_plateaus_golden_rates_are_torchs(i: int) -> None:
    np.testing.assert_array_equal(torch_plateau_rates(PLATEAUS[i]), golden_plateau(i))


@pytest.mark.parametrize("i", range(len(PLATEAUS)))
def test_plateau_equals_torch(i: int) -> None:
    expected = golden_plateau(i)
    assert len(set(expected)) > 2
    double = plateau_rates(PLATEAUS[i], x64=True, compiled=True)
    np.testing.assert_allclose(double, expected, rtol=1e-12)
    single = plateau_rates(PLATEAUS[i], x64=False, compiled=True)
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-7)


def test_plateau_bears_patience_epochs_and_acts_on_the_next() -> None:
    plateau = optim.ReduceLROnPlateau(SGD, patience=2)
    state, opt_state = plateau.init(), SGD.init(PARAMS)
    rates = []
    for _ in range(4):
        state, opt_state = plateau.step(state, 1.0, opt_state)
        rates.append(round(float(optim.get_hyperparams(opt_state)["lr"]), 6))
    assert rates == [0.1, 0.1, 0.1, 0.01]
    with pytest.raises(ValueError, match=r"metric: shape \(2,\)"):
        plateau.step(state, jnp.ones(2), opt_state)
