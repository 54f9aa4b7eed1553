"""A chunk: some steps of an epoch in one compiled call, the loop under all others."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet._checks import check_integer
from jaxnet.train._loss import Metrics
from jaxnet.train._mesh import mesh_of, on_rows
from jaxnet.train._several import (
    carried,
    check_same_state,
    map_states,
    named_states,
    with_carried,
)
from jaxnet.train._step import EvalStep, Step

Epoch = Callable[[Any, Any, jax.Array], tuple[Any, Metrics]]
Chunk = Callable[..., tuple[Any, Metrics, jax.Array, jax.Array]]


def make_chunk(
    step: Step,
    batch_size: int | None,
    capacity: int,
    *,
    nonfinite: str = "go on",
    trains: bool = True,
    shardings: Any = None,
) -> Chunk:
    """Runs the steps of an epoch from one number to another, as one loop.

    How many steps a call makes is an argument of the compiled program: an epoch that is cut
    into calls anywhere gives the same bits as one uncut.

    Args:
        step: A function `(state, batch) -> (state, metrics)`.
        batch_size: The rows of a batch; None if all of the data is the batch of every step.
        capacity: The most steps of one call.
        nonfinite: What happens at a step whose loss is not finite: "stop" ends the call
            after it; "skip" leaves it out (also when a parameter would not be finite);
            "go on".
        trains: Whether the state that a step gives is the next one's.
        shardings: Where the arrays of the state lie on a mesh, before and after each step; the
            rows of a batch are cut along its devices. None for one device.

    Returns:
        `chunk(state, data, order, start, stop, offset=0) -> (state, metrics, end, finite)`,
        not yet compiled: metrics have `capacity` entries along axis 0, the first
        `end - start` of which count; finite says, with "stop", whether all parameters
        are. Step 0 of `order` is step `offset` of the epoch. Without an order, None, the data
        has the batches along axis 0.
    """

    mesh = mesh_of(shardings)

    def at(data: Any, order: Any, i: Any) -> Any:
        """The batch of step i."""
        if batch_size is None:
            return data
        if order is None:
            batch = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), data)
        else:
            rows = lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
            batch = jax.tree.map(lambda column: column[rows], data)
        if mesh is not None:
            batch = lax.with_sharding_constraint(batch, on_rows(mesh, batch_size))
        return batch

    def chunk(state: Any, data: Any, order: Any, start: Any, stop: Any, offset: Any = 0) -> Any:
        @partial(jax.jit, inline=True)  # traced once, for the shapes and for the loop
        def once(current: Any, data: Any, order: Any, i: Any) -> tuple[Any, Metrics]:
            batch = at(data, order, i)
            if not trains:
                # The step's number is the same at every batch of an evaluation; what it draws is
                # not, and depends on nothing but the number of the batch in the whole data.
                current = map_states(
                    lambda one: one.replace(key=jax.random.fold_in(one.key, offset + i)), current
                )
            new, metrics = step(current, batch)
            if nonfinite == "skip":
                fine = _finite(metrics.get("loss")) & _sound(new, current)
                # The loss tells `fit` which steps were left out.
                if "loss" in metrics:
                    metrics = {**metrics, "loss": jnp.where(fine, metrics["loss"], jnp.nan)}
                old = map_states(lambda one, after: one.replace(step=after.step), current, new)
                new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)
            if mesh is not None:
                new = lax.with_sharding_constraint(new, shardings)
            return new, metrics

        def body(i: Any, carry: Any) -> Any:
            current, metrics, _ = carry
            if not trains:
                current = with_carried(state, current)
            new, measured = once(current, data, order, i)
            metrics = jax.tree.map(lambda all, one: all.at[i - start].set(one), metrics, measured)
            fine = _finite(measured.get("loss")) if nonfinite == "stop" else True
            return new if trains else carried(new), metrics, fine

        after, shapes = jax.eval_shape(once, state, data, order, start)
        check_same_state(state, after)
        metrics = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)
        first: Any = state if trains else carried(state), metrics, jnp.array(True)
        if nonfinite != "stop":
            # With ends that are known when it is compiled this becomes a scan.
            current, metrics, fine = lax.fori_loop(start, stop, body, first)
            return current, metrics, stop, fine
        end, (current, metrics, _) = lax.while_loop(
            lambda loop: (loop[0] < stop) & loop[1][2],
            lambda loop: (loop[0] + 1, body(*loop)),
            (start, first),
        )
        return current, metrics, end, _sound(current, state)

    return chunk


def make_epoch(step: Step, batch_size: int) -> Epoch:
    """Runs a step over all batches of an epoch, compiled as one loop.

    Args:
        step: A function `(state, batch) -> (state, metrics)`; the state is any pytree of arrays.
        batch_size: The rows of a batch. The last batch is smaller where the rows do not
            divide, as with torch's `drop_last=False`.

    Returns:
        `epoch(state, data, order) -> (state, metrics)`: data is a pytree of arrays
        with the rows along axis 0, order the row numbers in the order of training.
        Each metric comes back with one entry a step along axis 0, all of them nan if a row
        number of `order` lies outside the data. The memory of the state
        that goes in is given away (donated): go on with the state that comes out. A step of
        `make_eval_step` gives nothing away, and `train.evaluate` neither.

    Raises:
        ValueError: The batch size is below 1, the order holds no rows, or the step gives back
            another kind of state than it is given.
        TypeError: The row numbers are not integers.
    """
    check_integer("batch_size", batch_size, least=1)

    @partial(jax.jit, donate_argnums=() if isinstance(step, EvalStep) else 0)
    def epoch(state: Any, data: Any, order: jax.Array) -> tuple[Any, Metrics]:
        if not jnp.issubdtype(order.dtype, jnp.integer):
            raise TypeError(f"order: {order.dtype}; accepted are row numbers, integers")
        steps, rest = divmod(order.shape[0], batch_size)
        parts = []
        if steps:
            whole = make_chunk(step, batch_size, steps)
            state, metrics, _, _ = whole(state, data, order, 0, steps)
            parts.append(metrics)
        if rest:
            last = make_chunk(step, rest, 1)
            state, metrics, _, _ = last(state, data, order[steps * batch_size :], 0, 1)
            parts.append(metrics)
        if not parts:
            raise ValueError("order: it holds no rows, so there is no batch to train on")
        # JAX would read the last row in place of one that is not there.
        known = jnp.iinfo(order.dtype)
        rows = min((x.shape[0] for x in jax.tree.leaves(data)), default=known.max)
        wrong = ((order < max(-rows, known.min)) | (order > min(rows - 1, known.max))).any()
        metrics = jax.tree.map(lambda *values: jnp.concatenate(values), *parts)
        return state, jax.tree.map(lambda x: jnp.where(wrong, _nothing(x), x), metrics)

    return epoch


def _nothing(x: jax.Array) -> Any:
    return jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else x


def make_repeat(step: Step, steps: int) -> Callable[[Any, Any], tuple[Any, Metrics]]:
    """Runs a step many times over one and the same batch, compiled as one loop.

    Args:
        step: A function `(state, batch) -> (state, metrics)`; the state is any pytree of arrays.
        steps: How often it runs.

    Returns:
        `repeat(state, batch) -> (state, metrics)`; each metric has one entry a step
        along axis 0.

    Raises:
        ValueError: The number of steps is below 1, or as in `make_epoch`.
    """
    check_integer("steps", steps, least=1)
    chunk = make_chunk(step, None, steps)
    return jax.jit(lambda state, batch: chunk(state, batch, None, 0, steps)[:2])


def _sound(new: Any, old: Any) -> jax.Array:
    """Whether the parameters are finite, and the buffers where they were: a mask may hold -inf.

    Of what the user keeps beside the states of models, all numbers have to be.
    """
    fine = [_finite(map_states(lambda one: one.params, new))]
    for one, before in zip(named_states(new).values(), named_states(old).values(), strict=True):
        for name, x in one.buffers.items():
            if jnp.issubdtype(x.dtype, jnp.inexact):
                fine.append((jnp.isfinite(x) | ~jnp.isfinite(before.buffers[name])).all())
    return jnp.stack(fine).all()


def _finite(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(x).all() for x in floats)]).all()
