"""The base class of all schedules, and the optimizer that follows a schedule."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import _hints as hints
from jaxnet._checks import check_integer
from jaxnet.optim._hyperparams import map_states, set_hyperparams, states, stored
from jaxnet.optim._optimizer import Optimizer

Group = dict[str, Any]


class Schedule:
    """The hyperparameters of an optimizer as a function of the step.

    `schedule(t)` gives the values after t calls of torch's `scheduler.step()`, as one
    dictionary for each parameter group. The caller decides whether t counts updates or
    epochs. The values are computed by torch's recurrences in double precision on the host
    and agree with torch to the last digit.

    A schedule can be used in three ways:

    - by hand: `opt_state = schedule.apply(opt_state, epoch)`
    - in the compiled step: `optim.scheduled(optimizer, schedule, steps)`
    - as arrays: `schedule.table(steps)`

    There is no argument `last_epoch` as in torch: `schedule(30)` gives the values of
    epoch 30.

    Args:
        optimizer: The optimizer with the hyperparameters.

    Raises:
        TypeError: The optimizer is not one of jaxnet.optim.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: optimizer: {type(optimizer).__name__}; "
                "accepted is an optimizer of jaxnet.optim"
            )
        self.optimizer = optimizer
        # The values of the steps so far. The recurrences only go forward, so one run is stored
        # here and continues when a later step is asked for.
        self._known: list[tuple[Group, ...]] = []
        self._run: Schedule | None = None

    def __getattr__(self, name: str) -> Any:
        # Python calls this only if there is no such attribute.
        raise hints.missing_attribute(self, name, hints.SCHEDULE)

    def __call__(self, step: int) -> tuple[Group, ...]:
        """The scheduled hyperparameters at a step.

        Args:
            step: The number of the step, at least 0.

        Returns:
            For each parameter group a dictionary with "lr" and, if the schedule changes
            them, "momentum" or "betas".
        """
        check_integer(f"{type(self).__name__}: step", step, least=0)
        if self._run is None:
            self._run = self._begun([dict(group.defaults) for group in self.optimizer.groups])
            self._known = [self._run._report()]
        while len(self._known) <= step:
            self._run._step()
            self._known.append(self._run._report())
        return tuple(dict(group) for group in self._known[step])

    def lr(self, step: int) -> list[float]:
        """The learning rates of the parameter groups at a step: torch's `get_last_lr()`."""
        return [group["lr"] for group in self(step)]

    def apply(self, opt_state: Any, step: int) -> Any:
        """The optimizer's state with the hyperparameters of a step; nothing is recompiled.

        Args:
            opt_state: The state of the schedule's optimizer, plain or wrapped.
            step: The number of the step, at least 0.

        Returns:
            A new state.

        Raises:
            ValueError: The state has another number of parameter groups.
        """
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
        """The values of the steps 0 to steps - 1.

        Args:
            steps: The number of steps, at least 1.

        Returns:
            For each parameter group a dictionary of float64 arrays (steps,) by name. Of
            `betas` only the first number changes, and its name is "beta1".
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

    # The methods below make one run over the steps, on a private copy of the schedule and of the
    # groups. Their order is torch's, because schedules that are combined depend on it.

    changes: tuple[str, ...] = ()

    def _begun(self, groups: list[Group]) -> Self:
        """A copy of the schedule that has made its first step and changes these groups."""
        run = copy.copy(self)
        run._groups = groups
        run._begin()
        return run

    def _begin(self) -> None:
        """Changes the groups as torch's constructor does."""
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
        self._move()

    def _move(self) -> None:
        """Sets the learning rates of step `self._epoch`."""
        self._set([self._next(group, base) for group, base in self._pairs()])

    def _restart(self) -> None:
        """Step 0 again, by the closed form if there is one, as SequentialLR wants it."""
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
        """The learning rate at step `self._epoch`; the rate before is group["lr"]."""
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
    """The state of a `scheduled` optimizer.

    Attributes:
        tables: The values of every step, a dictionary of arrays (steps,) for each group.
        inner: The state of the wrapped optimizer.
    """

    tables: tuple[dict[str, jax.Array], ...]
    inner: Any


def scheduled(optimizer: Optimizer, schedule: Schedule, steps: int, every: int = 1) -> Optimizer:
    """An optimizer that takes its hyperparameters from a schedule at every update.

    The values of the schedule are computed once on the host and looked up by the number of
    updates. Thus the training step is compiled only once, and each value is rounded only
    once, to the dtype of the hyperparameter.

    Args:
        optimizer: The optimizer, plain or with parameter groups.
        schedule: The schedule, built for this optimizer.
        steps: The number of steps of the schedule. After them the last value stays.
        every: The number of updates in one step of the schedule. For a schedule by epochs
            it is the number of batches in an epoch.

    Returns:
        An optimizer with the same parameter groups.

    Raises:
        ValueError: An argument is out of range, the schedule was built for another
            optimizer, or (in init) the schedule changes a hyperparameter that the optimizer
            was built without, or there is another schedule inside.

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
        if has_schedule(inner):
            raise ValueError(
                "scheduled: there is a schedule inside already, whose numbers would hold; combine "
                "them by optim.ChainedScheduler or optim.SequentialLR"
            )
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
        # The count is that of the optimizer itself: around `accumulate` or `skip_nonfinite` a call
        # without an update does not advance the schedule.
        index = states(state.inner)[0].step // every
        inner = _at(state.inner, state.tables, index)
        updates, inner = optimizer.update(grads, inner, params, **extra)
        return updates, ScheduledState(state.tables, inner)

    return optimizer.around("scheduled", init, update)


def _at(inner: Any, tables: tuple[Mapping[str, jax.Array], ...], index: Any) -> Any:
    """The optimizer's state with the hyperparameters of the tables at an index."""
    count = iter(tables)

    def change(_: int, state: Any) -> Any:
        table = next(count)
        # With mode="clip" the last value stays after the last step.
        new = {key: jnp.take(column, index, mode="clip") for key, column in table.items()}
        return state._replace(hyperparams={**state.hyperparams, **new})

    return map_states(change, inner)


def has_schedule(opt_state: Any) -> bool:
    """Whether the state of an optimizer has that of `scheduled` in it, at any depth."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, ScheduledState))
    return any(isinstance(leaf, ScheduledState) for leaf in leaves)
