"""Many runs of one model as one compiled program: other seeds, other hyperparameters."""

import inspect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnet import nn
from jaxnet._checks import check_choice, check_flag, check_integer, is_number
from jaxnet.backend import ROWS
from jaxnet.data._sampler import epoch_order
from jaxnet.optim import get_hyperparams, set_hyperparams
from jaxnet.random import Generator
from jaxnet.train._batches import ArrayFeed, gives_batches, open_feed
from jaxnet.train._chunk import make_epoch
from jaxnet.train._evaluate import check_eval_step, check_train_step
from jaxnet.train._mesh import opened
from jaxnet.train._progress import Progress
from jaxnet.train._several import check_no_models, map_states, named_states
from jaxnet.train._step import Step
from jaxnet.train._sweep_result import Sweep
from jaxnet.train._values import mean_metrics

_NUMBERS = 2**22  # row numbers of one compiled call, at most
_SECONDS = 0.5  # how long a compiled call should take: the bar waits for it

# With weights of their own in every run these have no fast code on a CPU.
_SLOW_TOGETHER = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.RNN, nn.LSTM, nn.GRU,
)  # fmt: skip


def sweep(
    make_state: Callable[..., Any],
    step: Step,
    data: Any,
    *,
    epochs: int,
    batch_size: int,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Sequence[float]] | Sequence[Mapping[str, float]] | None = None,
    validation: Any = None,
    eval_step: Step | None = None,
    shuffle: bool = True,
    mesh: Mesh | str | None = None,
    method: str = "auto",
    quiet: bool | None = None,
) -> Sweep:
    """Trains one model many times at once: with many seeds, hyperparameters, or both.

    All runs are one compiled program. Each is what PyTorch's program computes after
    `torch.manual_seed(seed)`, up to rounding: initial weights, the order of every epoch and
    dropout are its own. A run whose loss is not finite ends no other; it is in no mean.

    Args:
        make_state: A function of the run's generator that makes its state, such as
            `lambda g: train.create(Net(rngs=g), optimizer)`. A setting that is the name of a
            further parameter is given to it, as an array: `def make_state(g, scale)`. Shapes
            must not depend on it.
        step: The training step, such as `make_train_step(loss, optimizer)`.
        data: A pytree of arrays with the rows along axis 0, or a data set of arrays; it is put
            on the device.
        epochs: The number of passes over the data.
        batch_size: The rows of a step; the last step of an epoch may have fewer.
        seeds: The seeds. Every setting is run with each of them.
        settings: The values of each setting by name, all of which are combined, such as
            `{"lr": [0.1, 0.01], "weight_decay": [0, 1e-4]}`; or a list of dictionaries, which
            are taken as they are. What is no parameter of `make_state` is a hyperparameter of
            the optimizer (`optim.set_hyperparams`).
        validation: Data in the same forms, measured after the last epoch. A model that draws
            random numbers in evaluation too draws the same ones for every batch here.
        eval_step: `make_eval_step(...)`, which the validation needs.
        shuffle: Whether each epoch has an order of its own.
        mesh: Several devices, such as "data=4", each of which computes a part of the runs.
        method: "together" computes a layer for all runs at once (`jax.vmap`), which suits small
            models and GPUs; "one by one" is a loop over the runs (`jax.lax.map`), which suits
            convolutions and recurrent layers on a CPU. "auto" chooses so.
        quiet: Whether no bar is shown; by default there is one on a terminal.

    Returns:
        The metrics of all runs, with their mean, spread and confidence interval for each
        setting, and the states.

    Raises:
        ValueError: An argument is out of range, a setting is no hyperparameter, or a state has
            another structure than the first.
        TypeError: An argument is of another kind.

    >>> from jaxnet import losses, nn, optim, train
    >>> optimizer = optim.SGD(lr=0.1)
    >>> step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
    >>> x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
    >>> found = train.sweep(
    ...     lambda g: train.create(nn.Linear(1, 1, rngs=g), optimizer), step, (x, 2 * x),
    ...     epochs=5, batch_size=10, seeds=range(4), settings={"lr": [0.01, 0.1]}, quiet=True)
    >>> found
    Sweep(2 settings with 4 seeds, together, 0 of 8 runs not finite)
    >>> found.history["loss"].shape
    (2, 4, 5)
    """
    check_train_step(step)
    check_integer("epochs", epochs, least=1)
    check_flag("shuffle", shuffle)
    check_choice("method", method, ("auto", "together", "one by one"))
    if not callable(make_state):
        raise TypeError(f"make_state: {make_state!r}; accepted is a function of a generator")
    if (validation is None) != (eval_step is None):
        raise ValueError("validation, eval_step: one without the other; give both or none")
    if eval_step is not None:
        check_eval_step(eval_step)
    numbers = list(seeds) if isinstance(seeds, Sequence) else [seeds]
    if not numbers:
        raise ValueError("seeds: there are none; give at least one")
    for seed in numbers:
        check_integer("seeds", seed, least=0)
    points = _points(settings)
    devices = None if mesh is None else opened(mesh)
    feed = _on_device(data, batch_size, "data", devices)
    tested = None if validation is None else _on_device(validation, batch_size, "validation",
                                                        devices)  # fmt: skip

    runs = [(point, int(seed)) for point in points for seed in numbers]
    generators = [Generator(seed) for _, seed in runs]
    members = [_member(make_state, g, *run) for g, run in zip(generators, runs, strict=True)]
    _check_alike(members)
    if method == "auto":
        method = _chosen(members[0])
    states, rest = _stacked(members, devices)
    history: dict[str, np.ndarray] = {}
    progress = Progress(quiet=quiet)
    with progress.open():
        progress.start(feed.rows * epochs * len(runs), 0)
        train_all = _for_all(_epochs(step, batch_size), method, devices)
        most = max(1, min(epochs, _NUMBERS // (feed.rows * len(runs))))
        done, count, in_order = 0, 1, np.arange(feed.rows)
        while done < epochs:
            orders = np.zeros((len(runs) + rest, most, feed.rows), np.int32)
            for i, generator in enumerate(generators):
                for e in range(count):
                    orders[i, e] = epoch_order(feed.rows, generator) if shuffle else in_order
            began = time.perf_counter()
            states, metrics = train_all(states, feed.data, orders, np.int32(count))
            _add(history, _by_epoch(metrics, len(runs), count))
            seconds, done = time.perf_counter() - began, done + count
            progress.advance(feed.rows * count * len(runs), f"epoch {done}/{epochs}", {})
            fitting = max(1, min(8 * count, int(_SECONDS * count / max(seconds, 1e-6))))
            count = min(fitting, most, max(1, epochs - done))
    finite = np.full(len(runs), True)
    if "loss" in history:
        finite = np.isfinite(history["loss"]).all(1)
    if tested is not None:
        assert eval_step is not None
        measure_all = _for_all(_epochs(eval_step, batch_size), method, devices)
        orders = np.tile(np.arange(tested.rows, dtype=np.int32), (len(runs) + rest, 1, 1))
        _, metrics = measure_all(states, tested.data, orders, np.int32(1))
        steps = -(-tested.rows // batch_size)
        weights = np.full(steps, batch_size, np.float64)
        weights[-1] = tested.rows - batch_size * (steps - 1)
        found = _by_epoch(metrics, len(runs), 1, weights)
        history |= {f"val_{name}": value for name, value in found.items()}
    shape = len(points), len(numbers)
    history = {name: value.reshape(*shape, *value.shape[1:]) for name, value in history.items()}
    states = jax.tree.map(lambda x: x[: len(runs)].reshape(*shape, *x.shape[1:]), states)
    return Sweep(points, [int(s) for s in numbers], history, finite.reshape(shape), states, method)


def _points(settings: Any) -> list[dict[str, float]]:
    if settings is None:
        return [{}]
    if isinstance(settings, Mapping):
        for name, values in settings.items():
            if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray):
                raise TypeError(f"settings: {name}: {values!r}; accepted is a list of numbers")
        names = list(settings)
        points = [dict(zip(names, values, strict=True))
                  for values in itertools.product(*settings.values())]  # fmt: skip
    else:
        points = [dict(point) for point in settings]
    if not points:
        raise ValueError("settings: there are none; leave it out, or give at least one")
    for point in points:
        if point.keys() != points[0].keys():
            raise ValueError(
                f"settings: {sorted(point)} beside {sorted(points[0])}; all need the same names"
            )
        for name, value in point.items():
            if not is_number(value):
                raise TypeError(f"settings: {name}: {value!r}; accepted are numbers")
    return [{name: float(value) for name, value in point.items()} for point in points]


def _on_device(data: Any, batch_size: int, name: str, mesh: Mesh | None) -> ArrayFeed:
    feed = None
    if not gives_batches(data):
        feed, _ = open_feed(data, batch_size=batch_size, where="device", name=name, mesh=mesh)
    if not isinstance(feed, ArrayFeed):
        raise TypeError(
            f"{name}: a {type(data).__name__}, whose rows come one after another; accepted are "
            "arrays, which all runs share"
        )
    return feed


def _member(make_state: Any, generator: Generator, point: Mapping[str, float], seed: int) -> Any:
    """The state of one run."""
    takes = list(inspect.signature(make_state).parameters)[1:]
    own = {name: jnp.float32(value) for name, value in point.items() if name in takes}
    state = make_state(generator, **own)
    check_no_models(state)
    if not (found := named_states(state)):
        raise TypeError(
            f"make_state: it gave a {type(state).__name__}; accepted is the state of a run: "
            "train.create(model, optimizer), or a dictionary of these"
        )
    values: dict[str, Any] = {name: x for name, x in point.items() if name not in own}
    for name in values:
        for one in found.values():
            if name not in (known := get_hyperparams(one.opt_state)):
                raise ValueError(
                    f"settings: {name!r} is no parameter of make_state and no hyperparameter of "
                    f"the optimizer, which has {', '.join(known)}. One that it was built without "
                    "(weight_decay=0, momentum=0) has no place in its state: build it with any "
                    "other number"
                )

    def changed(one: Any) -> Any:
        opt_state = set_hyperparams(one.opt_state, **values) if values else one.opt_state
        return one.replace(opt_state=opt_state, key=jax.random.key(seed))

    return map_states(changed, state)


def _check_alike(members: Sequence[Any]) -> None:
    def kind(state: Any) -> Any:
        return jax.tree.structure(state), [(x.shape, x.dtype) for x in jax.tree.leaves(state)]

    first = kind(members[0])
    for member in members[1:]:
        if kind(member) != first:
            raise ValueError(
                "make_state: two runs have states of another structure or other shapes; all runs "
                "are one program, so only numbers may differ. Give what changes a shape (a width, "
                "another optimizer) to several sweeps"
            )


def _chosen(state: Any) -> str:
    if jax.default_backend() != "cpu":
        return "together"
    for one in named_states(state).values():
        if any(isinstance(m, _SLOW_TOGETHER) for _, m in one.model().named_modules()):
            return "one by one"
    return "together"


def _stacked(members: list[Any], mesh: Mesh | None) -> tuple[Any, int]:
    """All states in one, with an axis for the runs in front, and the runs that fill it up."""
    rest = 0 if mesh is None else -len(members) % mesh.shape[ROWS]
    states = jax.tree.map(lambda *xs: jnp.stack(xs), *members, *members[:1] * rest)
    if mesh is not None:
        states = jax.device_put(states, NamedSharding(mesh, PartitionSpec(ROWS)))
    return states, rest


def _epochs(step: Step, batch_size: int) -> Callable[..., Any]:
    """A function of a run's state, the data, the orders of some epochs, and their number."""
    epoch = make_epoch(step, batch_size)

    def run(state: Any, data: Any, orders: jax.Array, count: jax.Array) -> Any:
        def body(e: jax.Array, carry: Any) -> Any:
            now, metrics = carry
            now, found = epoch(now, data, orders[e])
            return now, jax.tree.map(lambda all, one: all.at[e].set(one), metrics, found)

        _, shapes = jax.eval_shape(epoch, state, data, orders[0])
        start = jax.tree.map(lambda x: jnp.zeros((len(orders), *x.shape), x.dtype), shapes)
        return lax.fori_loop(0, count, body, (state, start))

    return run


def _for_all(run: Callable[..., Any], method: str, mesh: Mesh | None) -> Any:
    """The same for all runs, compiled."""

    def every(states: Any, data: Any, orders: jax.Array, count: jax.Array) -> Any:
        if method == "together":
            return jax.vmap(run, (0, None, 0, None))(states, data, orders, count)
        return lax.map(lambda one: run(one[0], data, one[1], count), (states, orders))

    if mesh is None:
        return jax.jit(every)
    apart, alike = PartitionSpec(ROWS), PartitionSpec()
    where: Any = (apart, alike, apart, alike)
    return jax.jit(
        jax.shard_map(every, mesh=mesh, in_specs=where, out_specs=apart, check_vma=False)
    )


def _by_epoch(
    metrics: Any, runs: int, epochs: int, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The metrics of each run and epoch, (runs, epochs, ...), from those of every step."""
    metrics = jax.tree.map(lambda x: np.asarray(x)[:runs, :epochs], metrics)
    found = {}
    for name, value in sorted(metrics.items(), key=lambda item: (item[0] != "loss", item[0])):
        if isinstance(value, np.ndarray):
            found[name] = np.average(value.astype(np.float64), axis=2, weights=weights)
            continue
        lines = [
            [mean_metrics({name: jax.tree.map(itemgetter((i, e)), value)}) for e in range(epochs)]
            for i in range(runs)
        ]
        found[name] = np.array([[line[name] for line in of_run] for of_run in lines])
    return found


def _add(history: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> None:
    for name, values in more.items():
        known = history.get(name)
        history[name] = values if known is None else np.concatenate([known, values], axis=1)
