"""A trained model as a file: it predicts the same where there is no jaxnet."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from jaxnet import nn, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator

pytestmark = pytest.mark.flatbuffers

PROGRAM = """
import sys
import jax
import numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
inputs = np.load(sys.argv[2])
arrays = [inputs[name] for name in sorted(inputs)]
np.savez(sys.argv[3], *[exported.call(*(x[:n] for x in arrays)) for n in (1, 5, 9)])
assert not any(name.split(".")[0] in ("jaxnet", "flax") for name in sys.modules)
"""


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv = nn.Conv2d(3, 4, 3, padding=1, rngs=rngs)
        self.norm = nn.BatchNorm2d(4)
        self.lstm = nn.LSTM(16, 8, batch_first=True, rngs=rngs)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 2, rngs=rngs)

    def __call__(self, x, bias):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)  # (N, 4, 4, 4)
        x, _ = self.lstm(x.reshape(x.shape[0], 4, 16))
        return self.fc(self.dropout(x[:, -1])) + bias


class Halves(nnx.Module):
    def __init__(self, rngs):
        self.fc = nn.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.fc(x.reshape(2, -1, 3)).reshape(-1, 2)


def state_of(model):
    return train.create(model(Generator(0)), optim.SGD(lr=0.1))


def test_the_file_predicts_without_jaxnet(tmp_path):
    state = state_of(Net)
    x, bias = np.asarray(Generator(1).randn(9, 3, 8, 8)), np.ones((9, 2), np.float32)
    path = tmp_path / "net.jaxexport"
    exported = train.export(state, (x[:2], bias[:2]), path)
    assert sorted(exported.platforms) == ["cpu", "cuda"]
    np.savez(tmp_path / "in.npz", a=x, b=bias)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    arguments = [str(path), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path, env={**environment, "JAX_PLATFORMS": "cpu"}, check=True,
    )  # fmt: skip
    wanted = train.predict(state, (x, bias), batch_size=9, quiet=True)
    with np.load(tmp_path / "out.npz") as found:
        for name, rows in zip(sorted(found), (1, 5, 9), strict=True):
            np.testing.assert_allclose(found[name], wanted[:rows], rtol=1e-5, atol=1e-6)


def test_a_state_on_a_mesh_and_an_average(tmp_path):
    average = optim.AveragedModel(optim.get_ema_avg_fn(0.5))
    optimizer = optim.SGD(lr=0.1)
    state = train.create(nn.Linear(4, 2, rngs=Generator(0)), optimizer, average=average)
    moved = jax.tree.map(lambda x: x + 1, state.params)
    state = train.shard(state.replace(params=moved), "data=2", "fsdp")
    x = np.ones((3, 4), np.float32)
    for averaged in (False, True):
        exported = train.export(state, x, tmp_path / "a", averaged=averaged, platforms=["cpu"])
        wanted = train.predict(state, x, batch_size=3, averaged=averaged, quiet=True)
        np.testing.assert_allclose(exported.call(x), wanted, rtol=1e-6)


def test_a_model_that_computes_with_its_rows(tmp_path):
    state, x = state_of(Halves), np.ones((4, 3), np.float32)
    path = tmp_path / "halves"
    with pytest.raises(ValueError, match="batch_size: the model computes with the number of its"):
        train.export(state, x, path)
    assert not list(tmp_path.iterdir())
    exported = train.export(state, x, path, batch_size=6)
    assert exported.in_avals[0].shape == (6, 3)


def test_what_cannot_be_exported_is_refused(tmp_path):
    state, path = state_of(Halves), tmp_path / "a"
    x = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="platforms: 'cpu'; accepted is a list"):
        train.export(state, x, path, platforms="cpu")
    with pytest.raises(ValueError, match="platforms: "):
        train.export(state, x, path, platforms=["metal"])
    with pytest.raises(ValueError, match="batch_size: 0"):
        train.export(state, x, path, batch_size=0)
    with pytest.raises(TypeError, match="accepted is the state of a run"):
        train.export(state.model(), x, path)
    with pytest.raises(ValueError, match="example: arrays of shapes"):
        train.export(state, (x, x[:2]), path)
    assert not list(tmp_path.iterdir())
