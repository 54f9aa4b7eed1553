"""jaxnet/train/_evaluate.py: measuring and predicting, which give nothing away."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data, losses, metrics, nn, optim, train
from jaxnet._keys import next_key
from jaxnet.random import Generator
from jaxnet.train._runner import ChunkRunner

LOSS = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
EVAL = train.make_eval_step(LOSS)
OPTIMIZER = optim.Adam(lr=0.02)
TRAIN = train.make_train_step(LOSS, OPTIMIZER)


def rows(n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.RandomState(0).standard_normal((n, 3)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int32)


def make_state(model=None) -> train.TrainState:
    g = Generator(1)
    layers = nn.Linear(3, 8, rngs=g), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2, rngs=g)
    return train.create(model or nn.Sequential(*layers), OPTIMIZER, seed=3)


SOURCES = {
    "arrays": (lambda: rows(), {"batch_size": 8}),
    "from the host": (lambda: rows(), {"batch_size": 8, "feed": "host"}),
    "data set": (lambda: data.TensorDataset(*rows()), {"batch_size": 8}),
    "loader": (lambda: data.DataLoader(data.TensorDataset(*rows()), 8), {}),
    "one batch a call": (lambda: rows(), {"batch_size": 8, "chunk_steps": 1}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_metrics_are_those_of_all_rows_at_once(name):
    make, options = SOURCES[name]
    if options.get("feed") == "host":
        pytest.importorskip("grain")
    state = make_state()
    _, whole = EVAL(state, jax.tree.map(jnp.asarray, rows()))
    found = train.evaluate(state, EVAL, make(), **options)
    assert found["loss"] == pytest.approx(float(whole["loss"]), rel=1e-6)
    assert found["accuracy"] == float(whole["accuracy"].compute())
    assert found == train.evaluate(state, EVAL, make(), **options)  # the state is still there


def test_it_measures_what_fit_validates():
    step = train.make_train_step(LOSS, OPTIMIZER)
    seen = []

    def measure(report):
        seen.append(train.evaluate(report.state, EVAL, rows(21), batch_size=8))
        report.log(train_loss=seen[-1]["loss"])

    result = train.fit(
        make_state(),
        step,
        rows(),
        epochs=2,
        batch_size=8,
        validation=rows(21),
        eval_step=EVAL,
        callbacks=[measure],
        quiet=True,
        compilation_cache=False,
    )
    for found, line in zip(seen, result.history, strict=True):
        assert (found["loss"], found["accuracy"]) == (line["val_loss"], line["val_accuracy"])
        assert line["train_loss"] == found["loss"]


def test_what_is_compiled_once_serves_every_call():
    traced = []

    def loss(model, batch):
        traced.append(1)
        return LOSS(model, batch)

    step = train.make_eval_step(loss)
    for _ in range(3):
        train.evaluate(make_state(), step, rows(48), batch_size=8)
    first = len(traced)
    train.evaluate(make_state(), step, rows(48), batch_size=8)
    assert len(traced) == first


def test_a_model_that_draws_in_evaluation_mode_draws_anew_for_each_batch():
    class Noise(nn.Module):
        def __init__(self):
            self.scale = nn.Parameter(jnp.ones(()))

        def __call__(self, x):
            return x + self.scale[...] * jax.random.normal(next_key(), x.shape)

    def drawn(model, batch):
        return model(batch).mean(), {"values": model(batch)[0, 0]}

    state = make_state(Noise())
    step = train.make_eval_step(drawn)
    zeros = np.zeros((32, 2), np.float32)
    found = train.evaluate(state, step, zeros, batch_size=32)["values"]
    assert found == train.evaluate(state, step, zeros, batch_size=32)["values"]
    both = train.evaluate(state, step, np.zeros((64, 2), np.float32), batch_size=32)["values"]
    assert both != found  # the second batch has draws of its own
    assert train.predict(state, zeros, batch_size=32).std() > 0.5


def test_what_is_drawn_depends_on_the_number_of_the_batch_alone():
    numbers = np.repeat(np.arange(40), 8)[:318, None]  # of each row's batch; the last is smaller

    def drawn(model, batch):
        column = jax.nn.one_hot(jax.tree.leaves(batch)[0][0, 0], 40)
        return jnp.zeros(()), {"draws": column * jax.random.uniform(next_key())}

    def draws(rows, **options):
        return train.evaluate(make_state(), train.make_eval_step(drawn), rows, **options)["draws"]

    found = draws(numbers, batch_size=8)
    assert len(np.unique(np.round(found, 7))) == 40
    assert draws(numbers, batch_size=8, feed="host") == found
    assert draws(data.DataLoader(data.TensorDataset(numbers), 8), chunk_steps=3) == found


@pytest.mark.parametrize("size", [7, 50, 64])
def test_predictions_come_in_order(size):
    state = make_state()
    x, _ = rows()
    expected = np.asarray(state.model()(x))
    found = train.predict(state, x, batch_size=size)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    loader = data.DataLoader(data.TensorDataset(x), size)
    np.testing.assert_array_equal(train.predict(state, loader), found)


def test_predictions_of_several_inputs_and_outputs():
    class Two(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(3, 2, rngs=Generator(0))

        def __call__(self, a, b):
            return {"sum": self.linear(a + b), "b": b}

    x, _ = rows()
    found = train.predict(make_state(Two()), (x, -x), batch_size=16)
    assert found["sum"].shape == (50, 2)
    np.testing.assert_array_equal(found["b"], -x)


class Wide(nn.Module):
    """Its structure says nothing of how wide it is; only its parameter does."""

    def __init__(self, width):
        self.weight = nn.Parameter(jnp.ones((3, width)))

    def __call__(self, x):
        return x @ self.weight[...]


def test_models_of_one_structure_are_measured_by_their_own_sizes():
    step, like = train.make_eval_step(lambda model, x: (model(x).sum(), {"out": model(x)[0]})), []
    x = np.ones((4, 3), np.float32)
    for width in (2, 5):
        state = make_state(Wide(width))
        like.append(ChunkRunner(step, trains=False).metrics_like(state, x)["out"].shape)
    assert like == [(2,), (5,)]


class Mean(nn.Module):
    def __init__(self):
        self.linear = nn.Linear(3, 2, rngs=Generator(0))

    def __call__(self, x):
        return self.linear(x).mean()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: train.evaluate(make_state(), TRAIN, rows(), batch_size=8),
            TypeError,
            "a training",
        ),
        (lambda: train.predict(make_state(), rows()[0], batch_size=0), ValueError, "batch_size: 0"),
        (lambda: train.predict(make_state(Mean()), rows()[0], batch_size=8), ValueError, "rows al"),
        (lambda: train.predict(make_state(), rows()[0]), ValueError, "batch_size: None; accepted"),
        (lambda: train.evaluate(make_state(), EVAL, rows()), ValueError, "batch_size: None"),
        (
            lambda: train.evaluate(Mean(), EVAL, rows(), batch_size=8),
            TypeError,
            r"state: a model \(Mean\); accepted is.*train.create\(model, optimizer\)",
        ),
        (
            lambda: train.evaluate(make_state(), LOSS, rows(), batch_size=8),
            TypeError,
            "step: a function that calls the state.*make_eval_step",
        ),
    ],
)
def test_wrong_arguments(call, error, says):
    with pytest.raises(error, match=says):
        call()
