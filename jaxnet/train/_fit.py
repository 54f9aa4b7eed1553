"""The host loop around training steps: epochs, validation, checkpoints, records."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import jax
import numpy as np

from jaxnet._checks import check_choice, check_integer, is_number
from jaxnet.checkpoint import Checkpoints
from jaxnet.data._dataset import checked_generator
from jaxnet.optim import Schedule, learning_rates
from jaxnet.random import Generator
from jaxnet.train._batches import Feed, TrainingData, gives_batches, open_feed
from jaxnet.train._callbacks import Callback, EpochReport, EverySteps, StepReport, leaf_like
from jaxnet.train._chunk import Call, ChunkRunner, mean_metrics
from jaxnet.train._evaluate import check_eval_step, check_state, check_train_step, measure
from jaxnet.train._loaders import LoaderFeed
from jaxnet.train._progress import Progress, interruptible, use_compilation_cache
from jaxnet.train._records import Recorder, Records
from jaxnet.train._result import Monitor, Result
from jaxnet.train._resume import EpochMetrics, RunCheckpoints, RunPosition
from jaxnet.train._state import TrainState, copied, weights_of, with_weights
from jaxnet.train._step import Step

_log = logging.getLogger(__name__)


def fit(
    state: Any,
    step: Step,
    data: Any,
    *,
    epochs: int,
    batch_size: int | None = None,
    generator: Generator | None = None,
    shuffle: bool | None = None,
    validation: Any = None,
    eval_step: Step | None = None,
    eval_batch_size: int | None = None,
    schedule: Callable[[Any, int], Any] | None = None,
    callbacks: Sequence[Callback | EverySteps] = (),
    monitor: str | None = None,
    mode: str | None = None,
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
        state: The state to start from; it stays usable. It is `train.create(...)`, or for a
            step of your own any pytree of arrays, such as the states of two models.
        step: A training step: `make_train_step(...)`, or a function `(state, batch) ->
            (state, dictionary of metrics)` that JAX can compile.
        data: A pytree of arrays with the rows along axis 0, or a pandas DataFrame; a data set,
            jaxnet's or torch's or Hugging Face's; a loader, whose batches are taken as they
            come: either `DataLoader`, a `ShardedReader`, a Grain MapDataset of batches, or any
            iterable of batches; or a function of the epoch's number (from 0) that gives one
            of these, and the same one for the same number.
        epochs: The number of passes over the data, those before a resumption included.
        batch_size: The rows of a step; the last step of an epoch may have fewer. A loader has
            its own: leave it out.
        generator: The generator of each epoch's order, which is that of torch's loader after
            `torch.manual_seed` with the same seed; by default Generator(0). A loader has its
            own. Torch's loader draws another order from a generator that it is given itself:
            so does `DataLoader(..., generator=g)`.
        shuffle: Whether to shuffle: by default all but loaders and iterable data sets.
        validation: Data in the same forms, but no function; it is measured after each epoch,
            not shuffled. A PyTorch program's validation loader draws one number from the
            global generator in every epoch; `DataLoader(..., rngs=generator)` does here,
            arrays do not, and from the second epoch on the training orders differ.
        eval_step: `make_eval_step(...)`, which the validation needs.
        eval_batch_size: The rows of a validation batch; by default those of the training.
        schedule: A function of (opt_state, epoch number from 0) that gives the opt_state
            before each epoch: the `apply` of a schedule of `jaxnet.optim` counted in epochs.
        callbacks: Functions that are called with an `EpochReport` after each epoch, and
            `EverySteps(n, function)` for every n steps. One that returns a state changes that
            of the training. One with an attribute `memory` (a pytree of arrays) gets it back
            on resuming.
        monitor: The metric that tells good epochs; by default "val_loss", or "loss" if there
            is no validation.
        mode: "min" or "max": which way the monitored metric gets better. By default losses and
            errors get lower, accuracy, f1, precision, recall and r2 higher; for other names it
            has to be given.
        patience: Stop after so many epochs in a row without a new best, and give back the
            weights of the best, their running average too if there is one.
        time_budget: The seconds after which the run stops, having saved: those of the whole
            run, before and after resumptions, without compiling.
        checkpoint: A folder for checkpoints (`jaxnet.checkpoint`).
        save_every: The epochs between checkpoints. The last state is always saved.
        save_seconds: The seconds after which a checkpoint is saved within an epoch too.
        keep: How many of the newest checkpoints stay; that of the best epoch does as well.
        resume: Whether to go on from the newest whole checkpoint in the folder. The result
            has the bits of a run that was never stopped. For a loader this sets back what it
            may draw from: its generators, and the global ones of Python, NumPy and torch. A
            loader that then still gives other batches is an error where the run was stopped
            within an epoch; between epochs nothing can tell.
        records: A folder, or a `Records`, for the numbers of every epoch.
        nonfinite: At a loss or a parameter that is not finite (of a state of your own: at any
            floating number in it), "stop" with a `NonFiniteError` that names the
            cause, "skip" that step, or "go on". "stop" keeps the state before a compiled
            call until the call has ended, so that parameters and optimizer state are in
            memory twice; the others give its memory away.
        quiet: Whether there is a line an epoch and no bar; by default so without a terminal.
        log: A function that takes the lines; by default they are printed.
        chunk_steps: The steps of a compiled call; by default as many as take a quarter second.
            No bit of the result depends on it.
        feed: "device" puts all data there, "host" feeds it in parts that Grain's threads
            fetch ahead; "auto" measures the free memory. The first lines say which and why.
        compilation_cache: Whether compiled programs are kept for the next start.
        config: What else the checkpoints keep; what JSON takes.

    Ctrl-C (and SIGTERM) ends the run after the current compiled call and a checkpoint; a
    second one ends it at once.

    Metrics of training are the means over its steps; those of the validation weigh each
    batch by its rows. A `jaxnet.metrics.Metric` is joined over all rows in both. The learning
    rate of an optimizer of `jaxnet.optim` is among the metrics as "lr" (of a second
    parameter group as "lr_1"), as it was at the end of the epoch.

    Raises:
        ValueError: An argument is out of range, or a checkpoint is of another run.
        TypeError: The data is nothing that gives rows or batches, the state is a model, or
            what stands for a function is none.
        ImportError: Arrays do not fit the device, and Grain is not installed.
        OSError: The folder of the checkpoints cannot be written.
        NonFiniteError: A loss or a parameter is not finite, with nonfinite="stop".
    """
    check_state(state)
    check_train_step(step)
    check_integer("epochs", epochs, least=0)
    check_integer("save_every", save_every, least=1)
    check_integer("keep", keep, least=1)
    for name, value in (
        ("batch_size", batch_size),
        ("eval_batch_size", eval_batch_size),
        ("patience", patience),
        ("chunk_steps", chunk_steps),
    ):
        if value is not None:
            check_integer(name, value, least=1)
    for one in callbacks if isinstance(callbacks, Sequence) else [None]:
        if not (callable(one) or isinstance(one, EverySteps)):
            raise TypeError(
                f"callbacks: {callbacks!r}; accepted is a list of functions and train.EverySteps"
            )
    if isinstance(schedule, Schedule):
        raise TypeError(f"schedule: a {type(schedule).__name__}; accepted is its `apply`")
    if schedule is not None and not isinstance(state, TrainState):
        raise TypeError(
            f"schedule: the state is a {type(state).__name__} without the opt_state that a "
            "schedule changes; let the step follow the schedule, or a callback change the state"
        )
    if eval_step is not None:
        check_eval_step(eval_step)
    check_choice("nonfinite", nonfinite, ("stop", "skip", "go on"))
    check_choice("feed", feed, ("auto", "device", "host"))
    for name, seconds in (("time_budget", time_budget), ("save_seconds", save_seconds)):
        if seconds is not None and not (is_number(seconds) and seconds >= 0):
            raise ValueError(f"{name}: {seconds!r}; accepted is a number of seconds")
    if (validation is None) != (eval_step is None):
        raise ValueError("validation, eval_step: one without the other; give both or none")
    if generator is not None:
        checked_generator(generator)
    generator_given, generator = generator, generator or Generator(0)
    monitored = Monitor(monitor, mode, patience, validation is not None)
    progress = Progress(quiet=quiet, log=log, first=monitored.name)
    with ExitStack() as stack:
        stack.enter_context(progress.open())
        if compilation_cache:
            use_compilation_cache()
        training = TrainingData(
            data, batch_size, feed, shuffle, generator, epochs, checkpoint is not None
        )
        loader = isinstance(training.feed, LoaderFeed)
        if loader and generator_given is not None and not training.draws_from(generator):
            raise ValueError("generator: a loader draws its own order; give it to the loader")
        _log.info(training.why)
        tested = None
        if eval_step is not None:
            if not gives_batches(validation):
                eval_batch_size = eval_batch_size or batch_size or training.feed.batch_size
            tested, why = open_feed(
                validation,
                batch_size=eval_batch_size,
                where=feed,
                resumes=checkpoint is not None,
                name="validation",
                size_name="eval_batch_size",
            )
            if tested.on_device != training.feed.on_device:
                _log.info(why)
        saves = None
        if checkpoint is not None:
            folder = Checkpoints(checkpoint, keep=keep, best=monitored.name, mode=monitored.mode)
            stack.callback(folder.close)
            settings = {**training.feed.identity, "patience": patience is not None}
            saves = RunCheckpoints(folder, monitored.name, settings, callbacks, config)
        trainer = ChunkRunner(step, trains=True, nonfinite=nonfinite, chunk_steps=chunk_steps)
        tester = ChunkRunner(eval_step or step, trains=False, chunk_steps=chunk_steps)
        run = _Run(state, trainer, tester, training, tested, generator, monitored, saves, progress)
        run.epochs, run.schedule, run.time_budget = epochs, schedule, time_budget
        run.skips = nonfinite == "skip"
        run.save_every, run.save_seconds = save_every, save_seconds
        run.callbacks = [one for one in callbacks if not isinstance(one, EverySteps)]
        run.every_steps = [one for one in callbacks if isinstance(one, EverySteps)]
        resumed = saves is not None and run.restore(resume)
        if records is not None:
            recorder = Records(records) if isinstance(records, str | os.PathLike) else records
            stack.callback(recorder.close)
            recorder.open(run.position.epoch, run.position.steps, saves is not None)
            run.recorder = recorder
        if resumed:
            position = run.position
            _log.info("resumed after epoch %d, step %d", position.epoch, position.batch)
        return run.train()


