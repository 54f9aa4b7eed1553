"""What `fit` calls after each epoch and after groups of steps, and what it tells them."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._checks import check_integer
from jaxnet.train._values import LINE


class _Report:
    """What an epoch's and a step group's report have in common."""

    def __init__(self, state: Any, metrics: Mapping[str, Any]) -> None:
        self._state = state
        self._metrics = dict(metrics)
        self._logged: dict[str, Any] = {}
        self._reason: str | None = None

    @property
    def state(self) -> Any:
        """The state, read-only: a callback that wants another one returns it."""
        return self._state

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics by name, read-only; those that `log` added included."""
        return MappingProxyType(self._metrics)

    @property
    def logged(self) -> Mapping[str, Any]:
        """What `log` added."""
        return MappingProxyType(self._logged)

    @property
    def reason(self) -> str | None:
        """Why the run ends here; None if it goes on."""
        return self._reason

    def log(self, **values: Any) -> None:
        """Adds numbers to this line of the history and the records.

        Args:
            **values: Numbers, or arrays with one element, by name.

        Raises:
            TypeError: A value is not one number.
            ValueError: There is a metric of that name already.
        """
        for name, value in values.items():
            if name in self._metrics or name in LINE:
                raise ValueError(f"log: {name!r} is there already; give another name")
            if np.size(value) != 1 or not np.issubdtype(np.asarray(value).dtype, np.number):
                raise TypeError(f"log: {name}: {value!r}; accepted is one number")
            self._logged[name] = self._metrics[name] = float(np.asarray(value).reshape(()))

    def stop(self, reason: str = "callback") -> None:
        """Ends the run here; `fit` gives the reason back as `Result.reason`."""
        self._reason = reason


class EpochReport(_Report):
    """What a callback is told at the end of an epoch.

    Attributes:
        epoch: The number of the epoch, counted from 1.
        epochs: How many there will be.
        metrics: The metrics of the epoch by name, those of the validation with "val_" before.
        state: The state after the epoch. It stays usable as long as the callback keeps it.
        seconds: The seconds of the epoch's training, those before a stop within it included.
        samples_per_second: The rows per second since that stop.
    """

    def __init__(
        self,
        epoch: int,
        epochs: int,
        metrics: Mapping[str, Any],
        state: Any,
        seconds: float,
        samples_per_second: float,
    ) -> None:
        super().__init__(state, metrics)
        self.epoch, self.epochs = epoch, epochs
        self.seconds, self.samples_per_second = seconds, samples_per_second


class StepReport(_Report):
    """What a callback is told after a group of steps.

    Attributes:
        epoch: The number of the running epoch, counted from 1.
        step: How many steps of the whole run are done.
        metrics: The means of the metrics by name, over the steps since the last such report,
            as far as they lie in this epoch.
        state: The state after these steps. It stays usable as long as the callback keeps it.
    """

    def __init__(self, epoch: int, step: int, metrics: Mapping[str, Any], state: Any) -> None:
        super().__init__(state, metrics)
        self.epoch, self.step = epoch, step


Callback = Callable[[EpochReport], Any]


@dataclasses.dataclass(frozen=True)
class EverySteps:
    """Lets `fit` call a function after every so many steps of the run.

    Compiled calls end at these steps; no bit of the result depends on it. What the
    function logs goes to the records as a line of its own.

    Args:
        steps: The number of steps between two calls, counted over the whole run.
        function: A function of a `StepReport`; it may return a new state, which training goes
            on with.

    Raises:
        ValueError: The number of steps is not an integer of at least 1.

    >>> from jaxnet import train
    >>> test = train.EverySteps(100, lambda report: print(report.step, report.metrics["loss"]))
    """

    steps: int
    function: Callable[[StepReport], Any]

    def __post_init__(self) -> None:
        check_integer("steps", self.steps, least=1)
        if not callable(self.function):
            raise TypeError(f"EverySteps: function: {self.function!r}; accepted is a function")


class EachEpoch:
    """A callback with a memory that checkpoints keep.

    Args:
        function: A function of (memory, state, metrics) that gives the new memory and the
            new state.
        memory: A pytree of arrays: the memory before the first epoch.

    With `optim.ReduceLROnPlateau`:

        def cut(memory, state, metrics):
            memory, opt_state = plateau.step(memory, metrics["val_loss"], state.opt_state)
            return memory, state.replace(opt_state=opt_state)

        train.fit(..., callbacks=[train.EachEpoch(cut, plateau.init())])
    """

    def __init__(self, function: Callable[..., tuple[Any, Any]], memory: Any) -> None:
        self.function, self.memory = function, memory

    def __call__(self, report: EpochReport) -> Any:
        self.memory, state = self.function(self.memory, report.state, report.metrics)
        return state


def leaf_like(new: Any, old: jax.Array) -> jax.Array:
    """A leaf that a callback returned, as an array of the dtype that compiled calls go on with."""
    if np.shape(new) != old.shape:
        raise ValueError(
            f"callbacks: one returned a state with an array of shape {np.shape(new)} where there "
            f"was one of shape {old.shape}; a new state has the shapes of report.state"
        )
    weak = getattr(new, "weak_type", False)
    same = isinstance(new, jax.Array) and new.dtype == old.dtype and not weak
    return new if same else jnp.asarray(new, old.dtype)
