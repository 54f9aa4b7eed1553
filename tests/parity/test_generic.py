"""A second recording with weights in general position, which hides no mistake."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxnet import losses, nn, optim, parity
from jaxnet.parity._trace import read
from jaxnet.random import Generator

pytestmark = pytest.mark.torch


def recorded(folder: Path, **how: Any) -> Any:
    """A network whose last layer begins with zeros, as that of many does."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    model = torch.nn.Sequential(*layers)
    torch.nn.init.zeros_(model[2].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = TensorDataset(torch.randn(6, 3), torch.arange(6) % 2)
    with parity.recording(folder, steps=1, **how):
        for x, y in DataLoader(data, 6):
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return read(folder)


class Stopped(nn.Sequential):
    """A port through whose last layer no gradient goes."""

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = self[1](self[0](x))
        return self[2](jax.lax.stop_gradient(hidden))


def checked(trace: Any, cls: type[nn.Sequential]) -> parity.Report:
    rngs = Generator(0)
    layers = nn.Linear(3, 4, rngs=rngs), nn.BatchNorm1d(4), nn.Linear(4, 2, rngs=rngs)

    def loss(model: Any, batch: Any) -> jax.Array:
        return losses.cross_entropy(model(batch[0]), batch[1])

    return parity.check(trace, cls(*layers), loss, optim.SGD(lr=0.1), weights="copy")


def test_a_mistake_behind_a_layer_of_zeros(tmp_path):
    own = recorded(tmp_path / "own")
    generic = recorded(tmp_path / "generic", weights="generic")
    assert checked(own, Stopped).verdict == "same"
    assert checked(generic, nn.Sequential).verdict == "same"
    report = checked(generic, Stopped)
    assert report.verdict == "different"
    assert report.findings[0].site == "grad:1#0"


def test_generic_weights_are_recorded(tmp_path):
    trace = recorded(tmp_path / "generic", weights="generic")
    step = trace.steps[0]
    assert trace.about["weights"] == "generic"
    for name in ("1.weight", "1.bias", "2.weight"):
        assert np.unique(step[f"before:{name}"]).size == step[f"before:{name}"].size
    assert step["buffer_before:1.running_var"].min() >= 0.5
    assert step["buffer_before:1.num_batches_tracked"] == 0
    assert (step["forward:2#0"] != 0).all()
    own = recorded(tmp_path / "own")
    assert not own.steps[0]["before:2.weight"].any()
    assert own.about["weights"] == "own"


def test_another_word_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'weights: .*accepted are "own" and "generic"'):
        recorded(tmp_path / "trace", weights="random")
