"""Batch norms that take the statistics of each part of a batch: DistributedDataParallel's."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxnet import _kernels as kernels
from jaxnet import backend, losses, nn, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator

needs_compiler = pytest.mark.skipif(not kernels.available(), reason="needs a C compiler")

LOSS = train.supervised(losses.cross_entropy)
SGD = optim.SGD(lr=0.1)
X = np.asarray(Generator(0).randn(64, 3, 8, 8))
Y = (X.mean((1, 2, 3)) > 0).astype(np.int32)


class Plain(nnx.Module):
    """A batch norm over parts, written out; its arrays are those of the layer that it replaces."""

    def __init__(self, layer, parts):
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.momentum, self.parts = layer.momentum, parts

    def __call__(self, x):
        shape, axes = (1, -1) + (1,) * (x.ndim - 2), (0, *range(2, x.ndim))
        done, dtype = [], x.dtype
        weight, bias = (each[...].reshape(shape) for each in (self.weight, self.bias))
        if dtype == jnp.bfloat16:
            x, weight, bias = (each.astype(jnp.float32) for each in (x, weight, bias))
        self.num_batches_tracked[...] += 1
        for i, part in enumerate(jnp.split(x, self.parts)):
            mean, var = part.mean(axes), part.var(axes)
            y = (part - mean.reshape(shape)) / jnp.sqrt(var.reshape(shape) + 1e-5)
            done.append(y * weight + bias)
            if i == 0:
                count = part.size // part.shape[1]
                new = mean, var * count / (count - 1)
                m = 1 / self.num_batches_tracked[...] if self.momentum is None else self.momentum
                for running, value in zip((self.running_mean, self.running_var), new, strict=True):
                    value = jax.lax.stop_gradient(value)
                    running[...] = ((1 - m) * running[...] + m * value).astype(running.dtype)
        return jnp.concatenate(done).astype(dtype)


def small(norm=nn.BatchNorm2d, **options):
    layers = norm(3, **options), nn.Flatten(), nn.Linear(192, 2, rngs=Generator(1))
    return nn.Sequential(*layers)


class Net(nnx.Module):
    """Norms of images, of sequences and of volumes; one is called twice."""

    def __init__(self, parts=None, images=nn.BatchNorm2d, **options):
        rngs = Generator(1)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False, rngs=rngs)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(8 * 2 * 2, 16, rngs=rngs)
        self.fc2 = nn.Linear(16, 2, rngs=rngs)
        self.norm1, self.norm2 = images(8, **options), images(8, momentum=None)
        self.norm3, self.norm4 = nn.BatchNorm1d(16), nn.BatchNorm1d(8)
        self.norm5 = nn.BatchNorm3d(2)
        for name in ("norm1", "norm2", "norm3", "norm4", "norm5") if parts else ():
            setattr(self, name, Plain(getattr(self, name), parts))

    def __call__(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = self.norm2(self.conv2(F.relu(self.norm2(x))))
        x = self.norm4(x.reshape(x.shape[0], 8, 16)).reshape(x.shape)
        x = self.norm5(x.reshape(x.shape[0], 2, 4, 4, 4)).reshape(x.shape)
        x = F.max_pool2d(F.relu(x), 2)
        return self.fc2(F.relu(self.norm3(self.fc1(x.reshape(x.shape[0], -1)))))


def steps(model, batches=((X[:32], Y[:32]), (X[32:], Y[32:])), mesh=None, dtype=None, **options):
    """The state and the losses after a step for each batch."""
    step = train.make_train_step(LOSS, SGD, **options)
    state = train.create(model, SGD, dtype=dtype)
    seen = []
    if mesh is not None:
        mesh = mesh if isinstance(mesh, jax.sharding.Mesh) else train.make_mesh(mesh)
        everywhere = NamedSharding(mesh, PartitionSpec())
        state = jax.device_put(state, everywhere)
        rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
        batches = [jax.device_put(tuple(map(jnp.asarray, each)), rows) for each in batches]
    compiled = jax.jit(step)
    for batch in batches:
        if mesh is None:
            state, measured = compiled(state, batch)
        else:
            with jax.set_mesh(mesh):
                state, measured = compiled(state, batch)
        seen.append(float(measured["loss"]))
    return train.gather(state), seen


def assert_same(found, wanted, digits):
    np.testing.assert_allclose(found[1], wanted[1], rtol=digits)
    for kind in ("params", "buffers"):
        ours, theirs = getattr(found[0], kind), getattr(wanted[0], kind)
        assert ours.keys() == theirs.keys()
        for name, x in theirs.items():
            np.testing.assert_allclose(ours[name], x, rtol=digits, atol=digits, err_msg=name)


@pytest.mark.long
@pytest.mark.parametrize(
    ("form", "parts"),
    [
        ("kernel", 2),
        pytest.param("kernel", 8, marks=pytest.mark.slow),
        pytest.param("loop", 2, marks=pytest.mark.slow),
        pytest.param("native", 8, marks=pytest.mark.slow),
    ],
)
def test_values_gradients_and_statistics_are_those_of_a_plain_computation(parts, form):
    if form == "kernel" and not kernels.available():
        pytest.skip("needs a C compiler")
    wanted = steps(Net(parts))
    assert abs(wanted[1][1] - steps(Net())[1][1]) > 1e-3  # which are not those of the whole batch
    with backend.arithmetic_form(form):
        assert_same(steps(Net(), batch_norm_parts=parts), wanted, 1e-5)


@pytest.mark.slow
def test_in_float64():
    with jax.enable_x64(True):
        wanted = steps(Net(4), dtype=jnp.float64)
        found = steps(Net(), dtype=jnp.float64, batch_norm_parts=4)
        assert_same(found, wanted, 1e-12)
        assert found[0].buffers["norm1.running_var"].dtype == jnp.float64
        assert_same(
            steps(Net(), mesh="data=4", dtype=jnp.float64, batch_norm_parts=4), found, 1e-12
        )


AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


@pytest.mark.long
@pytest.mark.parametrize(
    ("mesh", "parts", "types"),
    [
        pytest.param("data=2", 2, AUTO, marks=pytest.mark.slow),
        ("data=2", 2, EXPLICIT),
        ("data=4", 2, AUTO),
        pytest.param("data=4", 2, EXPLICIT, marks=pytest.mark.slow),
        pytest.param("data=2,model=2", 4, AUTO, marks=pytest.mark.slow),
        ("data=2,model=2", 4, EXPLICIT),
        ("batch=2", 2, EXPLICIT),
    ],
)
def test_the_devices_do_not_change_the_numbers(mesh, parts, types):
    one = train.make_mesh(mesh)
    mesh = jax.make_mesh(one.devices.shape, one.axis_names, axis_types=(types,) * one.devices.ndim)
    found = steps(Net(), mesh=mesh, batch_norm_parts=parts)
    assert_same(found, steps(Net(), batch_norm_parts=parts), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [pytest.param(None, marks=pytest.mark.slow), "data=2"])
def test_the_parts_are_those_of_each_microbatch(mesh):
    wanted = steps(Net(2), microbatches=2)
    assert_same(steps(Net(), mesh=mesh, microbatches=2, batch_norm_parts=2), wanted, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [pytest.param(None, marks=pytest.mark.slow), "data=2"])
@pytest.mark.parametrize(
    ("options", "digits"), [({"remat": True}, 1e-5), ({"compute_dtype": jnp.bfloat16}, 2e-2)]
)
def test_half_precision_and_what_is_computed_again(options, digits, mesh):
    wanted = steps(Net(2), **options)
    assert_same(steps(Net(), mesh=mesh, batch_norm_parts=2, **options), wanted, digits)


def test_a_derivative_of_a_gradient():
    def penalised(model, batch):
        def score(x):
            return losses.cross_entropy(model(x), batch[1])

        return score(batch[0]) + jnp.square(jax.grad(score)(batch[0])).sum()

    def run(model, **options):
        state = train.create(model, SGD)
        step = train.make_train_step(penalised, SGD, **options)
        state, measured = jax.jit(step)(state, (X[:16], Y[:16]))
        return state, [measured["loss"]]

    class Small(nnx.Module):
        def __init__(self, parts=None):
            self.norm = nn.BatchNorm2d(3)
            self.fc = nn.Linear(3 * 64, 2, rngs=Generator(1))
            if parts:
                self.norm = Plain(self.norm, parts)

        def __call__(self, x):
            return self.fc(jnp.tanh(self.norm(x)).reshape(x.shape[0], -1))

    assert_same(run(Small(), batch_norm_parts=2), run(Small(2)), 1e-5)


def test_sync_batch_norm_has_the_whole_batch():
    whole = steps(small())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(small())
    for mesh in (None, "data=2"):
        assert_same(steps(converted, mesh=mesh, batch_norm_parts=2), whole, 1e-5)
    assert abs(steps(small(), batch_norm_parts=2)[1][1] - whole[1][1]) > 1e-5


def test_layers_without_statistics_and_functions():
    class Functional(nnx.Module):
        def __init__(self):
            self.fc = nn.Linear(3 * 64, 2, rngs=Generator(1))

        def __call__(self, x):
            return self.fc(F.batch_norm(x, None, None, training=True).reshape(x.shape[0], -1))

    class Untracked(nnx.Module):
        def __init__(self):
            self.norm = nn.BatchNorm2d(3, affine=False, track_running_stats=False).eval()
            self.fc = nn.Linear(3 * 64, 2, rngs=Generator(1))

        def __call__(self, x):
            return self.fc(self.norm(x).reshape(x.shape[0], -1))

    found = steps(Functional(), batch_norm_parts=2)
    assert_same(steps(Untracked(), batch_norm_parts=2), found, 1e-6)
    assert abs(found[1][0] - steps(Functional())[1][0]) > 1e-5


@pytest.mark.parametrize("mesh", [None, "data=2"])
def test_running_statistics_of_instance_norms_are_those_of_the_first_part(mesh):
    model = small(nn.InstanceNorm2d, track_running_stats=True)
    batch = [(X[:32], Y[:32])]
    first = steps(model, [(X[:16], Y[:16])])[0].buffers
    found, _ = steps(model, batch, mesh=mesh, batch_norm_parts=2)
    for name, value in first.items():
        np.testing.assert_allclose(found.buffers[name], value, rtol=1e-5, atol=1e-6)
    assert_same(
        (found.replace(buffers={}), []),
        (steps(model, batch)[0].replace(buffers={}), []),
        1e-6,
    )


def collectives(step, model, mesh):
    """The arrays that each kind of message of the compiled step has."""
    state = train.shard(train.create(model, SGD), mesh)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    with jax.set_mesh(mesh):
        batch = jax.device_put((X, jnp.asarray(Y)), rows)
        text = jax.jit(step).lower(state, batch).compile().as_text()
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    found = {
        name: re.findall(rf"= ([^\n]*)\b{name}(?:-start)?\(", text)
        for name in (*names, "custom-call")
    }
    arrays = {name: sum(len(re.findall(r"f32\[", x)) for x in found[name]) for name in names}
    return len(found["all-reduce"]), arrays, len(found["custom-call"])


class Scaled(nnx.Module):
    """The parameters of a batch norm without its statistics."""

    def __init__(self, features, **_):
        self.weight = nn.Parameter(jnp.ones(features))
        self.bias = nn.Parameter(jnp.zeros(features))

    def __call__(self, x):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return x * self.weight[...].reshape(shape) + self.bias[...].reshape(shape)


class Images(nnx.Module):
    def __init__(self, norm, **options):
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False, rngs=Generator(1))
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False, rngs=Generator(2))
        self.norm1, self.norm2 = norm(8, **options), norm(8, **options)
        self.fc = nn.Linear(8 * 2 * 2, 2, rngs=Generator(3))

    def __call__(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.fc(x.reshape(x.shape[0], -1))


@needs_compiler
@pytest.mark.parametrize("parts", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_devices_that_have_whole_parts_send_nothing_for_them(parts):
    mesh = train.make_mesh("data=4")
    step = train.make_train_step(LOSS, SGD, batch_norm_parts=parts)
    whole = train.make_train_step(LOSS, SGD)
    messages, arrays, _ = collectives(whole, Images(Scaled), mesh)
    untracked = collectives(step, Images(nn.BatchNorm2d, track_running_stats=False), mesh)
    assert untracked[:2] == (messages, arrays)
    # The kernels run on each device, two for each norm more than without norms.
    assert untracked[2] >= collectives(whole, Images(Scaled), mesh)[2] + 4
    # The first part's statistics go to all devices, once for each layer, as torch sends buffers.
    tracked = collectives(step, Images(nn.BatchNorm2d), mesh)
    assert tracked[1] == arrays | {"all-reduce": arrays["all-reduce"] + 2}
    assert tracked[0] <= messages + 2
    of_the_whole = collectives(whole, Images(nn.BatchNorm2d), mesh)
    assert sum(of_the_whole[1].values()) > sum(tracked[1].values())


@pytest.mark.parametrize(
    ("batch", "options", "error"),
    [
        ((X[:10], Y[:10]), {}, "a batch of 10 rows cannot be cut into 4 equal parts"),
        ((X[:24], Y[:24]), {"microbatches": 4}, "a batch of 6 rows cannot be cut into 4 equal"),
        ((X[:16], Y[:8]), {}, "the batch has arrays of 8, 16 rows; accepted are arrays that all"),
        ((), {}, "the batch has no arrays with rows"),
    ],
)
def test_a_batch_that_has_no_equal_parts_is_refused(batch, options, error):
    step = train.make_train_step(LOSS, SGD, batch_norm_parts=4, **options)
    with pytest.raises(ValueError, match=error):
        jax.jit(step)(train.create(small(), SGD), batch)


@pytest.mark.parametrize("parts", [0, 2.0, True])
def test_what_is_no_number_of_parts_is_refused(parts):
    with pytest.raises(ValueError, match="batch_norm_parts"):
        train.make_train_step(LOSS, SGD, batch_norm_parts=parts)


def test_a_part_of_one_value_for_each_channel_is_refused_as_in_torch():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2, rngs=Generator(0)))
    with pytest.raises(ValueError, match=r"more than 1 value per channel.*size \(1, 192\)"):
        steps(model, [(X[:4], Y[:4])], batch_norm_parts=4)


def test_rows_that_are_not_the_batchs_are_refused():
    """Which part a row of two joined tensors belongs to is in no shape: torch's joins its own."""

    def joined(model, batch):
        outputs = model(jnp.concatenate([batch[0], -batch[0]]))
        return losses.cross_entropy(outputs, jnp.concatenate([batch[1], batch[1]]))

    state = train.create(small(), SGD)
    step = train.make_train_step(joined, SGD, batch_norm_parts=2)
    with pytest.raises(ValueError, match="batch_norm is given 32 rows where the batch has 16"):
        jax.jit(step)(state, (X[:16], Y[:16]))
    jax.jit(train.make_train_step(joined, SGD))(state, (X[:16], Y[:16]))
    state = train.create(small(nn.InstanceNorm2d, track_running_stats=True), SGD)
    with pytest.raises(ValueError, match="instance_norm is given 32 rows where the batch has 16"):
        jax.jit(step)(state, (X[:16], Y[:16]))


