"""What a schedule is, and the optimizer that follows one."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import _hints as hints
from jaxnet._checks import check_integer
from jaxnet.optim._optimizer import (
    Optimizer,
    map_states,
    set_hyperparams,
    states,
    stored,
)

Group = dict[str, Any]


class Schedule:
    """The hyperparameters of an optimizer as a function of the step.

    `schedule(t)` gives what is in force after t calls of torch's `scheduler.step()`:
    one dictionary a parameter group. Whether t counts updates or epochs is up to
    the caller. The numbers come from torch's own recurrences, in double precision on
    the host, so they are torch's to the last digit.

    Three ways to use it:

    - by hand: `opt_state = schedule.apply(opt_state, epoch)`
    - compiled, with the state: `optim.scheduled(optimizer, schedule, steps)`
    - as arrays: `schedule.table(steps)`

    Torch's `last_epoch` is not there: to go on from epoch 30, ask for `schedule(30)`.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: optimizer: {type(optimizer).__name__}; "
                "accepted is an optimizer of jaxnet.optim"
            )
        self.optimizer = optimizer
        self._known: list[tuple[Group, ...]] = []
        self._run: Schedule | None = None

    def __getattr__(self, name: str) -> Any:
        # runs only when there is no such attribute
        raise hints.missing_attribute(self, name, hints.SCHEDULE)

    def __call__(self, step: int) -> tuple[Group, ...]:
        """Per group, "lr" and where it is scheduled "momentum" or "betas", at a step."""
        check_integer(f"{type(self).__name__}: step", step, least=0)
        if self._run is None:
            self._run = self._begun([dict(group.defaults) for group in self.optimizer.groups])
            self._known = [self._run._report()]
        while len(self._known) <= step:
            self._run._step()
            self._known.append(self._run._report())
        return tuple(dict(group) for group in self._known[step])

    def lr(self, step: int) -> list[float]:
        """The learning rates of the groups at a step: torch's `get_last_lr()`."""
        return [group["lr"] for group in self(step)]

    def apply(self, opt_state: Any, step: int) -> Any:
        """The optimizer's state with the hyperparameters of a step; nothing is recompiled."""
        groups = self(step)
        if len(states(opt_state)) != len(groups):
            raise ValueError(
                f"opt_state: it has {len(states(opt_state))} parameter groups, "
                f"the schedule's optimizer {len(groups)}"
            )
        for i, values in enumerate(groups):
            opt_state = set_hyperparams(opt_state, group=i, **values)
        return opt_state

    def table(self, steps: int) -> tuple[dict[str, np.ndarray], ...]:
        """The values of steps 0 to steps - 1, per group and name, in float64.

        Of `betas` only the first changes; it is there as "beta1".
        """
        check_integer(f"{type(self).__name__}: steps", steps, least=1)
        rows = [self(step) for step in range(steps)]
        tables = []
        for i in range(len(rows[0])):
            columns = {name: [row[i][name] for row in rows] for name in rows[0][i]}
            if "betas" in columns:
                columns["beta1"] = [betas[0] for betas in columns.pop("betas")]
            tables.append({name: np.asarray(values) for name, values in columns.items()})
        return tuple(tables)

    # From here on: one run over the groups, on a private copy of the schedule. The
    # order of what happens is torch's, because combined schedules depend on it.

    changes: tuple[str, ...] = ()

    def _begun(self, groups: list[Group]) -> Self:
        run = copy.copy(self)
        run._groups = groups
        run._begin()
        return run

    def _begin(self) -> None:
        """What torch's constructor does to the groups."""
        for group in self._groups:
            group.setdefault("initial_lr", group["lr"])
        self._base = [group["initial_lr"] for group in self._groups]
        self._epoch = -1
        self._initial_step()

    def _initial_step(self) -> None:
        self._count = 0
        self._initial = True
        self._step()
        self._initial = False

    def _step(self) -> None:
        self._count += 1
        self._epoch += 1
        self._set([self._next(group, base) for group, base in self._pairs()])

    def _restart(self) -> None:
        """Step 0 again, by the closed form if there is one."""
        self._epoch = 0
        self._set([self._closed(group, base) for group, base in self._pairs()])

    def _undo(self) -> None:
        self._epoch -= 1

    def _pairs(self) -> list[tuple[Group, float]]:
        return list(zip(self._groups, self._base, strict=True))

    def _set(self, rates: list[float]) -> None:
        for group, rate in zip(self._groups, rates, strict=True):
            group["lr"] = rate

    def _next(self, group: Group, base: float) -> float:
        """The learning rate at `self._epoch` from the one before, group["lr"]."""
        raise NotImplementedError

    def _closed(self, group: Group, base: float) -> float:
        return self._next(group, base)

    def _report(self) -> tuple[Group, ...]:
        names = ("lr", *self._changes())
        return tuple(
            {name: group[name] for name in names if name in group} for group in self._groups
        )

    def _changes(self) -> tuple[str, ...]:
        return self.changes

    _groups: list[Group]
    _base: list[float]
    _epoch: int
    _count: int
    _initial: bool


