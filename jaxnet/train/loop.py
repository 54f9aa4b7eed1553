"""One run of `fit`: its epochs, what is judged and saved after each, and why it ends."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jaxnet.checkpoint import Checkpoints, Restored
from jaxnet.random import Generator
from jaxnet.train.callbacks import EpochReport
from jaxnet.train.feed import Feed
from jaxnet.train.interrupt import interruptible
from jaxnet.train.loaders import Loader
from jaxnet.train.options import Options
from jaxnet.train.place import Keeper, Place, filled
from jaxnet.train.progress import Progress, use_compilation_cache
from jaxnet.train.runner import Runner, joined, summary
from jaxnet.train.sources import gives_batches, is_function, open_feed
from jaxnet.train.state import TrainState, copied
from jaxnet.train.step import Step

__all__ = ["Loop", "Recorder", "Result"]


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


class Loop:
    """One call of fit."""

    def __init__(
        self, state: TrainState[Any], step: Step, generator: Generator | None, options: Options
    ) -> None:
        self.options, self.generator = options, generator or Generator(0)
        self.state = jax.tree.map(copied, state)  # steps give their state's memory away
        self.place = Place()
        self.best = None if options.patience is None else (self.state.params, self.state.buffers)
        self.monitor = options.monitor or ("loss" if options.validation is None else "val_loss")
        self.interrupted = False
        self.began = self.last_saved = time.perf_counter()
        self.keeper: Keeper | None = None
        self.recorder: Recorder | None = None
        self.partial: list[Any] = []  # metrics of the running epoch, by calls
        self.held: Restored | None = None  # the checkpoint that has those before it
        self.feed_epoch = 0
        self.feed, why = self._open_feed(options.data(0) if self._function else options.data)
        unused = isinstance(self.feed, Loader) and not self.feed.draws_from(generator)
        if generator is not None and unused:
            raise ValueError("generator: a loader draws its own order; give it to the loader")
        self.progress = Progress(None, 0, options.quiet, options.log)
        if self.feed.rows is not None:
            self.progress.total = self.feed.rows * options.epochs
        if options.compilation_cache:
            use_compilation_cache(self.progress.write)
        self.progress.write(why)
        self.trainer = Runner(
            step,
            self.progress,
            trains=True,
            nonfinite=options.nonfinite,
            chunk_steps=options.chunk_steps,
        )
        self.tested: Feed | None = None
        if options.eval_step is not None:
            self.tested, apart = self._open_validation()
            if self.tested.on_device != self.feed.on_device:
                self.progress.write(apart)
            self.tester = Runner(
                options.eval_step, self.progress, trains=False, chunk_steps=options.chunk_steps
            )

    @property
    def _function(self) -> bool:
        return is_function(self.options.data)

    @property
    def compile_seconds(self) -> float:
        tested = 0.0 if self.tested is None else self.tester.compile_seconds
        return self.trainer.compile_seconds + tested

    def _open_feed(self, data: Any, forced: str | None = None) -> tuple[Feed, str]:
        options = self.options
        return open_feed(
            data,
            batch_size=options.batch_size,
            forced=forced or options.feed,
            shuffle=options.shuffle,
            generator=self.generator,
            epochs=1 if self._function else options.epochs,
            resumes=options.checkpoint is not None,
        )

    def _open_validation(self) -> tuple[Feed, str]:
        options = self.options
        size = options.eval_batch_size
        if not gives_batches(options.validation):
            size = size or options.batch_size or self.feed.size
        return open_feed(
            options.validation,
            batch_size=size,
            forced=options.feed,
            resumes=options.checkpoint is not None,
            name="validation",
        )

    def run(self, records: Any) -> Result:
        """All epochs."""
        options = self.options
        resumed = self._open_checkpoints()
        place = self.place
        if records is not None:
            self.recorder = records if hasattr(records, "epoch") else _records(records)
            self.recorder.open(place.epoch, int(self.state.step), self.keeper is not None)
        if resumed:
            self.progress.write(f"resumed after epoch {place.epoch}, step {place.batch}")
        if self.feed.rows is not None:
            done = min(place.batch * (self.feed.size or 0), self.feed.rows)
            self.progress.done = place.epoch * self.feed.rows + done
        reason = place.reason
        with interruptible(self._interrupt):
            self.began = self.last_saved = time.perf_counter()
            while reason is None:
                if place.epoch >= options.epochs:
                    reason = "done"
                elif options.patience is not None and place.bad >= options.patience:
                    reason = "patience"
                else:
                    reason = self._epoch()
            self._save()
            if self.keeper is not None:
                self.keeper.checkpoints.wait()
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
        if self.keeper is not None:
            self.keeper.checkpoints.close()

    # one epoch

    def _epoch(self) -> str | None:
        """Trains for the rest of an epoch; gives the reason to stop, if there is one."""
        options, place = self.options, self.place
        self._turn_to(place.epoch)
        self._mark()
        if place.batch == 0 and options.schedule is not None:
            opt_state = options.schedule(self.state.opt_state, place.epoch)
            self.state = self.state.replace(opt_state=opt_state)
        began, compiled, samples = time.perf_counter(), self.compile_seconds, 0
        before = place.seconds
        for start, stop, size, state, metrics in self.trainer.run(
            self.state, self.feed, place.epoch, place.batch
        ):
            self.state, place.batch = state, stop
            here = time.perf_counter() - began - (self.compile_seconds - compiled)
            place.seconds = before + here
            self._fill()
            self.partial.append(metrics)
            samples += size * (stop - start)
            self._show(metrics, start, stop, size)
            if reason := self._stopped():
                return reason
            late = time.perf_counter() - self.last_saved
            due = options.save_seconds is not None and late >= options.save_seconds
            if due and stop != self.feed.steps:
                self._save()
        return self._end_of_epoch(samples / max(place.seconds - before, 1e-9))

    def _end_of_epoch(self, rate: float) -> str | None:
        options, place = self.options, self.place
        seconds, place.seconds = place.seconds, 0.0
        self._fill()
        measured = summary(self.partial)
        self.partial = []
        if self.tested is not None:
            measured |= {f"val_{k}": v for k, v in self._validate(self.tested).items()}
        place.epoch, place.batch = place.epoch + 1, 0
        self._judge(measured)
        report = EpochReport(place.epoch, options.epochs, dict(measured), self.state, seconds, rate)
        for callback in options.callbacks:
            changed = callback(report)
            if changed is not None:
                report.state = changed
        self.state = report.state
        place.reason = report.reason
        self._mark()
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

    def _validate(self, feed: Feed) -> dict[str, Any]:
        parts, weights = [], []
        for start, stop, size, _, metrics in self.tester.run(self.state, feed, 0):
            parts.append(metrics)
            weights += [size] * (stop - start)
        return summary(parts, np.array(weights, np.float64))

    def _turn_to(self, epoch: int) -> None:
        """The data of an epoch, where a function of its number gives it."""
        if self._function and epoch != self.feed_epoch:
            forced = "device" if self.feed.on_device else "host"
            self.feed, _ = self._open_feed(self.options.data(epoch), forced)
            self.feed_epoch = epoch

    def _mark(self) -> None:
        """Notes what the next order is drawn from, before it is."""
        self.place.generator = self.generator.get_state().tobytes()
        self.place.source = {} if self._function else self.feed.get_state()

    def _show(self, metrics: Any, start: int, stop: int, size: int) -> None:
        options = self.options
        scalars = {
            name: value
            for name, value in metrics.items()
            if isinstance(value, np.ndarray) and value.ndim == 1 and len(value)
        }
        last = {name: float(value[-1]) for name, value in scalars.items()}
        epoch = f"{self.place.epoch + 1}/{options.epochs}"
        self.progress.advance(size * (stop - start), epoch, last)
        if self.recorder is None:
            return
        first = int(self.state.step) - (stop - start)
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

    def _interrupt(self) -> None:
        self.interrupted = True
        self.progress.write("stopping after this call; once more to stop at once")

    def _stopped(self) -> str | None:
        if self.interrupted:
            return "interrupted"
        budget = self.options.time_budget
        if budget is not None and time.perf_counter() - self.began >= budget:
            return "time"
        return None

    # checkpoints

    def _open_checkpoints(self) -> bool:
        """Opens the folder, and goes on from what it holds, if it does."""
        options = self.options
        if options.checkpoint is None:
            return False
        checkpoints = Checkpoints(
            options.checkpoint, keep=options.keep, best=self.monitor, mode=options.mode
        )
        settings = {
            **self.feed.facts,
            "nonfinite": options.nonfinite,
            "patience": options.patience is not None,
        }
        self.keeper = Keeper(checkpoints, self.monitor, settings, options.callbacks, options.config)
        checkpoints.claim()
        if not checkpoints.steps():
            return False
        if not options.resume:
            raise ValueError(
                f"checkpoint: {checkpoints.folder} holds a run already; give another folder, "
                "or resume=True to go on with it"
            )
        back, self.place, self.best = self.keeper.restore(self.state, self.best)
        self.state = back.state
        self._turn_to(self.place.epoch)
        # The generators may be one and the same: that of the training comes last.
        if self.tested is not None:
            self.tested.set_state(self.place.tested)
        self.feed.set_state(self.place.source)
        self.generator.set_state(np.frombuffer(self.place.generator, np.uint8))
        self.held = back if self.place.batch else None
        return True

    def _fill(self) -> None:
        """Gets the metrics of the epoch's steps before the stop, when a batch was seen."""
        if self.held is not None:
            like = self.trainer.metrics_like(self.state, self.feed.example())
            self.partial = [filled(like, self.held, "metrics.", host=True)]
            self.held = None

    def _save(self) -> None:
        if self.keeper is None or self.held is not None:
            return  # with metrics held nothing was trained since that checkpoint
        place = self.place
        tested = {} if self.tested is None else self.tested.get_state()
        source = place.source | self.feed.reached(place.batch)
        metrics = joined(self.partial) if self.partial else None
        now = dataclasses.replace(place, source=source, tested=tested)
        if self.keeper.save(self.state, now, self.best, metrics):
            self.last_saved = time.perf_counter()


def _records(folder: Any) -> Recorder:
    from jaxnet.train.writers import Records

    return Records(folder)