def test_fit_refuses_a_last_batch_before_the_first_step():
    step = train.make_train_step(LOSS, SGD, batch_norm_parts=4)
    seen = []
    options = {"epochs": 1, "batch_size": 16, "quiet": True, "compilation_cache": False}
    callbacks = [train.EverySteps(1, seen.append)]
    with pytest.raises(ValueError, match=r"would have 6 of 16 rows, which the step refuses: batch"):
        train.fit(
            train.create(small(), SGD), step, (X[:54], Y[:54]), callbacks=callbacks, **options
        )
    assert not seen
    train.fit(train.create(small(), SGD), step, (X[:52], Y[:52]), **options)


def test_a_model_in_the_batch_has_no_rows():
    def distilled(model, batch):
        teacher, x = batch
        return jnp.square(model(x) - teacher(x)).mean()

    teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, 2, rngs=Generator(4)))
    step = train.make_train_step(distilled, SGD, batch_norm_parts=2)
    _, measured = step(train.create(small(), SGD), (teacher, jnp.asarray(X[:16])))
    assert np.isfinite(measured["loss"])


def test_a_diagnosis_computes_what_the_step_does():
    """Of a batch with numbers that are none the other part is as it was."""
    model, seen = small(), []

    def noting(model, x):
        seen.append(model(x))
        return seen[-1].mean()

    step = train.make_train_step(noting, SGD, batch_norm_parts=2)
    train.diagnose(train.create(model, SGD), step, jnp.asarray(X[:8]).at[0].set(jnp.nan))
    assert np.isnan(seen[0][:4]).all()
    assert np.isfinite(seen[0][4:]).all()


