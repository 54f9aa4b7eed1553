"""What is called after each epoch of `fit`, and what it is told."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxnet.train.state import TrainState

__all__ = ["Callback", "EachEpoch", "EpochReport"]


@dataclasses.dataclass
class EpochReport:
    """What a callback learns at the end of an epoch.

    Attributes:
        epoch: counted from 1.
        epochs: how many there will be.
        metrics: of the epoch by name, those of the validation with "val_" before it.
        state: after the epoch.
        seconds: of the epoch's training, that before a stop within it included.
        samples_per_second: since that stop.
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
