"""experiments/cifar10_fast.py"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10_fast import (
    BIAS_SCALE,
    HEAD_LR,
    MOMENTUM,
    Block,
    Config,
    Net,
    alternating,
    make_optimizer,
    of_filters,
    training_loss,
    whitening_filters,
)
from experiments.harness import registry
from jaxnet import data, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator


def smooth_images(n: int) -> np.ndarray:
    """Neighbouring pixels and channels of these go together, as in photographs."""
    x = np.random.RandomState(0).standard_normal((n, 1, 33, 33))
    x = x[..., 1:, :] + x[..., :-1, :]
    x = x[..., 1:] + x[..., :-1]
    noise = np.random.RandomState(1).standard_normal((n, 3, 32, 32))
    return (x + noise).astype(np.float32)


def test_the_first_layer_whitens():
    images = smooth_images(50)
    filters = whitening_filters(images, eps=0.0)
    assert filters.shape == (24, 3, 2, 2)
    np.testing.assert_array_equal(filters[12:], -filters[:12])
    outputs = F.conv2d(jnp.asarray(images), jnp.asarray(filters[:12]))
    columns = np.asarray(outputs).transpose(1, 0, 2, 3).reshape(12, -1)
    np.testing.assert_allclose(columns @ columns.T / columns.shape[1], np.eye(12), atol=1e-3)


def test_a_block_begins_with_copies():
    block = Block(4, 6, rngs=Generator(0))
    x = jnp.asarray(np.random.RandomState(0).standard_normal((2, 4, 8, 8)), jnp.float32)
    np.testing.assert_allclose(block.conv1(x)[:, :4], x, atol=1e-6)
    assert float(jnp.abs(block.conv1(x)[:, 4:]).min()) > 0
    assert block(x).shape == (2, 6, 4, 4)


def test_flips_alternate():
    rows = alternating(jnp.zeros((1000, 1)), jnp.zeros(1000, jnp.int32), seed=3)
    first, second, third = (rows(epoch)[2] for epoch in range(3))
    assert 400 < int(first.sum()) < 600
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)


@pytest.mark.slow
def test_one_step_trains_what_it_should():
    net = Net(4, whitening_filters(smooth_images(5)), rngs=Generator(0))
    optimizer = make_optimizer(0.2, 6, steps=10)
    state = train.create(net, optimizer, 0)
    step = jax.jit(train.make_train_step(training_loss, optimizer))
    images = jax.random.randint(jax.random.key(0), (6, 32, 32, 3), 0, 256).astype(jnp.uint8)
    batch = images, jnp.arange(6), jnp.arange(6) % 2 == 0
    after, metrics = step(state, batch)
    assert np.isfinite(metrics["loss"])
    frozen = {name for name in state.params if name == "whiten.weight" or ".norm" in name}
    frozen = {name for name in frozen if name.endswith("weight")}
    changed = {name for name in state.params if (after.params[name] != state.params[name]).any()}
    assert len(frozen) == 7
    assert changed == set(state.params) - frozen
    again, _ = step(state, batch)
    _, other = step(state, (images, jnp.arange(6), ~batch[2]))
    np.testing.assert_array_equal(again.params["head.weight"], after.params["head.weight"])
    assert other["loss"] != metrics["loss"]


@pytest.mark.parametrize("batch_size", [128, 512])
def test_rates_are_stated_an_image(batch_size):
    optimizer = make_optimizer(0.2, batch_size, steps=100)
    names = ("whiten.weight", "a.norm1.weight", "b.bias", "head.weight")
    zeros = {name: jnp.zeros(1) for name in names}
    zeros["conv.weight"] = jnp.ones((2, 2, 3, 3))
    state = optimizer.init(zeros)
    moved = dict.fromkeys(names, 0.0)
    for i in range(60):
        gradient = {name: jnp.full(1, float(i == 0)) for name in names}
        gradient["conv.weight"] = jnp.zeros((2, 2, 3, 3))
        updates, state = optimizer.update(gradient, state, zeros)
        moved = {name: moved[name] - float(updates[name][0]) for name in names}
    # One gradient, and what momentum makes of it under a rate that falls to 0.
    falling = 1 - np.arange(60) / 100
    acts = MOMENTUM ** (np.arange(60) + 1.0)
    acts[0] += 1
    wanted = HEAD_LR * batch_size / 1024 * (falling * acts).sum() / acts.sum()
    assert moved["head.weight"] == pytest.approx(wanted, rel=1e-3)
    assert moved["b.bias"] == pytest.approx(BIAS_SCALE * wanted, rel=1e-3)
    assert moved["whiten.weight"] == moved["a.norm1.weight"] == 0.0


def test_filters_keep_their_length_and_turn_by_the_rate():
    """A step without a gradient only scales; one with it adds a matrix of singular values near 1"""
    p = {"w": 3 * Generator(0).randn(4, 2, 3, 3)}
    optimizer = of_filters(optim.Muon(0.1, weight_decay=0, momentum=0.6, ns_steps=3))
    state = optimizer.init(p)
    still, _ = optimizer.update({"w": jnp.zeros((4, 2, 3, 3))}, state, p)
    unit = np.asarray(p["w"] + still["w"]).reshape(4, -1)
    np.testing.assert_allclose(np.square(unit).sum(1).mean(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(unit / unit[0, 0], p["w"].reshape(4, -1) / p["w"][0, 0, 0, 0], 1e-5)
    pushed, _ = optimizer.update({"w": Generator(1).randn(4, 2, 3, 3)}, state, p)
    turn = np.asarray(pushed["w"] - still["w"]).reshape(4, -1) / 0.1
    sizes = np.linalg.svd(turn, compute_uv=False)
    assert sizes.min() > 0.4
    assert sizes.max() < 1.3


def test_the_rate_of_the_filters_falls():
    optimizer = make_optimizer(0.2, 512, steps=4)
    net = Net(4, whitening_filters(smooth_images(5)), rngs=Generator(0))
    params = train.create(net, optimizer, 0).params
    state = optimizer.init(params)
    sizes = []
    for _ in range(4):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        filters = params["block2.conv1.weight"]
        scale = len(filters) ** 0.5 / jnp.linalg.norm(filters.reshape(-1))
        sizes.append(float(jnp.linalg.norm(updates["block2.conv1.weight"] - (scale - 1) * filters)))
    np.testing.assert_allclose(np.divide(sizes, sizes[0]), [1, 0.75, 0.5, 0.25], rtol=0.01)


def test_bad_settings():
    for settings, says in (({"width": 0}, "--width: 0"), ({"lr": -1.0}, "--lr: -1"),
                           ({"images": 100}, "--images: 100; accepted")):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            Config(**settings).validate()


@pytest.mark.slow
@pytest.mark.data
def test_smoke(tmp_path, monkeypatch):
    load = data.load

    def few(name, split, data_dir):  # all test images are tried seven times
        rows = load(name, split=split, data_dir=data_dir)
        return data.Labelled(rows.images[:1000], rows.labels[:1000], rows.classes)

    monkeypatch.setattr(data, "load", few)
    config = Config(images=1000, width=4, epochs=2, batch_size=100, out=tmp_path)
    assert registry.execute("cifar10_fast", config) == 0
    (folder,) = (tmp_path / "cifar10_fast").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == [
        "accuracy.png", "filters.png", "record.json", "result.md",
    ]  # fmt: skip
    run = json.loads((folder / "record.json").read_text())["metrics"]["runs"]["0"]
    assert run["loss"]["2"] < run["loss"]["1"]
    assert run["val_accuracy"]["2"] == pytest.approx(run["plain"])
    assert 0.15 < run["mirrored"] < 0.7
    assert 0.15 < run["shifted"] < 0.7
