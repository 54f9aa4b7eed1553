"""jaxnet/_keys.py, and how a training step opens its context"""

import asyncio
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, nn, ops, train
from jaxnet._keys import draws, keys, next_key
from jaxnet.random import Generator

KEY, OTHER = jax.random.key(1), jax.random.key(2)
ONES = jnp.ones(40)
DROP = nn.Dropout()


def data(key):
    return jax.random.key_data(key).tolist()


def drawn(key, n):
    """What the n-th dropout call of a context gives for ones."""
    return nn.functional.dropout(ONES, key=jax.random.fold_in(key, n)).tolist()


def test_the_nth_draw_takes_the_nth_key():
    with keys(KEY):
        first, second, third = DROP(ONES), next_key(), DROP(ONES)
    assert first.tolist() == drawn(KEY, 0)
    assert data(second) == data(jax.random.fold_in(KEY, 1))
    assert third.tolist() == drawn(KEY, 2)
    assert first.tolist() != third.tolist()


def test_contexts_nest_and_the_outer_one_goes_on():
    with keys(KEY):
        DROP(ONES)
        with keys(OTHER):
            assert DROP(ONES).tolist() == drawn(OTHER, 0)
        assert DROP(ONES).tolist() == drawn(KEY, 1)
    with pytest.raises(ValueError, match="no random key is at hand"):
        next_key()


def test_a_failed_context_is_closed():
    with pytest.raises(RuntimeError, match="stop"), keys(KEY):
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="no random key is at hand"):
        DROP(ONES)


def test_raw_keys_do_and_other_things_do_not():
    with keys(jax.random.PRNGKey(1)):
        assert DROP(ONES).tolist() == drawn(KEY, 0)
    for wrong, text in ((0, "0 is not one random key"), (jax.random.split(KEY, 3), r"\(3,\)")):
        with pytest.raises(TypeError, match=text), keys(wrong):
            pass
    with pytest.raises(TypeError, match="is not one random key"):
        nn.functional.dropout(ONES, key=3)


# transformations


def dropped(key, x=ONES):
    with keys(key):
        return DROP(x) + 2 * DROP(x)


def wanted(key):
    return [a + 2 * b for a, b in zip(drawn(key, 0), drawn(key, 1), strict=True)]


def test_jit_grad_vmap_and_checkpoint_give_the_same_draws():
    slope = wanted(KEY)
    assert dropped(KEY).tolist() == slope
    assert jax.jit(dropped)(KEY).tolist() == slope
    assert jax.grad(lambda x: dropped(KEY, x).sum())(ONES).tolist() == slope

    def remat(key, x):
        with keys(key):
            return jax.checkpoint(lambda x: DROP(x) + 2 * DROP(x))(x).sum()

    assert jax.grad(remat, 1)(KEY, ONES).tolist() == slope
    assert jax.jit(jax.grad(remat, 1))(KEY, ONES).tolist() == slope
    over_keys = jax.vmap(dropped)(jnp.stack([KEY, OTHER]))
    assert over_keys.tolist() == [slope, wanted(OTHER)]
    assert jax.jvp(lambda x: dropped(KEY, x), (ONES,), (ONES,))[1].tolist() == slope


@pytest.mark.long
@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint])
def test_a_function_that_is_kept_does_not_keep_its_draws(transform):
    kept = transform(lambda x: DROP(x))

    def twice(key):
        with keys(key):
            return kept(ONES), kept(ONES)

    for run in (jax.jit(twice), jax.jit(lambda key: twice(key)), twice):
        for key in (KEY, OTHER):
            assert [y.tolist() for y in run(key)] == [drawn(key, 0), drawn(key, 1)]
    with keys(KEY):
        with keys(OTHER):
            assert kept(ONES).tolist() == drawn(OTHER, 0)
        assert kept(ONES).tolist() == drawn(KEY, 0)
    with pytest.raises(ValueError, match="no random key is at hand"):
        kept(ONES)


