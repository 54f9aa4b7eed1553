"""The schedules of torch.optim.lr_scheduler for the learning rate."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from jaxnet._checks import check_choice, check_integer, is_number
from jaxnet.optim._optimizer import Optimizer
from jaxnet.optim._schedule import Group, Schedule

Factor = Callable[[int], float]


def per_group(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """A value for each parameter group: the entries of a list, or one value for all groups."""
    count = len(optimizer.groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}: {len(value)} values; the optimizer has {count} parameter groups")
    return list(value)


def check_between(owner: str, name: str, value: float, open_at_0: bool = False) -> None:
    """Refuses a number outside [0, 1], or outside (0, 1] with open_at_0."""
    if not 0 <= value <= 1 or (open_at_0 and value == 0):
        raise ValueError(f"{owner}: {name}: {value}; accepted is {'(' if open_at_0 else '['}0, 1]")


class LambdaLR(Schedule):
    """A learning rate given by a function of the step: torch's LambdaLR.

    lr = lr_0 f(t) at step t.

    Args:
        optimizer: The optimizer with the learning rate.
        lr_lambda: The function f of the step, an int; or a list with one for each parameter
            group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | list[Factor]) -> None:
        super().__init__(optimizer)
        self.lr_lambdas = _functions(self, lr_lambda)

    def _move(self) -> None:
        self._set([b * f(self._epoch) for b, f in zip(self._base, self.lr_lambdas, strict=True)])

    def _restart(self) -> None:
        self._epoch = -1
        self._step()


class MultiplicativeLR(Schedule):
    """A learning rate multiplied by a function of the step: torch's MultiplicativeLR.

    lr <- lr f(t) at step t.

    Args:
        optimizer: The optimizer with the learning rate.
        lr_lambda: The function f of the step, an int; or a list with one for each parameter
            group.
    """

    def __init__(self, optimizer: Optimizer, lr_lambda: Factor | list[Factor]) -> None:
        super().__init__(optimizer)
        self.lr_lambdas = _functions(self, lr_lambda)

    def _move(self) -> None:
        if not self._initial:
            self._scale()

    def _restart(self) -> None:
        self._epoch = 0
        self._scale()

    def _scale(self) -> None:
        pairs = zip(self._groups, self.lr_lambdas, strict=True)
        self._set([group["lr"] * f(self._epoch) for group, f in pairs])


def _functions(schedule: Schedule, given: Any) -> list[Factor]:
    """The checked function of each parameter group."""
    functions = per_group("lr_lambda", given, schedule.optimizer)
    for function in functions:
        if not callable(function):
            raise TypeError(
                f"{type(schedule).__name__}: lr_lambda: {function!r}; accepted is a function"
            )
    return functions


class StepLR(Schedule):
    """A learning rate multiplied by gamma every step_size steps: torch's StepLR.

    Args:
        optimizer: The optimizer with the learning rate.
        step_size: The number of steps between two changes, at least 1.
        gamma: The factor of each change.
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
    """A learning rate multiplied by gamma at each milestone: torch's MultiStepLR.

    Args:
        optimizer: The optimizer with the learning rate.
        milestones: The steps of the changes. At a step that is listed twice the rate is
            multiplied by gamma^2.
        gamma: The factor of each change.
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
    """A learning rate multiplied by a constant factor at first: torch's ConstantLR.

    Args:
        optimizer: The optimizer with the learning rate.
        factor: The factor until step total_iters, in [0, 1].
        total_iters: The step from which on the factor is 1.
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
    """A learning rate multiplied by a factor that changes linearly: torch's LinearLR.

    Args:
        optimizer: The optimizer with the learning rate.
        start_factor: The factor at step 0, in (0, 1].
        end_factor: The factor from step total_iters on, in [0, 1].
        total_iters: The number of steps from start_factor to end_factor.
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
        # The quotient of this step's factor and the last step's, in torch's form.
        rise = self.end_factor - self.start_factor
        before = self.total_iters * self.start_factor + (self._epoch - 1) * rise
        return group["lr"] * (1.0 + rise / before)

    def _closed(self, group: Group, base: float) -> float:
        done = min(self.total_iters, self._epoch)
        rise = self.end_factor - self.start_factor
        return base * (self.start_factor + rise * done / self.total_iters)


