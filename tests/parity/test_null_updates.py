"""Updates by gradients of which a part is nothing but rounding: the keys' third of a fused bias."""

import numpy as np
import pytest

from jaxnet import parity
from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._rules import rule
from jaxnet.parity._site_results import SiteResults
from jaxnet.parity._trace import TraceWriter, read
from tests.parity import flax_models, pairs

OPTIMIZERS = {
    "Adam": {"betas": [0.9, 0.999], "eps": 1e-8},
    "Adam, AMSGrad": {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": True},
    "Adam, decay": {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1},
    "AdamW": {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
    "RMSprop": {"alpha": 0.99, "eps": 1e-8},
    "RMSprop, momentum": {"alpha": 0.9, "eps": 1e-8, "momentum": 0.9, "centered": True},
    "Adagrad": {"eps": 1e-10},
    "SGD": {"momentum": 0.9},
}
LR = 1e-2
BEFORE = np.float32([0.3, -0.2, 0.4, 0.1, -0.3, 0.2])
# Of queries, of keys, and of values: in torch's float32 and float64, and in the other program's.
REAL = np.array([0.1, -0.2, 0, 0, 0.3, -0.1])
KEYS = np.array([0, 0, 1, 1, 0, 0], bool)
T, T64 = np.array([2e-9, 0]), np.array([1e-18, 0])
J, J64 = np.array([-1e-9, 3e-9]), np.array([-2e-18, 5e-18])


def gradient(keys, number):
    found = REAL * (1 + number)
    found[KEYS] = keys[:: (-1) ** number]  # torch's zero is once the one, once the other
    return found


def updated(optimizer, keys, parameter, state, number, dtype):
    kind, given = optimizer.partition(",")[0], {"lr": LR, **OPTIMIZERS[optimizer]}
    numbers = {slot: value.astype(np.float64) for slot, value in state.items()}
    g = gradient(keys, number).astype(dtype).astype(np.float64)
    after, slots = rule(kind, given, parameter.astype(np.float64), g, numbers, number + 1, LR)
    return after.astype(dtype), {slot: value.astype(dtype) for slot, value in slots.items()}


def recorded(folder, optimizer, steps=3, keys=(T, T64)):
    """A trace of the bias alone, and for each step the arrays of all four runs by site."""
    writer = TraceWriter(folder / "trace")
    parameter, state = BEFORE, {}
    runs = []
    for number in range(steps):
        arrays = {"before:a.bias": parameter}
        arrays |= {f"state_before:a.bias.{slot}": value for slot, value in state.items()}
        if number:
            arrays["state_before:a.bias.step"] = np.float32(number)
        arrays["param_grad:a.bias"] = gradient(keys[0], number).astype(np.float32)
        arrays["param_grad:a.weight"] = np.ones(3, np.float32)
        wide = {"param_grad:a.bias": gradient(keys[1], number)}
        four = []
        for i, part in enumerate((*keys, J, J64)):
            dtype = (np.float32, np.float64)[i % 2]
            after, slots = updated(optimizer, part, parameter, state, number, dtype)
            found = {f"state:a.bias.{slot}": value for slot, value in slots.items()}
            four.append({"update:a.bias": after, **found})
        arrays |= four[0]
        wide |= four[1]
        content = {"full": False, "events": [], "groups": [[{"lr": LR, **OPTIMIZERS[optimizer]}]]}
        content |= {name: [] for name in ("calls", "functions", "draws", "batches", "losses")}
        writer.write_step(content, arrays, wide)
        runs.append(four)
        parameter = four[0]["update:a.bias"]
        state = {s.rpartition(".")[2]: v for s, v in four[0].items() if s.startswith("state:")}
    about = {name: {} for name in ("modules", "parameters", "buffers")}
    groups = [{"params": ["a.bias"]}]
    one = {"class": optimizer.partition(",")[0], "defaults": {}, "groups": groups}
    writer.write_about({"models": [""], "optimizers": [one], "schedulers": [], **about})
    return read(writer.path), runs


def labels(folder, optimizer, change, restored):
    """The labels of the updates and states of all steps, of a program with a fault."""
    trace, runs = recorded(folder, optimizer)
    results = SiteResults(trace, {"a.bias"} if restored else ())
    for step, (_, _, jax, jax64) in zip(trace.steps, runs, strict=True):
        found = {
            site: FourRuns(
                step[site], step.double(site), *(change(site, x) for x in (a, jax64[site]))
            )
            for site, a in jax.items()
        }
        results.judge(step, found, "step")
    return results


@pytest.mark.parametrize("restored", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_and_states_by_rounding_are_no_difference(tmp_path, optimizer, restored):
    found = labels(tmp_path, optimizer, lambda site, x: x, restored)
    assert not [(r.step, r.site, r.judgement) for r in found.all if r.judgement.failed]
    assert {r.step for r in found.all if r.site == "update:a.bias"} == {0, 1, 2}


FAULTS = {
    # What is added to the update of each element, as a part of the learning rate. Of the keys
    # Adagrad, with its small epsilon, makes a hundred times as much of rounding as the others.
    "values": np.array([0, 0, 0, 0, 1e-6, 0]),
    "queries": np.array([1e-6, 0, 0, 0, 0, 0]),
    "a key that is no rounding": np.array([0, 0, 1e-3, 0, 0, 0]),
    "a key whose gradient is zero": np.array([0, 0, 0, 1e-3, 0, 0]),
}


@pytest.mark.parametrize("restored", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_rounding_does_not_explain_is_a_difference(tmp_path, optimizer, fault, restored):
    def change(site, x):
        size = LR * (100 if "key" in fault and optimizer == "Adagrad" else 1)
        return (x + size * FAULTS[fault]).astype(x.dtype) if site.startswith("update:") else x

    found = labels(tmp_path, optimizer, change, restored)
    wrong = {(r.step, r.judgement.where) for r in found.all if r.judgement.failed}
    (where,) = np.flatnonzero(FAULTS[fault])
    assert wrong == {(step, (where,)) for step in range(3)}


@pytest.mark.parametrize("slot", ["exp_avg", "exp_avg_sq"])
def test_moments_that_rounding_does_not_explain_are_a_difference(tmp_path, slot):
    def change(site, x):
        return x + np.asarray(1e-3 * KEYS, x.dtype) if site.endswith(slot) else x

    found = labels(tmp_path, "Adam", change, True)
    wrong = {(r.step, r.site) for r in found.all if r.judgement.failed}
    assert wrong == {(step, f"state:a.bias.{slot}") for step in range(3)}


@pytest.mark.parametrize("optimizer", ["AdamW"])
def test_float32_alone_is_bound_by_rounding_too(tmp_path, optimizer):
    def change(site, x):
        narrow = site.startswith("update:") and x.dtype == np.float32
        return x + np.float32(20 * LR) * KEYS.astype(np.float32) if narrow else x

    found = labels(tmp_path, optimizer, change, True)
    assert {r.step for r in found.all if r.judgement.failed} == {0, 1, 2}


def test_a_row_that_nobody_asks_for_is_no_rounding(tmp_path):
    """A gradient of zero beside none of rounding: what moves it is a difference."""
    trace, runs = recorded(tmp_path, "Adam", 1, keys=(0 * T, 0 * T64))
    (step,) = trace.steps
    results = SiteResults(trace, {"a.bias"})
    site = "update:a.bias"
    four = FourRuns(step[site], step.double(site), runs[0][2][site], runs[0][3][site])
    results.judge(step, {site: four}, "step")
    assert [r.judgement.failed for r in results.all] == [True]


def test_a_zero_is_rounding_where_the_other_program_has_rounding(tmp_path):
    trace, runs = recorded(tmp_path, "Adam", 1, keys=(0 * T, 0 * T64))
    (step,) = trace.steps
    results = SiteResults(trace, {"a.bias"})
    gradients = [gradient(J, 0).astype(np.float32), gradient(J64, 0)]
    site = "param_grad:a.bias"
    results.judge(step, {site: FourRuns(step[site], step.double(site), *gradients)}, "chain")
    site = "update:a.bias"
    four = FourRuns(step[site], step.double(site), runs[0][2][site], runs[0][3][site])
    results.judge(step, {site: four}, "step")
    assert [r.judgement.label for r in results.all] == ["same", "same"]


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.usefixtures("usual_settings")
def test_a_gpt_whose_keys_have_a_bias_is_the_same(tmp_path):
    """One of its keys' 16 gradients is 0 in torch's float32 and float64, and 5e-18 in flax's."""
    one = flax_models.pair("GPT")
    with parity.recording(tmp_path / "trace", steps=2):
        one.train(2)
    trace = pairs.read(tmp_path / "trace")
    report = parity.check(trace, **one.subject(trace))
    assert report.verdict == "same", str(report)