def test_a_scan_wants_its_context_in_the_body():
    def body(carry, i):
        with keys(jax.random.fold_in(KEY, i)):
            return carry, DROP(ONES)

    _, rows = jax.lax.scan(body, 0, jnp.arange(3))
    assert rows.tolist() == [drawn(jax.random.fold_in(KEY, i), 0) for i in range(3)]


def test_threads_and_tasks_have_contexts_of_their_own():
    found = []

    def other_thread():
        try:
            next_key()
        except ValueError as error:
            found.append(str(error))
        with keys(OTHER):
            found.append(DROP(ONES).tolist())

    async def task(key):
        with keys(key):
            await asyncio.sleep(0)
            first = DROP(ONES).tolist()
            await asyncio.sleep(0)
            return [first, DROP(ONES).tolist()]

    async def both():
        return await asyncio.gather(task(KEY), task(OTHER))

    with keys(KEY):
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        assert DROP(ONES).tolist() == drawn(KEY, 0)
    assert "no random key" in found[0]
    assert found[1] == drawn(OTHER, 0)
    assert asyncio.run(both()) == [[drawn(key, 0), drawn(key, 1)] for key in (KEY, OTHER)]


# recorded masks

A, B = [True, False, True], [0.0, 0.0, 1.0]
THREE = jnp.array([1.0, 2.0, 3.0])


def test_masks_are_fed_in_order_and_before_keys():
    with draws([A, B]), keys(KEY):
        assert DROP(THREE).tolist() == [2, 0, 6]
        assert data(next_key()) == data(jax.random.fold_in(KEY, 0))
        assert nn.Dropout(0.75)(THREE).tolist() == [0, 0, 12]
    with keys(KEY), draws([B]):
        assert DROP(THREE).tolist() == [0, 0, 6]


def test_masks_can_be_arguments_of_a_compiled_function():
    kept = jax.jit(lambda x: DROP(x))

    @jax.jit
    def run(given):
        with draws(given):
            return kept(THREE), jax.checkpoint(lambda x: DROP(x))(THREE)

    for given in ([A, B], [B, A]):
        expected = [(THREE * 2 * np.array(mask, np.float32)).tolist() for mask in given]
        assert [y.tolist() for y in run(list(map(jnp.array, given)))] == expected
        with draws(given):
            assert [kept(THREE).tolist(), kept(THREE).tolist()] == expected


def test_masks_that_do_not_fit():
    with pytest.raises(ValueError, match=r"1 of 2 were not used"), draws([A, B]):
        DROP(THREE)
    with pytest.raises(ValueError, match=r"all 1 are used, and dropout asks.*\(3,\)"), draws([A]):
        DROP(THREE), DROP(THREE)
    with pytest.raises(ValueError, match=r"number 0 has shape \(2,\); dropout takes \(3,\)"):  # noqa: SIM117
        with draws([[1, 0]]):
            DROP(THREE)
    channels = r"takes \(1, 2, 1, 1\) or \(1, 2, 3, 3\)"
    with pytest.raises(ValueError, match=channels), draws([np.ones((1, 2))]):
        nn.Dropout2d()(jnp.ones((1, 2, 3, 3)))
    with (
        pytest.raises(ValueError, match="number 0, for dropout, holds other values"),
        draws([[2.0, 0, 2]]),
    ):
        DROP(THREE)
    with pytest.raises(RuntimeError, match="stop"), draws([A]):  # not hidden by the leftover
        raise RuntimeError("stop")


# recorded numbers of other kinds

LOGITS = jnp.array([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5]])


