"""The host loop around training steps: epochs, validation, callbacks, checkpoints, records."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxnet._processes import agreed, check_same
from jaxnet.random import Generator
from jaxnet.train._batches import Feed
from jaxnet.train._callbacks import Callback, EpochReport, EverySteps, StepReport, leaf_like
from jaxnet.train._evaluate import measure
from jaxnet.train._mesh import mesh_of, put_back
from jaxnet.train._progress import Progress, interruptible
from jaxnet.train._records import Recorder
from jaxnet.train._result import Monitor, Result
from jaxnet.train._resume import EpochMetrics, RunCheckpoints, RunPosition
from jaxnet.train._runner import Call, ChunkRunner
from jaxnet.train._several import learning_rates_of, named_states, weights_of, with_weights
from jaxnet.train._state import copied
from jaxnet.train._values import mean_metrics

_OTHER_FOLDERS = (
    "checkpoint: the processes see other checkpoints there ({}); give a folder that all machines "
    "of the run share"
)


@dataclasses.dataclass(kw_only=True, eq=False)
class Run:
    """One call of `fit`: what its arguments became, and what changes while it goes on."""

    state: Any
    trainer: ChunkRunner
    tester: ChunkRunner
    feed_of: Callable[[int], tuple[Feed, str]]
    feed: Feed  # that of the running epoch
    tested: Feed | None
    generator: Generator
    epochs: int
    schedule: Callable[[Any, int], Any] | None
    callbacks: list[Callback]
    every_steps: list[EverySteps]
    monitor: Monitor
    time_budget: float | None
    skips: bool  # whether steps that are not finite are left out
    saves: RunCheckpoints | None
    save_every: int
    save_seconds: float | None
    progress: Progress
    shardings: Any  # where the arrays of the state lie on a mesh, or None
    recorder: Recorder | None = None
    position: RunPosition = dataclasses.field(default_factory=RunPosition)
    metrics: EpochMetrics = dataclasses.field(default_factory=EpochMetrics)  # of this epoch
    interrupted: bool = False

    def __post_init__(self) -> None:
        # Each model of several counts its own steps; none has made fewer than the run.
        steps = [int(one.step) for one in named_states(self.state).values()]
        self.position.steps = min(steps, default=0)
        # A copy, too: a stop within the first epoch saves it.
        patient = self.monitor.patience is not None
        self.best = jax.tree.map(copied, weights_of(self.state)) if patient else None
        self.began = self.last_saved = time.perf_counter()

    @property
    def compile_seconds(self) -> float:
        return self.trainer.compile_seconds + self.tester.compile_seconds

    @property
    def seconds(self) -> float:
        """The seconds of this call, without compiling."""
        return time.perf_counter() - self.began - self.compile_seconds

    def train(self) -> Result:
        """Runs all epochs."""
        position, rows = self.position, self.feed.rows
        if rows is None:
            self.progress.start(None, 0)
        else:
            within = min(position.batch * (self.feed.batch_size or 0), rows)
            self.progress.start(rows * self.epochs, rows * position.epoch + within)
        self._note_generators()  # a run may be stopped before its first epoch
        reason = position.reason
        with interruptible(self._interrupt):
            self.began = self.last_saved = time.perf_counter()
            while reason is None:
                reason = self.monitor.exhausted(position)
                if position.epoch >= self.epochs:
                    reason = "done"
                reason = reason or self._stopped()[0] or self._epoch()
            self._save()
            if self.saves is not None:
                self.saves.checkpoints.wait()
        state, seconds, best = self.state, self.seconds, position.best_epoch
        if self.best is not None and best is not None:
            state = with_weights(state, self.best)
        if reason != "done":
            self.progress.write(f"stopped after epoch {position.epoch}: {reason}")
        return Result(state, position.history, reason, best, seconds, self.compile_seconds)

    def _epoch(self) -> str | None:
        """Trains for the rest of an epoch; gives the reason to stop, if there is one."""
        position = self.position
        self.feed, _ = self.feed_of(position.epoch)
        self._note_generators()
        if position.batch == 0 and self.schedule is not None:
            opt_state = self.schedule(self.state.opt_state, position.epoch)
            self.state = put_back(self.state.replace(opt_state=opt_state), self.shardings)
        began, before, rows = self.seconds, position.seconds, 0
        earlier = position.steps - position.batch  # the steps of the epochs before
        ends = [every.steps for every in self.every_steps]

        def until(first: int) -> int:
            done = earlier + first
            return min([first - done % n + n for n in ends], default=first + 2**30)

        feed = self.feed
        for call in self.trainer.run(self.state, feed, position.epoch, position.batch, until):
            self.state, count = self.trainer.state, call.last - call.first
            position.batch, position.steps = call.last, position.steps + count
            if position.steps >= 2**31:  # where the state's own counter begins again below zero
                raise OverflowError(
                    f"state: {position.steps} steps, and it counts to {2**31 - 1}; begin again "
                    "from its parameters, as `state.replace(step=jnp.int32(0))`"
                )
            position.seconds = before + self.seconds - began
            self.metrics.append(call.metrics)
            rows += call.batch_size * count
            self._show(call)
            self._call_every_steps()
            reason, due = self._stopped()
            if reason:
                return reason
            if due and call.last != feed.steps:
                self._save()
        return self._end_of_epoch(rows / max(position.seconds - before, 1e-9))

    def _end_of_epoch(self, rate: float) -> str | None:
        position = self.position
        seconds, position.seconds = position.seconds, 0.0
        # A run that was stopped behind the last step of an epoch has made no step of it yet.
        metrics, skipped = self._done(
            self.metrics.joined(lambda: self.trainer.metrics_like(self.state, self.feed.example()))
        )
        measured = mean_metrics(metrics)
        if skipped:
            number = position.epoch + 1
            self.progress.write(f"epoch {number}: left out {skipped} steps, which were not finite")
        self.metrics = EpochMetrics()
        if self.tested is not None:
            found = measure(self.tester, self.state, self.tested)
            measured |= {f"val_{name}": value for name, value in found.items()}
        measured = measured | learning_rates_of(self.state) | measured
        position.epoch, position.batch = position.epoch + 1, 0
        if self.monitor.judge(measured, position) and self.monitor.patience is not None:
            # A copy: callbacks and later calls may give the state's own memory away.
            self.best = jax.tree.map(copied, weights_of(self.state))
        report = EpochReport(position.epoch, self.epochs, measured, self.state, seconds, rate)
        self._call_back(self.callbacks, report)
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
        return self._stopped()[0]

    def _done(self, metrics: Any) -> tuple[Any, int]:
        """The metrics without the steps that nonfinite="skip" left out, and their number."""
        if not self.skips or "loss" not in metrics:
            return metrics, 0
        kept = ~np.isnan(metrics["loss"])
        if kept.any():
            metrics = jax.tree.map(lambda values: values[kept], metrics)
        return metrics, int((~kept).sum())

    def _call_every_steps(self) -> None:
        """Calls what is due after this number of steps."""
        position = self.position
        for every in self.every_steps:
            if position.steps % every.steps:
                continue
            recent = mean_metrics(self._done(self.metrics.last(every.steps))[0])
            report = StepReport(position.epoch + 1, position.steps, recent, self.state)
            self._call_back([every.function], report)
            self.trainer.state = self.state
            if self.recorder is not None and report.logged:
                line = {"step": position.steps, "in_epoch": position.epoch + 1, **report.logged}
                self.recorder.log([line])

    def _call_back(
        self, functions: Sequence[Callable[[Any], Any]], report: EpochReport | StepReport
    ) -> None:
        """Calls callbacks, and goes on with the state that they give."""
        for function in functions:
            changed = function(report)
            if changed is None:
                continue
            before: Any = jax.tree.structure(self.state)
            if before != jax.tree.structure(changed):
                raise TypeError(
                    f"callbacks: one returned {type(changed).__name__}; accepted are None, and a "
                    "state like report.state to go on with"
                )
            changed = jax.tree.map(leaf_like, changed, self.state)
            self.state = report._state = put_back(changed, self.shardings)
        if functions and self.trainer.gives_away:
            # A copy: a callback may have kept the state that the next call gives away.
            self.state = jax.tree.map(copied, self.state)
        self.position.reason = report.reason or self.position.reason

    def _note_generators(self) -> None:
        """Notes what the next order is drawn from, before it is."""
        self.position.generator = self.generator.get_state().tobytes()
        self.position.training = self.feed.get_state()

    def _show(self, call: Call) -> None:
        scalars = {
            name: value
            for name, value in call.metrics.items()
            if isinstance(value, np.ndarray) and value.ndim == 1 and len(value)
        }

        def at(i: int) -> dict[str, float]:
            return {name: float(value[i]) for name, value in scalars.items()}

        count, epoch = call.last - call.first, self.position.epoch + 1
        self.progress.advance(call.batch_size * count, f"epoch {epoch}/{self.epochs}", at(-1))
        if self.recorder is not None:
            first = self.position.steps - count + 1
            self.recorder.steps(
                [{"step": first + i, "in_epoch": epoch, **at(i)} for i in range(count)]
            )

    def _interrupt(self) -> None:
        self.interrupted = True
        self.progress.write("stopping after this call; once more to stop at once")

    def _stopped(self) -> tuple[str | None, bool]:
        """The reason to stop, if there is one, and whether to save within the epoch."""
        position, budget, every = self.position, self.time_budget, self.save_seconds
        late = budget is not None and position.total_seconds + self.seconds >= budget
        due = every is not None and time.perf_counter() - self.last_saved >= every
        asked = position.reason is not None
        # Several processes have several clocks, and a signal may reach one of them only.
        others = agreed(mesh_of(self.shardings), asked, self.interrupted, late, due)
        if others[0]:
            position.reason = position.reason or "a callback in another process"
        reason = position.reason or ("interrupted" if others[1] else "time" if others[2] else None)
        return reason, bool(others[3])

    def restore(self, saves: RunCheckpoints, resume: bool) -> bool:
        """Goes on from what the folder of the checkpoints holds, if it holds something."""
        checkpoints, mesh = saves.checkpoints, mesh_of(self.shardings)
        checkpoints.claim()
        # The first process has now removed what a killed run left there.
        agreed(mesh, 0)
        check_same(mesh, _OTHER_FOLDERS, max(checkpoints.steps(), default=-1) + 1)
        if not checkpoints.steps():
            return False
        if not resume:
            raise ValueError(
                f"checkpoint: {checkpoints.folder} holds a run already; give another folder, "
                "or resume=True to go on with it"
            )
        state, self.position, self.best, self.metrics = saves.restore(self.state, self.best)
        self.state = put_back(state, self.shardings)
        if self.epochs > self.position.epochs:
            self.position.reason = None  # a callback ended it, and more epochs are asked for
        self.feed, _ = self.feed_of(self.position.epoch)
        # The generators may be one and the same: that of the training comes last.
        if self.tested is not None:
            self.tested.set_state(self.position.validation)
        self.feed.set_state(self.position.training)
        self.generator.set_state(np.frombuffer(self.position.generator, np.uint8))
        return True

    def _save(self) -> None:
        if self.saves is None:
            return
        position = self.position
        now = dataclasses.replace(
            position,
            epochs=self.epochs,
            total_seconds=position.total_seconds + self.seconds,
            training=position.training | self.feed.state_within(position.batch),
            validation={} if self.tested is None else self.tested.get_state(),
        )
        if self.saves.save(self.state, now, self.best, self.metrics):
            self.last_saved = time.perf_counter()
