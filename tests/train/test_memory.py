"""Memory stays flat over 10,000 steps: what the process holds, and JAX's arrays."""

import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data, losses, nn, optim, train
from jaxnet.random import Generator

STATM = Path("/proc/self/statm")
pytestmark = pytest.mark.skipif(not STATM.exists(), reason="needs Linux, to see what is held")

PASSES, BATCH, ROWS = 50, 8, 1600  # 10,000 steps
MOST = 2 * 2**20  # bytes that the process may grow by in the last 8,000 of them
OPTIMIZER = optim.Adam(lr=1e-3)
STEP = train.make_train_step(train.supervised(losses.cross_entropy), OPTIMIZER)
EVAL = train.make_eval_step(train.supervised(losses.cross_entropy))


def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.RandomState(0).standard_normal((n, 4)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int32)


def make_state() -> train.TrainState:
    return train.create(nn.Linear(4, 2, rngs=Generator(0)), OPTIMIZER)


@pytest.fixture(scope="module", autouse=True)
def only_new_objects_are_looked_through():
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Held:
    """What is held after a tenth of the passes each."""

    def __init__(self):
        self.passes, self.resident, self.arrays = 0, [], []

    def look(self) -> None:
        self.passes += 1
        if self.passes % (PASSES // 10) == 0:
            gc.collect()
            pages = int(STATM.read_text().split()[1])
            self.resident.append(pages * 4096)
            live = jax.live_arrays()
            self.arrays.append((len(live), sum(array.nbytes for array in live)))

    def check(self) -> None:
        assert len(self.resident) == 10
        assert len(set(self.arrays[1:])) == 1, self.arrays
        assert self.resident[-1] - self.resident[1] < MOST, self.resident


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"feed": "device", "chunk_steps": 1}, marks=pytest.mark.slow),
        pytest.param(
            {"feed": "device", "validation": rows(20), "eval_step": EVAL}, marks=pytest.mark.slow
        ),
        pytest.param({"feed": "host"}, marks=pytest.mark.slow),
        {"feed": "host", "validation": rows(20), "eval_step": EVAL},
    ],
)
def test_of_fit(options):
    if options["feed"] == "host":
        pytest.importorskip("grain")
    held = Held()
    result = train.fit(
        make_state(),
        STEP,
        rows(ROWS),
        epochs=PASSES,
        batch_size=BATCH,
        compilation_cache=False,
        quiet=True,
        log=lambda line: None,
        callbacks=[lambda report: held.look()],
        **options,
    )
    assert int(result.state.step) == 10_000
    held.check()


def test_of_fit_with_a_loader():
    held = Held()
    loader = data.DataLoader(data.TensorDataset(*rows(ROWS)), BATCH, True, rngs=Generator(0))
    train.fit(
        make_state(),
        STEP,
        loader,
        epochs=PASSES,
        compilation_cache=False,
        quiet=True,
        log=lambda line: None,
        callbacks=[lambda report: held.look()],
    )
    held.check()


@pytest.mark.parametrize("place", [lambda x: x, jnp.asarray])
def test_of_make_epoch(place):
    """The data on the host, given anew to every call, and on the device."""
    held, state, generator = Held(), make_state(), Generator(0)
    epoch = train.make_epoch(STEP, BATCH)
    given = jax.tree.map(place, rows(ROWS))
    for _ in range(PASSES):
        order = jnp.asarray(data.epoch_order(ROWS, generator))
        state, _ = epoch(state, given, order)
        held.look()
    assert int(state.step) == 10_000
    held.check()
