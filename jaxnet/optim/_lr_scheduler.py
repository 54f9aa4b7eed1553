"""torch.optim.lr_scheduler's schedules of the learning rate."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxnet._checks import check_choice, check_integer, is_number
from jaxnet.optim._optimizer import Optimizer
from jaxnet.optim._schedule import Group, Schedule

Factor = Callable[[int], float]


def per_group(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """A value for each parameter group: a list's entries, or the same for all."""
    count = len(optimizer.groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}: {len(value)} values; the optimizer has {count} parameter groups")
    return list(value)


def check_between(owner: str, name: str, value: float, open_at_0: bool = False) -> None:
    """Refuses what lies outside 0 to 1."""
    if not 0 <= value <= 1 or (open_at_0 and value == 0):
        raise ValueError(f"{owner}: {name}: {value}; accepted is {'(' if open_at_0 else '['}0, 1]")


class LambdaLR(Schedule):
    """lr_t = lr_0 f(t): torch's LambdaLR.

    Args:
        optimizer: whose learning rate it is.
        lr_lambda: f of the step, an int; or a list, one for each group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | list[Factor]) -> None:
        super().__init__(optimizer)
        self.lr_lambdas = _functions(self, lr_lambda)

    def _step(self) -> None:
        self._count += 1
        self._epoch += 1
        self._set([b * f(self._epoch) for b, f in zip(self._base, self.lr_lambdas, strict=True)])

    def _restart(self) -> None:
        self._epoch = -1
        self._step()


class MultiplicativeLR(Schedule):
    """lr_t = lr_(t-1) f(t): torch's MultiplicativeLR.

    Args:
        optimizer: whose learning rate it is.
        lr_lambda: f of the step, an int; or a list, one for each group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | list[Factor]) -> None:
        super().__init__(optimizer)
        self.lr_lambdas = _functions(self, lr_lambda)

    def _step(self) -> None:
        self._count += 1
        self._epoch += 1
        if not self._initial:
            self._scale()

    def _restart(self) -> None:
        self._epoch = 0
        self._scale()

    def _scale(self) -> None:
        pairs = zip(self._groups, self.lr_lambdas, strict=True)
        self._set([group["lr"] * f(self._epoch) for group, f in pairs])


def _functions(schedule: Schedule, given: Any) -> list[Factor]:
    functions = per_group("lr_lambda", given, schedule.optimizer)
    for function in functions:
        if not callable(function):
            raise TypeError(
                f"{type(schedule).__name__}: lr_lambda: {function!r}; accepted is a function"
            )
    return functions


class StepLR(Schedule):
    """lr times gamma every step_size steps: torch's StepLR.

    Args:
        optimizer: whose learning rate it is.
        step_size: at least 1.
        gamma: the factor.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        check_integer("StepLR: step_size", step_size, least=1)
        self.step_size, self.gamma = step_size, gamma

    def _next(self, group: Group, base: float) -> float:
        if self._epoch == 0 or self._epoch % self.step_size != 0:
            return group["lr"]
        return group["lr"] * self.gamma

    def _closed(self, group: Group, base: float) -> float:
        return base * self.gamma ** (self._epoch // self.step_size)


class MultiStepLR(Schedule):
    """lr times gamma at each milestone: torch's MultiStepLR.

    Args:
        optimizer: whose learning rate it is.
        milestones: steps; one that is there twice counts twice.
        gamma: the factor.
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        super().__init__(optimizer)
        self.milestones, self.gamma = Counter(milestones), gamma

    def _next(self, group: Group, base: float) -> float:
        if self._epoch not in self.milestones:
            return group["lr"]
        return group["lr"] * self.gamma ** self.milestones[self._epoch]

    def _closed(self, group: Group, base: float) -> float:
        return base * self.gamma ** bisect_right(sorted(self.milestones.elements()), self._epoch)


class ConstantLR(Schedule):
    """lr times factor until step total_iters: torch's ConstantLR.

    Args:
        optimizer: whose learning rate it is.
        factor: in [0, 1].
        total_iters: the step from which on the full rate holds.
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5) -> None:
        super().__init__(optimizer)
        check_between("ConstantLR", "factor", factor)
        self.factor, self.total_iters = factor, total_iters

    def _next(self, group: Group, base: float) -> float:
        if self._epoch == 0:
            return group["lr"] * self.factor
        if self._epoch != self.total_iters:
            return group["lr"]
        return group["lr"] * (1.0 / self.factor)

    def _closed(self, group: Group, base: float) -> float:
        return base * (1.0 if self._epoch >= self.total_iters else self.factor)


class LinearLR(Schedule):
    """lr times a factor that moves in a line over total_iters steps: torch's LinearLR.

    Args:
        optimizer: whose learning rate it is.
        start_factor: in (0, 1].
        end_factor: in [0, 1].
        total_iters: steps until the end factor holds.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        super().__init__(optimizer)
        check_between("LinearLR", "start_factor", start_factor, open_at_0=True)
        check_between("LinearLR", "end_factor", end_factor)
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = total_iters

    def _next(self, group: Group, base: float) -> float:
        if self._epoch == 0:
            return group["lr"] * self.start_factor
        if self._initial or self._epoch > self.total_iters:
            return group["lr"]
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self._epoch - 1) * rise
        return group["lr"] * (1.0 + rise / before)

    def _closed(self, group: Group, base: float) -> float:
        done = min(self.total_iters, self._epoch)
        rise = self.end_factor - self.start_factor
        return base * (self.start_factor + rise * done / self.total_iters)


