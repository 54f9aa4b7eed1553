"""jaxnet/train/_step.py: every option of a training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, metrics, nn, optim, train
from jaxnet.random import Generator


def net() -> nn.Sequential:
    g = Generator(0)
    return nn.Sequential(nn.Linear(3, 8, rngs=g), nn.Tanh(), nn.Linear(8, 2, rngs=g))


def rows(n: int = 12) -> tuple[jax.Array, jax.Array]:
    x = np.random.RandomState(0).standard_normal((n, 3)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray((x.sum(1) > 0).astype(np.int32))


SGD = optim.SGD(lr=0.1)
LOSS = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})


def one_step(optimizer=SGD, loss=LOSS, model=None, state=None, batch=None, **options):
    state = state or train.create(model or net(), optimizer, average=options.get("average"))
    return jax.jit(train.make_train_step(loss, optimizer, **options))(state, batch or rows())


def largest_gap(a, b) -> float:
    gaps = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), a, b)
    return max(jax.tree.leaves(gaps))


def test_microbatches_give_the_gradient_of_the_whole():
    whole, metrics_whole = one_step()
    parts, metrics_parts = one_step(microbatches=3)
    assert largest_gap(whole.params, parts.params) < 1e-6
    assert int(parts.step) == 1
    assert float(metrics_whole["loss"]) == pytest.approx(float(metrics_parts["loss"]), rel=1e-6)
    assert float(metrics_parts["accuracy"].compute()) == float(metrics_whole["accuracy"].compute())
    with pytest.raises(ValueError, match="12 rows cannot be cut into 5"):
        one_step(microbatches=5)
    with pytest.raises(ValueError, match="microbatches: 0"):
        one_step(microbatches=0)


def test_microbatches_give_the_means_of_plain_metrics():
    def measured(microbatches):
        numbers = {"mean": lambda o, t: o.mean(), "columns": lambda o, t: o.mean(0)}
        loss = train.supervised(losses.cross_entropy, numbers)
        return one_step(loss=loss, microbatches=microbatches)[1]

    whole, parts = measured(1), measured(3)
    np.testing.assert_allclose(parts["mean"], whole["mean"], rtol=1e-5)
    np.testing.assert_allclose(parts["columns"], whole["columns"], rtol=1e-5)


def test_microbatches_update_running_statistics_one_after_another():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2, rngs=Generator(0)))
    state, _ = one_step(model=model, microbatches=4)
    assert int(state.buffers["0.num_batches_tracked"]) == 4


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    seen = []

    def loss(model, batch):
        outputs = model(batch[0])
        seen.append((model[0].weight[...].dtype, outputs.dtype))
        return losses.cross_entropy(outputs, batch[1])

    full, _ = one_step(loss=loss)
    half, measured = one_step(loss=loss, compute_dtype=jnp.bfloat16)
    assert seen == [(jnp.float32, jnp.float32), (jnp.bfloat16, jnp.float32)]
    assert measured["loss"].dtype == jnp.float32
    assert {p.dtype for p in half.params.values()} == {jnp.dtype(jnp.float32)}
    assert 0 < largest_gap(full.params, half.params) < 1e-2


def test_bfloat16_keeps_running_statistics_in_float32():
    model = nn.Sequential(nn.Linear(3, 4, rngs=Generator(0)), nn.BatchNorm1d(4), nn.ReLU())
    state, _ = one_step(model=model, compute_dtype=jnp.bfloat16)
    assert state.buffers["1.running_mean"].dtype == jnp.float32


def test_float16_needs_and_uses_loss_scaling():
    with pytest.raises(ValueError, match="float16 gradients vanish"):
        one_step(compute_dtype=jnp.float16)
    scaled = optim.GradScaler(optim.SGD(lr=0.1), init_scale=1024.0)
    half, measured = one_step(scaled, compute_dtype=jnp.float16, loss_scale=optim.loss_scale)
    full, reference = one_step()
    assert 0 < largest_gap(full.params, half.params) < 1e-2
    assert float(measured["loss"]) == pytest.approx(float(reference["loss"]), abs=1e-2)


def test_the_gradients_norm_is_that_without_the_loss_scale():
    scaler = optim.GradScaler(SGD, init_scale=1024.0)
    options = {"compute_dtype": jnp.float16, "loss_scale": optim.loss_scale, "grad_norm": True}
    scaled = one_step(scaler, **options)[1]["grad_norm"]
    plain = one_step(grad_norm=True)[1]["grad_norm"]
    assert float(scaled) == pytest.approx(float(plain), rel=1e-2)


def test_float16_overflow_leaves_the_step_out():
    scaled = optim.GradScaler(optim.SGD(lr=0.1), init_scale=2.0**40)
    before = train.create(net(), scaled)
    after, _ = one_step(
        scaled, state=before, compute_dtype=jnp.float16, loss_scale=optim.loss_scale
    )
    assert largest_gap(before.params, after.params) == 0
    assert float(optim.loss_scale(after.opt_state)) == 2.0**39


@pytest.mark.parametrize("remat", [True, jax.checkpoint_policies.nothing_saveable])
def test_remat_changes_no_number(remat):
    g = Generator(0)
    model = nn.Sequential(nn.Linear(3, 8, rngs=g), nn.Dropout(0.5), nn.Linear(8, 2, rngs=g))
    plain, _ = one_step(model=model)
    again, _ = one_step(model=model, remat=remat)
    assert largest_gap(plain.params, again.params) < 1e-7


def test_average_follows_the_weights():
    ema = optim.AveragedModel(optim.get_ema_avg_fn(0.5))
    state = train.create(net(), SGD, average=ema)
    step = jax.jit(train.make_train_step(LOSS, SGD, average=ema))
    first, _ = step(state, rows())
    second, _ = step(first, rows())
    expected = jax.tree.map(lambda a, b: 0.5 * a + 0.5 * b, first.params, second.params)
    assert largest_gap(second.average.params, expected) < 1e-7
    averaged = second.model(averaged=True)
    np.testing.assert_array_equal(averaged[0].weight[...], second.average.params["0.weight"])
    with pytest.raises(ValueError, match="keeps no average"):
        train.create(net(), SGD).model(averaged=True)


def test_penalty_clipping_and_frozen_parameters_compose():
    def loss(model, batch):
        data_term = losses.cross_entropy(model(batch[0]), batch[1])
        return data_term + 0.01 * losses.l2_penalty(model, where="*.weight")

    optimizer = optim.chain(optim.clip_by_norm(1e-3), optim.SGD(lr=1.0))
    before = train.create(net(), optimizer)
    after, _ = one_step(optimizer, loss, state=before)
    change = jax.tree.map(jnp.subtract, after.params, before.params)
    norm = float(jnp.sqrt(sum((c**2).sum() for c in change.values())))
    assert norm == pytest.approx(1e-3, rel=2e-2)


def test_several_inputs_and_predict():
    class Sum(nn.Module):
        def __init__(self, *, rngs):
            self.fc = nn.Linear(3, 2, rngs=rngs)

        def __call__(self, a, b):
            return self.fc(a + b)

    x, y = rows()
    state, _ = one_step(model=Sum(rngs=Generator(0)), batch=((x, x), y))
    outputs = jax.jit(train.make_predict())(state, x, x)
    np.testing.assert_allclose(outputs, state.model()(x, x), rtol=1e-6)
    half = train.make_predict(compute_dtype=jnp.bfloat16)(state, x, x)
    assert half.dtype == jnp.float32
    assert 0 < largest_gap(half, outputs) < 0.05


@pytest.mark.parametrize(
    "batch", [jnp.ones((2, 3)), {"inputs": jnp.ones((4, 3)), "targets": jnp.ones(4)}, (1.0,)]
)
def test_a_supervised_batch_is_a_pair(batch):
    with pytest.raises(ValueError, match=r"supervised: a batch of .*accepted is \(inputs, targ"):
        train.make_train_step(LOSS, SGD)(train.create(net(), SGD), batch)
