"""Gradients of every model of the benchmarks: compiled as operation by operation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.training import WORKLOADS, Workload
from experiments.thermometer import T_C, T_UN
from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator
from tests.marks import slow_among
from tests.tolerances import distance, tolerance

ROWS = 4
# Operation by operation each is some hundred programs to compile; the first takes minutes.
LONG = {"Net", "NetBatchNorm", "NetDropout", "NetRes"}
LONG |= {"NetResDeep, 10 blocks", "NetResDeep, 100 blocks"}
# A batch norm takes off again what a bias before it adds.
ZERO = {"NetBatchNorm": ("conv1.bias", "conv2.bias")}


def objective(params, state: train.TrainState, batch) -> jax.Array:
    model = train.merge(state.structure, params, state.buffers)
    model.train()
    with nn.keys(state.key):
        return losses.cross_entropy(model(batch[0]), batch[1])


def batch_of(work: Workload) -> tuple[jax.Array, jax.Array]:
    rng = np.random.RandomState(1)
    x = rng.standard_normal((ROWS, *work.shape)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.randint(0, work.classes, ROWS), jnp.int32)


def assert_same(compiled: dict, eager: dict, zero: tuple[str, ...] = ()) -> None:
    largest = max(float(jnp.abs(gradient).max()) for gradient in eager.values())
    for name, theirs in eager.items():
        if name in zero:  # what is there instead of 0 is rounding
            for gradient in (compiled[name], theirs):
                assert float(jnp.abs(gradient).max()) < 1e-6 * largest, name
        else:
            assert float(jnp.abs(theirs).max()) > 0, name
            found = distance("gradient", compiled[name], theirs)
            assert found <= tolerance("gradient", np.float32), name


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    slow_among(WORKLOADS, LONG),
)
def test_compiled_and_eager_gradients_agree(name):
    work = WORKLOADS[name]
    state = train.create(work.ours(rngs=Generator(0)), optim.SGD(lr=0.1))
    batch = batch_of(work)
    gradient = jax.grad(objective)
    compiled = jax.jit(gradient)(state.params, state, batch)
    assert_same(compiled, gradient(state.params, state, batch), ZERO.get(name, ()))


def test_those_of_the_thermometer():
    x, y = jnp.asarray(T_UN), jnp.asarray(T_C)
    gradient = jax.grad(lambda p: losses.mse_loss(p["w"] * x + p["b"], y))
    start = {"w": jnp.array(1.0), "b": jnp.array(0.0)}
    assert_same(jax.jit(gradient)(start), gradient(start))