def test_evaluation_is_as_before():
    state, _ = steps(small(), batch_norm_parts=4)
    evaluate = train.make_eval_step(LOSS)
    _, found = evaluate(state, (X, Y))
    model = state.model(training=False)
    assert found["loss"] == pytest.approx(float(losses.cross_entropy(model(X), Y)), rel=1e-6)


DDP = os.path.join(os.path.dirname(__file__), "ddp.py")


def torch_net():
    g = Generator(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False, rngs=g),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1, bias=False, rngs=g),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 16, bias=False, rngs=g),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 2, rngs=g),
    )


RULES = {"SGD": optim.SGD(lr=0.05, momentum=0.9, weight_decay=1e-3), "Adam": optim.Adam(lr=1e-3)}


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_two_processes_of_torch(rule, tmp_path):
    """With SyncBatchNorm there is no such test: torch's refuses arrays on a CPU."""
    pytest.importorskip("torch")
    optimizer = RULES[rule]
    x = np.asarray(Generator(7).randn(20, 16, 3, 8, 8)) * np.linspace(1, 3, 16).reshape(16, 1, 1, 1)
    x = x.astype(np.float32)
    y = (x.mean((2, 3, 4)) > 0).astype(np.int32)
    state = train.create(torch_net(), optimizer)
    np.savez(tmp_path / "weights.npz", **torch_net().state_dict())
    np.savez(tmp_path / "batches.npz", x=x, y=y)
    command = [sys.executable, DDP, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank), "2", rule]) for rank in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    first, second = (dict(np.load(tmp_path / f"after{rank}.npz")) for rank in range(2))
    theirs = (first.pop("losses") + second.pop("losses")) / 2

    step = train.make_train_step(LOSS, optimizer, batch_norm_parts=2)
    one, ours, compiled = state, [], jax.jit(step)
    for batch in zip(x, y, strict=True):
        one, measured = compiled(one, batch)
        ours.append(float(measured["loss"]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    rows = x.reshape(-1, 3, 8, 8), y.reshape(-1)
    result = train.fit(
        state,
        step,
        rows,
        epochs=1,
        batch_size=16,
        shuffle=False,
        mesh="data=2",
        quiet=True,
        compilation_cache=False,
    )
    assert result.history[0]["loss"] == pytest.approx(theirs.mean(), rel=1e-5)
    for after in (one, train.gather(result.state)):
        arrays = after.params | after.buffers
        assert arrays.keys() == first.keys()
        for name, value in first.items():
            np.testing.assert_allclose(arrays[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    # The second process has statistics of its own, which torch does not keep either.
    assert np.abs(first["1.running_mean"] - second["1.running_mean"]).max() > 1e-4
