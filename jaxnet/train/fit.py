"""The host loop around training steps: epochs, validation, checkpoints, records."""

import dataclasses
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import metrics as metric_functions
from jaxnet.checkpoint import Checkpoints, Restored, named_arrays
from jaxnet.data.sampler import epoch_order
from jaxnet.random import Generator
from jaxnet.train.diagnose import NonFiniteError, diagnose
from jaxnet.train.epoch import make_stretch
from jaxnet.train.feed import Feed, choose_feed, rows_of
from jaxnet.train.progress import Progress, use_compilation_cache
from jaxnet.train.state import TrainState
from jaxnet.train.step import Step

__all__ = ["EachEpoch", "EpochReport", "Result", "fit"]

# Compiled stretches by step, so that a second call with the same step does not compile.
_compiled: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

_SECONDS = 0.25  # how long a compiled call should take: the bar and Ctrl-C wait for it


@dataclasses.dataclass
class EpochReport:
    """What a callback learns at the end of an epoch.

    Attributes:
        epoch: counted from 1.
        epochs: how many there will be.
        metrics: of the epoch by name, those of the validation with "val_" before it.
        state: after the epoch.
        seconds: of the epoch's training.
        samples_per_second: of the same.
    """

    epoch: int
    epochs: int
    metrics: dict[str, Any]
    state: TrainState[Any]
    seconds: float
    samples_per_second: float
    reason: str | None = None

    def stop(self, reason: str = "callback") -> None:
        """Lets the run end after this epoch."""
        self.reason = reason


Callback = Callable[[EpochReport], TrainState[Any] | None]


class EachEpoch:
    """A callback with a memory that checkpoints keep.

    Args:
        function: of (memory, state, metrics); gives the new memory and the new state.
        memory: a pytree of arrays, before the first epoch.

    With `optim.ReduceLROnPlateau`:

        def cut(memory, state, metrics):
            memory, opt_state = plateau.step(memory, metrics["val_loss"], state.opt_state)
            return memory, state.replace(opt_state=opt_state)

        train.fit(..., callbacks=[train.EachEpoch(cut, plateau.init())])
    """

    def __init__(self, function: Callable[..., tuple[Any, Any]], memory: Any) -> None:
        self.function, self.memory = function, memory

    def __call__(self, report: EpochReport) -> TrainState[Any]:
        self.memory, state = self.function(self.memory, report.state, report.metrics)
        return state


