"""Several schedules of one optimizer: ChainedScheduler and SequentialLR of torch."""

from bisect import bisect_right
from collections.abc import Sequence

from jaxnet.optim._optimizer import Optimizer
from jaxnet.optim._schedule import Schedule


class _Combined(Schedule):
    """Several schedules of one optimizer."""

    def __init__(self, schedulers: Sequence[Schedule], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"{name}: schedulers: it is empty; at least one is needed")
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, Schedule):
                raise TypeError(
                    f"{name}: schedulers[{i}]: {type(scheduler).__name__}; accepted is a schedule "
                    "of the step (ReduceLROnPlateau is none: it needs a metric)"
                )
        super().__init__(schedulers[0].optimizer if optimizer is None else optimizer)
        for i, scheduler in enumerate(schedulers):
            if scheduler.optimizer is not self.optimizer:
                raise ValueError(
                    f"{name}: schedulers[{i}] was built for another optimizer, "
                    f"{scheduler.optimizer!r}"
                )
        self.schedulers = list(schedulers)

    def _begin(self) -> None:
        # All runs share the same groups, as torch's schedulers share the optimizer's.
        self.schedulers = [scheduler._begun(self._groups) for scheduler in self.schedulers]

    def _undo(self) -> None:
        for scheduler in self.schedulers:
            scheduler._undo()

    def _restart(self) -> None:
        raise ValueError(
            f"{type(self).__name__}: it cannot start at a milestone of SequentialLR, "
            "in torch neither"
        )

    def _changes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for s in self.schedulers for name in s._changes()))


class ChainedScheduler(_Combined):
    """Several schedules that act one after another at each step: torch's ChainedScheduler.

    Args:
        schedulers: The schedules in the order in which they act.
        optimizer: The optimizer of the schedules. None is that of the first one.

    Raises:
        ValueError: There are no schedules, or one was built for another optimizer.
        TypeError: One of them is no schedule of the step, such as ReduceLROnPlateau.
    """

    def __init__(self, schedulers: Sequence[Schedule], optimizer: Optimizer | None = None) -> None:
        super().__init__(schedulers, optimizer)

    def _initial_step(self) -> None:
        self._step()

    def _step(self) -> None:
        for scheduler in self.schedulers:
            scheduler._step()


class SequentialLR(_Combined):
    """One schedule after another: torch's SequentialLR.

    Args:
        optimizer: The optimizer of the schedules.
        schedulers: The schedules in order. Each counts its steps from its own beginning.
        milestones: The steps at which the next schedule begins, one fewer than schedules.

    Raises:
        ValueError: There are no schedules, one was built for another optimizer, or the
            number of milestones is wrong.
        TypeError: One of them is no schedule of the step, such as ReduceLROnPlateau.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]
    ) -> None:
        super().__init__(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(milestones)} milestones for {len(schedulers)} schedulers; "
                "accepted is one milestone fewer than schedulers"
            )
        self.milestones = list(milestones)

    def _begin(self) -> None:
        super()._begin()
        self._epoch = 0
        # The schedules have made their first step when they were built. As in torch that step is
        # taken back, and only the schedule in force makes it again.
        for group in self._groups:
            group["lr"] = group["initial_lr"]
        self._undo()
        self.schedulers[bisect_right(self.milestones, 0)]._initial_step()

    def _initial_step(self) -> None:
        self._step()

    def _step(self) -> None:
        self._epoch += 1
        i = bisect_right(self.milestones, self._epoch)
        if i > 0 and self.milestones[i - 1] == self._epoch:
            self.schedulers[i]._restart()
        else:
            self.schedulers[i]._step()
