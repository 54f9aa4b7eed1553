"""Traces whose initial weights are stored as a seed, and what a step has from the one before."""

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open

from jaxnet import parity
from jaxnet.parity._seeded import replayed
from jaxnet.parity._trace import read

pytestmark = pytest.mark.torch


def recorded(folder, steps=2, seed=3, before=lambda torch: None, **how):
    import torch

    with parity.recording(folder, steps=steps, full=(0,), **how):
        if seed is not None:
            torch.manual_seed(seed)
        before(torch)
        data = torch.randn(8, 5)
        network = torch.nn.Sequential(
            torch.nn.Linear(5, 7),
            torch.nn.Dropout(0.5),
            torch.nn.LayerNorm(7),
            torch.nn.Linear(7, 3),
        )
        torch.nn.init.normal_(network[3].weight, std=0.02)
        with torch.no_grad():
            torch.nn.init.normal_(network[3].bias).mul_(2)
        optimizer = torch.optim.Adam(network.parameters())
        own = {n: p.detach().numpy().copy() for n, p in network.named_parameters()}
        dataset = torch.utils.data.TensorDataset(data, torch.arange(8) % 3)
        for x, y in torch.utils.data.DataLoader(dataset, 4, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    return read(folder), own


def stored(trace, number):
    with safe_open(trace.path / f"step-{number:04d}.safetensors", "numpy") as file:
        return set(file.keys())


@pytest.fixture(scope="module")
def seeded_trace(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("seeded") / "trace", steps=1)[0].path


def test_weights_that_are_drawn_are_stored_as_their_seed(tmp_path):
    trace, own = recorded(tmp_path / "trace")
    first = trace.steps[0]
    assert first.seeded["seed"] == 3
    names = {"before:0.weight", "before:0.bias", "before:3.weight"}
    assert first.seeded["sites"].keys() == names
    assert not names & stored(trace, 0)
    # What was changed after it was drawn, and constants, are stored.
    assert {"before:3.bias", "before:2.weight"} <= stored(trace, 0)
    for name, array in own.items():
        assert first[f"before:{name}"].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "how",
    [
        {"weights": "generic"},
        {"before": lambda torch: torch.bernoulli(torch.tensor(0.5))},  # is not drawn again here
    ],
    ids=["generic weights", "a draw that is not known"],
)
def test_weights_that_cannot_be_drawn_again_are_stored(tmp_path, how):
    trace, own = recorded(tmp_path / "trace", steps=1, **how)
    assert not trace.steps[0].seeded
    assert {f"before:{name}" for name in own} <= stored(trace, 0)


def test_another_seed_gives_other_weights(tmp_path):
    seeded = recorded(tmp_path / "trace", steps=1)[0].steps[0].seeded
    other = replayed({**seeded, "seed": 4}, {})
    for site, array in replayed(seeded, {}).items():
        assert (array != other[site]).mean() > 0.9


@pytest.mark.parametrize(
    "damage",
    [
        {"draws": []},
        {"draws": [{"kind": "normal"}]},
        {"seed": "three"},
        {"sites": {"before:0.weight": "first"}},
    ],
    ids=str,
)
def test_a_seed_that_is_damaged_is_explained(seeded_trace, tmp_path, damage):
    path = shutil.copytree(seeded_trace, tmp_path / "trace")
    file = path / "step-0000.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "seeded": {**content["seeded"], **damage}}))
    step = read(path).steps[0]
    for _ in range(2):
        with pytest.raises(parity.TraceError, match=r"step-0000.json: it is damaged .*record"):
            step["before:0.weight"]


def test_a_step_has_what_the_one_before_has_left(tmp_path):
    trace, _ = recorded(tmp_path / "trace")
    second = trace.steps[1]
    states = {s for s in second.sites if s.startswith("state_before:")}
    assert states
    assert not {*states, "before:0.weight"} & stored(trace, 1)
    for site, other in second.same.items():
        np.testing.assert_array_equal(second[site], trace.steps[0][other])
    # A step cannot be read without the one that it has its start from.
    (trace.path / "step-0000.safetensors").unlink()
    with pytest.raises(parity.TraceError, match="step 0 are missing"):
        read(trace.path)
