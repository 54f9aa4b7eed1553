"""The calls of a compiled chunk, from the host: how many steps each makes, and what came out."""

import dataclasses
import logging
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet._processes import agreed, check_same, several
from jaxnet.train._chunk import make_chunk
from jaxnet.train._diagnose import NonFiniteError, diagnose
from jaxnet.train._mesh import everywhere, gather, inside, mesh_of, put_back, shardings_of
from jaxnet.train._several import learning_rates_of, with_carried
from jaxnet.train._step import Step
from jaxnet.train._values import LINE, RATES

_log = logging.getLogger(__name__)

_SECONDS = 0.25  # how long a call should take: the progress bar and Ctrl-C wait for it
_BYTES = 2**26  # data and metrics of one call, at most
_STEPS = 4096  # of one call, at most

_OTHER_BATCHES = (
    "data: the loader gives each process its own batches ({}); each has to read the same, of "
    "which it then trains on its own rows: give the loader a generator with one seed, leave "
    "DistributedSampler out, and give a ShardedReader process_index=0, process_count=1"
)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Consecutive batches of an epoch, on the device."""

    data: Any  # a pytree of arrays
    # The numbers of the rows in them that the steps take, one after another; None where the
    # arrays have the batches along axis 0.
    order: jax.Array | None
    batch_size: int  # the rows of a step
    capacity: int  # the most steps of a call; one shape and one capacity share a program
    first: int  # the number of the first step of the epoch that these batches serve
    last: int  # the number of the step after the last one
    offset: int  # the step of the epoch that is step 0 of `order`
    # A checksum of what was read, where every process reads for itself and has to read the same.
    seen: int | None = None


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
        # Where the arrays lie at first is where those of every later state do.
        self.state, self._shardings = state, shardings_of(state)
        parts = feed.batches(epoch, start, lambda batch: self._capacity(batch, feed))
        with closing(parts):
            for batches in parts:
                if batches.seen is not None:
                    check_same(mesh_of(self._shardings), _OTHER_BATCHES, batches.seen)
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
                result = jax.eval_shape(self._traced(), state, shapes)
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

    def _traced(self) -> Any:
        """The step, traced once for batches of one shape: for their metrics and for the loop."""
        known = _known.setdefault(self._step, {})
        if "traced" not in known:
            # The entry goes with its step: what is traced must not hold the step itself.
            step = weakref.ref(self._step)
            known["traced"] = jax.jit(lambda state, batch: step()(state, batch), inline=True)  # type: ignore[misc]
        return known["traced"]

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
        state, offset = put_back(self.state, self._shardings), np.int32(batches.offset)
        start, stop = np.int32(first) - offset, np.int32(last) - offset
        mesh = mesh_of(self._shardings)
        began = time.perf_counter()
        _compiling.spans = [(began, began)]
        with inside(mesh):
            new, metrics, end, finite = chunk(
                state, batches.data, batches.order, start, stop, offset
            )
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
        (self._fitting,) = agreed(mesh, max(1, min(fitting, 8 * count)))
        if self._trains and self._nonfinite == "stop":
            losses = metrics.get("loss", 0.0)
            if not (bool(finite) and np.isfinite(losses).all()):
                self._explain(chunk, state, batches, int(start), int(end), epoch)
        self.state = new if self._trains else with_carried(state, new)
        return metrics

    def _chunk(self, batch_size: int, capacity: int) -> Any:
        shardings = self._shardings
        lie = tuple(jax.tree.leaves(shardings))
        how = self._trains, self._nonfinite, batch_size, capacity, lie
        known = _known.setdefault(self._step, {})
        if how not in known:
            chunk = make_chunk(
                self._traced(),
                batch_size,
                capacity,
                nonfinite=self._nonfinite,
                trains=self._trains,
                shardings=shardings,
            )
            mesh = mesh_of(shardings)
            # The state goes out as it came in, or the second call would be compiled anew; and of
            # several processes each can read only what all have.
            seen = everywhere(mesh) if mesh is not None and several(mesh) else None
            out = shardings if self._trains else None, seen, seen, seen
            known[how] = jax.jit(
                chunk, donate_argnums=0 if self.gives_away else (), out_shardings=out
            )
        return known[how]

    def _explain(
        self, chunk: Any, state: Any, batches: Batches, start: int, end: int, epoch: int
    ) -> None:
        """Finds the step that first was not finite, goes back to before it, and raises."""
        before, i = state, start
        while i < end:
            numbers = np.int32(i), np.int32(i + 1), np.int32(batches.offset)
            with inside(mesh_of(self._shardings)):
                after, metrics, _, finite = chunk(before, batches.data, batches.order, *numbers)
            if not finite or not np.isfinite(np.asarray(metrics.get("loss", 0.0))[:1]).all():
                break
            before, i = after, i + 1
        rows: Any = i
        if batches.order is not None:
            rows = batches.order[i * batches.batch_size : (i + 1) * batches.batch_size]
        batch = jax.tree.map(lambda column: column[rows], batches.data)
        where = epoch + 1, batches.offset + i + 1
        if several(mesh_of(self._shardings)):  # each process diagnoses the whole
            before, batch = gather(before), gather(batch)
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
