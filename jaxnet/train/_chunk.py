"""A chunk: some steps of an epoch in one compiled call, the loop under all others."""

import dataclasses
import logging
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet._checks import check_integer
from jaxnet.train._diagnose import NonFiniteError, diagnose
from jaxnet.train._loss import Metrics
from jaxnet.train._several import (
    carried,
    check_same_state,
    learning_rates_of,
    map_states,
    named_states,
    with_carried,
)
from jaxnet.train._step import EvalStep, Step
from jaxnet.train._values import LINE, RATES

_log = logging.getLogger(__name__)

Epoch = Callable[[Any, Any, jax.Array], tuple[Any, Metrics]]
Chunk = Callable[..., tuple[Any, Metrics, jax.Array, jax.Array]]

_SECONDS = 0.25  # how long a call should take: the progress bar and Ctrl-C wait for it
_BYTES = 2**26  # data and metrics of one call, at most
_STEPS = 4096  # of one call, at most


def make_chunk(
    step: Step,
    batch_size: int | None,
    capacity: int,
    *,
    nonfinite: str = "go on",
    trains: bool = True,
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

    Returns:
        `chunk(state, data, order, start, stop, offset=0) -> (state, metrics, end, finite)`,
        not yet compiled: metrics have `capacity` entries along axis 0, the first
        `end - start` of which count; finite says, with "stop", whether all parameters
        are. Step 0 of `order` is step `offset` of the epoch.
    """

    def chunk(state: Any, data: Any, order: Any, start: Any, stop: Any, offset: Any = 0) -> Any:
        @partial(jax.jit, inline=True)  # traced once, for the shapes and for the loop
        def once(current: Any, data: Any, order: Any, i: Any) -> tuple[Any, Metrics]:
            batch = data
            if batch_size is not None:
                rows = lax.dynamic_slice_in_dim(order, i * batch_size, batch_size)
                batch = jax.tree.map(lambda column: column[rows], data)
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
        rows = jnp.int32(min((x.shape[0] for x in jax.tree.leaves(data)), default=2**31 - 1))
        wrong = ((order < -rows) | (order >= rows)).any()
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


# Calls of it, from the host


@dataclasses.dataclass(frozen=True)
class Batches:
    """Consecutive batches of an epoch, on the device."""

    data: Any  # a pytree of arrays
    order: jax.Array  # the numbers of the rows in them that the steps take, one after another
    batch_size: int  # the rows of a step
    capacity: int  # the most steps of a call; one shape and one capacity share a program
    first: int  # the number of the first step of the epoch that these batches serve
    last: int  # the number of the step after the last one
    offset: int  # the step of the epoch that is step 0 of `order`


Parts = Generator[Batches, None, None]  # what a feed gives an epoch as, in order


class Call(NamedTuple):
    """What one compiled call did: steps `first` to before `last` of an epoch."""

    first: int
    last: int
    batch_size: int  # the rows of each of these steps
    metrics: Any  # those of each step along axis 0, on the host


# What was compiled and traced for a step, so that a second run with it does neither again.
_known: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


class ChunkRunner:
    """Runs a step over the batches of an epoch, in calls of a fitting length.

    Args:
        step: A step of training or of evaluation.
        trains: Whether the state that a step gives is the next one's.
        nonfinite: "stop", "skip" or "go on", as in `fit`. "stop" keeps the memory of a state
            until its call has ended, since the error gives the state before the bad step.
        chunk_steps: The steps of a call; None for as many as take a quarter second.

    Attributes:
        state: The state after the last call; between calls another may be set.
        compile_seconds: The seconds that compiling took so far.
        gives_away: Whether a call takes the memory of the state that it is given.
    """

    def __init__(
        self,
        step: Step,
        *,
        trains: bool,
        nonfinite: str = "go on",
        chunk_steps: int | None = None,
    ) -> None:
        self._step, self._trains = step, trains
        self._nonfinite, self._chunk_steps = nonfinite, chunk_steps
        self.state: Any = None
        self.gives_away = trains and nonfinite != "stop"
        self._fitting = 1  # steps that take about a quarter second
        self.compile_seconds = 0.0
        _listen_to_the_compiler()

    def run(
        self,
        state: Any,
        feed: Any,
        epoch: int,
        start: int = 0,
        until: Callable[[int], int] = lambda first: first + _STEPS,
    ) -> Iterator[Call]:
        """An epoch from a step on.

        Args:
            state: The state before it.
            feed: Where the batches come from (`jaxnet.train._batches.Feed`).
            epoch, start: The numbers of the epoch and of the step within it, from 0.
            until: From the number of a call's first step, the step that it has to end before.

        Raises:
            NonFiniteError: A loss or a parameter is not finite, with nonfinite="stop".
        """
        self.state = state
        parts = feed.batches(epoch, start, lambda batch: self._capacity(batch, feed))
        with closing(parts):
            for batches in parts:
                chunk = self._chunk(batches.batch_size, batches.capacity)
                first = batches.first
                while first < batches.last:
                    wanted = self._chunk_steps or self._fitting
                    count = min(wanted, batches.capacity, batches.last - first)
                    last = min(first + count, max(until(first), first + 1))
                    metrics = self._call(chunk, batches, first, last, epoch)
                    yield Call(first, last, batches.batch_size, metrics)
                    first = last

    def metrics_like(self, state: Any, batch: Any) -> Any:
        """The shapes of the metrics of one step."""
        known = _known.setdefault(self._step, {})
        # Models of one structure may have parameters of other shapes, and so other outputs.
        sizes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(state))
        name = jax.tree.structure(state), sizes, batch_shapes(batch)
        if name not in known:  # once: it takes time, and memory that stays
            shapes, began = jax.tree.map(_as_on_the_device, batch), time.perf_counter()
            try:
                result = jax.eval_shape(self._step, state, shapes)
            except TypeError as error:
                text, kind = str(error), type(state).__name__
                if f"{kind!r} object is not callable" in text or f"Value '{kind}" in text:
                    raise TypeError(
                        "step: a function that calls the state, as a loss calls the model; give "
                        "make_train_step(loss, optimizer), or make_eval_step(loss) to measure"
                    ) from error
                raise
            _check_result(result, self._trains, state)
            known[name] = result[1]
            self.compile_seconds += time.perf_counter() - began
        return known[name]

    def _capacity(self, batch: Any, feed: Any) -> int:
        # A whole batch first: what is wrong with it has nothing to do with the smaller one.
        in_memory = self.metrics_like(self.state, batch), None if feed.on_device else batch
        self._try_last(batch, feed)
        one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(in_memory))
        return max(1, min(_STEPS, _BYTES // max(one, 1)))

    def _try_last(self, batch: Any, feed: Any) -> None:
        """Raises what the smaller last batch of an epoch raises, before the first step."""
        size, rows = feed.batch_size, feed.rows
        if not (self._trains and size and rows and rows % size):
            return
        if any(np.shape(leaf)[:1] != (size,) for leaf in jax.tree.leaves(batch)):
            return
        rest = rows % size
        smaller = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rest, *x.shape[1:]), x.dtype), batch)
        try:
            self.metrics_like(self.state, smaller)
        except ValueError as error:
            raise ValueError(
                f"batch_size: the last batch of an epoch would have {rest} of {size} rows, which "
                f"the step refuses: {error}. Leave it out by drop_last=True, which a loader has of "
                "its own, or give another batch_size"
            ) from error

    def _call(self, chunk: Any, batches: Batches, first: int, last: int, epoch: int) -> Any:
        # A function of its own, so that no state stays in memory longer than its call.
        state, offset = self.state, np.int32(batches.offset)
        start, stop = np.int32(first) - offset, np.int32(last) - offset
        began = time.perf_counter()
        _compiling.spans = [(began, began)]
        new, metrics, end, finite = chunk(state, batches.data, batches.order, start, stop, offset)
        compiled = sum(end - begin for begin, end in _compiling.spans)
        count = int(end) - int(start)  # waits until the call has ended
        # A copy, since a view would keep the whole array, of the call's full capacity.
        metrics = jax.tree.map(lambda x: np.asarray(x)[:count].copy(), metrics)
        seconds = time.perf_counter() - began - compiled
        if compiled:
            self.compile_seconds += compiled
            what, rows = "training" if self._trains else "evaluation", batches.batch_size
            _log.info("compiled %s with batches of %d in %.2f s", what, rows, compiled)
        fitting = int(_SECONDS * max(count, 1) / max(seconds, 1e-7))
        self._fitting = max(1, min(fitting, 8 * count))
        if self._trains and self._nonfinite == "stop":
            losses = metrics.get("loss", 0.0)
            if not (bool(finite) and np.isfinite(losses).all()):
                self._explain(chunk, state, batches, int(start), int(end), epoch)
        self.state = new if self._trains else with_carried(state, new)
        return metrics

    def _chunk(self, batch_size: int, capacity: int) -> Any:
        how = self._trains, self._nonfinite, batch_size, capacity
        known = _known.setdefault(self._step, {})
        if how not in known:
            # The entry goes with its step: what is compiled must not hold the step itself.
            step = weakref.ref(self._step)
            chunk = make_chunk(
                lambda state, batch: step()(state, batch),  # type: ignore[misc]
                batch_size,
                capacity,
                nonfinite=self._nonfinite,
                trains=self._trains,
            )
            known[how] = jax.jit(chunk, donate_argnums=0 if self.gives_away else ())
        return known[how]

    def _explain(
        self, chunk: Any, state: Any, batches: Batches, start: int, end: int, epoch: int
    ) -> None:
        """Finds the step that first was not finite, goes back to before it, and raises."""
        before, i = state, start
        while i < end:
            numbers = np.int32(i), np.int32(i + 1), np.int32(batches.offset)
            after, metrics, _, finite = chunk(before, batches.data, batches.order, *numbers)
            if not finite or not np.isfinite(np.asarray(metrics.get("loss", 0.0))[:1]).all():
                break
            before, i = after, i + 1
        rows = batches.order[i * batches.batch_size : (i + 1) * batches.batch_size]
        batch = jax.tree.map(lambda column: column[rows], batches.data)
        where = epoch + 1, batches.offset + i + 1
        raise NonFiniteError(*where, before, batch, diagnose(before, self._step, batch))


# Of each thread: from when to when JAX traced, lowered or compiled since its last call began.
_compiling = threading.local()


@cache  # once a process
def _listen_to_the_compiler() -> None:
    def add(event: str, duration_secs: float, **_: Any) -> None:
        spans = getattr(_compiling, "spans", None)
        if spans and event.startswith("/jax/core/compile/"):
            end = time.perf_counter()
            # Tracing a function includes the tracing of those that it calls, which JAX has
            # told before; counted twice, a call would take less than no time.
            while len(spans) > 1 and spans[-1][0] >= end - duration_secs:
                spans.pop()
            spans.append((max(end - duration_secs, spans[-1][1]), end))

    jax.monitoring.register_event_duration_secs_listener(add)


def _as_on_the_device(array: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(array.shape, dtype)


def batch_shapes(batch: Any) -> Any:
    """The structure, shapes and dtypes of a batch, hashable."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)


def _check_result(result: Any, trains: bool, state: Any) -> None:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise TypeError(
            f"step: it gave {type(result).__name__}; accepted is a function (state, batch) -> "
            "(state, dictionary of metrics), such as make_train_step(loss, optimizer) gives"
        )
    rates = learning_rates_of(state)
    for name in result[1] if trains else ():
        if name in (*LINE, *RATES, *rates) or name.startswith("val_"):
            raise ValueError(
                f"metrics: {name!r} has its own meaning in the line of an epoch; give this "
                "metric another name"
            )
