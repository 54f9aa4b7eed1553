"""experiments/cifar10_fast.py"""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10_fast import (
    Block,
    Config,
    Net,
    alternating,
    main,
    make_optimizer,
    whitening_filters,
)
from jaxnet import train
from jaxnet.nn import functional as F
from jaxnet.random import Generator


def correlated(n: int) -> np.ndarray:
    """Images whose neighbouring pixels and channels go together."""
    noise = np.random.RandomState(0).standard_normal((n, 3, 12, 12)).astype(np.float32)
    return noise + np.roll(noise, 1, 3) + 0.5 * noise.mean(1, keepdims=True)


def test_whitened_patches_are_uncorrelated_and_of_one_size():
    images = correlated(400)
    filters = whitening_filters(images, eps=0)
    assert filters.shape == (24, 3, 2, 2)
    assert np.array_equal(filters[12:], -filters[:12])
    out = np.asarray(F.conv2d(jnp.asarray(images), jnp.asarray(filters[:12])))
    columns = out.transpose(1, 0, 2, 3).reshape(12, -1)
    assert np.allclose(columns @ columns.T / columns.shape[1], np.eye(12), atol=1e-3)


def test_a_block_begins_as_a_copy():
    block = Block(3, 5, rngs=Generator(0))
    x = jnp.asarray(correlated(2))
    assert np.allclose(block.conv1(x)[:, :3], x, atol=1e-6)
    y = jnp.ones((1, 5, 4, 4)) * jnp.arange(5.0)[None, :, None, None]
    assert np.allclose(block.conv2(y), y, atol=1e-6)


def test_flips_alternate():
    rows = alternating("images", np.zeros(1000), seed=3)
    first, second, third = (np.asarray(rows(epoch)[2]) for epoch in range(3))
    assert 400 < first.sum() < 600
    assert np.array_equal(second, ~first)
    assert np.array_equal(third, first)


def test_filters_and_scales_stay_and_biases_are_faster():
    net = Net(4, whitening_filters(correlated(50)), rngs=Generator(0))
    optimizer = make_optimizer(10.0, 250, 100)
    state = train.create(net, optimizer)
    grads = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = optimizer.update(grads, state.opt_state, state.params)
    moved = train.create(net, optimizer).replace(params=updates).model()
    assert not np.any(moved.whiten.weight[...])
    assert not np.any(moved.block1.norm1.weight[...])
    ratio = float(moved.block1.norm1.bias[0] / moved.block2.conv2.weight[0, 1, 0, 0])
    assert 50 < ratio < 80  # 64, and the weight's decay


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "--width: 0"),
        ({"lr": 0.0}, "--lr: 0.0"),
        ({"images": 100}, "--images: 100; accepted is the batch size, 250, to 50,000"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes).validate()


@pytest.mark.skipif("JAXNET_DATA" not in os.environ, reason="needs data: set JAXNET_DATA")
def test_smoke(tmp_path):
    config = Config(epochs=1, width=4, images=500, batch_size=250, out=tmp_path)
    assert main(config) == 0
    (folder,) = [p for p in (tmp_path / "cifar10_fast").iterdir() if p.is_dir()]
    record = json.loads((folder / "record.json").read_text())["metrics"]
    (run,) = record["runs"].values()
    assert 0 <= run["mirrored"] <= 1
    assert np.isfinite(run["loss"]["1"])
    for name in ("accuracy.png", "filters.png", "result.md"):
        assert (folder / name).stat().st_size > 100