def test_numbers_for_models_that_draw_by_themselves():
    with keys(KEY):
        a, b, c = ops.randn(2, 3), ops.rand((4,)), ops.randint(3, 5, (6,))
    assert (a.shape, b.shape, c.shape) == ((2, 3), (4,), (6,))
    assert set(c.tolist()) <= {3, 4}
    assert ((b >= 0) & (b < 1)).all()
    assert a.tolist() == jax.random.normal(jax.random.fold_in(KEY, 0), (2, 3)).tolist()
    with jax.enable_x64(True), keys(KEY):
        wide = ops.randn(2, 3, dtype=jnp.float64)
    assert wide.dtype == jnp.float64
    assert wide.tolist() == a.tolist()
    for draw in (lambda: ops.randn(2), lambda: ops.rand(2), lambda: ops.randint(0, 2, (2,))):
        with pytest.raises(ValueError, match="no random key is at hand"):
            draw()


def test_draws_replay_every_kind_of_number():
    kinds = [[0.5, -1.5], [0.25], [4, 3], np.full((2, 3), 0.2), np.ones((2, 3))]

    def run():
        slopes = nn.RReLU()(LOGITS)
        return ops.randn(2), ops.rand(1), ops.randint(3, 5, (2,)), slopes

    with draws(kinds[3:4] + kinds[:3]):
        normal, uniform, whole, slopes = run()
    assert (normal.tolist(), uniform.tolist(), whole.tolist()) == ([0.5, -1.5], [0.25], [4, 3])
    np.testing.assert_allclose(slopes, np.where(LOGITS > 0, LOGITS, 0.2 * LOGITS), rtol=1e-6)


def test_draws_replay_the_windows_of_fractional_pooling():
    x, pool = jnp.arange(36.0).reshape(1, 1, 6, 6), nn.FractionalMaxPool2d(2, 3)
    samples = np.full((1, 1, 2), 0.3, np.float32)
    with draws([samples]):
        drawn = pool(x)
    given = nn.functional.fractional_max_pool2d(x, 2, 3, _random_samples=jnp.asarray(samples))
    assert drawn.tolist() == given.tolist()


@pytest.mark.parametrize(
    ("recorded", "draw", "message"),
    [
        ([1, 2], lambda: ops.randn(2), "number 0, for randn, holds int64, and not floats"),
        ([0.5, 1.5], lambda: ops.rand(2), "for rand, holds other numbers than floats from 0.0"),
        ([3.0], lambda: ops.randint(0, 5, (1,)), "for randint, holds other numbers than integers"),
        ([5], lambda: ops.randint(0, 5, (1,)), "from 0 to 4"),
        ([1.0], lambda: ops.randn(2), r"number 0 has shape \(1,\); randn takes \(2,\)"),
        ([0.5], lambda: nn.RReLU(0.1, 0.2)(-jnp.ones(1)), "for rrelu, .* from 0.1 to 0.2"),
        ([0.0], lambda: nn.functional.gumbel_softmax(jnp.ones(1)), "holds numbers up to 0"),
        ([], lambda: ops.randint(5, 5, (1,)), "randint: high 5; accepted are integers above low"),
        ([], lambda: ops.randn(-1), r"size: \(-1,\); accepted are numbers of at least 0"),
    ],
)
def test_draws_of_another_kind_are_refused(recorded, draw, message):
    with pytest.raises(ValueError, match=message), draws([np.array(recorded)]):
        draw()


def test_rrelu_draws_a_slope_for_every_number():
    x = -jnp.ones(1000)
    with keys(KEY):
        y = nn.RReLU(0.1, 0.4)(x)
        slopes = jax.grad(lambda x: nn.functional.rrelu(x, training=True, key=OTHER).sum())(x)
    assert ((-y >= 0.1) & (-y <= 0.4)).all()
    assert len(set(y.tolist())) > 900
    assert slopes.tolist() == (-nn.functional.rrelu(x, training=True, key=OTHER)).tolist()
    with pytest.raises(ValueError, match=r"rrelu: lower 0.4 is above upper 0.1"):
        nn.functional.rrelu(x, 0.4, 0.1)
    with pytest.raises(TypeError, match="rrelu: the input is int32"):
        nn.functional.rrelu(jnp.ones(2, int))