class Recorder(Protocol):
    """Where the numbers of a run go: `train.Records`."""

    def open(self, epoch: int, step: int, resume: bool) -> None: ...

    def epoch(self, line: Mapping[str, Any]) -> None: ...

    def steps(self, lines: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Result:
    """What `fit` gives back.

    Attributes:
        state: after the last step; with `patience`, with the weights of the best epoch.
        history: one dictionary an epoch: "epoch", "step", and the metrics.
        reason: "done", "patience", "time", "interrupted", or what a callback said.
        best_epoch: with the best monitored metric, counted from 1.
        seconds: of this call, without compiling.
        compile_seconds: of this call.
    """

    state: TrainState[Any]
    history: list[dict[str, Any]]
    reason: str
    best_epoch: int | None
    seconds: float
    compile_seconds: float


@dataclasses.dataclass
class _Place:
    """Where a run is: all that a checkpoint needs beside the state."""

    epoch: int = 0  # whole epochs done
    batch: int = 0  # steps done of the next one
    generator: bytes = b""  # before the order of that epoch was drawn
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None
    bad: int = 0  # epochs in a row without a new best
    reason: str | None = None  # a callback's, for stopping


def fit(
    state: TrainState[Any],
    step: Step,
    data: Any,
    *,
    epochs: int,
    batch_size: int,
    generator: Generator | None = None,
    shuffle: bool = True,
    validation: Any = None,
    eval_step: Step | None = None,
    eval_batch_size: int | None = None,
    schedule: Callable[[Any, int], Any] | None = None,
    callbacks: Sequence[Callback] = (),
    monitor: str | None = None,
    mode: str = "min",
    patience: int | None = None,
    time_budget: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    save_every: int = 1,
    save_seconds: float | None = None,
    keep: int = 3,
    resume: bool = True,
    records: Recorder | str | os.PathLike[str] | None = None,
    nonfinite: str = "stop",
    quiet: bool | None = None,
    log: Callable[[str], None] | None = None,
    chunk_steps: int | None = None,
    feed: str = "auto",
    compilation_cache: bool = True,
    config: Any = None,
) -> Result:
    """Trains for some epochs, seen while it runs, with nothing lost if it is stopped.

    Args:
        state: where to start; it stays usable.
        step: a training step, `make_train_step(...)`.
        data: a pytree of arrays with the rows along axis 0, or a function of the epoch's
            number (from 0) that gives one; it must give the same for the same number.
        epochs: passes over the data, those before a resumption included.
        batch_size: rows a step; the last one of an epoch may have fewer.
        generator: draws each epoch's order, PyTorch's with the same seed; by default
            Generator(0).
        shuffle: whether to shuffle.
        validation: arrays as `data`, measured after each epoch.
        eval_step: `make_eval_step(...)`, needed for that.
        eval_batch_size: by default batch_size.
        schedule: of (opt_state, epoch number from 0), gives the opt_state before each
            epoch: the `apply` of a schedule of `jaxnet.optim` counted in epochs.
        callbacks: called with an `EpochReport` after each epoch; may give a new state.
            One with an attribute `memory` (a pytree of arrays) gets it back on resuming.
        monitor: the metric that tells good epochs; "val_loss", or "loss" if there is no
            validation.
        mode: "min" or "max": which way it gets better.
        patience: stop after so many epochs in a row without a new best, and give back the
            best one's weights.
        time_budget: seconds after which this call stops, having saved.
        checkpoint: a folder for checkpoints (`jaxnet.checkpoint`).
        save_every: epochs between checkpoints. The last state is always saved.
        save_seconds: seconds after which one is saved within an epoch too.
        keep: how many of the newest stay; the one of the best epoch does as well.
        resume: go on from the newest whole checkpoint in the folder. The result has the
            bits of a run that was never stopped.
        records: a folder, or a `Records`, for the numbers of every epoch.
        nonfinite: at a loss that is not finite "stop" with a `NonFiniteError` that names
            the cause, "skip" that step, or "go on".
        quiet: a line an epoch instead of a bar; by default where there is no terminal.
        log: takes the lines; by default they are printed.
        chunk_steps: steps a compiled call; by default as many as take a quarter second.
            No bit of the result depends on it.
        feed: "device" puts all data there, "host" feeds it in pieces; "auto" measures.
        compilation_cache: keep compiled programs for the next start.
        config: is kept in the checkpoints; what JSON takes.

    Ctrl-C (and SIGTERM) ends the run after the current compiled call and a checkpoint; a
    second one ends it at once.

    Metrics of training are the means over its steps; those of the validation weigh each
    batch by its rows. A `jaxnet.metrics.Metric` is joined over all rows in both.

    Raises:
        ValueError: an argument is out of range, or a checkpoint is of another run.
        OSError: the folder of the checkpoints cannot be written.
        NonFiniteError: with nonfinite="stop".
    """
    _check(locals())
    run = _Run(state, step, generator or Generator(0), _Options(**_options(locals())))
    try:
        return run.all(records)
    finally:
        run.close()


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in dataclasses.fields(_Options)}


@dataclasses.dataclass(frozen=True)
class _Options:
    data: Any
    epochs: int
    batch_size: int
    shuffle: bool
    validation: Any
    eval_step: Step | None
    eval_batch_size: int | None
    schedule: Callable[[Any, int], Any] | None
    callbacks: Sequence[Callback]
    monitor: str | None
    mode: str
    patience: int | None
    time_budget: float | None
    checkpoint: Any
    save_every: int
    save_seconds: float | None
    keep: int
    resume: bool
    nonfinite: str
    quiet: bool | None
    log: Callable[[str], None] | None
    chunk_steps: int | None
    feed: str
    compilation_cache: bool
    config: Any


def _check(given: dict[str, Any]) -> None:
    for name, least in (("epochs", 0), ("batch_size", 1), ("save_every", 1), ("keep", 1)):
        _check_count(name, given[name], least)
    for name in ("patience", "chunk_steps", "eval_batch_size"):
        if given[name] is not None:
            _check_count(name, given[name], 1)
    for name, words in (("mode", ("min", "max")), ("nonfinite", ("stop", "skip", "go on"))):
        if given[name] not in words:
            raise ValueError(f"{name}: {given[name]!r}; accepted are {', '.join(map(repr, words))}")
    for name in ("time_budget", "save_seconds"):
        if given[name] is not None and not given[name] >= 0:
            raise ValueError(f"{name}: {given[name]!r}; accepted is a number of seconds")
    if (given["validation"] is None) != (given["eval_step"] is None):
        raise ValueError("validation, eval_step: one without the other; give both or none")


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: {value!r}; accepted is an integer, at least {least}")


