"""Many runs in one program: each is the run that `fit` makes alone."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxnet import data, losses, metrics, nn, optim, train
from jaxnet.random import Generator

LOSS = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
X = Generator(0).randn(48, 4)
Y = (np.asarray(X).sum(1) > 0).astype(np.int32)
OPTIMIZER = optim.SGD(lr=0.1, momentum=0.9)
STEP = train.make_train_step(LOSS, OPTIMIZER)
EVAL = train.make_eval_step(LOSS)


def layers(g):
    return nn.Sequential(
        nn.Linear(4, 8, rngs=g), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2, rngs=g)
    )


def make_state(g, optimizer=OPTIMIZER):
    return train.create(layers(g), optimizer)


def swept(**options):
    options = {"epochs": 3, "batch_size": 16, "quiet": True} | options
    return train.sweep(make_state, STEP, (X, Y), **options)


@functools.cache
def alone(seed, lr):
    """The same run by `fit`: PyTorch's after torch.manual_seed(seed)."""
    g = Generator(seed)
    state = train.create(layers(g), OPTIMIZER, seed)
    return train.fit(
        state.replace(opt_state=optim.set_hyperparams(state.opt_state, lr=lr)),
        STEP,
        (X, Y),
        epochs=3,
        batch_size=16,
        generator=g,
        validation=(X, Y),
        eval_step=EVAL,
        compilation_cache=False,
        quiet=True,
    )


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"method": "one by one"}, marks=pytest.mark.slow), {"mesh": "data=4"}],
)
def test_each_run_is_that_of_fit(options):
    settings = {"lr": [0.1, 0.01], "momentum": [0.9]}
    found = swept(seeds=[3, 4, 8], settings=settings, validation=(X, Y), eval_step=EVAL, **options)
    assert found.settings == [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.01, "momentum": 0.9}]
    assert found.finite.all()
    for i, lr in enumerate((0.1, 0.01)):
        for j, seed in enumerate((3, 4, 8)):
            one = alone(seed, lr)
            for name in ("loss", "accuracy"):
                wanted = [line[name] for line in one.history]
                np.testing.assert_allclose(found.history[name][i, j], wanted, rtol=1e-5)
            last = found.history["val_loss"][i, j]
            np.testing.assert_allclose(last, [one.history[-1]["val_loss"]], rtol=1e-5)
            state = found.state(i, j)
            for name, x in one.state.params.items():
                np.testing.assert_allclose(state.params[name], x, rtol=1e-4, atol=1e-6)
            assert train.evaluate(state, EVAL, (X, Y), batch_size=16, quiet=True)[
                "loss"
            ] == pytest.approx(one.history[-1]["val_loss"], rel=1e-5)


def test_a_run_that_diverges_ends_no_other(tmp_path):
    step = train.make_train_step(train.supervised(losses.mse_loss), OPTIMIZER)

    def runs(lr):
        return train.sweep(
            lambda g: train.create(nn.Linear(4, 1, rngs=g), OPTIMIZER),
            step,
            (X, Y[:, None].astype(np.float32)),
            epochs=40,
            batch_size=48,
            seeds=range(3),
            settings={"lr": lr},
            quiet=True,
        )

    found = runs([1e-3, 1e-2, 1e-1, 1e3])
    assert found.finite.tolist() == [[True] * 3] * 3 + [[False] * 3]
    *fine, lost = found.summary()
    for line, values in zip(fine, found.history["loss"][:, :, -1], strict=False):
        low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        assert [line["low"], line["high"]] == pytest.approx([low, high])
        assert line["std"] == pytest.approx(values.std(ddof=1))
        assert (line["runs"], line["failed"]) == (3, 0)
    assert (lost["runs"], lost["failed"]) == (3, 3)
    assert np.isnan(lost["mean"])
    alone = runs([1e-2])
    np.testing.assert_allclose(found.history["loss"][1], alone.history["loss"][0], rtol=1e-6)
    assert str(found).splitlines()[0].split()[:3] == ["lr", "mean", "std"]
    found.plot(tmp_path / "a.png", log=True)
    with Image.open(tmp_path / "a.png") as image:
        assert "12 runs, 3 not finite" in image.text["Title"]
    swept(seeds=range(2)).plot(tmp_path / "c.png")
    assert (tmp_path / "c.png").exists()


