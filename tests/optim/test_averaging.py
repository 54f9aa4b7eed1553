"""Averages of weights against torch.optim.swa_utils."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, optim, weights
from jaxnet.random import Generator


@pytest.mark.torch
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_averaged_model_equals_torch(decay: float | None, use_buffers: bool) -> None:
    import torch
    from torch.optim import swa_utils

    theirs = torch.nn.BatchNorm1d(3)
    avg_fn = None if decay is None else swa_utils.get_ema_avg_fn(decay)
    their_average = swa_utils.AveragedModel(theirs, avg_fn=avg_fn, use_buffers=use_buffers)
    average = optim.AveragedModel(
        None if decay is None else optim.get_ema_avg_fn(decay), use_buffers=use_buffers
    )
    update = jax.jit(average.update)

    def ours() -> tuple[Any, Any]:
        params = {k: jnp.asarray(v.detach().numpy()) for k, v in theirs.named_parameters()}
        buffers = {k: jnp.asarray(v.numpy().astype(np.int32) if v.ndim == 0 else v.numpy())
                   for k, v in theirs.named_buffers()}  # fmt: skip
        return params, buffers

    state = average.init(*ours())
    rng = np.random.RandomState(0)
    for step in range(6):
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter += torch.tensor(rng.standard_normal(3), dtype=torch.float32)
            theirs.running_mean += step
            theirs.num_batches_tracked += 3
        their_average.update_parameters(theirs)
        state = update(state, *ours())
    assert int(state.n_averaged) == 6
    for name, value in their_average.module.state_dict().items():
        got = {**state.params, **state.buffers}[name]
        np.testing.assert_allclose(got, value.numpy(), rtol=1e-6, err_msg=name)


def test_ema_refuses_a_decay_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"decay: 1.5; accepted is \[0, 1\]"):
        optim.get_ema_avg_fn(1.5)


def test_update_bn_without_batch_norm_reads_no_data() -> None:
    optim.update_bn(iter(lambda: 1 / 0, None), nn.Linear(2, 2, rngs=Generator(0)))


def updated_bn() -> tuple[Any, dict[str, np.ndarray], list[np.ndarray]]:
    """A model after `update_bn`, its state_dict, and the batches that went through it."""
    model = nn.Sequential(
        nn.Linear(3, 4, rngs=Generator(0)),
        nn.BatchNorm1d(4, momentum=0.3),
        nn.Linear(4, 2, rngs=Generator(1)),
        nn.BatchNorm1d(2),
    ).eval()
    rng = np.random.RandomState(0)
    batches = [rng.standard_normal((n, 3)).astype(np.float32) for n in (8, 8, 5)]
    optim.update_bn([(batch, None) for batch in batches], model)
    return model, weights.state_dict(model), batches


def test_update_bn_takes_the_mean_of_all_batches() -> None:
    model, after, batches = updated_bn()
    hidden = [b @ after["0.weight"].T + after["0.bias"] for b in batches]
    np.testing.assert_allclose(
        after["1.running_mean"], np.mean([h.mean(0) for h in hidden], 0), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        after["1.running_var"], np.mean([h.var(0, ddof=1) for h in hidden], 0), rtol=1e-5
    )
    assert after["3.num_batches_tracked"] == 3
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [norm.momentum for norm in norms] == [0.3, 0.1]
    assert not any(module.training for module in model.modules())


@pytest.mark.torch
def test_update_bn_is_torchs() -> None:
    import torch

    _, after, batches = updated_bn()
    theirs = torch.nn.Sequential(
        torch.nn.Linear(3, 4),
        torch.nn.BatchNorm1d(4),
        torch.nn.Linear(4, 2),
        torch.nn.BatchNorm1d(2),
    )
    theirs.load_state_dict({k: torch.tensor(v) for k, v in after.items()})
    torch.optim.swa_utils.update_bn([torch.tensor(b) for b in batches], theirs)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(after[name], value.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
