"""Training on several devices, which a CPU is counted as (conftest.py): the numbers of one."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxnet import _kernels as kernels
from jaxnet import data, losses, metrics, nn, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator

needs_compiler = pytest.mark.skipif(not kernels.available(), reason="needs a C compiler")

LOSS = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
EVAL = train.make_eval_step(LOSS)
X = Generator(0).randn(112, 3, 8, 8)
Y = (np.asarray(X).mean((1, 2, 3)) > 0).astype(np.int32)
ROWS = np.asarray(X), Y


class Net(nnx.Module):
    def __init__(self, rngs):
        # No bias before the norm: its gradient is nothing but rounding, of which Adam makes steps.
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False, rngs=rngs)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, rngs=rngs)
        self.dropout = nn.Dropout(0.3)
        self.fc1 = nn.Linear(8 * 2 * 2, 16, rngs=rngs)
        self.fc2 = nn.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.reshape(x.shape[0], -1)))
        return self.fc2(self.dropout(x))


class Small(nnx.Module):
    """What takes little time to compile, and draws."""

    def __init__(self, rngs):
        self.fc1 = nn.Linear(3 * 8 * 8, 16, rngs=rngs)
        self.dropout = nn.Dropout(0.3)
        self.fc2 = nn.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.fc2(self.dropout(F.relu(self.fc1(x.reshape(x.shape[0], -1)))))


class Sequences(nnx.Module):
    def __init__(self, rngs):
        self.lstm = nn.LSTM(8, 8, batch_first=True, rngs=rngs)
        self.fc = nn.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.fc(self.lstm(x.reshape(x.shape[0], -1, 8))[0][:, -1])


def make_state(rule=optim.Adam, model=Net):
    plain = rule(lr=2e-3)
    schedule = optim.StepLR(plain, step_size=10, gamma=0.7)
    optimizer = optim.chain(optim.clip_by_norm(0.5), optim.scheduled(plain, schedule, steps=60))
    average = optim.AveragedModel(optim.get_ema_avg_fn(0.9))
    state = train.create(model(Generator(1)), optimizer, seed=3, average=average)
    step = train.make_train_step(LOSS, optimizer, average=average, microbatches=2, grad_norm=True)
    return state, step


def fit(state, step, arrays=ROWS, **options):
    options = {"epochs": 2, "batch_size": 16, "generator": Generator(5)} | options
    return train.fit(state, step, arrays, compilation_cache=False, quiet=True, **options)


def assert_close(result, one, digits=1e-5):
    for line, wanted in zip(result.history, one.history, strict=True):
        assert line == pytest.approx(wanted, rel=digits, abs=digits)


TENSOR_PARALLEL = {"fc1.weight": ("model", None), "conv*": "fsdp"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("rule", "meshes"),
    [
        pytest.param(
            optim.SGD,
            [("data=2", None, "host"), ("data=8", None, "device")],
            marks=pytest.mark.slow,
        ),
        (optim.Adam, [("data=4", "fsdp", "host"), ("data=2,model=2", TENSOR_PARALLEL, "device")]),
    ],
)
def test_any_number_of_devices_gives_the_losses_of_one(rule, meshes):
    """Batch norm, dropout, clipping, accumulation, an average, a schedule; 112 = 7 x 16 rows."""
    options = {"epochs": 8, "validation": ROWS, "eval_step": EVAL}  # 56 steps
    one = fit(*make_state(rule), **options)
    assert one.history[-1]["step"] == 56
    assert one.history[-1]["loss"] != one.history[0]["loss"]
    for mesh, sharding, feed in meshes:
        found = fit(*make_state(rule), mesh=mesh, sharding=sharding, feed=feed, **options)
        assert_close(found, one)
        averages = [jax.device_get(r.state.average) for r in (found, one)]
        for a, b in zip(*map(jax.tree.leaves, averages), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_recurrent_net_and_a_last_batch_that_no_split_fits():
    arrays = X[:103], Y[:103]  # 6 batches of 16 rows and one of 7
    step = train.make_train_step(LOSS, optim.Adam(lr=2e-3))
    state = train.create(Sequences(Generator(1)), optim.Adam(lr=2e-3))
    found = fit(state, step, arrays, mesh="data=8")
    assert_close(found, fit(state, step, arrays))
    measured = train.evaluate(found.state, EVAL, arrays, batch_size=16, quiet=True)
    assert measured == pytest.approx(
        train.evaluate(jax.device_get(found.state), EVAL, arrays, batch_size=16, quiet=True),
        rel=1e-5,
    )


def bytes_on_a_device(tree):
    leaves = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(x.addressable_shards[0].data.nbytes for x in leaves)


def test_cut_parameters_take_a_part_of_the_memory():
    g = Generator(0)
    model = nn.Sequential(nn.Linear(64, 128, rngs=g), nn.Linear(128, 64, rngs=g))
    optimizer = optim.Adam(lr=1e-3)
    state = train.create(model, optimizer)
    loss = train.supervised(losses.mse_loss)
    step = train.make_train_step(loss, optimizer)
    x = np.ones((32, 64), np.float32)
    whole = bytes_on_a_device((state.params, state.opt_state))
    for n in (2, 8):
        cut = train.shard(state, f"data={n}", "fsdp")
        after = fit(cut, step, (x, x)).state
        for each in (cut, after):
            part = bytes_on_a_device((each.params, each.opt_state))
            assert part <= whole / n + 64  # counters and rates of the optimizer are on every device
        assert after.params["0.weight"].sharding.spec == PartitionSpec("data")
        assert bytes_on_a_device(train.shard(state, f"data={n}").params) == bytes_on_a_device(
            state.params
        )


def collectives(compiled):
    text = compiled.as_text()
    return {
        name: len(re.findall(rf"= [^\n]*\b{name}(?:-start)?\(", text))
        for name in ("all-gather", "all-to-all", "collective-permute", "custom-call")
    }


@needs_compiler
@pytest.mark.parametrize("model", [Net, Sequences])
def test_each_device_runs_the_kernels_on_its_own_rows(model):
    """Nothing is sent but sums: XLA would gather whole batches for code in C that is not cut."""
    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(LOSS, optimizer)
    state = train.create(model(Generator(1)), optimizer)
    mesh = train.make_mesh("data=4")
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.device_put((X[:64], jnp.asarray(Y[:64])), rows)
    with jax.set_mesh(mesh):
        compiled = jax.jit(step).lower(train.shard(state, mesh), batch).compile()
        found = collectives(compiled)
    kernel_calls = found.pop("custom-call")
    assert kernel_calls >= 2
    assert set(found.values()) == {0}


@pytest.mark.parametrize(
    "axes", [pytest.param(("data",), marks=pytest.mark.slow), ("data", "model"), ("batch",)]
)
def test_meshes_with_explicit_axes(axes):
    """What jax.make_mesh gives: there the types of arrays say where they lie."""
    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(LOSS, optimizer)
    state = train.create(Net(Generator(1)), optimizer)
    batch = X[:16], jnp.asarray(Y[:16])
    one = jax.jit(step)(state, batch)
    mesh = jax.make_mesh((2,) * len(axes), axes)
    with jax.set_mesh(mesh):
        rows = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(axes[0])))
        after, measured = jax.jit(step)(
            jax.device_put(state, NamedSharding(mesh, PartitionSpec())), rows
        )
    np.testing.assert_allclose(measured["loss"], one[1]["loss"], rtol=1e-6)
    for name, x in one[0].params.items():
        np.testing.assert_allclose(after.params[name], x, rtol=1e-4, atol=1e-6)
    if axes[0] == "data":
        found = fit(state, step, mesh=mesh)
        assert_close(found, fit(state, step))


def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    unbroken = fit(*make_state(), epochs=3)
    for epochs, mesh, sharding in ((1, "data=4", "fsdp"), (2, "data=2", None), (3, None, None)):
        result = fit(
            *make_state(), epochs=epochs, mesh=mesh, sharding=sharding, checkpoint=tmp_path
        )
        devices = 1 if mesh is None else int(mesh[-1])
        assert len(result.state.params["fc1.weight"].sharding.device_set) == devices
    assert_close(result, unbroken)


def test_loaders_callbacks_and_several_models():
    optimizer = optim.SGD(lr=0.1)
    step = train.make_train_step(lambda nets, batch: LOSS(nets["a"], batch), optimizer, model="a")
    state = {name: train.create(Sequences(Generator(1)), optimizer) for name in "ab"}
    state["seen"] = jnp.zeros(3)

    def halve(report):
        new = jax.tree.map(np.asarray, report.state["a"].params)
        a = report.state["a"].replace(params={k: v / 2 for k, v in new.items()})
        return report.state | {"a": a}

    def run(**options):
        loader = data.DataLoader(
            data.TensorDataset(X, Y), 16, shuffle=True, rngs=Generator(2), drop_last=True
        )
        return train.fit(
            state,
            step,
            loader,
            epochs=2,
            callbacks=[halve],
            compilation_cache=False,
            quiet=True,
            **options,
        )

    found = run(mesh="data=4", sharding={"a.lstm.*": "fsdp"})
    assert_close(found, run())
    a, b = (found.state[name].params["lstm.weight_ih_l0"].sharding for name in "ab")
    assert a.spec == PartitionSpec("data")
    assert b.is_fully_replicated


def test_a_state_on_a_mesh_is_measured_and_predicts_there():
    state, _ = make_state()
    spread = train.shard(state, "data=4", "fsdp")
    options = {"batch_size": 16, "quiet": True}
    one, four = (train.evaluate(each, EVAL, (X, Y), **options) for each in (state, spread))
    assert four == pytest.approx(one, rel=1e-6)
    one, four = (train.predict(each, X[:50], **options) for each in (state, spread))
    np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mesh": "data=9"}, "needs 9 devices, and there are 8"),
        ({"mesh": "data"}, 'accepted are names with numbers of devices, such as "data=4"'),
        ({"mesh": "data=2,data=2"}, "has the axis 'data' twice"),
        ({"mesh": "model=2"}, 'the rows of a batch are cut along an axis "data"'),
        ({"mesh": "data=4", "batch_size": 10}, "10 rows cannot be cut into equal parts for 4"),
        ({"mesh": "data=2", "sharding": "zero"}, "sharding: 'zero'; accepted are None"),
        ({"mesh": "data=2", "sharding": {"fc3.*": "fsdp"}}, "fits no name"),
        ({"mesh": "data=2", "sharding": {"fc1.bias": ("m",)}}, "fc1.bias: 'm'; the axes"),
        ({"mesh": "data=2", "sharding": {"fc1.bias": (None, "data")}}, "names 2 axes"),
        ({"mesh": "data=8", "sharding": {"fc2.bias": ("data",)}}, "cannot be cut into 8 equal"),
        ({"sharding": "fsdp"}, "there is no mesh; give mesh too"),
    ],
)
def test_what_does_not_fit_a_mesh_is_refused(options, error):
    with pytest.raises(ValueError, match=re.escape(error)):
        fit(*make_state(), **options)


def test_what_is_no_mesh_is_refused():
    with pytest.raises(TypeError, match="mesh: 4; accepted are a text"):
        train.shard(make_state()[0], 4)
    with pytest.raises(TypeError, match="sharding: 3; accepted are None"):
        train.shard(make_state()[0], "data=2", 3)
