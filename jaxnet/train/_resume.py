"""The position of a run, and how its checkpoints hold it and give it back."""

import dataclasses
import logging
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._names import join, named_leaves
from jaxnet._processes import checksum
from jaxnet.checkpoint import Checkpoints, DamagedError, Restored
from jaxnet.checkpoint._about import read_about
from jaxnet.optim import get_hyperparams
from jaxnet.optim._hyperparams import states
from jaxnet.optim._schedule import ScheduledState
from jaxnet.random import Generator
from jaxnet.train._callbacks import EverySteps
from jaxnet.train._several import named_states
from jaxnet.train._step import TrainStep
from jaxnet.train._values import joined, plain

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class RunPosition:
    """All that a checkpoint of a run needs beside its arrays."""

    epoch: int = 0  # the epochs that are whole
    batch: int = 0  # the steps that are done of the next epoch
    steps: int = 0  # the steps of the whole run that are done
    seconds: float = 0.0  # of training, which the steps of the running epoch took
    # The seconds of the whole run, without compiling; in a running `fit` those before it.
    total_seconds: float = 0.0
    generator: bytes = b""  # the generator's state before the running epoch's order was drawn
    # What the feeds drew from, then.
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    validation: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # one an epoch
    best: float | None = None  # the best value of the monitored metric
    best_epoch: int | None = None
    bad_epochs: int = 0  # the epochs in a row without a new best
    reason: str | None = None  # for which a callback ended the run
    epochs: int = 0  # the epochs that were asked for


class EpochMetrics:
    """The metrics of the steps of an epoch, gathered over its calls and across a stop.

    Args:
        before: The metrics of the steps before the stop, by the names of their arrays.
    """

    def __init__(self, before: dict[str, np.ndarray] | None = None) -> None:
        self._before = before or {}
        self._parts: list[Any] = []

    def append(self, metrics: Any) -> None:
        """Adds the metrics of a call, with one entry a step along axis 0."""
        self._parts.append(metrics)

    def last(self, steps: int) -> Any:
        """The metrics of the last steps, as far as they lie in the epoch."""
        parts: list[Any] = []
        missing = steps
        for part in reversed(self._parts):
            if missing > 0:
                parts.insert(0, part)
                missing -= len(jax.tree.leaves(part)[0])
        last = joined(parts) if missing <= 0 else self.joined()
        return jax.tree.map(lambda values: values[-steps:], last)

    def named(self) -> dict[str, np.ndarray]:
        """The arrays by dotted name, as checkpoints hold them."""
        return named_leaves(self.joined()) if self._parts else self._before

    def joined(self, like: Callable[[], Any] | None = None) -> Any:
        """The metrics of all steps so far.

        Args:
            like: A function that gives metrics of the same structure, which is called if no
                step was done since the stop.

        Raises:
            ValueError: The metrics before the stop are others.
        """
        parts = list(self._parts)
        if self._before:
            first = parts[0] if like is None or parts else like()
            names = list(named_leaves(first))
            if set(names) != set(self._before):
                raise ValueError(
                    f"metrics: {', '.join(self._before)} in the checkpoint, {', '.join(names)} "
                    "now; a run that was stopped within an epoch goes on with the same metrics"
                )
            leaves = [self._before[name] for name in names]
            parts.insert(0, jax.tree.unflatten(jax.tree.structure(first), leaves))
        return joined(parts)