def test_convolutions_are_computed_one_by_one_on_a_cpu():
    images = np.asarray(Generator(0).randn(20, 1, 6, 6))
    classes = np.arange(20, dtype=np.int32) % 2

    def make(g):
        net = nn.Sequential(nn.Conv2d(1, 2, 3, rngs=g), nn.Flatten(), nn.Linear(32, 2, rngs=g))
        return train.create(net, OPTIMIZER)

    options = {"epochs": 2, "batch_size": 10, "seeds": range(3), "quiet": True}
    found = train.sweep(make, STEP, (images, classes), **options)
    other = train.sweep(make, STEP, (images, classes), method="together", **options)
    assert (found.method, other.method) == ("one by one", "together")
    np.testing.assert_allclose(found.history["loss"], other.history["loss"], rtol=1e-5)


def test_a_setting_of_the_state_itself():
    """A penalty that lies beside the model in the state."""

    def loss(nets, batch):
        value, measured = LOSS(nets["net"], batch)
        return value + nets["penalty"] * losses.l2_penalty(nets["net"]), measured

    def make(g, penalty):
        return {"net": make_state(g), "penalty": penalty}

    step = train.make_train_step(loss, OPTIMIZER, model="net")
    settings = [{"penalty": 0.0, "lr": 0.1}, {"penalty": 1.0, "lr": 0.1}]
    found = train.sweep(make, step, (X, Y), epochs=5, batch_size=25, settings=settings, quiet=True)
    without, strong = (jnp.linalg.norm(found.state(i)["net"].params["0.weight"]) for i in (0, 1))
    assert strong < 0.5 * without


def test_data_in_order_and_a_metric_over_all_rows():
    loss = train.supervised(losses.cross_entropy, {"f1": lambda out, y: metrics.f1(out, y)})
    step = train.make_train_step(loss, OPTIMIZER)
    options = {"epochs": 2, "batch_size": 24, "shuffle": False, "quiet": True}
    found = train.sweep(make_state, step, (X, Y), seeds=[5], **options)
    one = train.fit(
        train.create(layers(Generator(5)), OPTIMIZER, 5),
        step,
        (X, Y),
        compilation_cache=False,
        **options,
    )
    for name in ("loss", "f1"):
        wanted = [line[name] for line in one.history]
        np.testing.assert_allclose(found.history[name][0, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seeds": []}, "seeds: there are none"),
        ({"seeds": [-1]}, "seeds: -1"),
        ({"settings": {"weight_decay": [0.1]}}, "'weight_decay' is no parameter of make_state"),
        ({"settings": {"lr": []}}, "settings: there are none"),
        ({"settings": [{"lr": 1.0}, {"momentum": 0.5}]}, "all need the same names"),
        ({"validation": (X, Y)}, "one without the other"),
        ({"epochs": 0}, "epochs: 0"),
        ({"method": "vmap"}, "method: 'vmap'"),
    ],
)
def test_what_cannot_be_swept_is_refused(options, error):
    with pytest.raises(ValueError, match=re.escape(error)):
        swept(**options)


def test_other_kinds_are_refused():
    with pytest.raises(TypeError, match=r"settings: lr: 0\.1; accepted is a list of numbers"):
        swept(settings={"lr": 0.1})
    loader = data.DataLoader(data.TensorDataset(X, Y), 16)
    with pytest.raises(TypeError, match="a DataLoader, whose rows come one after another"):
        train.sweep(make_state, STEP, loader, epochs=1, batch_size=16, quiet=True)
    with pytest.raises(TypeError, match="evaluation step, which trains nothing"):
        train.sweep(make_state, EVAL, (X, Y), epochs=1, batch_size=8, quiet=True)

    def wider(g):
        return train.create(nn.Linear(4, 2, bias=bool(g.initial_seed()), rngs=g), OPTIMIZER)

    with pytest.raises(ValueError, match="states of another structure"):
        train.sweep(wider, STEP, (X, Y), epochs=1, batch_size=8, seeds=[0, 1], quiet=True)


def test_a_run_has_the_key_of_its_seed():
    found = swept(seeds=[7], epochs=1)
    assert (jax.random.key_data(found.state().key) == jax.random.key_data(jax.random.key(7))).all()
