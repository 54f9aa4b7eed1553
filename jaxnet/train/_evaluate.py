"""Measuring and predicting over whole data sets, which gives nothing of the state away."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxnet._keys import keys
from jaxnet._mixed_precision import computing_in
from jaxnet.precision import check_x64, full_float32
from jaxnet.train._batches import Feed, open_feed
from jaxnet.train._loss import Loss, Metrics, entered, in_dtype_of, with_metrics, with_step
from jaxnet.train._mesh import mesh_of, shardings_of
from jaxnet.train._progress import Progress
from jaxnet.train._runner import Call, ChunkRunner
from jaxnet.train._several import check_no_models, first_state, is_state, map_states, named_states
from jaxnet.train._state import keeping_attributes, split
from jaxnet.train._step import EvalStep, Step, TrainStep
from jaxnet.train._values import joined, mean_metrics


def make_eval_step(loss: Loss, compute_dtype: DTypeLike | None = None) -> Step:
    """An evaluation step: the metrics of a batch, with the model in evaluation mode.

    A model that draws random numbers in evaluation mode too, such as a variational
    autoencoder, draws from `fold_in(state.key, state.step)`; `evaluate` and `fit` give each
    batch a key of its own.

    Args:
        loss: A function `loss(model, batch)`, or `loss(model, batch, step)`, that returns a
            scalar, or a scalar and a dictionary of metrics. Where the state is that of several
            models, it is given all of them, as that of `make_train_step(model=...)` is.
        compute_dtype: The dtype of the model's arithmetic, bfloat16 or float16; None means
            float32.

    Returns:
        A pure function `(state, batch) -> (state, metrics)`, not yet compiled. The state that
        it returns differs only in buffers that the model writes in evaluation mode, such as a
        recurrent state; `evaluate` and `fit` hand them on to the next batch, and forget them after
        the last one.
    """

    check_x64("compute_dtype", compute_dtype)
    call = with_step(loss)

    @full_float32()
    def step(state: Any, batch: Any) -> tuple[Any, Metrics]:
        first = first_state(state)
        key = jax.random.fold_in(first.key, first.step)
        with entered(state, batch, key, compute_dtype, training=False) as (models, batch):
            value, metrics = with_metrics(call(models, batch, first.step))
        state = map_states(lambda one, m: one.replace(buffers=split(m)[2]), state, models)
        return state, {"loss": value, **metrics}

    return EvalStep(step)


def make_predict(
    compute_dtype: DTypeLike | None = None, averaged: bool = False
) -> Callable[..., Any]:
    """A prediction function: the outputs of the model in evaluation mode.

    A model that draws in evaluation mode too does so from the same key as in
    `make_eval_step`.

    Args:
        compute_dtype: The dtype of the model's arithmetic, bfloat16 or float16; the outputs
            are float32. None means float32.
        averaged: Whether to use the running average of the weights.

    Returns:
        A pure function `(state, *inputs) -> outputs`, not yet compiled.
    """

    check_x64("compute_dtype", compute_dtype)

    @full_float32()
    def predict(state: Any, *inputs: Any) -> Any:
        if not is_state(state):
            names = ", ".join(map(repr, named_states(state)))
            raise TypeError(
                f"state: a {type(state).__name__} of the models {names}; accepted is the state of "
                "one of them"
            )
        inputs = in_dtype_of(state, inputs, compute_dtype)
        model = state.model(averaged=averaged)
        key = jax.random.fold_in(state.key, state.step)
        with keys(key), computing_in(model, compute_dtype), keeping_attributes(model):
            return model(*inputs)

    return predict


def evaluate(
    state: Any,
    eval_step: Step,
    data: Any,
    *,
    batch_size: int | None = None,
    feed: str = "auto",
    chunk_steps: int | None = None,
    quiet: bool | None = None,
) -> dict[str, Any]:
    """Measures a model on some data, in compiled calls of many batches.

    The state stays usable. What was compiled for a step serves every later call with that
    step, also those of `fit`'s validation.

    Args:
        state: The state of a run, such as `train.create(...)`, `fit(...).state` or
            `EpochReport.state`.
        eval_step: The step that measures one batch, such as `make_eval_step(loss)`.
        data: The data, in one of the forms that `fit` takes.
        batch_size: The rows of a batch; the last batch may have fewer. A loader has its own.
        feed: Where the data lies: "device", "host", or "auto" by the free memory.
        chunk_steps: The batches of a compiled call; by default as many as take a quarter second.
        quiet: Whether no bar is shown; by default there is one on a terminal.

    Returns:
        The metrics by name. Means weigh each batch by its rows, so that a loss that is a
        mean over rows comes out as the mean over all of them; a `jaxnet.metrics.Metric` is
        joined over all rows.

    Raises:
        TypeError: The state is a model, the step one of training, or the data nothing that
            gives rows or batches.
        ValueError: An argument does not go with this data.

    >>> import numpy as np
    >>> from jaxnet import losses, metrics, nn, optim, train
    >>> from jaxnet.random import Generator
    >>> state = train.create(nn.Linear(3, 2, rngs=Generator(0)), optim.SGD(lr=0.1))
    >>> loss = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
    >>> x, y = np.ones((10, 3), np.float32), np.zeros(10, np.int32)
    >>> sorted(train.evaluate(state, train.make_eval_step(loss), (x, y), batch_size=4))
    ['accuracy', 'loss']
    """
    check_no_models(state)
    check_eval_step(eval_step)
    mesh = mesh_of(shardings_of(state))
    opened, _ = open_feed(data, batch_size=batch_size, where=feed, once=True, mesh=mesh)
    runner = ChunkRunner(eval_step, trains=False, chunk_steps=chunk_steps)
    return measure(runner, state, opened, quiet)


def measure(
    runner: ChunkRunner, state: Any, feed: Feed, quiet: bool | None = True
) -> dict[str, Any]:
    """The metrics of one pass over a feed: what `evaluate` and `fit`'s validation share."""
    parts, weights = [], []
    for call in _calls(runner, state, feed, quiet, "evaluate"):
        parts.append(call.metrics)
        weights += [call.batch_size] * (call.last - call.first)
    runner.state = None  # else it would stay in memory until the next evaluation
    return mean_metrics(joined(parts), np.array(weights, np.float64))


