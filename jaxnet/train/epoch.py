"""Many steps in one compiled call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.train.state import TrainState
from jaxnet.train.step import Metrics, Step

__all__ = ["make_epoch", "make_repeat"]

Epoch = Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]


def make_epoch(step: Step, batch_size: int) -> Epoch:
    """Runs a step over all batches of an epoch, compiled as one loop.

    Args:
        step: a function `(state, batch) -> (state, metrics)`.
        batch_size: rows a batch. The last batch is smaller where the rows do not
            divide, as with torch's `drop_last=False`.

    Returns:
        `epoch(state, data, order) -> (state, metrics)`: data is a pytree of arrays
        with the rows along axis 0, order the row numbers in the order of training.
        Each metric comes back with one entry a step along axis 0. The state that
        goes in is given up (donated): go on with the one that comes out.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}; a batch has at least one row")

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: TrainState, data: Any, order: jax.Array) -> tuple[TrainState, Metrics]:
        def run(state, rows):
            return step(state, jax.tree.map(lambda column: column[rows], data))

        whole = order.shape[0] // batch_size * batch_size
        parts = []
        if whole:
            state, metrics = lax.scan(run, state, order[:whole].reshape(-1, batch_size))
            parts.append(metrics)
        if whole < order.shape[0]:
            state, metrics = run(state, order[whole:])
            parts.append(jax.tree.map(lambda value: value[None], metrics))
        if not parts:
            raise ValueError("order: it holds no rows, so there is no batch to train on")
        return state, jax.tree.map(lambda *values: jnp.concatenate(values), *parts)

    return epoch


def make_repeat(step: Step, steps: int) -> Callable[[TrainState, Any], tuple[TrainState, Metrics]]:
    """Runs a step many times over one and the same batch, compiled as one loop.

    Returns:
        `repeat(state, batch) -> (state, metrics)`; each metric has one entry a step
        along axis 0.
    """
    if steps < 1:
        raise ValueError(f"steps: {steps}; at least one step is needed")

    def repeat(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return lax.scan(lambda state, _: step(state, batch), state, length=steps)

    return jax.jit(repeat)