class RunCheckpoints:
    """Saves a run whole, and gives it back whole.

    Args:
        checkpoints: The folder of the checkpoints.
        monitor: The metric that tells the best checkpoint.
        settings: What has to be the same for the run to go on, by name.
        kept: What was given at the start and is in the checkpoint, which holds: a difference
            is only said.
        new: What may be given anew and then holds: a difference is only said.
        callbacks: The callbacks, whose memories are kept.
        config: What else is kept; what JSON takes.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        monitor: str,
        settings: dict[str, Any],
        kept: dict[str, Any],
        new: dict[str, Any],
        callbacks: Sequence[Any],
        config: Any,
    ) -> None:
        self._kept, self._new = kept, new | {"config": config}
        self.checkpoints, self._monitor, self._settings = checkpoints, monitor, settings
        self._callbacks = [
            each.function if isinstance(each, EverySteps) else each for each in callbacks
        ]
        self._config = config
        self._saved: tuple[int, int] | None = None
        folder = checkpoints.folder
        self.begun = folder.is_dir() and any(folder.iterdir())  # before this call

    def save(self, state: Any, position: RunPosition, best: Any, metrics: EpochMetrics) -> bool:
        """Saves, unless this position is saved already; gives whether it did."""
        if self._saved == (position.epoch, position.batch):
            return False
        arrays = {f"best.{name}": leaf for name, leaf in named_leaves(best).items()}
        for i, callback in enumerate(self._callbacks):
            memory = named_leaves(getattr(callback, "memory", None))
            arrays |= {f"callbacks.{i}.{name}": leaf for name, leaf in memory.items()}
        arrays |= {f"metrics.{name}": leaf for name, leaf in metrics.named().items()}
        monitored = {}
        if position.batch == 0 and position.history and self._monitor in position.history[-1]:
            monitored = {self._monitor: position.history[-1][self._monitor]}
        self.checkpoints.save(
            position.steps,
            state,
            metrics=monitored,
            config=self._config,
            host={
                "position": dataclasses.asdict(position),
                "settings": self._settings,
                "kept": plain(self._kept),
                "new": plain(self._new),
            },
            arrays=arrays,
        )
        self._saved = position.epoch, position.batch
        return True

    def restore(self, state: Any, best: Any) -> tuple[Any, RunPosition, Any, EpochMetrics]:
        """The newest whole checkpoint. The memories of the callbacks are set.

        Args:
            state: A state like that in the checkpoint.
            best: A state like the best one, or None.

        Returns:
            The state of the training, the position of the run, the best state so far (or
            None), and the metrics of the running epoch.

        Raises:
            ValueError: It is of a run with other settings, callbacks, model or optimizer.
        """
        tables = _tables(state)
        like, given = state, jax.tree.leaves(state)
        if tables and (steps := self.checkpoints.steps()):
            # A schedule may have become longer: the new one holds from here on.
            like = self._as_saved(state, tables, steps[-1])
        back = self.checkpoints.restore(like)
        pairs = zip(given, jax.tree.leaves(back.state), strict=True)
        leaves = [new if id(new) in tables else old for new, old in pairs]
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        if differ := _differing(back.host["settings"], self._settings):
            raise ValueError(
                f"{self.checkpoints.folder}: the run there cannot go on with other settings: "
                + "; ".join(differ)
            )
        kept, new = back.host["kept"], back.host["new"]
        differ = [f"{each} (the checkpoint's holds)" for each in _differing(kept, self._kept)]
        differ += [f"{each} (the new one holds)" for each in _differing(new, self._new)]
        if differ:
            _log.warning("resumed with other arguments: %s", "; ".join(differ))
        self._kept = kept
        position = RunPosition(**back.host["position"])
        self._saved = position.epoch, position.batch
        best = _filled(best, back, "best.")
        memories = [
            (callback, _filled(callback.memory, back, f"callbacks.{i}."))
            for i, callback in enumerate(self._callbacks)
            if hasattr(callback, "memory")
        ]
        for callback, memory in memories:
            callback.memory = memory
        metrics = {
            name.removeprefix("metrics."): array
            for name, array in back.arrays.items()
            if name.startswith("metrics.")
        }
        return state, position, best, EpochMetrics(metrics)

    def _as_saved(self, state: Any, tables: dict[int, Any], step: int) -> Any:
        """The state with the tables of schedules in the checkpoint's shapes."""
        try:
            saved = read_about(self.checkpoints.folder / f"step_{step:010d}")["arrays"]
        except DamagedError:
            return state
        leaves = [
            jax.ShapeDtypeStruct(saved[f"state/{name}"]["shape"], leaf.dtype)
            if id(leaf) in tables and f"state/{name}" in saved
            else leaf
            for name, leaf in named_leaves(state).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)


def _tables(state: Any) -> dict[int, Any]:
    """The values of the schedules in a state, by their identity."""
    found = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, ScheduledState))
    tables = [each.tables for each in found if isinstance(each, ScheduledState)]
    return {id(leaf): leaf for leaf in jax.tree.leaves(tables)}


def _differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two dictionaries, in words; values that JSON lacks are texts."""
    now = plain(now)
    return [
        f"{name}: {before.get(name)!r} before, {now.get(name)!r} now"
        for name in {**now, **before}
        if before.get(name) != now.get(name)
    ]


def arguments(
    state: Any, step: Any, generator: Generator, samples: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `fit` is given, as far as it can be compared after a stop.

    Args:
        state: The state to start from.
        step: The training step.
        generator: The generator of the orders.
        samples: Some rows of the data and the validation, by name.

    Returns:
        What a checkpoint holds, and what holds as it is given anew, both by name.
    """
    kept: dict[str, Any] = {"generator (checksum)": zlib.crc32(generator.get_state().tobytes())}
    new: dict[str, Any] = {f"{k} (checksum)": checksum(v) for k, v in samples.items()}
    for of, one in named_states(state).items():
        key = np.asarray(jax.random.key_data(one.key))
        kept[join(of, "seed (checksum)")] = zlib.crc32(key.tobytes())
        if tables := _tables(one):  # which hold, and not the hyperparameters
            new[join(of, "schedule (checksum)")] = checksum(list(tables.values()))
            continue
        for i in range(len(states(one.opt_state))):
            values: dict[str, Any] = get_hyperparams(one.opt_state, i)
            # By way of text, so that 0.1 in float32 becomes 0.1 and not 0.10000000149.
            texts = jax.tree.map(lambda x: float(str(x)), jax.device_get(values))
            kept |= {
                join(of, f"{name}_{i}" if i else name): plain(value)
                for name, value in texts.items()
            }
    if isinstance(step, TrainStep):
        for i, group in enumerate(getattr(step.optimizer, "groups", ())):
            flags = {k: v for k, v in group.defaults.items() if isinstance(v, bool | str)}
            new |= {f"{name}_{i}" if i else name: value for name, value in flags.items()}
        new["compute_dtype"] = str(jnp.dtype(step.compute_dtype or jnp.float32))
        if step.batch_norm_parts > 1:  # a checkpoint of before there was a choice has the whole
            new["batch_norm_parts"] = step.batch_norm_parts
    return kept, new


def _filled(like: Any, back: Restored, prefix: str) -> Any:
    """A pytree with the arrays that a checkpoint holds under a prefix."""
    names = [prefix + name for name in named_leaves(like)]
    missing = [name for name in names if name not in back.arrays]
    if missing:
        raise ValueError(
            f"the checkpoint of step {back.step} lacks {', '.join(missing)}: it is of a run with "
            "other callbacks, or without patience"
        )
    leaves = [jnp.array(back.arrays[name]) for name in names]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