def predict(
    state: Any,
    inputs: Any,
    *,
    batch_size: int | None = None,
    compute_dtype: DTypeLike | None = None,
    averaged: bool = False,
    feed: str = "auto",
    quiet: bool | None = None,
) -> Any:
    """The outputs of a model in evaluation mode for all rows of some inputs, in their order.

    What the model writes into buffers is forgotten after each batch, unlike in `evaluate`.

    Args:
        state: The state of a run; it stays usable.
        inputs: The inputs without targets, in one of the forms that `fit` takes as data. A
            tuple becomes the model's arguments.
        batch_size: The rows of a batch; the last batch may have fewer. A loader has its own.
        compute_dtype: The dtype of the model's arithmetic; outputs are float32.
        averaged: Whether to use the running average of the weights.
        feed: Where the inputs lie: "device", "host", or "auto" by the free memory.
        quiet: Whether no bar is shown; by default there is one on a terminal.

    Returns:
        What the model returns, as NumPy arrays with all rows along axis 0.

    Raises:
        TypeError: The state is a model, or the inputs are nothing that gives rows or batches.
        ValueError: An argument does not go with these inputs, or an output does not have the
            rows of its batch along axis 0.

    >>> import numpy as np
    >>> from jaxnet import nn, optim, train
    >>> from jaxnet.random import Generator
    >>> state = train.create(nn.Linear(3, 2, rngs=Generator(0)), optim.SGD(lr=0.1))
    >>> train.predict(state, np.ones((10, 3), np.float32), batch_size=4).shape
    (10, 2)
    """
    check_no_models(state)
    mesh = mesh_of(shardings_of(state))
    opened, _ = open_feed(
        inputs, batch_size=batch_size, where=feed, name="inputs", once=True, mesh=mesh
    )
    dtype = None if compute_dtype is None else jnp.dtype(compute_dtype)
    runner = ChunkRunner(_predict_step(dtype, averaged), trains=False)
    parts = [
        jax.tree.map(functools.partial(_rows, call), call.metrics["outputs"])
        for call in _calls(runner, state, opened, quiet, "predict")
    ]
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


@functools.cache
def _predict_step(compute_dtype: np.dtype | None, averaged: bool) -> Step:
    """One function for each way to predict, so that what was compiled for it is found again."""
    run = make_predict(compute_dtype, averaged)

    def step(state: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        return state, {
            "outputs": run(state, *batch) if isinstance(batch, tuple) else run(state, batch)
        }

    return step


def _rows(call: Call, output: np.ndarray) -> np.ndarray:
    # (steps, rows of a batch, ...) -> (rows of the call, ...)
    if output.shape[1:2] != (call.batch_size,):
        raise ValueError(
            f"inputs: for a batch of {call.batch_size} rows the model gave an output of shape "
            f"{output.shape[1:]}; accepted are outputs with the rows along axis 0"
        )
    return output.reshape(math.prod(output.shape[:2]), *output.shape[2:])


def _calls(
    runner: ChunkRunner, state: Any, feed: Feed, quiet: bool | None, what: str
) -> Iterator[Call]:
    """The calls of one pass over a feed, with a bar unless it is to be quiet."""
    progress = Progress(quiet=quiet)
    progress.start(feed.rows, 0)
    try:
        for call in runner.run(state, feed, 0):
            progress.advance(call.batch_size * (call.last - call.first), what, {})
            yield call
    finally:
        progress.close()


def check_eval_step(step: Step) -> None:
    """Raises TypeError if it is a training step, whose model is in training mode."""
    if isinstance(step, TrainStep):
        raise TypeError(
            "eval_step: a training step, whose dropout and batch statistics are those of "
            "training; accepted is what make_eval_step(loss) gives, or a function of your own"
        )


def check_train_step(step: Step) -> None:
    """Raises TypeError if it is an evaluation step, which would train nothing."""
    if isinstance(step, EvalStep):
        raise TypeError(
            "step: an evaluation step, which trains nothing; accepted is what "
            "make_train_step(loss, optimizer) gives, or a function of your own. "
            "train.evaluate measures"
        )
