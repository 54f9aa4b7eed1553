"""experiments/cifar2_net.py: the net itself, and the run against torch's."""

import datetime
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.birds import Trainer, curves
from experiments.cifar2_net import FILTERS, FunctionalNet, Net, filtered, shapes
from experiments.harness import ledger
from jaxnet import optim, train, weights
from jaxnet.random import Generator


def images(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(0)
    labels = (np.arange(n) % 2).astype(np.int32)
    x = rng.standard_normal((n, 3, 32, 32)).astype(np.float32)
    return x + labels[:, None, None, None].astype(np.float32), labels


def test_shapes_of_the_document():
    image = jnp.zeros((1, 3, 32, 32))
    assert {row.verdict for row in ledger.compare("cifar2.conv", shapes(image))} == {"ok"}
    net = Net(rngs=Generator(0))
    assert net.pool1(net.conv1(image)).shape == (1, 16, 16, 16)
    assert net.num_parameters == 18090


def test_both_forms_are_one_function():
    x = jnp.asarray(images(4)[0])
    module, functional = Net(rngs=Generator(3)), FunctionalNet(rngs=Generator(3))
    assert list(weights.state_dict(module)) == list(weights.state_dict(functional))
    np.testing.assert_array_equal(module(x), functional(x))


def test_filters_by_hand():
    image = jnp.asarray(images(1)[0])
    padded = np.pad(np.asarray(image[0]).sum(axis=0), 1)
    blurred, edges = np.zeros((32, 32)), np.zeros((32, 32))
    for i in range(3):
        for j in range(3):
            piece = padded[i : i + 32, j : j + 32]
            blurred += piece / 9
            edges += (j - 1) * piece
    for words, wanted in (("all 1/9", blurred), ("-1 0 1", edges)):
        ours = filtered(image, FILTERS[words])
        assert ours.shape == (1, 1, 32, 32)
        np.testing.assert_allclose(ours[0, 0], wanted, atol=1e-5, rtol=1e-5)


def test_learns_and_repeats_itself(capsys):
    rows = jax.device_put(images(200))
    trainer = Trainer(Net, optim.SGD(lr=0.05), rows, rows)
    runs = [curves(trainer.run(5, epochs=3, batch_size=64)) for _ in range(2)]
    assert runs[0]["train_loss"] == runs[1]["train_loss"]
    assert runs[0]["train_loss"][3] < runs[0]["train_loss"][1]
    assert runs[0]["val_accuracy"][3] == 1.0
    lines = capsys.readouterr().out.splitlines()  # as in the document, of epochs 1, 10, 20, ...
    assert len(lines) == len(runs)
    when, what = lines[0].split(" Epoch 1, Training loss ")
    assert datetime.datetime.fromisoformat(when) <= datetime.datetime.now()
    assert float(what) == pytest.approx(runs[0]["train_loss"][1])
    # One net, measured twice over the same rows.
    assert runs[0]["train_accuracy"] == {i: runs[0]["val_accuracy"][i] for i in (1, 3)}


@pytest.mark.torch
def test_follows_the_pytorch_program_step_by_step(tmp_path):
    import torch

    x, y = images(150)  # two whole batches of 64 and one of 22
    torch.manual_seed(7)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Tanh(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2),
    )  # fmt: skip
    rows = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y).long())
    loader = torch.utils.data.DataLoader(rows, batch_size=64, shuffle=True)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-2)
    theirs = []
    for _ in range(2):
        for images_, labels in loader:
            loss = torch.nn.functional.cross_entropy(net(images_), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            theirs.append(loss.item())

    rows = jnp.asarray(x), jnp.asarray(y)
    trainer = Trainer(Net, optim.SGD(lr=1e-2), rows, rows)
    trainer.run(7, epochs=2, batch_size=64, records=train.Records(tmp_path, every_step=True))
    lines = map(json.loads, (tmp_path / "history.jsonl").read_text().splitlines())
    ours = [line["loss"] for line in lines if "in_epoch" in line]
    assert len(ours) == 6
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
