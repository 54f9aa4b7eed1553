"""Planted faults of schedules, gradients, averages and of what programs begin with are named."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytest

from jaxnet import optim
from jaxnet.parity._attribute import attribute
from jaxnet.parity._evidence import Evidence
from jaxnet.parity._schedules import matching
from jaxnet.parity._training_causes import explain_start
from jaxnet.parity._traps.gradients import Gradient
from jaxnet.parity._traps.runs import Average, Statistics, of_batches, of_sharing
from jaxnet.parity._update_causes import Explained, Read, explain_updates
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


GRADIENT = Gradient(
    "head.weight",
    {k: RNG.normal(size=(3, 4)) for k in range(2)},
    {0: 3.0, 1: 5.0},
    batches=4,
    samples=6,
)
PARTS = {call: {k: RNG.normal(size=(3, 4)) for k in range(2)} for call in ("embed#0", "head#0")}
TIED = dataclasses.replace(
    GRADIENT, gradients={k: sum(part[k] for part in PARTS.values()) for k in range(2)}, uses=PARTS
)
GRADIENTS: dict[str, tuple[Gradient, Callable[[int, Any], Any], str]] = {
    "stopped": (GRADIENT, lambda k, g: 0 * g, "gradient-stopped"),
    "mean of batches": (GRADIENT, lambda k, g: g / 4, "gradient-counts"),
    "sum of samples": (GRADIENT, lambda k, g: 6 * g, "gradient-counts"),
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
    assert not attribute(reference, exact(theirs, theirs)).proven


VALUES = tuple(RNG.normal(size=6) for _ in range(6))
AVERAGE = Average({"decay": 0.99}, VALUES[0], VALUES)


def averaged(decay: float = 0.99, begin: Any = VALUES[0], late: bool = False, warm: bool = False,
             every: int = 1, corrected: bool = False) -> dict[str, np.ndarray]:  # fmt: skip
    """An average of the weights, by hand."""
    average, found = begin, {}
    for k in range(5):
        d = min(decay, (1 + k) / (10 + k)) if warm else decay
        if k % every == 0:
            average = average * d + VALUES[k + (not late)] * (1 - d)
        found[f"{k}:average"] = average / (1 - decay ** (k + 1)) if corrected else average
    return found


AVERAGES: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "decay": (averaged(0.9), "average-decay"),
    "complement": (averaged(0.01), "average-complement"),
    "before": (averaged(late=True), "average-before-update"),
    "zero": (averaged(begin=0 * VALUES[0]), "average-from-zero"),
    "optax": (averaged(begin=0 * VALUES[0], corrected=True), "average-from-zero-corrected"),
    "first": (averaged(begin=VALUES[1]), "average-from-first-update"),
    "warm": (averaged(warm=True), "average-warm-up"),
    "every": (averaged(every=2), "average-interval"),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_a_planted_average_is_named(name: str) -> None:
    ours, row = AVERAGES[name]
    cause = attribute(AVERAGE, exact(averaged(), ours))
    assert cause.proven
    assert [h.trap.name for h in cause.proven[0]] == [row], cause.words
    assert not attribute(AVERAGE, exact(averaged(), averaged())).proven


@pytest.mark.parametrize(
    ("updates", "row"), [(0, "statistics-not-moved"), (2, "statistics-moved-again")]
)
def test_planted_running_statistics_are_named(updates: int, row: str) -> None:
    before, batch = {"running_mean": VALUES[0]}, VALUES[1]
    after = {"running_mean": 0.9 * VALUES[0] + 0.1 * batch}
    ours = VALUES[0]
    for _ in range(updates):
        ours = 0.9 * ours + 0.1 * batch
    cause = attribute(
        Statistics({"momentum": 0.1}, before, after), exact(after, {"running_mean": ours})
    )
    assert cause.proven
    assert [h.trap.name for h in cause.proven[0]] == [row], cause.words


def test_batches_and_shared_parameters_are_compared() -> None:
    assert of_batches([4, 4, 2], [4, 4, 2]) is None
    assert "drop_last=True" in str(of_batches([4, 4, 2], [4, 4]))
    assert "leaves it out" in str(of_batches([4, 4], [4, 4, 2]))
    assert "2 updates" in str(of_batches([4, 4, 4], [4, 4]))
    assert "have 6 samples; torch's have 4" in str(of_batches([4, 4, 4], [6, 6]))
    tied = {"a.weight": ("a.weight", "b.weight")}
    apart = {"a.weight": ("a.weight",), "b.weight": ("b.weight",)}
    assert of_sharing(tied, tied) == []
    assert "are 2 parameters" in of_sharing(tied, apart)[0][1]
    assert "are one parameter" in of_sharing(apart, tied)[0][1]


IMAGES = np.float32(RNG.random((6, 3, 5, 4)))
MATRIX = np.float32(RNG.uniform(-0.5, 0.5, size=(20, 16)))
LABELS = np.array([2, 0, 1, 3, 1, 0])
MEAN, STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _of_colours(values: Any) -> Any:
    return np.float32(np.reshape(values, (1, 3, 1, 1)))


def _bfloat16(x: Any) -> Any:
    import jax.numpy as jnp

    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32))


STARTS: dict[str, tuple[str, np.ndarray, np.ndarray, str]] = {
    "transposed": ("weights", MATRIX, MATRIX.T, "value-transposed"),
    "zeros": ("weights", MATRIX, 0 * MATRIX, "weights-constant"),
    "scaled": ("weights", MATRIX, np.float32(MATRIX * 3**0.5), "weights-scaled"),
    "bfloat16": ("weights", MATRIX, _bfloat16(MATRIX), "value-rounded"),
    "float16": ("inputs", IMAGES, np.float32(np.float16(IMAGES)), "value-rounded"),
    "HWC": ("inputs", IMAGES, np.moveaxis(IMAGES, 1, -1), "inputs-channels-last"),
    "BGR": ("inputs", IMAGES, IMAGES[:, ::-1], "inputs-colours"),
    "bytes": ("inputs", IMAGES, np.float32(IMAGES * 255), "inputs-scaled"),
    "normalised": ("inputs", IMAGES, np.float32((IMAGES - 0.5) / 0.5), "inputs-normalized"),
    "ImageNet": (
        "inputs",
        IMAGES,
        (IMAGES - _of_colours(MEAN)) / _of_colours(STD),
        "inputs-imagenet",
    ),
    "shuffled": ("inputs", IMAGES, IMAGES[[3, 1, 0, 5, 4, 2]], "inputs-order"),
    "fewer": ("inputs", IMAGES, IMAGES[:4], "inputs-fewer"),
    "from one": ("targets", LABELS, LABELS + 1, "targets-shifted"),
    "one-hot": ("targets", LABELS, np.eye(4)[LABELS], "targets-one-hot"),
    "class numbers": ("targets", np.eye(4)[LABELS], LABELS, "targets-class-numbers"),
}


@pytest.mark.parametrize("name", STARTS)
def test_another_beginning_is_named(name: str) -> None:
    kind, theirs, ours, row = STARTS[name]
    (found,) = explain_start(kind, {"a": theirs, "same": MATRIX}, {"a": ours, "same": MATRIX})
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
    (found,) = explain_start("weights", torch, dict.fromkeys(torch, ours))
    assert words in found.words
    assert found.places == ("a.weight", "b.weight")
