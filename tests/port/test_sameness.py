"""Ported models compute what PyTorch's compute; benchmarks/port.py has many more."""

from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import port_cases
from jaxnet import nn
from jaxnet.port import port
from jaxnet.random import Generator

pytestmark = [pytest.mark.libcst, pytest.mark.torch]
_FILE = Path(port_cases.__file__).with_name("port_examples.py")


@pytest.fixture(scope="module")
def modules():
    """The file of the benchmark, in PyTorch and ported as a whole."""
    import torch

    result = port(str(_FILE))
    assert result.marked == ()
    made = {"__name__": "ported"}
    exec(compile(result.code, "ported.py", "exec"), made)
    original = {"__name__": "original"}
    exec(compile(_FILE.read_text(), str(_FILE), "exec"), original)
    del torch
    return original, made


# With draws, in-place changes, buffers, tied weights, loops, and layers that are made by name.
@pytest.mark.parametrize("name", ["GPT", "RNNModel", "RunningNorm", "UNet", "VAE", "GAT"])
def test_the_same_seed_gives_the_same_weights_and_outputs(modules, name):
    import torch

    from benchmarks.port import _arrays, _tensors, recorded_draws

    original, made = modules
    given = port_cases._GIVEN.get(name, {})
    torch.manual_seed(0)
    model = original[name](**given)
    twin = made[name](**given, rngs=Generator(0))
    state = model.state_dict()
    assert {n: tuple(v.shape) for n, v in state.items()} == {
        n: v.shape for n, v in twin.state_dict().items()
    }
    for key, value in twin.state_dict().items():
        np.testing.assert_allclose(value, state[key].numpy(), rtol=1e-5, atol=1e-7, err_msg=key)
    twin.load_state_dict(state)
    inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in
              port_cases._INPUTS[name]()]  # fmt: skip
    with recorded_draws() as drawn:
        expected = _tensors(model.train()(*map(torch.from_numpy, inputs)))
    with nn.draws(drawn), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = _arrays(twin.train()(*map(jax.numpy.asarray, inputs)))
    assert len(found) == len(expected) > 0
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one.detach().numpy(), rtol=1e-4, atol=1e-5)
    for key, value in model.state_dict().items():  # buffers that forward changes
        np.testing.assert_allclose(twin.state_dict()[key], value.numpy(), rtol=1e-5, err_msg=key)
