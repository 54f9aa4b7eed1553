"""The host loop around training steps: epochs, validation, checkpoints, records."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from jaxnet.random import Generator
from jaxnet.train.callbacks import Callback
from jaxnet.train.loop import Loop, Recorder, Result
from jaxnet.train.options import Options
from jaxnet.train.state import TrainState
from jaxnet.train.step import Step

__all__ = ["fit"]


def fit(
    state: TrainState[Any],
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
        data: a pytree of arrays with the rows along axis 0; a data set, jaxnet's or torch's;
            a loader, whose batches are taken as they come: either `DataLoader`, a
            `ShardedReader`, a Grain MapDataset of batches, or any iterable of batches; or a
            function of the epoch's number (from 0) that gives one of these, and the same
            one for the same number.
        epochs: passes over the data, those before a resumption included.
        batch_size: rows a step; the last one of an epoch may have fewer. A loader has its
            own: leave it out.
        generator: draws each epoch's order, PyTorch's with the same seed; by default
            Generator(0). A loader has its own.
        shuffle: whether to shuffle: by default all but loaders and iterable data sets.
        validation: as `data`, but no function; measured after each epoch, not shuffled.
            A PyTorch program's validation loader draws one number from the global
            generator in every pass; `DataLoader(..., rngs=generator)` does here, arrays
            do not, and from the second epoch on the training orders differ.
        eval_step: `make_eval_step(...)`, needed for that.
        eval_batch_size: by default that of the training.
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
            bits of a run that was never stopped. For a loader this sets back what it may
            draw from: its generators, and the global ones of Python, numpy and torch. One
            that then still gives other batches is an error where the run was stopped
            within an epoch; between epochs nothing can tell.
        records: a folder, or a `Records`, for the numbers of every epoch.
        nonfinite: at a loss that is not finite "stop" with a `NonFiniteError` that names
            the cause, "skip" that step, or "go on".
        quiet: a line an epoch instead of a bar; by default where there is no terminal.
        log: takes the lines; by default they are printed.
        chunk_steps: steps a compiled call; by default as many as take a quarter second.
            No bit of the result depends on it.
        feed: "device" puts all data there, "host" feeds it in pieces that Grain's threads
            fetch ahead; "auto" measures the free memory. The first lines say which and why.
        compilation_cache: keep compiled programs for the next start.
        config: is kept in the checkpoints; what JSON takes.

    Ctrl-C (and SIGTERM) ends the run after the current compiled call and a checkpoint; a
    second one ends it at once.

    Metrics of training are the means over its steps; those of the validation weigh each
    batch by its rows. A `jaxnet.metrics.Metric` is joined over all rows in both.

    Raises:
        ValueError: an argument is out of range, or a checkpoint is of another run.
        TypeError: the data is nothing that gives rows or batches.
        ImportError: arrays do not fit the device, and Grain is not installed.
        OSError: the folder of the checkpoints cannot be written.
        NonFiniteError: with nonfinite="stop".
    """
    options = _options(locals())
    loop = Loop(state, step, generator, options)
    try:
        return loop.run(records)
    finally:
        loop.close()


def _options(given: dict[str, Any]) -> Options:
    return Options(**{field.name: given[field.name] for field in dataclasses.fields(Options)})
