"""experiments/regression13.py"""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.registry import run
from experiments.regression13 import (
    Config,
    DLModel,
    NestedModel,
    first_draws,
    loader_check,
    printed,
    within_the_bound,
)
from jaxnet import data, weights
from jaxnet.random import Generator


def test_every_figure_holds_and_the_parameters_are_found(tmp_path, capsys):
    assert run("regression13", ["--out", str(tmp_path), "--seeds", "50"]) == 0
    said = capsys.readouterr().out
    assert "8 of 8 figures hold, exactly; 20 not judged: 20 without power" in said
    (folder,) = (tmp_path / "regression13").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names == {"fit.png", "m1_param.pkl", "record.json", "result.md"}
    record = json.loads((folder / "record.json").read_text())["metrics"]
    assert record["largest_difference"] < 5e-6
    assert [check["verdict"] for check in record["checks"]] == ["ok"] * 9
    assert list(weights.load(folder / "m1_param.pkl")) == ["linear.weight", "linear.bias"]


@pytest.mark.slow
def test_a_short_run_is_held_to_no_parameters(tmp_path):
    assert run("regression13", ["--out", str(tmp_path), "--seeds", "20", "--epochs", "1"]) == 0


def test_nested_is_the_same_function():
    plain = DLModel(13, 1, rngs=Generator(0))
    nested = NestedModel(13, 1, rngs=Generator(0))
    assert list(weights.state_dict(nested)) == ["linear.linear.weight", "linear.linear.bias"]
    x = jnp.asarray(Generator(1).randn(4, 13))
    np.testing.assert_array_equal(plain(x), nested(x))
    assert printed()["linear.weight"].shape == (1, 13)


def test_another_order_of_the_batches_is_off(monkeypatch):
    config = Config()
    assert loader_check(config)["verdict"] == "ok"
    shuffled = data.DataLoader

    def unshuffled(*arguments, **options):
        return shuffled(*arguments, **(options | {"shuffle": False}))

    monkeypatch.setattr(data, "DataLoader", unshuffled)
    assert loader_check(config)["verdict"] == "OFF"


@pytest.mark.torch
def test_draws_that_are_not_nn_linears_are_off():
    target = np.append(*(array.ravel() for array in printed().values()))
    draws = first_draws(range(50))
    assert [c["verdict"] for c in within_the_bound(draws, target)] == ["ok"] * 4
    wide = {"weight": {i: 2 * x for i, x in draws["weight"].items()}, "bias": draws["bias"]}
    assert [c["verdict"] for c in within_the_bound(wide, target)] == ["ok", "OFF", "OFF", "OFF"]
    narrow = {"weight": {i: x / 2 for i, x in draws["weight"].items()}, "bias": draws["bias"]}
    assert [c["verdict"] for c in within_the_bound(narrow, 2 * target)] == [
        "OFF",
        "ok",
        "OFF",
        "OFF",
    ]


@pytest.mark.torch
def test_first_draws_are_torchs():
    import torch

    draws = first_draws(range(7, 9))
    torch.manual_seed(8)
    layer = torch.nn.Linear(13, 1)
    ours = [float(draws["weight"][i][1]) for i in range(13)]
    assert ours == layer.weight[0].tolist()
    torch.manual_seed(8)
    x = torch.randn(3, 13)
    theirs = torch.nn.Linear(13, 2)(x).detach().numpy()
    ours = [[float(draws["output"][i][k][1]) for k in range(2)] for i in range(3)]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["--seeds", "2"], "--seeds: 2; a spread needs at least 3"),
        (["--lr", "0"], "--lr: 0.0; a positive number"),
        (["--batch-size", "0"], "--batch-size: 0; at least 1"),
        (["--lr", "9"], "--lr: at 9 the loss is not finite; lower it"),
    ],
)
def test_bad_settings(settings, says, tmp_path, capsys):
    assert run("regression13", ["--out", str(tmp_path), *settings]) == 2
    assert says in capsys.readouterr().err