class ExponentialLR(Schedule):
    """lr times gamma at every step: torch's ExponentialLR."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        super().__init__(optimizer)
        self.gamma = gamma

    def _next(self, group: Group, base: float) -> float:
        return group["lr"] if self._initial else group["lr"] * self.gamma

    def _closed(self, group: Group, base: float) -> float:
        return base * self.gamma**self._epoch


class PolynomialLR(Schedule):
    """lr_0 (1 - t / total_iters)^power: torch's PolynomialLR.

    Args:
        optimizer: whose learning rate it is.
        total_iters: the step at which it reaches 0, at least 1.
        power: of the polynomial.
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0) -> None:
        super().__init__(optimizer)
        check_integer("PolynomialLR: total_iters", total_iters, least=1)
        self.total_iters, self.power = total_iters, power

    def _next(self, group: Group, base: float) -> float:
        if self._initial or self._epoch > self.total_iters:
            return group["lr"]
        now = 1.0 - self._epoch / self.total_iters
        before = 1.0 - (self._epoch - 1) / self.total_iters
        return group["lr"] * (now / before) ** self.power

    def _closed(self, group: Group, base: float) -> float:
        return base * (1.0 - min(self.total_iters, self._epoch) / self.total_iters) ** self.power


class CosineAnnealingLR(Schedule):
    """eta_min + (lr_0 - eta_min)(1 + cos(pi t / T_max)) / 2: torch's CosineAnnealingLR.

    It goes on beyond T_max, up again. The number is torch's recurrence's, which
    follows the formula as long as nothing else changes the rate.

    Args:
        optimizer: whose learning rate it is.
        T_max: half a period, at least 1.
        eta_min: the lowest rate.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer)
        check_integer("CosineAnnealingLR: T_max", T_max, least=1)
        self.T_max, self.eta_min = T_max, eta_min

    def _next(self, group: Group, base: float) -> float:
        if self._initial:
            return group["lr"]
        t, T, low = self._epoch, self.T_max, self.eta_min
        if self._count == 1 and t > 0:
            return low + (base - low) * (1 + math.cos(t * math.pi / T)) / 2
        if (t - 1 - T) % (2 * T) == 0:
            return group["lr"] + (base - low) * (1 - math.cos(math.pi / T)) / 2
        ratio = (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))
        return ratio * (group["lr"] - low) + low

    def _closed(self, group: Group, base: float) -> float:
        cosine = math.cos(math.pi * self._epoch / self.T_max)
        return self.eta_min + (base - self.eta_min) * (1 + cosine) / 2


class CosineAnnealingWarmRestarts(Schedule):
    """A cosine from lr_0 to eta_min, again and again: torch's CosineAnnealingWarmRestarts.

    Args:
        optimizer: whose learning rate it is.
        T_0: steps of the first run, at least 1.
        T_mult: factor from run to run, at least 1.
        eta_min: the lowest rate.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0
    ) -> None:
        super().__init__(optimizer)
        check_integer("CosineAnnealingWarmRestarts: T_0", T_0, least=1)
        check_integer("CosineAnnealingWarmRestarts: T_mult", T_mult, least=1)
        if not is_number(eta_min):
            raise ValueError(
                f"CosineAnnealingWarmRestarts: eta_min: {eta_min!r}; accepted is a number"
            )
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        self._cur, self._length = -1, T_0

    def _step(self) -> None:
        self._count += 1
        if self._epoch < 0:
            self._cur, self._length = 0, self.T_0
        else:
            self._cur += 1
            if self._cur >= self._length:
                self._cur %= self._length
                self._length *= self.T_mult
        self._epoch += 1
        self._set([self._next(group, base) for group, base in self._pairs()])

    def _next(self, group: Group, base: float) -> float:
        cosine = math.cos(math.pi * self._cur / self._length)
        return self.eta_min + (base - self.eta_min) * (1 + cosine) / 2


class SWALR(Schedule):
    """From the optimizer's rate to swa_lr, where it stays: torch.optim.swa_utils.SWALR.

    Args:
        optimizer: whose learning rate it is.
        swa_lr: the rate at the end, or a list, one for each group.
        anneal_epochs: steps on the way, at least 0.
        anneal_strategy: "cos" or "linear".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
    ) -> None:
        super().__init__(optimizer)
        check_integer("SWALR: anneal_epochs", anneal_epochs, least=0)
        check_strategy("SWALR", anneal_strategy)
        self.swa_lrs = per_group("swa_lr", swa_lr, optimizer)
        self.anneal_epochs, self.anneal_strategy = anneal_epochs, anneal_strategy

    def _share(self, step: int) -> float:
        t = max(0, min(1, step / max(1, self.anneal_epochs)))
        return t if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def _step(self) -> None:
        self._count += 1
        self._epoch += 1
        step = self._count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        rates = []
        for group, end in zip(self._groups, self.swa_lrs, strict=True):
            start = end if before == 1 else (group["lr"] - before * end) / (1 - before)
            rates.append(end * now + start * (1 - now))
        self._set(rates)


def check_strategy(owner: str, strategy: str) -> None:
    """Refuses an anneal_strategy that is not there."""
    check_choice(f"{owner}: anneal_strategy", strategy, ("cos", "linear"))


class _Combined(Schedule):
    """Schedules of one optimizer together."""

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
    """Several schedules, each applied to the result of the one before: torch's ChainedScheduler.

    Args:
        schedulers: in the order of application.
        optimizer: theirs.
    """

    def __init__(self, schedulers: Sequence[Schedule], optimizer: Optimizer | None = None) -> None:
        super().__init__(schedulers, optimizer)

    def _initial_step(self) -> None:
        self._step()

    def _step(self) -> None:
        for scheduler in self.schedulers:
            scheduler._step()


class SequentialLR(_Combined):
    """One schedule after another, changing at milestones: torch's SequentialLR.

    Args:
        optimizer: theirs.
        schedulers: in order; each counts its steps from its own beginning.
        milestones: the steps at which the next one takes over, one fewer.
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
