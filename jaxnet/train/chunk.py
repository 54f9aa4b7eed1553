"""A stretch of steps of an epoch in one compiled call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.train.step import Metrics, Step

__all__ = ["make_chunk"]

Chunk = Callable[..., tuple[Any, Metrics, jax.Array, jax.Array]]


def make_chunk(
    step: Step, batch_size: int, capacity: int, *, nonfinite: str = "go on", trains: bool = True
) -> Chunk:
    """Runs the steps from one number to another, compiled once for all such stretches.

    How many steps a call makes is an argument of the compiled program, not a part of
    it: an epoch cut into pieces anywhere gives the same bits as one uncut.

    Args:
        step: a function `(state, batch) -> (state, metrics)`.
        batch_size: rows a batch.
        capacity: the most steps of one call.
        nonfinite: what happens at a step whose loss is not finite: "stop" ends the call
            after it; "skip" leaves it out (also when a parameter would not be finite);
            "go on".
        trains: whether the state that a step gives is the next one's.

    Returns:
        `chunk(state, data, order, start, stop) -> (state, metrics, end, finite)`: metrics
        have `capacity` entries along axis 0, the first `end - start` of which count;
        finite says, with "stop", whether all parameters are.
    """

    def chunk(state: Any, data: Any, order: jax.Array, start: jax.Array, stop: jax.Array) -> Any:
        def once(carried: Any, i: jax.Array) -> tuple[Any, Metrics]:
            rows = lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            new, metrics = step(carried, jax.tree.map(lambda column: column[rows], data))
            if nonfinite == "skip":
                fine = _finite({"loss": metrics.get("loss"), "params": new.params})
                kept = carried.replace(step=new.step)
                new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, kept)
            return new, metrics

        def body(carry: Any) -> Any:
            carried, metrics, i, _ = carry
            new, measured = once(carried if trains else state, i)
            metrics = jax.tree.map(lambda all, one: all.at[i - start].set(one), metrics, measured)
            fine = _finite(measured.get("loss")) if nonfinite == "stop" else jnp.array(True)
            return new if trains else carried, metrics, i + 1, fine

        shapes = jax.eval_shape(once, state, start)[1]
        metrics = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)
        first: Any = state if trains else (), metrics, start, jnp.array(True)
        end = lax.while_loop(lambda carry: (carry[2] < stop) & carry[3], body, first)
        finite = _finite(end[0].params) if nonfinite == "stop" else jnp.array(True)
        return end[0], end[1], end[2], finite

    return chunk


def _finite(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(x).all() for x in floats)]).all()
