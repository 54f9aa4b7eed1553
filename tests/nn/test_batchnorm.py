"""jaxnet/nn/_batchnorm.py"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, nn, train
from jaxnet.random import Generator
from tests.table import table

F = nn.functional


TestBatchNorm = table("nn_batchnorm")

X = np.random.RandomState(0).standard_normal((8, 3)).astype(np.float32) * 2 + 1


def test_running_statistics_weigh_the_new_by_momentum_and_are_unbiased():
    norm = nn.BatchNorm1d(3)
    norm(X)
    assert np.allclose(norm.running_mean[...], 0.1 * X.mean(0), rtol=1e-5)
    assert np.allclose(norm.running_var[...], 0.9 + 0.1 * X.var(0, ddof=1), rtol=1e-5)
    assert norm.num_batches_tracked[...] == 1
    biased = 0.9 + 0.1 * X.var(0)
    assert not np.allclose(norm.running_var[...], biased, rtol=1e-3)


def test_momentum_none_is_the_average_of_all_batches():
    norm = nn.BatchNorm1d(3, momentum=None)
    batches = [X[:4], X[4:], 2 * X[:4]]
    for batch in batches:
        norm(batch)
    assert np.allclose(norm.running_mean[...], np.mean([b.mean(0) for b in batches], 0), rtol=1e-5)
    spread = np.mean([b.var(0, ddof=1) for b in batches], 0)
    assert np.allclose(norm.running_var[...], spread, rtol=1e-5)


def test_evaluation_uses_the_statistics_and_leaves_them():
    norm = nn.BatchNorm1d(3)
    norm(X)
    norm.eval()
    before = [np.asarray(buffer[...]) for buffer in norm.buffers()]
    wanted = (X - before[0]) / np.sqrt(before[1] + 1e-5)
    assert np.allclose(norm(X), wanted, rtol=1e-4, atol=1e-5)
    assert np.allclose(norm(X[:1]), wanted[:1], rtol=1e-4, atol=1e-5)
    assert all(np.array_equal(a, b[...]) for a, b in zip(before, norm.buffers(), strict=True))


class Repeated(nn.Module):
    """One block used three times, as `n * [block]` writes it."""

    def __init__(self, rngs):
        self.fc = nn.Linear(3, 3, rngs=rngs)
        self.norm = nn.BatchNorm1d(3)

    def __call__(self, x):
        for _ in range(3):
            x = x + nn.functional.relu(self.norm(self.fc(x)))
        return x


def test_one_module_used_three_times_updates_its_statistics_three_times():
    model = Repeated(Generator(0))
    model(jnp.asarray(X))
    assert model.norm.num_batches_tracked[...] == 3
    weight, bias = (np.asarray(p[...], np.float64) for p in model.fc.parameters())
    mean, var, x = np.zeros(3), np.ones(3), X.astype(np.float64)
    for _ in range(3):
        z = x @ weight.T + bias
        mean = 0.9 * mean + 0.1 * z.mean(0)
        var = 0.9 * var + 0.1 * z.var(0, ddof=1)
        x = x + np.maximum((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5), 0)
    assert np.allclose(model.norm.running_mean[...], mean, rtol=1e-4, atol=1e-6)
    assert np.allclose(model.norm.running_var[...], var, rtol=1e-4)


def test_statistics_go_through_a_scan_of_training_steps():
    model = Repeated(Generator(0))
    optimizer = optax.sgd(0.0)
    step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
    state = train.create(model, optimizer)
    state, _ = train.make_repeat(step, 4)(state, (jnp.asarray(X), jnp.zeros_like(X)))
    for _ in range(4):
        model(jnp.asarray(X))
    for name, buffer in model.named_buffers():
        assert np.allclose(state.buffers[name], buffer[...], rtol=1e-5), name
    assert state.buffers["norm.num_batches_tracked"] == 12


def test_functional_form_writes_buffers_and_refuses_arrays():
    mean, var = nn.Buffer(jnp.zeros(3)), nn.Buffer(jnp.ones(3))
    F.batch_norm(X, mean, var, training=True, momentum=1.0)
    assert np.allclose(mean[...], X.mean(0), rtol=1e-5)
    assert np.allclose(F.batch_norm(X, X.mean(0), X.var(0)),
                       F.batch_norm(X, None, None, training=True), atol=1e-5)  # fmt: skip
    with pytest.raises(TypeError, match=r"running_mean would be updated.* give a nn\.Buffer"):
        F.batch_norm(X, jnp.zeros(3), jnp.ones(3), training=True)


def test_counter_is_torchs_int64_under_x64():
    assert nn.BatchNorm1d(1).num_batches_tracked[...].dtype == jnp.int32
    with jax.enable_x64(True):
        assert nn.BatchNorm1d(1).num_batches_tracked[...].dtype == jnp.int64


def test_half_precision_input_keeps_float32_statistics():
    norm = nn.BatchNorm1d(3)
    assert norm(jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16
    assert norm.running_mean[...].dtype == jnp.float32
    assert np.allclose(norm.running_mean[...], 0.1 * X.mean(0), rtol=1e-2)


def test_statistics_carry_no_gradient():
    def slope(x):
        norm = nn.BatchNorm1d(3)
        norm(x)
        return norm.running_mean[...].sum()

    assert not jax.grad(slope)(jnp.asarray(X)).any()


def test_empty_batches_count_and_change_no_statistics():
    norm = nn.BatchNorm2d(2)
    assert norm(jnp.zeros((0, 2, 3, 3))).shape == (0, 2, 3, 3)
    assert norm.num_batches_tracked[...] == 1
    assert norm.running_mean[...].tolist() == [0, 0]
    assert norm.eval()(jnp.zeros((0, 2, 3, 3))).shape == (0, 2, 3, 3)


@pytest.mark.parametrize("tracked", [True, False])
def test_a_single_value_a_channel_is_refused_as_torch_refuses_it(tracked):
    norm = nn.BatchNorm1d(2, track_running_stats=tracked)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        norm(jnp.ones((1, 2)))
    norm.eval()
    if tracked:
        assert norm(jnp.ones((1, 2))).shape == (1, 2)
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            norm(jnp.ones((1, 2)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.BatchNorm1d(3)(jnp.ones((4, 2))), r"\(N, 3\) or \(N, 3, L\); it got \(4, 2\)"),
        (lambda: nn.BatchNorm2d(3)(jnp.ones((4, 3))), r"\(N, 3, H, W\); it got \(4, 3\)"),
        (lambda: nn.BatchNorm3d(3)(jnp.ones((4, 3, 2, 2))), r"\(N, 3, D, H, W\)"),
        (lambda: nn.InstanceNorm2d(3)(jnp.ones((4, 3))), r"\(3, H, W\) or \(N, 3, H, W\)"),
        (lambda: nn.InstanceNorm1d(3, affine=True)(jnp.ones((4, 2, 5))), r"it got \(4, 2, 5\)"),
        (lambda: nn.InstanceNorm1d(2)(jnp.ones((4, 2, 1))), "more than 1 spatial element"),
        (lambda: F.batch_norm(X, None, None), "needed outside of training"),
        (lambda: F.batch_norm(X, X[0], None), "must either both be None or neither"),
        (lambda: F.batch_norm(X, X[0, :2], X[0, :2]), r"shape \(2,\); the input has 3 channels"),
        (lambda: F.batch_norm(X, None, None, X, training=True), r"weight has shape \(8, 3\)"),
        (lambda: F.batch_norm(X, None, None, training=True, eps=0.0), "eps is 0.0"),
        (lambda: F.batch_norm(X[0], None, None, training=True), r"accepted is \(N, C, \.\.\.\)"),
        (lambda: F.instance_norm(X[0]), r"accepted is \(N, C, \.\.\.\)"),
    ],
)
def test_wrong_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_instance_norm_warns_about_other_channel_counts_as_torch_does():
    with pytest.warns(UserWarning, match="the input has 3 channels"):
        assert nn.InstanceNorm1d(2)(jnp.ones((2, 3, 4))).shape == (2, 3, 4)


@pytest.mark.torch
def test_a_training_run_keeps_torchs_statistics():
    import torch

    ours, theirs = nn.BatchNorm2d(2, momentum=None), torch.nn.BatchNorm2d(2, momentum=None)
    rng = np.random.RandomState(1)
    for n in (5, 2, 1):
        x = rng.standard_normal((n, 2, 3, 2)).astype(np.float32) + n
        assert np.abs(ours(x) - theirs(torch.tensor(x)).detach().numpy()).max() < 1e-5
    for name, buffer in ours.named_buffers():
        assert np.allclose(buffer[...], theirs.get_buffer(name).numpy(), rtol=1e-5), name
    x = rng.standard_normal((1, 2, 1, 1)).astype(np.float32)
    assert np.abs(ours.eval()(x) - theirs.eval()(torch.tensor(x)).detach().numpy()).max() < 1e-5


def test_batch_norms_become_sync_batch_norms_with_the_same_arrays():
    net = nn.Sequential(nn.BatchNorm1d(3, momentum=None), nn.ModuleList([nn.BatchNorm2d(2)]))
    kept = net[0].weight
    net[0](X)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(net.eval())
    assert converted is net
    assert [type(m).__name__ for m in net.modules()][1::2] == ["SyncBatchNorm"] * 2
    assert net[0].weight is kept
    assert net[0].num_batches_tracked[...] == 1
    assert not net[0].training
    alone = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(3, bias=False))
    assert alone.bias is None
    assert repr(alone) == repr(nn.SyncBatchNorm(3, bias=False))
    assert nn.SyncBatchNorm(3)(jnp.ones((2, 3, 1, 1, 1, 1))).ndim == 6


def test_sync_batch_norm_names_what_is_wrong():
    with pytest.raises(ValueError, match="process_group 1; accepted is None"):
        nn.SyncBatchNorm(3, process_group=1)
    with pytest.raises(ValueError, match="process_group 1; accepted is None"):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(3), 1)
    with pytest.raises(ValueError, match=r"expects an input of shape \(N, 3, ...\); it got \(3,\)"):
        nn.SyncBatchNorm(3)(jnp.ones(3))