class _Run:
    """One call of `fit`: its epochs, and what is judged and saved after each."""

    epochs: int
    skips: bool
    schedule: Callable[[Any, int], Any] | None
    time_budget: float | None
    save_every: int
    save_seconds: float | None
    callbacks: list[Callback]
    every_steps: list[EverySteps]

    def __init__(
        self,
        state: Any,
        trainer: ChunkRunner,
        tester: ChunkRunner,
        training: TrainingData,
        tested: Feed | None,
        generator: Generator,
        monitor: Monitor,
        saves: RunCheckpoints | None,
        progress: Progress,
    ) -> None:
        # A copy, since calls give the memory of a state away where they may.
        self.state = jax.tree.map(copied, state)
        self.trainer, self.tester = trainer, tester
        self.training, self.tested, self.generator = training, tested, generator
        self.monitor, self.saves, self.progress = monitor, saves, progress
        self.position = RunPosition()
        if isinstance(state, TrainState):
            self.position.steps = int(state.step)
        # A copy, too: a stop within the first epoch saves it.
        patient = monitor.patience is not None
        self.best = jax.tree.map(copied, weights_of(state)) if patient else None
        self.metrics = EpochMetrics()  # those of the running epoch
        self.recorder: Recorder | None = None
        self.interrupted = False
        self.began = self.last_saved = time.perf_counter()
        self.seconds_before = 0.0  # those of the run before this call

    @property
    def compile_seconds(self) -> float:
        return self.trainer.compile_seconds + self.tester.compile_seconds

    @property
    def seconds(self) -> float:
        """The seconds of this call, without compiling."""
        return time.perf_counter() - self.began - self.compile_seconds

    def train(self) -> Result:
        """Runs all epochs."""
        position, feed = self.position, self.training.feed
        total = done = None
        if feed.rows is not None:
            total = feed.rows * self.epochs
            within = min(position.batch * (feed.batch_size or 0), feed.rows)
            done = position.epoch * feed.rows + within
        self.progress.start(total, done or 0)
        if not position.generator:  # a run may be stopped before its first epoch
            self._note_generators()
        reason = position.reason
        with interruptible(self._interrupt):
            self.began = self.last_saved = time.perf_counter()
            while reason is None:
                reason = self.monitor.exhausted(position)
                if position.epoch >= self.epochs:
                    reason = "done"
                reason = reason or self._stopped() or self._epoch()
            self._save()
            if self.saves is not None:
                self.saves.checkpoints.wait()
        state, seconds = self.state, self.seconds
        if self.best is not None and position.best_epoch is not None:
            state = with_weights(state, self.best)
        if reason != "done":
            self.progress.write(f"stopped after epoch {position.epoch}: {reason}")
        best = position.best_epoch
        return Result(state, position.history, reason, best, seconds, self.compile_seconds)

    # One epoch

    def _epoch(self) -> str | None:
        """Trains for the rest of an epoch; gives the reason to stop, if there is one."""
        position = self.position
        self.training.turn_to(position.epoch)
        self._note_generators()
        if position.batch == 0 and self.schedule is not None:
            opt_state = self.schedule(self.state.opt_state, position.epoch)
            self.state = self.state.replace(opt_state=opt_state)
        began, compiled, rows = time.perf_counter(), self.compile_seconds, 0
        before = position.seconds
        for call in self._calls():
            self.state, count = self.trainer.state, call.last - call.first
            position.batch, position.steps = call.last, position.steps + count
            here = time.perf_counter() - began - (self.compile_seconds - compiled)
            position.seconds = before + here
            self.metrics.append(call.metrics)
            rows += call.batch_size * count
            self._show(call)
            reason = self._call_every_steps()
            if reason := reason or self._stopped():
                return reason
            late = time.perf_counter() - self.last_saved
            due = self.save_seconds is not None and late >= self.save_seconds
            if due and call.last != self.training.feed.steps:
                self._save()
        return self._end_of_epoch(rows / max(position.seconds - before, 1e-9))

    def _calls(self) -> Iterator[Call]:
        offset = self.position.steps - self.position.batch  # steps before this epoch
        ends = [every.steps for every in self.every_steps]

        def until(first: int) -> int:
            done = offset + first
            return min([first - done % n + n for n in ends], default=first + 2**30)

        feed, position = self.training.feed, self.position
        return self.trainer.run(self.state, feed, position.epoch, position.batch, until)

    def _end_of_epoch(self, rate: float) -> str | None:
        position = self.position
        seconds, position.seconds = position.seconds, 0.0
        metrics, skipped = self._done(self._joined_metrics())
        measured = mean_metrics(metrics)
        if skipped:
            number = position.epoch + 1
            self.progress.write(f"epoch {number}: left out {skipped} steps, which were not finite")
        self.metrics = EpochMetrics()
        if self.tested is not None:
            found = measure(self.tester, self.state, self.tested)
            measured |= {f"val_{name}": value for name, value in found.items()}
        if isinstance(self.state, TrainState):
            measured = measured | learning_rates(self.state.opt_state) | measured
        position.epoch, position.batch = position.epoch + 1, 0
        if self.monitor.judge(measured, position) and self.monitor.patience is not None:
            # A copy: callbacks and later calls may give the state's own memory away.
            self.best = jax.tree.map(copied, weights_of(self.state))
        report = EpochReport(position.epoch, self.epochs, measured, self.state, seconds, rate)
        for callback in self.callbacks:
            self._change(callback(report), report)
        self._own_state(bool(self.callbacks))
        position.reason = report.reason
        self._note_generators()
        line = {"epoch": position.epoch, "step": position.steps, **report.metrics}
        position.history.append(line)
        if self.recorder is not None:
            rates = {"seconds": round(seconds, 4), "samples_per_second": round(rate, 1)}
            self.recorder.epoch({**rates, **line})
        epoch = f"{position.epoch}/{self.epochs}"
        self.progress.epoch(epoch, report.metrics, rate, seconds)
        if position.epoch % self.save_every == 0:
            self._save()
        return report.reason or self._stopped()

    def _joined_metrics(self) -> Any:
        # A run that was stopped behind the last step of an epoch has none of its own yet.
        like = None
        if not self.metrics.since_stop:
            like = self.trainer.metrics_like(self.state, self.training.feed.example())
        return self.metrics.joined(like)

    def _done(self, metrics: Any) -> tuple[Any, int]:
        """The metrics without the steps that nonfinite="skip" left out, and their number."""
        if not self.skips or "loss" not in metrics:
            return metrics, 0
        kept = ~np.isnan(metrics["loss"])
        if kept.any():
            metrics = jax.tree.map(lambda values: values[kept], metrics)
        return metrics, int((~kept).sum())

    def _call_every_steps(self) -> str | None:
        """Calls what is due after this number of steps; gives a reason to stop."""
        position = self.position
        due = [every for every in self.every_steps if position.steps % every.steps == 0]
        for every in due:
            recent = mean_metrics(self._done(self.metrics.last(every.steps))[0])
            report = StepReport(position.epoch + 1, position.steps, recent, self.state)
            self._change(every.function(report), report)
            if self.recorder is not None and report.logged:
                line = {"step": position.steps, "in_epoch": position.epoch + 1, **report.logged}
                self.recorder.log([line])
            if report.reason is not None:
                position.reason = report.reason
        self._own_state(bool(due))
        if due:
            self.trainer.state = self.state
        return position.reason

    def _change(self, changed: Any, report: EpochReport | StepReport) -> None:
        if changed is not None:
            before: Any = jax.tree.structure(self.state)
            if before != jax.tree.structure(changed):
                raise TypeError(
                    f"callbacks: one returned {type(changed).__name__}; accepted are None, and a "
                    "state like report.state to go on with"
                )
            self.state = report._state = jax.tree.map(leaf_like, changed, self.state)

    def _own_state(self, seen: bool) -> None:
        """A copy of the state, if a callback may have kept it and a call would give it away."""
        if seen and self.trainer.gives_away:
            self.state = jax.tree.map(copied, self.state)

    def _note_generators(self) -> None:
        """Notes what the next order is drawn from, before it is."""
        self.position.generator = self.generator.get_state().tobytes()
        self.position.training = self.training.get_state()

    def _show(self, call: Call) -> None:
        scalars = {
            name: value
            for name, value in call.metrics.items()
            if isinstance(value, np.ndarray) and value.ndim == 1 and len(value)
        }
        last = {name: float(value[-1]) for name, value in scalars.items()}
        count, epoch = call.last - call.first, self.position.epoch + 1
        self.progress.advance(call.batch_size * count, f"epoch {epoch}/{self.epochs}", last)
        if self.recorder is None:
            return
        first = self.position.steps - count
        self.recorder.steps(
            [
                {
                    "step": first + i + 1,
                    "in_epoch": epoch,
                    **{name: float(value[i]) for name, value in scalars.items()},
                }
                for i in range(count)
            ]
        )

    def _interrupt(self) -> None:
        self.interrupted = True
        self.progress.write("stopping after this call; once more to stop at once")

    def _stopped(self) -> str | None:
        if self.interrupted:
            return "interrupted"
        budget = self.time_budget
        if budget is not None and self.seconds_before + self.seconds >= budget:
            return "time"
        return None

    # Checkpoints

    def restore(self, resume: bool) -> bool:
        """Goes on from what the folder of the checkpoints holds, if it holds something."""
        assert self.saves is not None
        checkpoints = self.saves.checkpoints
        checkpoints.claim()
        if not checkpoints.steps():
            return False
        if not resume:
            raise ValueError(
                f"checkpoint: {checkpoints.folder} holds a run already; give another folder, "
                "or resume=True to go on with it"
            )
        back = self.saves.restore(self.state, self.best)
        self.state, self.position = back.state, back.position
        self.best, self.metrics = back.best, back.metrics
        self.seconds_before = self.position.total_seconds
        self.training.turn_to(self.position.epoch)
        # The generators may be one and the same: that of the training comes last.
        if self.tested is not None:
            self.tested.set_state(self.position.validation)
        self.training.feed.set_state(self.position.training)
        self.generator.set_state(np.frombuffer(self.position.generator, np.uint8))
        return True

    def _save(self) -> None:
        if self.saves is None:
            return
        position = self.position
        now = dataclasses.replace(
            position,
            total_seconds=self.seconds_before + self.seconds,
            training=position.training | self.training.feed.state_within(position.batch),
            validation={} if self.tested is None else self.tested.get_state(),
        )
        if self.saves.save(self.state, now, self.best, self.metrics):
            self.last_saved = time.perf_counter()