class _Run:
    """One call of fit."""

    def __init__(
        self, state: TrainState[Any], step: Step, generator: Generator, options: _Options
    ) -> None:
        self.options, self.step, self.generator = options, step, generator
        # Copies of plain types, so that a restored state takes the same compiled program.
        self.state = jax.tree.map(lambda x: jnp.array(x, dtype=x.dtype), state)
        self.place = _Place(generator=generator.get_state().tobytes())
        self.best = None if options.patience is None else (self.state.params, self.state.buffers)
        self.monitor = options.monitor or ("loss" if options.validation is None else "val_loss")
        self.interrupted = False
        self.compile_seconds = 0.0
        self.began = self.last_saved = time.perf_counter()
        self.saved_at: tuple[int, int] | None = None
        self.pace = options.chunk_steps or 1
        self.checkpoints: Checkpoints | None = None
        self.recorder: Recorder | None = None
        self.partial: list[Any] = []  # metrics of the running epoch, by stretches
        first = options.data(0) if callable(options.data) else options.data
        self.rows = rows_of(first, "data")
        self.steps = -(-self.rows // options.batch_size)
        self.progress = Progress(self.rows * options.epochs, 0, options.quiet, options.log)
        if options.compilation_cache:
            use_compilation_cache(self.progress.write)
        on_device, why = choose_feed(first, options.feed)
        if not on_device or options.feed != "auto":
            self.progress.write(why)
        self.on_device = on_device
        self.feed = Feed(first, on_device)
        self.tested: Feed | None = None
        if options.validation is not None:
            rows_of(options.validation, "validation")
            self.tested = Feed(options.validation, choose_feed(options.validation, options.feed)[0])

    def all(self, records: Any) -> Result:
        options, place = self.options, self.place
        resumed = False
        if options.checkpoint is not None:
            self.checkpoints = Checkpoints(
                options.checkpoint, keep=options.keep, best=self.monitor, mode=options.mode
            )
            self.checkpoints.claim()
            resumed = self._resume()
            place = self.place
        if records is not None:
            self.recorder = records if hasattr(records, "epoch") else _records(records)
            self.recorder.open(place.epoch, int(self.state.step), self.checkpoints is not None)
        if resumed:
            self.progress.write(f"resumed after epoch {place.epoch}, step {place.batch}")
        self.progress.done = place.epoch * self.rows + place.batch * options.batch_size
        reason = place.reason
        with self._signals():
            self.began = self.last_saved = time.perf_counter()
            while reason is None:
                if place.epoch >= options.epochs:
                    reason = "done"
                elif options.patience is not None and place.bad >= options.patience:
                    reason = "patience"
                else:
                    reason = self._epoch()
            self._save(last=True)
            if self.checkpoints is not None:
                self.checkpoints.wait()
        state = self.state
        if self.best is not None:
            state = state.replace(params=self.best[0], buffers=self.best[1])
        seconds = time.perf_counter() - self.began - self.compile_seconds
        self.progress.close()
        if reason != "done":
            self.progress.write(f"stopped after epoch {place.epoch}: {reason}")
        return Result(state, place.history, reason, place.best_epoch, seconds, self.compile_seconds)

    def close(self) -> None:
        self.progress.close()
        if self.recorder is not None:
            self.recorder.close()
        if self.checkpoints is not None:
            self.checkpoints.close()

    # one epoch

    def _epoch(self) -> str | None:
        """Trains for the rest of an epoch; gives the reason to stop, if there is one."""
        options, place = self.options, self.place
        place.generator = self.generator.get_state().tobytes()
        order = epoch_order(self.rows, self.generator, options.shuffle)
        if place.batch == 0 and options.schedule is not None:
            opt_state = options.schedule(self.state.opt_state, place.epoch)
            self.state = self.state.replace(opt_state=opt_state)
        if callable(options.data) and place.epoch:
            self.feed = Feed(options.data(place.epoch), self.on_device)
        began, compiled, before = time.perf_counter(), self.compile_seconds, place.batch
        for start, stop, state, metrics in self._pass(
            self.feed, self.step, order, options.batch_size, place.batch, training=True
        ):
            self.state, place.batch = state, stop
            self.partial.append(metrics)
            self._show(metrics, start, stop)
            if reason := self._stopped():
                return reason
            late = time.perf_counter() - self.last_saved
            due = options.save_seconds is not None and late >= options.save_seconds
            if due and stop < self.steps:
                self._save()
        seconds = time.perf_counter() - began - (self.compile_seconds - compiled)
        samples = self.rows - before * options.batch_size
        return self._end_of_epoch(seconds, samples / max(seconds, 1e-9))

    def _end_of_epoch(self, seconds: float, rate: float) -> str | None:
        options, place = self.options, self.place
        measured = _summary(self.partial)
        self.partial = []
        if self.tested is not None:
            assert options.eval_step is not None
            measured |= {f"val_{k}": v for k, v in self._validate(options.eval_step).items()}
        place.epoch, place.batch = place.epoch + 1, 0
        place.generator = self.generator.get_state().tobytes()
        self._judge(measured)
        report = EpochReport(place.epoch, options.epochs, dict(measured), self.state, seconds, rate)
        for callback in options.callbacks:
            changed = callback(report)
            if changed is not None:
                report.state = changed
        self.state = report.state
        place.reason = report.reason
        place.generator = self.generator.get_state().tobytes()
        line = {"epoch": place.epoch, "step": int(self.state.step), **report.metrics}
        place.history.append(line)
        if self.recorder is not None:
            rates = {"seconds": round(seconds, 4), "samples_per_second": round(rate, 1)}
            self.recorder.epoch({**line, **rates})
        self.progress.epoch(f"{place.epoch}/{options.epochs}", report.metrics, rate, seconds)
        if place.epoch % options.save_every == 0:
            self._save()
        return report.reason or self._stopped()

    def _judge(self, measured: dict[str, Any]) -> None:
        options, place = self.options, self.place
        if self.monitor not in measured:
            if options.patience is None and options.monitor is None:
                return
            there = ", ".join(measured)
            raise ValueError(f"monitor: no metric {self.monitor!r}; there are {there}")
        value = measured[self.monitor]
        sign = 1 if options.mode == "min" else -1
        if value == value and (place.best is None or sign * value < sign * place.best):
            place.best, place.best_epoch, place.bad = value, place.epoch, 0
            if options.patience is not None:
                self.best = self.state.params, self.state.buffers
        else:
            place.bad += 1

    def _validate(self, eval_step: Step) -> dict[str, Any]:
        size = self.options.eval_batch_size or self.options.batch_size
        assert self.tested is not None
        rows = rows_of(self.tested.data, "validation")
        parts, weights = [], []
        for start, stop, _, metrics in self._pass(
            self.tested, eval_step, np.arange(rows), size, 0, training=False
        ):
            parts.append(metrics)
            weights += [min(size, rows - i * size) for i in range(start, stop)]
        return _summary(parts, np.array(weights, np.float64))

    def _pass(
        self, feed: Feed, step: Step, order: np.ndarray, size: int, start: int, training: bool
    ) -> Iterator[tuple[int, int, Any, Any]]:
        """Runs over the batches of an order; gives (first, last step, state, metrics)."""
        whole, rest = divmod(len(order), size)
        state = self.state
        if start < whole:
            capacity = self._capacity(feed, step, size, whole)
            pieces = feed.pieces(order, size, start, whole, capacity)
            for data, rows, first, last, shift in pieces:
                while first < last:
                    count = min(self.options.chunk_steps or self.pace, capacity, last - first)
                    state, metrics = self._call(
                        (step, data, rows, size, capacity, training),
                        state,
                        first - shift,
                        first - shift + count,
                        first,
                    )
                    yield first, first + count, state, metrics
                    first += count
        if rest and start <= whole:
            data = jax.tree.map(lambda x: np.asarray(x)[order[whole * size :]], feed.data)
            rows = jnp.arange(rest, dtype=jnp.int32)
            data = jax.tree.map(jnp.asarray, data)
            state, metrics = self._call((step, data, rows, rest, 1, training), state, 0, 1, whole)
            yield whole, whole + 1, state, metrics

    def _capacity(self, feed: Feed, step: Step, size: int, whole: int) -> int:
        leaves = jax.tree.leaves(self._metrics_like(feed, step, size))
        one = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        if not feed.on_device:
            one += (
                sum(x.nbytes for x in jax.tree.leaves(feed.data)) * size // rows_of(feed.data, "")
            )
        return max(1, min(whole, 4096, 2**26 // max(one, 1)))

    def _call(
        self, program: tuple[Any, ...], state: Any, start: int, stop: int, number: int
    ) -> tuple[Any, Any]:
        """Runs the steps from start to stop, which are number ... of the epoch."""
        step, data, order, size, capacity, training = program
        nonfinite = self.options.nonfinite if training else "go on"
        leaves, structure = jax.tree.flatten((state, data, order))
        shapes = tuple((x.shape, str(x.dtype), x.sharding) for x in leaves)
        precision = getattr(jax.config, "jax_default_matmul_precision", None)
        name = (size, capacity, training, nonfinite, precision, structure, shapes)
        ends = np.int32(start), np.int32(stop)
        compiled = _compiled.setdefault(step, {})
        if name not in compiled:
            began = time.perf_counter()
            chunk = make_stretch(step, size, capacity, nonfinite=nonfinite, trains=training)
            lowered = jax.jit(chunk).lower(state, data, order, *ends)
            compiled[name] = lowered.compile()
            took = time.perf_counter() - began
            self.compile_seconds += took
            what = "training" if training else "validation"
            self.progress.write(f"compiled {what} with batches of {size} in {took:.2f} s")
        self.progress.start()
        chunk = compiled[name]
        began = time.perf_counter()
        new, metrics, end, finite = chunk(state, data, order, *ends)
        count = int(end) - start
        metrics = jax.tree.map(lambda x: np.asarray(x)[:count], metrics)
        self._set_pace((time.perf_counter() - began) / max(count, 1), count)
        fine = bool(finite) and np.isfinite(metrics.get("loss", 0.0)).all()
        if training and nonfinite == "stop" and not fine:
            self._explain(chunk, program, state, start, int(end), number)
        return new if training else state, metrics

    def _explain(
        self, chunk: Any, program: tuple[Any, ...], state: Any, start: int, end: int, number: int
    ) -> None:
        """Finds the step that first was not finite, goes back to before it, and raises."""
        step, data, order, size, _, _ = program
        before, i = state, start
        while i < end:
            after, metrics, _, finite = chunk(before, data, order, np.int32(i), np.int32(i + 1))
            if not finite or not np.isfinite(np.asarray(metrics.get("loss", 0.0))[:1]).all():
                break
            before, i = after, i + 1
        rows = order[i * size : (i + 1) * size]
        batch = jax.tree.map(lambda column: column[rows], data)
        where = self.place.epoch + 1, number + (i - start) + 1
        raise NonFiniteError(*where, before, batch, diagnose(before, step, batch))

    def _set_pace(self, seconds: float, count: int) -> None:
        if self.options.chunk_steps is None:
            wanted = int(_SECONDS / max(seconds, 1e-7))
            self.pace = max(1, min(wanted, 8 * count))

    # around it

    def _show(self, metrics: Any, start: int, stop: int) -> None:
        options = self.options
        rows = min(stop * options.batch_size, self.rows) - start * options.batch_size
        last = {
            name: float(value[-1])
            for name, value in metrics.items()
            if isinstance(value, np.ndarray) and value.ndim == 1 and len(value)
        }
        self.progress.advance(rows, f"{self.place.epoch + 1}/{options.epochs}", last)
        if self.recorder is None:
            return
        first = int(self.state.step) - (stop - start)
        scalars = {k: v for k, v in metrics.items() if isinstance(v, np.ndarray) and v.ndim == 1}
        self.recorder.steps(
            [
                {
                    "step": first + i + 1,
                    "in_epoch": self.place.epoch + 1,
                    **{name: float(value[i]) for name, value in scalars.items()},
                }
                for i in range(stop - start)
            ]
        )

    def _stopped(self) -> str | None:
        if self.interrupted:
            return "interrupted"
        budget = self.options.time_budget
        if budget is not None and time.perf_counter() - self.began >= budget:
            return "time"
        return None

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        kept: dict[int, Any] = {
            number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
        }

        def stop(number: int, frame: Any) -> None:
            self.interrupted = True
            signal.signal(number, kept[number])  # a second one ends the run at once
            self.progress.write("stopping after this call; once more to stop at once")

        for number in kept:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)

    # checkpoints

    def _settings(self) -> dict[str, Any]:
        options = self.options
        return {
            "rows": self.rows,
            "batch_size": options.batch_size,
            "shuffle": options.shuffle,
            "nonfinite": options.nonfinite,
            "patience": options.patience is not None,
        }

    def _save(self, last: bool = False) -> None:
        place = self.place
        if self.checkpoints is None or self.saved_at == (place.epoch, place.batch):
            return
        arrays: dict[str, Any] = {}
        if self.best is not None:
            arrays |= {f"best.{k}": v for k, v in named_arrays(self.best).items()}
        for i, callback in enumerate(self.options.callbacks):
            memory = named_arrays(getattr(callback, "memory", None))
            arrays |= {f"callbacks.{i}.{k}": v for k, v in memory.items()}
        if self.partial:
            arrays |= {f"metrics.{k}": v for k, v in named_arrays(_joined(self.partial)).items()}
        metrics = {}
        if place.batch == 0 and place.history and self.monitor in place.history[-1]:
            metrics = {self.monitor: place.history[-1][self.monitor]}
        self.checkpoints.save(
            int(self.state.step),
            self.state,
            metrics=metrics,
            config=self.options.config,
            host={"place": dataclasses.asdict(place), "settings": self._settings()},
            arrays=arrays,
        )
        self.saved_at = place.epoch, place.batch
        self.last_saved = time.perf_counter()

    def _resume(self) -> bool:
        assert self.checkpoints is not None
        if not self.checkpoints.steps():
            return False
        if not self.options.resume:
            raise ValueError(
                f"checkpoint: {self.checkpoints.folder} holds a run already; give another folder, "
                "or resume=True to go on with it"
            )
        back = self.checkpoints.restore(self.state)
        settings = back.host["settings"]
        differ = [
            f"{name}: {settings[name]!r} before, {now!r} now"
            for name, now in self._settings().items()
            if settings[name] != now
        ]
        if differ:
            raise ValueError(
                f"{self.checkpoints.folder}: the run there cannot go on with other settings: "
                + "; ".join(differ)
            )
        self.state = back.state
        self.place = _Place(**back.host["place"])
        self.saved_at = self.place.epoch, self.place.batch
        self.generator.set_state(np.frombuffer(self.place.generator, np.uint8))
        if self.best is not None:
            self.best = _filled(self.best, back, "best.")
        for i, callback in enumerate(self.options.callbacks):
            if hasattr(callback, "memory"):
                callback.memory = _filled(callback.memory, back, f"callbacks.{i}.")
        if self.place.batch:
            self.partial = [self._partial(back)]
        return True

    def _partial(self, back: Restored) -> Any:
        size = min(self.options.batch_size, self.rows)
        like = self._metrics_like(self.feed, self.step, size)
        return _filled(like, back, "metrics.", host=True)

    def _metrics_like(self, feed: Feed, step: Step, size: int) -> Any:
        """The shapes of one step's metrics."""

        def measured(state: Any, data: Any) -> Any:
            return step(state, jax.tree.map(lambda column: column[np.arange(size)], data))[1]

        return jax.eval_shape(measured, self.state, feed.data)


def _filled(like: Any, back: Restored, prefix: str, host: bool = False) -> Any:
    """A pytree with the arrays that a checkpoint holds under a prefix."""
    names = [prefix + name for name in named_arrays(like)]
    missing = [name for name in names if name not in back.arrays]
    if missing:
        raise ValueError(
            f"the checkpoint of step {back.step} lacks {', '.join(missing)}: it is of a run with "
            "other callbacks or metrics"
        )
    leaves = [back.arrays[name] if host else jnp.array(back.arrays[name]) for name in names]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def _summary(parts: list[Any], weights: np.ndarray | None = None) -> dict[str, Any]:
    """The metrics of many steps as plain numbers."""
    stacked = _joined(parts)
    found = {}
    for name, value in sorted(stacked.items(), key=lambda item: (item[0] != "loss", item[0])):
        if isinstance(value, metric_functions.Metric):
            value = metric_functions.compute(metric_functions.total(value))
        else:
            value = np.average(np.asarray(value, np.float64), axis=0, weights=weights)
        value = np.asarray(value)
        found[name] = float(value) if value.ndim == 0 else value.tolist()
    return found


def _records(folder: Any) -> Recorder:
    from jaxnet.train.writers import Records

    return Records(folder)