@pytest.mark.torch
@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_is_torchs_with_torchs_numbers(hard):
    import torch

    torch.manual_seed(0)
    recorded = torch.empty(2, 3, dtype=torch.float64).exponential_().numpy()
    torch.manual_seed(0)
    there = torch.tensor(np.asarray(LOGITS), dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.gumbel_softmax(there, 0.7, hard)
    (expected * torch.arange(6.0).reshape(2, 3)).sum().backward()

    def total(x):
        with draws([recorded]):
            y = nn.functional.gumbel_softmax(x, 0.7, hard)
        return (y * jnp.arange(6.0).reshape(2, 3)).sum(), y

    with jax.enable_x64(True):
        slope, y = jax.jit(jax.grad(total, has_aux=True))(jnp.asarray(LOGITS, jnp.float64))
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(slope, there.grad, rtol=1e-10, atol=1e-14)


def test_gumbel_softmax_names_what_is_wrong():
    F = nn.functional
    with pytest.raises(ValueError, match="gumbel_softmax: dim is 2"):
        F.gumbel_softmax(LOGITS, dim=2)
    with pytest.raises(ValueError, match="tau is 0"):
        F.gumbel_softmax(LOGITS, tau=0)
    with pytest.raises(TypeError, match="the logits are int32"):
        F.gumbel_softmax(jnp.ones(2, int))
    with keys(KEY):
        assert F.gumbel_softmax(LOGITS, hard=True, dim=0).sum(0).round(5).tolist() == [1, 1, 1]


# the training step


class Net(nn.Module):
    def __init__(self, rngs):
        self.fc = nn.Linear(40, 40, rngs=rngs)
        self.drop = nn.Dropout(0.5)

    def __call__(self, x):
        return self.fc(self.drop(x))


def recording(model, batch):
    """A loss whose metrics hold the mask that the step drew."""
    x, y = batch
    return losses.mse_loss(model(x), y), {"mask": model.drop(jnp.ones_like(x)) != 0}


BATCH = (jnp.ones((2, 40)), jnp.zeros((2, 40)))


def start(seed=0):
    optimizer = optax.sgd(0.1)
    step = train.make_train_step(recording, optimizer)
    return train.create(Net(Generator(0)), optimizer, seed), step


def test_each_step_draws_its_own_masks_and_a_resumed_run_the_same():
    state, step = start()
    step = jax.jit(step)
    state, one = step(state, BATCH)
    saved = jax.tree.map(lambda leaf: leaf, state)
    state, two = step(state, BATCH)
    _, again = step(saved, BATCH)
    assert not np.array_equal(one["mask"], two["mask"])
    assert np.array_equal(two["mask"], again["mask"])
    assert two["loss"] == again["loss"]
    _, other = step(start(seed=1)[0], BATCH)
    assert not np.array_equal(one["mask"], other["mask"])


def test_the_masks_are_those_of_fold_in_of_key_and_step():
    state, step = start()
    _, metrics = jax.jit(step)(state.replace(step=state.step + 5), BATCH)
    key = jax.random.fold_in(jax.random.fold_in(state.key, 5), 1)
    wanted = nn.functional.dropout(BATCH[0], key=key) != 0
    assert np.array_equal(metrics["mask"], wanted)


def test_a_scan_of_steps_draws_what_a_loop_draws():
    state, step = start()
    _, scanned = train.make_repeat(step, 3)(state, BATCH)
    step = jax.jit(step)
    for i in range(3):
        state, metrics = step(state, BATCH)
        assert np.array_equal(scanned["mask"][i], metrics["mask"])


def test_evaluation_draws_nothing():
    state, _ = start()
    _, metrics = train.make_eval_step(recording)(state, BATCH)
    assert metrics["mask"].all()


def test_a_step_replays_recorded_masks():
    state, step = start()
    given = [np.arange(80).reshape(2, 40) % 2, np.arange(80).reshape(2, 40) % 3 == 0]

    @jax.jit
    def replay(state, given):
        with draws(given):
            return step(state, BATCH)

    _, metrics = replay(state, given)
    assert np.array_equal(metrics["mask"], given[1])