class ScheduledState(NamedTuple):
    """The values of every step, per group, and the state of the optimizer within."""

    tables: tuple[dict[str, jax.Array], ...]
    inner: Any


def scheduled(optimizer: Optimizer, schedule: Schedule, steps: int, every: int = 1) -> Optimizer:
    """The optimizer with its hyperparameters taken from a schedule at every update.

    The schedule's values are worked out once, when the state is made, and looked up
    by the number of updates done: the training step is compiled once, and inside it
    nothing is rounded but the value itself.

    Args:
        optimizer: of `jaxnet.optim`, plain or with groups.
        schedule: built for this optimizer.
        steps: of the schedule; beyond them its last value stays.
        every: updates a step of the schedule: the number of batches an epoch for a
            schedule by epochs.

    >>> from jaxnet import optim
    >>> plain = optim.SGD(lr=0.1)
    >>> optimizer = optim.scheduled(plain, optim.StepLR(plain, step_size=2), steps=6)
    >>> params = {"weight": jnp.zeros(3)}
    >>> state = optimizer.init(params)
    >>> for _ in range(3):
    ...     _, state = optimizer.update(params, state, params)
    >>> round(float(optim.get_hyperparams(state)["lr"]), 6)
    0.01
    """
    check_integer("scheduled: every", every, least=1)
    if schedule.optimizer.groups is not optimizer.groups and (
        [group.defaults for group in schedule.optimizer.groups]
        != [group.defaults for group in optimizer.groups]
    ):
        raise ValueError(
            f"scheduled: the schedule was built for {schedule.optimizer!r}, not for {optimizer!r}"
        )
    values = schedule.table(steps)

    def init(params: Any) -> ScheduledState:
        inner = optimizer.init(params)
        tables = []
        for state, table in zip(states(inner), values, strict=True):
            columns: dict[str, jax.Array] = {}
            for name, column in table.items():
                form = stored(name, column, state.hyperparams)
                if not form:
                    raise ValueError(
                        f"scheduled: {name}: no hyperparameter of {optimizer!r}'s state; "
                        "an optimizer whose momentum is scheduled needs one above 0 to begin with"
                    )
                columns |= {
                    key: jnp.asarray(value, state.hyperparams[key].dtype)
                    for key, value in form.items()
                }
            tables.append(columns)
        return ScheduledState(tuple(tables), _at(inner, tuple(tables), 0))

    def update(
        grads: Any, state: ScheduledState, params: Any = None, **extra: Any
    ) -> tuple[Any, ScheduledState]:
        index = states(state.inner)[0].step // every
        inner = _at(state.inner, state.tables, index)
        updates, inner = optimizer.update(grads, inner, params, **extra)
        return updates, ScheduledState(state.tables, inner)

    return optimizer.around("scheduled", init, update)


def _at(inner: Any, tables: tuple[Mapping[str, jax.Array], ...], index: Any) -> Any:
    count = iter(tables)

    def change(_: int, state: Any) -> Any:
        table = next(count)
        # clip: beyond the last step the last value
        new = {key: jnp.take(column, index, mode="clip") for key, column in table.items()}
        return state._replace(hyperparams={**state.hyperparams, **new})

    return map_states(change, inner)
