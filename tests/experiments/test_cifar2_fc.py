"""experiments/cifar2_fc.py"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.birds import Trainer
from experiments.cifar2_fc import (
    Config,
    Last,
    both_forms,
    deeper,
    fully_connected,
    nll_loss,
)
from experiments.harness import registry
from jaxnet import metrics, optim, train
from jaxnet.random import Generator


def pixels(n: int) -> tuple[jax.Array, jax.Array]:
    x = np.random.RandomState(0).standard_normal((n, 3072)).astype(np.float32)
    return jnp.asarray(x), jnp.arange(n) % 2


def test_parameters_of_both_nets():
    assert fully_connected(rngs=Generator(0)).num_parameters == 1574402
    assert deeper(rngs=Generator(0)).num_parameters == 3737474


def test_both_forms_are_one_function():
    assert both_forms(0, pixels(8)) < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13])
def test_the_last_step_is_the_last(steps):
    values = jnp.arange(steps, dtype=jnp.float32)
    assert metrics.total(Last(values)).compute() == steps - 1


@pytest.mark.torch
@pytest.mark.parametrize(("batch_size", "shuffle"), [(1, False), (2, True)])
def test_follows_the_pytorch_program_step_by_step(batch_size, shuffle, tmp_path):
    import torch

    x, y = pixels(7)
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Linear(3072, 512), torch.nn.Tanh(), torch.nn.Linear(512, 2),
        torch.nn.LogSoftmax(dim=1),
    )  # fmt: skip
    rows = torch.utils.data.TensorDataset(
        torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y)).long()
    )
    loader = torch.utils.data.DataLoader(rows, batch_size=batch_size, shuffle=shuffle)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-2)
    theirs, last = [], []
    for _ in range(2):
        for images, labels in loader:
            loss = torch.nn.NLLLoss()(net(images), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            theirs.append(loss.item())
        last.append(loss.item())

    trainer = Trainer(fully_connected, optim.SGD(lr=1e-2), (x, y), (x, y), nll_loss)
    records = train.Records(tmp_path, every_step=True)
    result = trainer.run(3, 2, batch_size, shuffle=shuffle, records=records)
    lines = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    ours = [line["loss"] for line in lines if "in_epoch" in line]
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    np.testing.assert_allclose([e["last_loss"] for e in result.history], last, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.data
def test_smoke(tmp_path):
    config = Config(epochs=1, trials=("sixty_four",), out=tmp_path)
    assert registry.execute("cifar2_fc", config) == 0
    (folder,) = (tmp_path / "cifar2_fc").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["curves.png", "record.json", "result.md"]
    found = json.loads((folder / "record.json").read_text())["metrics"]
    verdicts = {row["figure"]: row["verdict"] for row in found["ledger"]}
    assert verdicts["cifar2.parameters.total"] == "ok"
    assert verdicts["cifar2.untrained.loss"] == "no power"  # 0.3 to 1.5 for a figure of 1.17
    assert verdicts["cifar2.fully_connected.val_accuracy"] == "not run"
    assert 0.7 < found["trials"]["sixty_four"]["0"]["val_accuracy"]["1"] < 0.9


@pytest.mark.parametrize(
    ("settings", "says"), [({"seeds": 0}, "--seeds: 0"), ({"trials": ()}, "--trials: none given")]
)
def test_bad_settings(settings, says):
    with pytest.raises(ValueError, match=says):
        Config(**settings).validate()
