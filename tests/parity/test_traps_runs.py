"""Planted faults of schedules, gradients and of what programs begin with are named."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optim
from jaxnet.parity import _updates
from jaxnet.parity._attribute import attribute
from jaxnet.parity._evidence import Evidence
from jaxnet.parity._explained import Explained, Read
from jaxnet.parity._schedules import matching
from jaxnet.parity._trace import Trace
from jaxnet.parity._training_causes import explain_gradients, explain_start
from jaxnet.parity._traps.gradients import Gradient
from jaxnet.parity._update_causes import explain_updates
from tests.parity import training

RNG = np.random.default_rng(0)
UPDATES = 12


def exact(torch: Any, jax: Any) -> Evidence:
    return Evidence(torch, torch, jax, jax)


def torch_rates(make: Callable[[Any], Any], every: int) -> tuple[str, dict[str, Any], list[float]]:
    """torch's own learning rates, and the arguments that its scheduler has as attributes."""
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1, momentum=0.9)
    scheduler = make(optimizer)
    series = []
    for update in range(UPDATES):
        series.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if update % every == every - 1:
            scheduler.step()
    plain = {k: v for k, v in vars(scheduler).items() if isinstance(v, int | float | bool)}
    return type(scheduler).__name__, plain, series


STEP = ("StepLR", {"step_size": 3, "gamma": 0.5})
COSINE = ("CosineAnnealingLR", {"T_max": 8, "eta_min": 0.01})
LINEAR = ("LinearLR", {"start_factor": 0.25, "total_iters": 8})
ONE = ("OneCycleLR", {"max_lr": 0.2, "total_steps": 16})