class ExponentialLR(Schedule):
    """A learning rate multiplied by gamma at every step: torch's ExponentialLR.

    Args:
        optimizer: The optimizer with the learning rate.
        gamma: The factor of each step.
    """

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        super().__init__(optimizer)
        self.gamma = gamma

    def _next(self, group: Group, base: float) -> float:
        return group["lr"] if self._initial else group["lr"] * self.gamma

    def _closed(self, group: Group, base: float) -> float:
        return base * self.gamma**self._epoch


class PolynomialLR(Schedule):
    """A learning rate that decreases to 0 as a polynomial: torch's PolynomialLR.

    lr = lr_0 (1 - t / total_iters)^power at step t, and 0 after step total_iters.

    Args:
        optimizer: The optimizer with the learning rate.
        total_iters: The step at which the rate reaches 0, at least 1.
        power: The exponent.
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
    """A learning rate that follows a cosine: torch's CosineAnnealingLR.

    lr = eta_min + (lr_0 - eta_min)(1 + cos(pi t / T_max)) / 2 at step t.

    After step T_max the rate rises again. As in torch, it is computed by a recurrence from
    the rate before, which agrees with the formula if nothing else changes the rate.

    Args:
        optimizer: The optimizer with the learning rate.
        T_max: The number of steps of half a period, at least 1.
        eta_min: The lowest rate.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer)
        check_integer("CosineAnnealingLR: T_max", T_max, least=1)
        self.T_max, self.eta_min = T_max, eta_min

    def _next(self, group: Group, base: float) -> float:
        if self._initial:
            return group["lr"]
        t, T, low = self._epoch, self.T_max, self.eta_min
        # Torch begins by the formula when a run goes on from a later step.
        if self._count == 1 and t > 0:
            return low + (base - low) * (1 + math.cos(t * math.pi / T)) / 2
        # One step after a minimum the recurrence below would divide by 0.
        if (t - 1 - T) % (2 * T) == 0:
            return group["lr"] + (base - low) * (1 - math.cos(math.pi / T)) / 2
        ratio = (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))
        return ratio * (group["lr"] - low) + low

    def _closed(self, group: Group, base: float) -> float:
        cosine = math.cos(math.pi * self._epoch / self.T_max)
        return self.eta_min + (base - self.eta_min) * (1 + cosine) / 2


class CosineAnnealingWarmRestarts(Schedule):
    """A learning rate that falls and restarts: torch's CosineAnnealingWarmRestarts.

    In each period the rate follows a cosine from lr_0 to eta_min.

    Args:
        optimizer: The optimizer with the learning rate.
        T_0: The number of steps of the first period, at least 1.
        T_mult: The factor from the length of one period to the next, at least 1.
        eta_min: The lowest rate.
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
    """A learning rate that goes to swa_lr and stays there: torch.optim.swa_utils.SWALR.

    Args:
        optimizer: The optimizer with the learning rate.
        swa_lr: The last rate, or a list with one for each parameter group.
        anneal_epochs: The number of steps until the last rate, at least 0.
        anneal_strategy: The shape of the change, "cos" or "linear".
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

    def _begin(self) -> None:
        # As in torch the groups keep the last rate, so several SWALR of one optimizer share it.
        for group, end in zip(self._groups, self.swa_lrs, strict=True):
            group["swa_lr"] = end
        super()._begin()

    def _share(self, step: int) -> float:
        t = max(0, min(1, step / max(1, self.anneal_epochs)))
        return t if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def _restart(self) -> None:
        self._epoch = 0
        self._move()

    def _move(self) -> None:
        step = self._count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        # As in torch, the first rate is computed back from the current one, which another schedule
        # of a ChainedScheduler may have changed.
        rates = []
        for group in self._groups:
            end = group["swa_lr"]
            start = end if before == 1 else (group["lr"] - before * end) / (1 - before)
            rates.append(end * now + start * (1 - now))
        self._set(rates)


def check_strategy(owner: str, strategy: str) -> None:
    """Refuses an anneal_strategy other than "cos" and "linear"."""
    check_choice(f"{owner}: anneal_strategy", strategy, ("cos", "linear"))
