"""Many steps in one compiled call."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.train.state import TrainState
from jaxnet.train.step import Metrics, Step

__all__ = ["make_epoch", "make_repeat", "make_stretch"]

Epoch = Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]
Stretch = Callable[..., tuple[Any, Metrics, jax.Array, jax.Array]]


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
        steps, rest = divmod(order.shape[0], batch_size)
        parts = []
        if steps:
            whole = make_stretch(step, batch_size, steps)
            state, metrics, _, _ = whole(state, data, order, 0, steps)
            parts.append(metrics)
        if rest:
            last = make_stretch(step, rest, 1)
            state, metrics, _, _ = last(state, data, order[steps * batch_size :], 0, 1)
            parts.append(metrics)
        if not parts:
            raise ValueError("order: it holds no rows, so there is no batch to train on")
        return state, jax.tree.map(lambda *values: jnp.concatenate(values), *parts)

    return epoch


def make_stretch(
    step: Step, batch_size: int, capacity: int, *, nonfinite: str = "go on", trains: bool = True
) -> Stretch:
    """Runs the steps of an epoch from one number to another: the loop under all others.

    How many steps a call makes may be an argument of the compiled program, not a part
    of it: an epoch cut into pieces anywhere gives the same bits as one uncut.

    Args:
        step: a function `(state, batch) -> (state, metrics)`.
        batch_size: rows a batch.
        capacity: the most steps of one call.
        nonfinite: what happens at a step whose loss is not finite: "stop" ends the call
            after it; "skip" leaves it out (also when a parameter would not be finite);
            "go on".
        trains: whether the state that a step gives is the next one's.

    Returns:
        `stretch(state, data, order, start, stop) -> (state, metrics, end, finite)`, not
        yet compiled: metrics have `capacity` entries along axis 0, the first
        `end - start` of which count; finite says, with "stop", whether all parameters
        are.
    """

    def stretch(state: Any, data: Any, order: jax.Array, start: Any, stop: Any) -> Any:
        @partial(jax.jit, inline=True)  # traced once, for the shapes and for the loop
        def once(carried: Any, data: Any, order: jax.Array, i: Any) -> tuple[Any, Metrics]:
            rows = lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            new, metrics = step(carried, jax.tree.map(lambda column: column[rows], data))
            if nonfinite == "skip":
                fine = _finite({"loss": metrics.get("loss"), "params": new.params})
                kept = carried.replace(step=new.step)
                new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, kept)
            return new, metrics

        def body(i: Any, carry: Any) -> Any:
            carried, metrics, _ = carry
            new, measured = once(carried if trains else state, data, order, i)
            metrics = jax.tree.map(lambda all, one: all.at[i - start].set(one), metrics, measured)
            fine = _finite(measured.get("loss")) if nonfinite == "stop" else True
            return new if trains else carried, metrics, fine

        shapes = jax.eval_shape(once, state, data, order, start)[1]
        metrics = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)
        first: Any = state if trains else (), metrics, jnp.array(True)
        if nonfinite != "stop":
            # With ends that are known when it is compiled this becomes a scan.
            carried, metrics, fine = lax.fori_loop(start, stop, body, first)
            return carried, metrics, stop, fine
        end, (carried, metrics, _) = lax.while_loop(
            lambda loop: (loop[0] < stop) & loop[1][2],
            lambda loop: (loop[0] + 1, body(*loop)),
            (start, first),
        )
        return carried, metrics, end, _finite(carried.params)

    return stretch


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


def _finite(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(x).all() for x in floats)]).all()
