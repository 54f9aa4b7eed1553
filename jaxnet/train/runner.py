"""Steps over the pieces of a feed, in compiled calls of a fitting length."""

import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np

from jaxnet import metrics as metric_functions
from jaxnet.train.diagnose import NonFiniteError, diagnose
from jaxnet.train.epoch import make_stretch
from jaxnet.train.feed import Feed, Piece
from jaxnet.train.progress import Progress
from jaxnet.train.step import Step

__all__ = ["Runner", "joined", "summary"]

# Compiled stretches by step, so that a second call with the same step does not compile.
_compiled: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

_SECONDS = 0.25  # how long a compiled call should take: the bar and Ctrl-C wait for it
_PIECE = 2**26  # bytes of data and metrics of a piece, at most


class Runner:
    """Runs one step over feeds, and finds out how many steps a call should make.

    Args:
        step: of training or of evaluation.
        progress: is told of compilations.
        trains: whether the state that a step gives is the next one's.
        nonfinite: see `fit`.
        chunk_steps: steps a call; None for as many as take a quarter second.

    Attributes:
        compile_seconds: so far.
    """

    def __init__(
        self,
        step: Step,
        progress: Progress,
        *,
        trains: bool,
        nonfinite: str = "go on",
        chunk_steps: int | None = None,
    ) -> None:
        self._step, self._progress, self._trains = step, progress, trains
        self._nonfinite, self._chunk_steps = nonfinite, chunk_steps
        self._pace = 1
        self._measured: dict[Any, Any] = {}
        self.compile_seconds = 0.0

    def run(
        self, state: Any, feed: Feed, epoch: int, start: int = 0
    ) -> Iterator[tuple[int, int, int, Any, Any]]:
        """A pass over a feed from a step on.

        Yields:
            (first step, the step after the last, rows a step, state, metrics) of each call.

        Raises:
            NonFiniteError: see `fit`.
        """
        pieces = feed.pieces(epoch, start, lambda batch: self._room(state, batch, feed))
        with closing(pieces):
            for piece in pieces:
                first = piece.first
                while first < piece.last:
                    wanted = self._chunk_steps or self._pace
                    last = first + min(wanted, piece.capacity, piece.last - first)
                    state, metrics = self._call(state, piece, first, last, epoch)
                    yield first, last, piece.size, state, metrics
                    first = last

    def metrics_like(self, state: Any, batch: Any) -> Any:
        """The shapes of one step's metrics."""
        leaves, structure = jax.tree.flatten(batch)
        name = structure, tuple((x.shape, str(x.dtype)) for x in leaves)
        if name not in self._measured:  # once: it takes time, and memory that stays
            shapes = jax.tree.map(_as_on_the_device, batch)
            self._measured[name] = jax.eval_shape(lambda s, b: self._step(s, b)[1], state, shapes)
        return self._measured[name]

    def _room(self, state: Any, batch: Any, feed: Feed) -> int:
        kept = [self.metrics_like(state, batch)]
        if not feed.on_device:
            kept.append(batch)
        leaves = jax.tree.leaves(kept)
        one = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        return max(1, min(4096, _PIECE // max(one, 1)))

    def _call(self, state: Any, piece: Piece, first: int, last: int, epoch: int) -> tuple[Any, Any]:
        stretch = self._stretch(state, piece)
        self._progress.start()
        start, stop = np.int32(first - piece.shift), np.int32(last - piece.shift)
        began = time.perf_counter()
        new, metrics, end, finite = stretch(state, piece.data, piece.order, start, stop)
        count = int(end) - int(start)
        # A copy: a view would keep the entries of all steps that the call has room for.
        metrics = jax.tree.map(lambda x: np.asarray(x)[:count].copy(), metrics)
        self._set_pace((time.perf_counter() - began) / max(count, 1), count)
        if self._trains and self._nonfinite == "stop":
            fine = bool(finite) and np.isfinite(metrics.get("loss", 0.0)).all()
            if not fine:
                self._explain(stretch, state, piece, int(start), int(end), epoch)
        return new if self._trains else state, metrics

    def _stretch(self, state: Any, piece: Piece) -> Any:
        leaves, structure = jax.tree.flatten((state, piece.data, piece.order))
        shapes = tuple((x.shape, str(x.dtype), x.sharding) for x in leaves)
        how = self._trains, self._nonfinite, piece.size, piece.capacity
        precision = getattr(jax.config, "jax_default_matmul_precision", None)
        name = (*how, precision, structure, shapes)
        compiled = _compiled.setdefault(self._step, {})
        if name not in compiled:
            began = time.perf_counter()
            stretch = make_stretch(
                self._step,
                piece.size,
                piece.capacity,
                nonfinite=self._nonfinite,
                trains=self._trains,
            )
            ends = np.int32(0), np.int32(0)
            lowered = jax.jit(stretch).lower(state, piece.data, piece.order, *ends)
            compiled[name] = lowered.compile()
            took = time.perf_counter() - began
            self.compile_seconds += took
            what = "training" if self._trains else "validation"
            self._progress.write(f"compiled {what} with batches of {piece.size} in {took:.2f} s")
        return compiled[name]

    def _explain(
        self, stretch: Any, state: Any, piece: Piece, start: int, end: int, epoch: int
    ) -> None:
        """Finds the step that first was not finite, goes back to before it, and raises."""
        before, i = state, start
        while i < end:
            ends = np.int32(i), np.int32(i + 1)
            after, metrics, _, finite = stretch(before, piece.data, piece.order, *ends)
            if not finite or not np.isfinite(np.asarray(metrics.get("loss", 0.0))[:1]).all():
                break
            before, i = after, i + 1
        rows = piece.order[i * piece.size : (i + 1) * piece.size]
        batch = jax.tree.map(lambda column: column[rows], piece.data)
        where = epoch + 1, piece.shift + i + 1
        raise NonFiniteError(*where, before, batch, diagnose(before, self._step, batch))

    def _set_pace(self, seconds: float, count: int) -> None:
        wanted = int(_SECONDS / max(seconds, 1e-7))
        self._pace = max(1, min(wanted, 8 * count))


def _as_on_the_device(array: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(array.shape, dtype)


def joined(parts: list[Any]) -> Any:
    """The metrics of several calls as of one."""
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def summary(parts: list[Any], weights: np.ndarray | None = None) -> dict[str, Any]:
    """The metrics of many steps as plain numbers."""
    found = {}
    stacked = joined(parts)
    for name, value in sorted(stacked.items(), key=lambda item: (item[0] != "loss", item[0])):
        if isinstance(value, metric_functions.Metric):
            value = metric_functions.compute(metric_functions.total(value))
        else:
            value = np.average(np.asarray(value, np.float64), axis=0, weights=weights)
        value = np.asarray(value)
        found[name] = float(value) if value.ndim == 0 else value.tolist()
    return found
