"""Where a run is, and how its checkpoints hold that and give it back."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.checkpoint import Checkpoints, Restored, named_arrays
from jaxnet.train.callbacks import Callback
from jaxnet.train.state import TrainState

__all__ = ["Keeper", "Place", "filled"]


@dataclasses.dataclass
class Place:
    """All that a checkpoint of a run needs beside the state.

    Attributes:
        epoch: whole epochs done.
        batch: steps done of the next one.
        seconds: of training that these took.
        generator: the run's, before the order of that epoch was drawn.
        source, tested: what the loaders of training and validation draw from, then.
        history: one dictionary an epoch.
        best, best_epoch: of the monitored metric.
        bad: epochs in a row without a new best.
        reason: a callback's, for stopping.
    """

    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    generator: bytes = b""
    source: dict[str, Any] = dataclasses.field(default_factory=dict)
    tested: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None
    bad: int = 0
    reason: str | None = None


class Keeper:
    """Saves a run and gives it back.

    Args:
        checkpoints: where.
        monitor: the metric that tells the best checkpoint.
        settings: what has to be the same for the run to go on.
        callbacks: whose memories are kept.
        config: is kept too.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        monitor: str,
        settings: dict[str, Any],
        callbacks: Sequence[Callback],
        config: Any,
    ) -> None:
        self.checkpoints, self._monitor, self._settings = checkpoints, monitor, settings
        self._callbacks, self._config = callbacks, config
        self._saved: tuple[int, int] | None = None

    def save(self, state: TrainState[Any], place: Place, best: Any, metrics: Any) -> bool:
        """Saves, unless this place is saved already; gives whether it did.

        Args:
            state: after the last step.
            place: of it.
            best: the weights of the best epoch, or None.
            metrics: of the steps of the running epoch, or None.
        """
        if self._saved == (place.epoch, place.batch):
            return False
        arrays: dict[str, Any] = {}
        if best is not None:
            arrays |= {f"best.{k}": v for k, v in named_arrays(best).items()}
        for i, callback in enumerate(self._callbacks):
            memory = named_arrays(getattr(callback, "memory", None))
            arrays |= {f"callbacks.{i}.{k}": v for k, v in memory.items()}
        if metrics is not None:
            arrays |= {f"metrics.{k}": v for k, v in named_arrays(metrics).items()}
        monitored = {}
        if place.batch == 0 and place.history and self._monitor in place.history[-1]:
            monitored = {self._monitor: place.history[-1][self._monitor]}
        self.checkpoints.save(
            int(state.step),
            state,
            metrics=monitored,
            config=self._config,
            host={"place": dataclasses.asdict(place), "settings": self._settings},
            arrays=arrays,
        )
        self._saved = place.epoch, place.batch
        return True

    def restore(self, state: TrainState[Any], best: Any) -> tuple[Restored, Place, Any]:
        """The newest whole checkpoint, the place and the best weights in it.

        The memories of the callbacks are set.

        Args:
            state: like that one's.
            best: weights like the best ones, or None.

        Raises:
            ValueError: it is of a run with other settings.
        """
        back = self.checkpoints.restore(state)
        settings = back.host["settings"]
        differ = [
            f"{name}: {settings.get(name)!r} before, {self._settings.get(name)!r} now"
            for name in {**self._settings, **settings}
            if settings.get(name) != self._settings.get(name)
        ]
        if differ:
            raise ValueError(
                f"{self.checkpoints.folder}: the run there cannot go on with other settings: "
                + "; ".join(differ)
            )
        place = Place(**back.host["place"])
        self._saved = place.epoch, place.batch
        if best is not None:
            best = filled(best, back, "best.")
        for i, callback in enumerate(self._callbacks):
            if hasattr(callback, "memory"):
                callback.memory = filled(callback.memory, back, f"callbacks.{i}.")
        return back, place, best


def filled(like: Any, back: Restored, prefix: str, host: bool = False) -> Any:
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
