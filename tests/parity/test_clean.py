"""Programs that are the same are found to be; `python -m benchmarks.parity --clean` has more."""

import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks.parity import trial
from jaxnet import nn, ops, optim, parity
from jaxnet.random import Generator
from tests.parity import pairs
from tests.parity.architectures import Recipe, Task, chain, layer, repeated

pytestmark = pytest.mark.torch

# BatchNorm, dropout and a layer used twice, with Adam, a schedule, clipping and accumulation.
_BLOCK = chain(layer("Linear", 8, 8), layer("BatchNorm1d", 8), layer("GELU"), kind="Residual")
EVERYTHING = Task(
    chain(layer("Linear", 6, 8), repeated(2, _BLOCK), layer("Dropout", 0.3), layer("Linear", 8, 3)),
    (6,),
    "numbers",
    ("mse_loss", {}),
    Recipe(
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        ("CosineAnnealingLR", {"T_max": 4}),
        ("norm", 0.1),
        parts=2,
    ),
    batch=6,
    targets=3,
)


@pytest.mark.long  # compiled in two precisions
def test_a_program_with_everything_is_the_same():
    outcome = trial(pairs.of_task("everything", EVERYTHING), 3)
    assert outcome.report is not None, outcome.error
    outcome.report.raise_for_difference()
    assert not outcome.report.findings
    assert {result.level for result in outcome.report.results} >= {"preflight", "layer", "step"}
    sites = {result.site.partition(":")[0] for result in outcome.report.results}
    assert sites >= {"forward", "loss", "grad", "param_grad", "update", "buffer"}


@pytest.mark.parametrize("name", ["thermometer, tanh"])
def test_the_documents_networks_are_the_same(name):
    outcome = trial(pairs.document(name), 2)
    assert outcome.report is not None, outcome.error
    outcome.report.raise_for_difference()


def test_a_seed_gives_the_same_description_everywhere():
    kinds = [pairs.task(seed).kind for seed in range(12)]
    assert [i for i, kind in enumerate(kinds) if kind == "tokens"] == [1, 9]
    assert kinds[0] == "numbers"
    assert kinds[7] == "binary"
    assert pairs.task(3).network.parts[0].arguments == (3, 6, 3)
    assert pairs.task(3).recipe.optimizer[1]["momentum"] == 0.9


@pytest.mark.slow
def test_what_is_computed_of_a_batch_before_the_model_is_called_is_a_part_of_the_step(tmp_path):
    """A denoiser: noise in the loop, times from integers, and a validation between the steps."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Tanh())
    model.append(torch.nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = TensorDataset(torch.randn(12, 2), torch.arange(12))
    held = DataLoader(TensorDataset(torch.randn(4, 6)), 4)
    with parity.recording(tmp_path / "trace", steps=3):
        for x, time in DataLoader(rows, 4, shuffle=True):
            noise = torch.randn_like(x)
            frequencies = torch.exp(-math.log(100.0) * torch.arange(2) / 3)
            angles = time[:, None] * frequencies
            places = torch.cat([angles.sin(), angles.cos()], 1)
            given = torch.cat([0.3 * x + 0.7 * noise, places], 1)
            optimizer.zero_grad()
            (model(given) - noise).square().mean().backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                for (each,) in held:
                    model(each)
            model.train()

    def loss(model, batch, turned=1.0):
        x, time = batch
        noise = ops.randn_like(x)
        frequencies = jnp.exp(-math.log(100.0) * jnp.arange(2) / 3)
        angles = time[:, None] * frequencies * turned
        places = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1)
        given = jnp.concatenate([0.3 * x + 0.7 * noise, places], 1)
        return jnp.mean((model(given) - noise) ** 2)

    rngs = Generator(0)
    port = nn.Sequential(nn.Linear(6, 8, rngs=rngs), nn.BatchNorm1d(8), nn.Tanh())
    port.append(nn.Linear(8, 2, rngs=rngs))
    for turned, verdict in ((1.0, "same"), (1.0 + 1e-6, "different")):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            report = parity.check(
                tmp_path / "trace", port, lambda m, b, t=turned: loss(m, b, t), optim.Adam(lr=1e-2)
            )
        assert report.verdict == verdict, str(report)
