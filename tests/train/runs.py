"""What test_fit.py trains, and killed.py too, which forks: importing this starts no backend."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import losses, metrics, nn, optim, train
from jaxnet.random import Generator

LOSS = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
OPTIMIZER = optim.Adam(lr=0.02)
STEP = train.make_train_step(LOSS, OPTIMIZER)
EVAL = train.make_eval_step(LOSS)


def rows(n: int = 56) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.RandomState(0).standard_normal((n, 3)).astype(np.float32)
    return x, (x.sum(1) > 0).astype(np.int32)


def make_state(optimizer=OPTIMIZER) -> train.TrainState:
    g = Generator(1)
    # No bias before the norm: its gradient is nothing but rounding, which Adam makes steps of.
    first = nn.Linear(3, 8, bias=False, rngs=g)
    layers = first, nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2, rngs=g)
    return train.create(nn.Sequential(*layers), optimizer, seed=3)


def run(step=STEP, state=None, arrays=None, **options) -> train.Result:
    options = {"epochs": 3, "batch_size": 8, "compilation_cache": False, "quiet": True} | options
    return train.fit(state or make_state(), step, arrays or rows(), **options)


def assert_same(a: train.Result, b: train.Result) -> None:
    assert a.history == b.history
    assert bits(a.state) == bits(b.state)


def bits(states) -> list[bytes]:
    def plain(leaf):
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if key else leaf).tobytes()

    return [plain(leaf) for leaf in jax.tree.leaves(states)]


def plateau(optimizer):
    reduce = optim.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0, threshold_mode="abs")

    def cut(memory, state, measured):
        memory, opt_state = reduce.step(memory, measured["loss"], state.opt_state)
        return memory, state.replace(opt_state=opt_state)

    return train.EachEpoch(cut, reduce.init())
