"""Training for some epochs: the arguments of `fit`, checked and opened for the loop of `Run`."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import jax
from jax.sharding import Mesh

from jaxnet._checks import check_choice, check_flag, check_integer, is_number
from jaxnet._processes import check_same, is_first, several
from jaxnet.backend import ROWS
from jaxnet.checkpoint import Checkpoints
from jaxnet.data._dataset import checked_generator
from jaxnet.optim import Schedule
from jaxnet.optim._schedule import has_schedule
from jaxnet.random import Generator
from jaxnet.train._batches import gives_batches, open_epochs, open_feed
from jaxnet.train._callbacks import Callback, EverySteps
from jaxnet.train._evaluate import check_eval_step, check_train_step
from jaxnet.train._loaders import LoaderFeed
from jaxnet.train._mesh import Sharding, mesh_of, shard, shardings_of
from jaxnet.train._progress import Progress, use_compilation_cache
from jaxnet.train._records import Recorder, Records
from jaxnet.train._result import Monitor, Result
from jaxnet.train._resume import RunCheckpoints, arguments
from jaxnet.train._run import Run
from jaxnet.train._runner import ChunkRunner
from jaxnet.train._several import check_no_models, is_state
from jaxnet.train._state import copied
from jaxnet.train._step import Step, TrainStep
from jaxnet.train._wiring import optimizer_text

_log = logging.getLogger(__name__)

_OTHER_GENERATORS = (
    "generator: the processes would draw other orders ({}); give each a generator with one seed"
)


def fit(
    state: Any,
    step: Step,
    data: Any,
    *,
    epochs: int,
    batch_size: int | None = None,
    generator: Generator | None = None,
    shuffle: bool | None = None,
    drop_last: bool | None = None,
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
    mesh: Mesh | str | None = None,
    sharding: Sharding = None,
) -> Result:
    """Trains for some epochs, seen while it runs, with nothing lost if it is stopped.

    Args:
        state: The state to start from; it stays usable. It is `train.create(...)`, a dictionary,
            tuple or other pytree of these for several models, with or without arrays beside
            them, or for a step of your own any pytree of arrays.
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
        drop_last: Whether a last batch of fewer rows is left out of each epoch; by default it is
            not. A loader has its own.
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
            has the bits of a run that was never stopped. A line says which arguments differ from
            those before, and whether the checkpoint's hold (hyperparameters, generator) or the
            new ones (data, config, a schedule's values, compute_dtype, batch_norm_parts). For a
            loader this sets back what it may draw from: its generators, and the global ones of
            Python, NumPy and torch. A loader that then still gives other batches is an error where
            the run was stopped within an epoch; between epochs only the arrays of a TensorDataset
            tell.
        records: A folder, or a `Records`, for the numbers of every epoch. A folder with the
            epochs of another run than the checkpoint's is an error.
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
        mesh: Several devices, such as "data=4" or a mesh of `jax.make_mesh`: the rows of each
            batch are cut along its axis "data", and nothing else changes (`train.shard`). By
            default the devices that the state lies on.
        sharding: How parameters are cut along the mesh, as `train.shard` takes it: "fsdp", or
            by patterns of names. By default every device keeps all of them.

    Ctrl-C (and SIGTERM) ends the run after the current compiled call and a checkpoint; a
    second one ends it at once.

    Metrics of training are the means over its steps; those of the validation weigh each
    batch by its rows. So a loss with reduction="sum" comes out as the mean of the batches' sums,
    weighed by their rows in the validation: divide it by the rows of the batch. A
    `jaxnet.metrics.Metric` is joined over all rows in both. The learning rate of an optimizer of
    `jaxnet.optim` is among the metrics as "lr" (of a second parameter group as "lr_1", of the
    model "judge" among several as "judge.lr"), as it was at the end of the epoch.

    Raises:
        ValueError: An argument is out of range, or a checkpoint is of another run.
        TypeError: The data is nothing that gives rows or batches, the state is a model, or
            what stands for a function is none.
        ImportError: Arrays do not fit the device, and Grain is not installed.
        OSError: The folder of the checkpoints cannot be written.
        NonFiniteError: A loss or a parameter is not finite, with nonfinite="stop".
    """
    check_no_models(state)
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
    for name, flag in (("shuffle", shuffle), ("drop_last", drop_last)):
        if flag is not None:
            check_flag(name, flag)
    for one in callbacks if isinstance(callbacks, Sequence) else [None]:
        if not (callable(one) or isinstance(one, EverySteps)):
            raise TypeError(
                f"callbacks: {callbacks!r}; accepted is a list of functions and train.EverySteps"
            )
    if schedule is not None:
        _check_schedule(schedule, state, step)
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
    if mesh is not None:
        state = shard(state, mesh, sharding)
    elif sharding is not None:
        raise ValueError('sharding: there is no mesh; give mesh too, such as mesh="data=4"')
    shardings = shardings_of(state)
    mesh = mesh_of(shardings)
    if jax.process_count() > 1 and not several(mesh):
        raise ValueError(
            f"mesh: there is none over the {jax.process_count()} processes, each of which would "
            f'train for itself; give one over all devices, such as mesh="data={jax.device_count()}"'
        )
    _check_split("batch_size", batch_size, mesh)
    _check_split("eval_batch_size", eval_batch_size, mesh)
    draws = Generator(0) if generator is None else generator
    check_same(mesh, _OTHER_GENERATORS, draws.get_state())
    resumes = checkpoint is not None
    monitored = Monitor(monitor, mode, patience, validation is not None)
    progress = Progress(quiet=quiet, log=log, first=monitored.name)
    with ExitStack() as stack:
        stack.enter_context(progress.open())
        if compilation_cache:
            use_compilation_cache()
        how = shuffle, drop_last, draws, epochs, resumes, mesh
        feed_of = open_epochs(data, batch_size, feed, *how)
        training, why = feed_of(0)
        own = isinstance(training, LoaderFeed) and not training.draws_from(generator)
        if own and generator is not None:
            raise ValueError("generator: a loader draws its own order; give it to the loader")
        _log.info(why)
        tested = None
        if eval_step is not None:
            if not gives_batches(validation):
                if generator is not None and training.identity.get("shuffle"):
                    _log.info(
                        "validation: draws nothing from the generator; a loader of PyTorch draws "
                        "one number an epoch, so that from the second epoch on its training "
                        "orders are others: data.DataLoader(..., rngs=generator) draws it too"
                    )
                eval_batch_size = eval_batch_size or batch_size or training.batch_size
            tested, why = open_feed(
                validation,
                batch_size=eval_batch_size,
                where=feed,
                resumes=resumes,
                name="validation",
                size_name="eval_batch_size",
                mesh=mesh,
            )
            if tested.on_device != training.on_device:
                _log.info(why)
        saves = None
        if checkpoint is not None:
            folder = Checkpoints(checkpoint, keep=keep, best=monitored.name, mode=monitored.mode)
            stack.callback(folder.close)
            settings = {**training.identity, "patience": patience is not None}
            settings |= {"monitor": monitored.name, "mode": monitored.mode}
            samples = {"data": training.sample()}
            if tested is not None:
                samples["validation"] = tested.sample()
            given = arguments(state, step, draws, samples)
            saves = RunCheckpoints(folder, monitored.name, settings, *given, callbacks, config)
        run = Run(
            # A copy, since calls give the memory of a state away where they may.
            state=jax.tree.map(copied, state),
            trainer=ChunkRunner(step, trains=True, nonfinite=nonfinite, chunk_steps=chunk_steps),
            tester=ChunkRunner(eval_step or step, trains=False, chunk_steps=chunk_steps),
            feed_of=feed_of,
            feed=training,
            tested=tested,
            generator=draws,
            epochs=epochs,
            schedule=schedule,
            callbacks=[one for one in callbacks if not isinstance(one, EverySteps)],
            every_steps=[one for one in callbacks if isinstance(one, EverySteps)],
            monitor=monitored,
            time_budget=time_budget,
            skips=nonfinite == "skip",
            saves=saves,
            save_every=save_every,
            save_seconds=save_seconds,
            progress=progress,
            shardings=shardings,
        )
        # A run that was killed before its first checkpoint has left its mark in the folder.
        begun = saves is not None and saves.begun
        resumed = saves is not None and run.restore(saves, resume)
        position = run.position
        if records is not None and is_first():
            recorder = Records(records) if isinstance(records, str | os.PathLike) else records
            stack.callback(recorder.close)
            if isinstance(recorder, Records):
                recorder.check_run(position.history)
            recorder.open(position.epoch, position.steps, begun)
            run.recorder = recorder
        if resumed:
            _log.info("resumed after epoch %d, step %d", position.epoch, position.batch)
        try:
            return run.train()
        except SystemExit as stop:
            if several(mesh):  # the others would wait for this process, and it for them
                raise RuntimeError(
                    f"process {jax.process_index()} ended in fit by sys.exit({stop.code!r})"
                ) from stop
            raise


def _check_split(name: str, rows: int | None, mesh: Mesh | None) -> None:
    if mesh is not None and rows is not None and rows % mesh.shape[ROWS]:
        raise ValueError(
            f"{name}: {rows} rows cannot be cut into equal parts for {mesh.shape[ROWS]} devices; "
            "accepted is a multiple of that"
        )


def _check_schedule(schedule: Any, state: Any, step: Any) -> None:
    """Raises what tells of a schedule that the optimizer would not follow, or not rightly."""
    if isinstance(schedule, Schedule):
        raise TypeError(f"schedule: a {type(schedule).__name__}; accepted is its `apply`")
    if not is_state(state):
        raise TypeError(
            f"schedule: the state is a {type(state).__name__} without the opt_state that a "
            "schedule changes; put optim.scheduled(optimizer, schedule, steps, every) around the "
            "optimizer of each model, or have a callback change the state"
        )
    if has_schedule(state.opt_state):
        raise ValueError(
            "schedule: the optimizer is in optim.scheduled, which sets the same numbers again at "
            "every step; leave one of them out"
        )
    built = getattr(getattr(schedule, "__self__", None), "optimizer", None)
    given = step.optimizer if isinstance(step, TrainStep) else built
    if optimizer_text(built) != optimizer_text(given):
        raise ValueError(
            f"schedule: it was built for {optimizer_text(built)}, and the optimizer of the step is "
            f"{optimizer_text(given)}"
        )