# torch's schedule, the number of updates in one of its steps, the planted rate of an update,
# and the row.
SCHEDULES: dict[str, tuple[tuple[str, dict[str, Any]], int, Callable[[int], float], str]] = {
    "ahead": (STEP, 1, lambda k: 0.1 * 0.5 ** ((k + 1) // 3), "schedule-step"),
    "behind": (COSINE, 1, lambda k: _cosine(max(k - 1, 0)), "schedule-step"),
    "every batch": (STEP, 2, lambda k: 0.1 * 0.5 ** (k // 3), "schedule-per-batch"),
    "every epoch": (STEP, 1, lambda k: 0.1 * 0.5 ** (k // 2 // 3), "schedule-per-epoch"),
    "none": (STEP, 1, lambda k: 0.1, "schedule-missing"),
    "T_max": (COSINE, 1, lambda k: _cosine(k, 7), "schedule-length"),
    "eta_min": (COSINE, 1, lambda k: _cosine(k, 8, 0.0), "schedule-lowest"),
    "stays low": (
        COSINE,
        1,
        lambda k: float(optax.cosine_decay_schedule(0.1, 8, 0.1)(k)),
        "schedule-cosine-stays",
    ),
    "gamma": (STEP, 1, lambda k: 0.1 * 0.3 ** (k // 3), "schedule-gamma"),
    "from zero": (LINEAR, 1, lambda k: 0.1 * min(k / 8, 1), "warmup-from-zero"),
    "from one": (LINEAR, 1, lambda k: 0.1 * min((k + 1) / 8, 1), "warmup-share"),
    "start": (LINEAR, 1, lambda k: 0.1 * (0.1 + 0.9 * min(k / 8, 1)), "warmup-start"),
    "anneal": (ONE, 1, lambda k: _one_cycle(k, anneal_strategy="linear"), "one-cycle-anneal"),
    "div_factor": (ONE, 1, lambda k: _one_cycle(k, div_factor=10.0), "one-cycle-start"),
    "half": (STEP, 1, lambda k: 0.05 * 0.5 ** (k // 3), "schedule-factor"),
}


def _cosine(k: int, length: int = 8, low: float = 0.01) -> float:
    optimizer = optim.SGD(lr=0.1)
    return optim.CosineAnnealingLR(optimizer, length, low).lr(k)[0]


def _one_cycle(k: int, **options: Any) -> float:
    optimizer = optim.SGD(lr=0.1, momentum=0.9)
    return optim.OneCycleLR(optimizer, 0.2, 16, **options).lr(k)[0]


@pytest.mark.torch
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_planted_schedule_is_named(name: str) -> None:
    import torch

    (cls, arguments), every, planted, row = SCHEDULES[name]
    make = getattr(torch.optim.lr_scheduler, cls)
    kind, attributes, series = torch_rates(lambda o: make(o, **arguments), every)
    initial = {"lr": 0.1, "momentum": 0.9}
    about = {"initial": initial, "every": 1, "steps": UPDATES}
    found = matching(kind, {**arguments, **attributes, **about}, series)
    assert found is not None
    assert found.config["every"] == every
    ours = {"lr": np.array([planted(k) for k in range(UPDATES)])}
    theirs = {"lr": np.array(series)}
    cause = attribute(found, Read(theirs, theirs, ours, ours))
    assert cause.proven
    assert [h.trap.name for h in cause.proven[0]] == [row], cause.words
    clean = attribute(found, Read(theirs, theirs, theirs, theirs))
    assert clean.trusted
    assert not clean.proven


@pytest.mark.torch
def test_rates_are_read_from_updates(tmp_path: Any) -> None:
    """An optimizer that hides its learning rate: from which update on it is another is found."""
    import torch

    falling = [0.1, 0.1, 0.05, 0.05]
    scheduler = {"class": "StepLR", "config": {"step_size": 2, "gamma": 0.5}}
    trace = training.record(
        tmp_path / "t",
        lambda p: torch.optim.SGD([{**g, "initial_lr": 0.1} for g in p], 0.1, momentum=0.9),
        lrs=falling,
        schedulers=[scheduler],
    )

    def run(length: int) -> list[Explained]:
        schedule = optax.exponential_decay(0.1, length, 0.5, staircase=True)
        runs = training.updated(trace, lambda: optax.sgd(schedule, 0.9))
        return explain_updates(trace, *runs, carried=True)

    (early,) = run(1)
    assert early.traps == ("schedule-length",)
    assert early.steps == (1, 2, 3)
    assert set(early.places) == set(training.SHAPES)
    # optax computes the rate in float32 where it was built in float32, which is no fault.
    assert all(each.rounding for each in run(2))


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """SGD whose learning rate is halved in each step."""
    import torch

    return training.record(
        tmp_path_factory.mktemp("scheduled") / "t",
        lambda p: torch.optim.SGD([{**g, "initial_lr": 0.1} for g in p], 0.1),
        lrs=[0.1 * 0.5**k for k in range(training.STEPS)],
        schedulers=[{"class": "ExponentialLR", "config": {"gamma": 0.5}}],
    )


def _then(change: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """SGD with torch's schedule, whose updates go through a function of (updates, step)."""

    def make() -> Any:
        falling = optax.sgd(lambda k: 0.1 * 0.5**k)
        changed = optax.GradientTransformation(
            lambda params: jnp.zeros((), jnp.int32),
            lambda updates, k, params=None: (change(updates, k), k + 1),
        )
        return optax.chain(falling, changed)

    return make


def _changed(name: str, change: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda updates, k: {**updates, name: change(updates[name])}


def _rounded(updates: Any, k: Any) -> Any:
    return {n: u * (1 + 2.0**-25) for n, u in updates.items()}


@pytest.mark.torch
def test_rounded_constants_are_no_difference(scheduled: Trace) -> None:
    for kept in (training.STEPS, 2):
        findings, notes = training.explained(scheduled, _then(_rounded), kept)
        assert findings == []
        assert len(notes) == 1


@pytest.mark.torch
def test_rounded_constants_hide_no_other_difference(
    scheduled: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_updates, "ELEMENTS", 6)  # of which [0, 1] is none

    def sparse(updates: Any, k: Any) -> Any:
        name = "net.weight"
        return _changed(name, lambda u: u.at[0, 1].multiply(3.0))(_rounded(updates, k), k)

    def late(updates: Any, k: Any) -> Any:
        return {n: u * jnp.where(k >= 2, 1.001, 1.0) for n, u in _rounded(updates, k).items()}

    ((finding,), _) = training.explained(scheduled, _then(sparse))
    assert {r.site for r in finding.results} == {"update:net.weight"}
    assert finding.cause is None
    ((finding,), _) = training.explained(scheduled, _then(late), kept=2)
    assert finding.step == 2
    assert finding.message.endswith("from step 2 on (net.weight, net.bias, norm.weight)")


@pytest.mark.torch
def test_what_no_cause_explains_stays_beside_a_cause(scheduled: Trace) -> None:
    def two(updates: Any, k: Any) -> Any:
        updates = _changed("net.bias", lambda u: u.at[0].multiply(3.0))(updates, k)
        return _changed("net.weight", lambda u: 2.0 * u)(updates, k)

    named, rest = training.explained(scheduled, _then(two))[0]
    assert "2 times torch's" in str(named.cause)
    assert {r.site for r in named.results} == {"update:net.weight"}
    assert rest.cause is None
    assert {r.site for r in rest.results} == {"update:net.bias"}
    assert rest.message.startswith("the optimizer: the update with torch's gradients differs (net")


@pytest.mark.torch
def test_gradients_that_no_cause_explains_stay_beside_a_cause(scheduled: Trace) -> None:
    step = scheduled.steps[0]
    weight, bias = "param_grad:net.weight", "param_grad:net.bias"
    ours = {weight: 2 * step.double(weight), bias: step.double(bias) * [3, 1, 1, 1]}
    named, rest = explain_gradients(scheduled, {0: ours}, {0: ours}, (weight, bias))
    assert (named.places, named.traps) == (("net.weight",), ("gradient-factor",))
    assert (rest.places, rest.words) == (("net.bias",), "")


@pytest.mark.torch
def test_what_torch_does_beside_its_optimizer_is_no_rounding(tmp_path: Any) -> None:
    import torch

    def clamp(parameters: list[Any]) -> None:
        with torch.no_grad():
            for p in parameters:
                p.clamp_(-0.3, 0.3)

    for carried in (True, False):
        trace = training.record(
            tmp_path / str(carried), lambda p: torch.optim.SGD(p, 0.1), after=clamp
        )
        jax32, jax64 = training.updated(trace, lambda: optax.sgd(0.1))
        found = explain_updates(trace, jax32, jax64, carried)
        assert not any(each.rounding or each.words for each in found)
        ((finding,), notes) = training.explained(trace, lambda: optax.sgd(0.1))
        assert finding.cause is None
        assert "as clamp_ does" in finding.message
        assert notes == []


GRADIENT = Gradient(
    "head.weight",
    {k: RNG.normal(size=(3, 4)) for k in range(2)},
    {0: 3.0, 1: 5.0},
    batches=4,
)
PARTS = {call: {k: RNG.normal(size=(3, 4)) for k in range(2)} for call in ("embed#0", "head#0")}
TIED = dataclasses.replace(
    GRADIENT, gradients={k: sum(part[k] for part in PARTS.values()) for k in range(2)}, uses=PARTS
)
GRADIENTS: dict[str, tuple[Gradient, Callable[[int, Any], Any], str]] = {
    "stopped": (GRADIENT, lambda k, g: 0 * g, "gradient-stopped"),
    "mean of batches": (GRADIENT, lambda k, g: g / 4, "gradient-counts"),
    "sum of batches": (GRADIENT, lambda k, g: 4 * g, "gradient-counts"),
    "clipped": (GRADIENT, lambda k, g: g * min(1, 4 / ((3, 5)[k] + 1e-6)), "gradient-clipped"),
    "scaled": (GRADIENT, lambda k, g: 65536 * g, "gradient-factor"),
    "not added": (TIED, lambda k, g: PARTS["head#0"][k], "gradient-use-missing"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_planted_gradient_is_named(name: str) -> None:
    reference, planted, row = GRADIENTS[name]
    theirs = reference.observe()
    ours = {key: planted(int(key[0]), g) for key, g in theirs.items()}
    cause = attribute(reference, exact(theirs, ours))
    assert cause.proven
    assert [h.trap.name for h in cause.proven[0]] == [row], cause.words
    assert row != "gradient-counts" or "those of 4 batches are averaged" in cause.words[0]
    assert not attribute(reference, exact(theirs, theirs)).proven


MATRIX = np.float32(RNG.uniform(-0.5, 0.5, size=(20, 16)))


def _bfloat16(x: Any) -> Any:
    import jax.numpy as jnp

    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


STARTS: dict[str, tuple[np.ndarray, str]] = {
    "transposed": (MATRIX.T, "value-transposed"),
    "zeros": (0 * MATRIX, "weights-constant"),
    "scaled": (np.float32(MATRIX * 3**0.5), "weights-scaled"),
    "bfloat16": (_bfloat16(MATRIX), "value-rounded"),
    "float16": (np.float32(np.float16(MATRIX)), "value-rounded"),
}


@pytest.mark.parametrize("name", STARTS)
def test_another_beginning_is_named(name: str) -> None:
    ours, row = STARTS[name]
    (found,) = explain_start({"a": MATRIX, "same": MATRIX}, {"a": ours, "same": MATRIX})
    assert found.places == ("a",)
    assert found.traps == (row,), found.words


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (np.float32(RNG.uniform(-0.5, 0.5, MATRIX.shape)), "another seed"),
        (np.float32(RNG.uniform(-0.25, 0.25, MATRIX.shape)), "times the standard deviation"),
        (np.float32(RNG.normal(size=MATRIX.shape) * MATRIX.std()), "not uniform"),
        (MATRIX[::-1], "in another order"),
    ],
)
def test_other_random_weights_are_described(ours: np.ndarray, words: str) -> None:
    torch = {"a.weight": MATRIX, "b.weight": MATRIX}
    (found,) = explain_start(torch, dict.fromkeys(torch, ours))
    assert words in found.words
    assert found.places == ("a.weight", "b.weight")
