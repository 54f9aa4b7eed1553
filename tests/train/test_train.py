"""jaxnet/train: state, steps, epochs, records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator


def small_net(seed: int = 0) -> nn.Sequential:
    g = Generator(seed)
    return nn.Sequential(nn.Linear(3, 4, rngs=g), nn.Tanh(), nn.Linear(4, 2, rngs=g))


def rows(n: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.RandomState(0)
    x = rng.standard_normal((n, 3)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray((x.sum(1) > 0).astype(np.int32))


LOSS = train.supervised(losses.cross_entropy)


def test_split_and_merge_give_the_same_model():
    model = small_net()
    structure, params, buffers = train.split(model)
    assert sorted(params) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert buffers == {}
    x = rows(5)[0]
    np.testing.assert_array_equal(train.merge(structure, params, buffers)(x), model(x))


@pytest.mark.long
def test_order_of_many_layers_survives():
    g = Generator(0)
    model = nn.Sequential(*[nn.Linear(n, n + 1, rngs=g) for n in range(1, 13)])
    again = train.merge(*train.split(model))
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in again.named_parameters()] == names
    assert again(jnp.ones((2, 1))).shape == (2, 13)


def test_state_does_not_share_with_the_model():
    model = small_net()
    optimizer = optim.SGD(lr=0.1)
    state = train.create(model, optimizer)
    epoch = train.make_epoch(train.make_train_step(LOSS, optimizer), 4)
    epoch(state, rows(8), jnp.arange(8))  # donates the state's arrays, not the model's
    assert np.isfinite(np.asarray(model(rows(2)[0]))).all()


def test_numpy_parameters_are_copied_too():
    model = small_net()
    kept = np.zeros((4, 4_000_000), np.float32)  # large, since jnp.array copies such late
    model[0].weight.set_value(kept)
    state = train.create(model, optim.SGD(lr=0.1))
    kept[:] = 1
    assert not np.any(state.params["0.weight"])
    assert isinstance(state.params["0.weight"], jax.Array)


def test_an_epoch_traces_its_step_once():
    count = []

    def loss(model, batch):
        count.append(1)
        return LOSS(model, batch)

    optimizer = optim.SGD(lr=0.1)
    epoch = train.make_epoch(train.make_train_step(loss, optimizer), 4)
    state = train.create(small_net(), optimizer)
    epoch(state, rows(8), jnp.arange(8))
    assert len(count) == 1


def test_step_is_pure_and_counts():
    optimizer = optim.SGD(lr=0.1)
    state = train.create(small_net(), optimizer)
    step = jax.jit(train.make_train_step(LOSS, optimizer))
    after, metrics = step(state, rows(8))
    again, metrics_again = step(state, rows(8))
    assert int(state.step) == 0
    assert int(after.step) == 1
    assert float(metrics["loss"]) == float(metrics_again["loss"])
    jax.tree.map(np.testing.assert_array_equal, after.params, again.params)
    assert step._cache_size() == 1


def test_epoch_equals_a_loop_of_steps_with_a_smaller_last_batch():
    optimizer = optim.Adam(lr=0.05)
    data, order = rows(10), jnp.asarray(Generator(1).randperm(10))
    step = train.make_train_step(LOSS, optimizer)
    slow = train.create(small_net(), optimizer)
    expected = []
    for start in range(0, 10, 4):
        picked = order[start : start + 4]
        slow, metrics = jax.jit(step)(slow, (data[0][picked], data[1][picked]))
        expected.append(float(metrics["loss"]))
    fast, metrics = train.make_epoch(step, 4)(train.create(small_net(), optimizer), data, order)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    for name, value in slow.params.items():
        np.testing.assert_allclose(fast.params[name], value, rtol=1e-5, atol=1e-6)
    assert int(fast.step) == 3


def test_repeat_and_vmap_over_seeds():
    optimizer = optim.SGD(lr=0.1)
    repeat = train.make_repeat(train.make_train_step(LOSS, optimizer), 20)
    states = [train.create(small_net(seed), optimizer) for seed in range(3)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    _, metrics = jax.vmap(repeat, in_axes=(0, None))(together, rows(8))
    one = repeat(states[1], rows(8))[1]
    np.testing.assert_allclose(metrics["loss"][1], one["loss"], rtol=1e-5)
    assert metrics["loss"].shape == (3, 20)


def test_eval_step_changes_nothing():
    optimizer = optim.SGD(lr=0.1)
    state = train.create(small_net(), optimizer)
    after, metrics = jax.jit(train.make_eval_step(LOSS))(state, rows(8))
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert int(after.step) == 0
    assert metrics["loss"].shape == ()
    train.make_epoch(train.make_eval_step(LOSS), 4)(state, rows(8), jnp.arange(8))
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)  # not given away


def test_a_row_number_outside_of_the_data_gives_nan():
    optimizer = optim.SGD(lr=0.1)
    state = train.create(small_net(), optimizer)
    epoch = train.make_epoch(train.make_eval_step(LOSS), 4)
    narrow = jnp.arange(8, dtype=jnp.uint8)
    orders = [(jnp.arange(8) - 8, True), (jnp.arange(8) + 1, False), (jnp.arange(8) - 9, False)]
    for order, finite in [*orders, (narrow, True), (narrow + jnp.uint8(1), False)]:
        assert np.isfinite(epoch(state, rows(8), order)[1]["loss"]).all() == finite
    with pytest.raises(TypeError, match="order: float32; accepted are row numbers"):
        epoch(state, rows(8), jnp.arange(8.0))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda step: train.make_epoch(step, 0), "batch_size: 0"),
        (lambda step: train.make_repeat(step, 0), "steps: 0"),
    ],
)
def test_wrong_arguments(call, says):
    with pytest.raises(ValueError, match=says):
        call(train.make_eval_step(LOSS))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: train.create(small_net(), optim.SGD), "create: optimizer: <function SGD"),
        (lambda: train.create(optim.SGD(lr=0.1), small_net()), "create: model: Optimizer; acc"),
        (lambda: train.make_train_step(LOSS, optim.SGD), "make_train_step: optimizer: <function"),
    ],
)
def test_what_is_no_model_and_no_optimizer(call, says):
    with pytest.raises(TypeError, match=says):
        call()


def test_loss_that_is_no_number():
    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(lambda model, batch: model(batch[0]), optimizer)
    with pytest.raises(ValueError, match=r"shape \(8, 2\); a loss is one number"):
        step(train.create(small_net(), optimizer), rows(8))
