"""A second recording with weights in general position, which hides no mistake."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxnet import losses, nn, optim, parity
from jaxnet.parity._script import record_script
from jaxnet.parity._trace import generic_trace, read
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


def test_a_layer_of_zeros_hides_the_gradients_before_it(tmp_path):
    own = recorded(tmp_path / "own").steps[0]
    trace = recorded(tmp_path / "generic", weights="generic")
    hidden = ("grad:1#0", "param_grad:0.weight", "param_grad:1.weight")
    assert not any(own[site].any() for site in hidden)
    assert all(trace.steps[0][site].all() for site in hidden)
    rngs = Generator(0)  # whose weights give way to the trace's
    layers = nn.Linear(3, 4, rngs=rngs), nn.BatchNorm1d(4), nn.Linear(4, 2, rngs=rngs)
    report = parity.check(trace, nn.Sequential(*layers), losses.cross_entropy, optim.SGD(lr=0.1))
    assert report.verdict == "same"


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


SCRIPT = """
import torch
torch.manual_seed(0)
layer = torch.nn.Linear(2, 1, bias=False)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
"""


def test_a_script_with_generic_weights_is_not_run_again(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(SCRIPT)
    found = record_script(tmp_path / "trace", ["python", str(script)], 1, weights="generic")
    assert found["verdict"] == "not made"
    assert read(tmp_path / "trace").about["weights"] == "generic"


@pytest.mark.long  # two checks
def test_both_passes_find_what_weights_of_zero_hide():
    import torch

    torch.manual_seed(0)
    torch_model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))
    torch.nn.init.zeros_(torch_model[2].weight)
    rngs = Generator(0)
    layers = nn.Linear(3, 4, rngs=rngs), nn.GELU(), nn.Linear(4, 2, rngs=rngs)

    def halved(model: Any, batch: Any) -> Any:
        """No gradient goes past the last layer, whose weights of zero let none through."""
        inputs, targets = batch
        hidden = jax.lax.stop_gradient(model[1](model[0](inputs)))
        return losses.cross_entropy(model[2](hidden), targets)

    report = parity.compare(
        torch_model,
        nn.Sequential(*layers),
        [(np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32), np.arange(6) % 2)],
        loss=(torch.nn.functional.cross_entropy, halved),
        optimizer=(lambda p: torch.optim.SGD(p, 0.1), optim.SGD(lr=0.1)),
        weights="generic",
    )
    assert report.generic is not None
    assert report.verdict == "different"
    assert report.exit_status == 1
    assert all(f.message.startswith("with generic weights") for f in report.findings), str(report)
    assert "with generic weights: DIFFERENT" in str(report)


def test_a_generic_trace_has_generic_weights(tmp_path):
    trace = recorded(tmp_path / "own")
    with pytest.raises(parity.TraceError, match="was recorded with the program's own weights"):
        generic_trace(trace)
