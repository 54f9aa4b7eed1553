"""experiments/several_devices.py and the program that it starts."""

import jax
import numpy as np
import pytest

from experiments import several_devices
from experiments import several_devices_program as program
from experiments.several_devices import Config

PARAMETERS = 3 * 16 * 9 + 2 * 16 + (16 * 9 + 1) * 16 + (256 + 1) * 128 + (128 + 1) * 2
LOSS = np.linspace(0.7, 0.1, 10)


def found(**planted):
    """What the process with several devices finds, with a few weights instead of all."""
    weights = np.linspace(np.zeros(3), np.ones(3), 11)
    arrays = {"device": np.array("cpu"), "bytes.trained": np.array([1001, 2003])}
    for rule in program.RULES:
        for n in (1, 2, 4, 8):
            arrays |= {f"{rule}.{n}.loss": LOSS, f"{rule}.{n}.weights": weights}
            arrays[f"bytes.{n}"] = np.array([8000 // n, 16000 // n]) + (n > 1) * np.array([1, 3])
    arrays |= {"cut.loss": LOSS, "alone.0.loss": LOSS, "alone.1.loss": LOSS + 1}
    arrays |= {"alone.0.weights": weights, "alone.1.weights": -weights}
    return arrays | planted


def process(rank, **planted):
    """What one of two processes finds."""
    weights = np.linspace(np.zeros(3), np.ones(3), 11)
    arrays = {}
    for rule in program.RULES:
        arrays |= {f"{rule}.loss": LOSS, f"{rule}.weights": weights}
    return arrays | {"SGD.placed": np.array([16, *np.arange(rank, 320, 2)])} | planted


NAN = np.full(10, np.nan)


@pytest.mark.parametrize(
    ("alone", "second", "off"),
    [
        ({}, {}, []),
        ({"SGD.4.loss": LOSS + 2e-5}, {}, ["4 devices: the losses of SGD"]),
        ({"Adam.8.loss": NAN}, {}, ["8 devices: the losses of Adam"]),
        ({"cut.loss": LOSS - 2e-5}, {}, ["8 devices, fsdp: the losses of Adam"]),
        ({}, {"SGD.placed": np.array([32, *range(320)])}, ["each process places"]),
        ({}, {"SGD.placed": np.array([16, *range(0, 320, 2)])}, ["each process places"]),
        ({}, {"Adam.weights": np.ones((11, 3))}, ["processes that train together"]),
        ({}, {"SGD.weights": np.full((11, 3), np.nan)}, ["processes that train together"]),
        ({"bytes.4": np.array([2000, 4100])}, {}, ["with fsdp"]),
        ({"bytes.trained": np.array([8000, 16000])}, {}, ["with fsdp"]),
        ({"alone.1.weights": found()["alone.0.weights"]}, {}, ["two processes that train for"]),
    ],
)
def test_a_planted_wrong_value_is_found(alone, second, off):
    figures = several_devices.figures_of(found(**alone), [process(0), process(1, **second)])
    checks = several_devices.judge(figures)
    wrong = [check["check"] for check in checks if check["verdict"] == "OFF"]
    assert len(checks) == 13
    assert len(wrong) == len(off)
    assert all(what.startswith(begin) for what, begin in zip(wrong, off, strict=True))


def test_losses_that_never_move_are_no_proof():
    still = {key: 0 * LOSS + 0.7 for key in found() if key.startswith("SGD") and "loss" in key}
    processes = [process(0) | {"SGD.loss": 0 * LOSS + 0.7}, process(1)]
    checks = several_devices.judge(several_devices.figures_of(found(**still), processes))
    wrong = [check["check"] for check in checks if check["verdict"] == "OFF"]
    assert [what.partition(" of SGD")[0] for what in wrong] == [
        "2 devices: the losses",
        "4 devices: the losses",
        "8 devices: the losses",
        "2 processes: the losses",
    ]


@pytest.mark.long
def test_the_program_trains_on_four_devices_as_on_one():
    one, four = (program.train_once("SGD", 3, 1, mesh=mesh)[1] for mesh in (None, "data=4"))
    np.testing.assert_allclose(four["loss"], one["loss"], atol=several_devices.CLOSE)
    assert one["weights"].shape == (11, PARAMETERS)
    assert four["placed"][0] == 32  # of a batch, on this process's devices together
    firsts = program.make_rows(3)[0][:, 0, 0, 0]
    assert set(four["placed"][1:]) == set(firsts)


def test_a_half_is_half_of_the_rows():
    batch = np.arange(32), np.arange(64).reshape(32, 2)
    for half, first in ((0, 0), (1, 16)):
        _, (x, y) = program.of_half(lambda state, batch: (state, batch), half)(None, batch)
        np.testing.assert_array_equal(x, np.arange(first, first + 16))
        assert y.shape == (16, 2)


def test_cut_states_are_measured_in_bytes():
    state, _ = program.make_state("Adam", 0, 1)
    params, optimizer = program.bytes_on_a_device(state)
    assert params == 4 * PARAMETERS
    assert optimizer >= 8 * PARAMETERS


@pytest.mark.parametrize(
    ("flags", "left"),
    [("", ""), ("--xla_force_host_platform_device_count=4 --xla_a=1", "--xla_a=1")],
)
def test_a_cpu_counts_as_many_devices(flags, left, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "3")
    found = several_devices.environment(Config(), 8)
    assert found["XLA_FLAGS"] == left
    assert (found["JAX_NUM_CPU_DEVICES"], found["JAX_PLATFORMS"]) == ("8", "cpu")


@pytest.mark.parametrize(("gpus", "cpu"), [(1, True), (2, False), (8, False)])
def test_gpus_are_used_where_there_are_several(gpus, cpu, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda kind: gpus)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    found = several_devices.environment(Config(), 1)
    assert (found["JAX_PLATFORMS"] == "cpu") == cpu


def test_a_program_that_fails_says_why(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    stub = tmp_path / "experiments" / "several_devices_program.py"
    stub.write_text("import sys; print('no device'); sys.exit(3)", encoding="utf-8")
    monkeypatch.setattr(several_devices, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(RuntimeError, match=r"devices .* 0 5 ended with 3:\nno device"):
        several_devices.start(Config(), "devices", tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"processes": 1}, "--processes: 1; accepted is what divides a batch of 32"),
        ({"processes": 3}, "--processes: 3; accepted is what divides a batch of 32"),
        ({"device": "gpu:1"}, "--device: gpu:1; all of a kind are used: accepted is gpu"),
    ],
)
def test_other_settings_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Config(**settings).validate()
