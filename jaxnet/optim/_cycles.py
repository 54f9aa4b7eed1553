"""CyclicLR and OneCycleLR, the schedules of both the learning rate and the momentum."""

import math
from collections.abc import Callable
from typing import Any

from jaxnet._checks import check_choice, check_integer
from jaxnet.optim._lr_scheduler import check_between, check_strategy, per_group
from jaxnet.optim._optimizer import Optimizer
from jaxnet.optim._schedule import Group, Schedule


class _WithMomentum(Schedule):
    """A schedule that can also change the momentum, or betas[0], against the learning rate."""

    cycle_momentum: bool

    def _bind_momentum(self, base_momentum: Any, max_momentum: Any) -> None:
        name = type(self).__name__
        self.base_momentums = per_group("base_momentum", base_momentum, self.optimizer)
        self.max_momentums = per_group("max_momentum", max_momentum, self.optimizer)
        for group in self.optimizer.groups if self.cycle_momentum else ():
            if "betas" in group.defaults:
                continue
            if "momentum" not in group.defaults:
                raise ValueError(
                    f"{name}: cycle_momentum=True: {group.name} has neither momentum nor betas; "
                    "give cycle_momentum=False"
                )
            if group.defaults["momentum"] == 0:
                raise ValueError(
                    f"{name}: cycle_momentum=True: {group!r} keeps no momentum buffer; build it "
                    "with a momentum above 0, or give cycle_momentum=False"
                )

    def _changes(self) -> tuple[str, ...]:
        return ("momentum", "betas") if self.cycle_momentum else ()

    def _begin_momentum(self) -> None:
        if self.cycle_momentum:
            self._set_momentum(self.max_momentums)
            # As in torch the groups keep them, so the schedules of one optimizer share them.
            ends = zip(self._groups, self.max_momentums, self.base_momentums, strict=True)
            for group, high, low in ends:
                group["max_momentum"], group["base_momentum"] = high, low

    def _set_momentum(self, values: list[float]) -> None:
        for group, value in zip(self._groups, values, strict=True):
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value


class CyclicLR(_WithMomentum):
    """A learning rate that rises and falls between two rates periodically: torch's CyclicLR.

    Args:
        optimizer: The optimizer with the learning rate and momentum. The learning rate that
            it was built with is not used.
        base_lr, max_lr: The lowest and the highest rate, or lists with one for each
            parameter group.
        step_size_up: The number of steps from base_lr to max_lr.
        step_size_down: The number of steps from max_lr to base_lr. None is step_size_up.
        mode: The shape: "triangular", "triangular2" (the difference from base_lr halves
            every cycle) or "exp_range" (the difference is multiplied by gamma^step).
        gamma: The base of the factor in mode "exp_range".
        scale_fn: A function that gives the factor of the difference from base_lr and takes
            the place of mode. Its argument is chosen by scale_mode.
        scale_mode: The argument of scale_fn: "cycle", the number of the cycle from 1 on, or
            "iterations", the number of the step.
        cycle_momentum: Whether momentum, or betas[0], changes too, in the other direction.
        base_momentum, max_momentum: The lowest and the highest momentum, or lists.

    Raises:
        ValueError: An argument is out of range, or the optimizer has no momentum to change.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
    ) -> None:
        super().__init__(optimizer)
        modes = ("triangular", "triangular2", "exp_range")
        if scale_fn is None:
            check_choice("CyclicLR: mode", mode, modes, also="any mode with a scale_fn")
        check_choice("CyclicLR: scale_mode", scale_mode, ("cycle", "iterations"))
        for name, value in (("step_size_up", step_size_up), ("step_size_down", step_size_down)):
            if value is not None and not value > 0:
                raise ValueError(f"CyclicLR: {name}: {value}; accepted is a number above 0")
        self.base_lrs = per_group("base_lr", base_lr, optimizer)
        self.max_lrs = per_group("max_lr", max_lr, optimizer)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size = float(step_size_up) + float(down)
        self.step_ratio = float(step_size_up) / self.total_size
        self.mode, self.gamma, self.scale_fn = mode, gamma, scale_fn
        self.by_cycle = mode != "exp_range" if scale_fn is None else scale_mode == "cycle"
        self.cycle_momentum = cycle_momentum
        self._bind_momentum(base_momentum, max_momentum)

    def _begin(self) -> None:
        self._set(self.base_lrs)
        self._begin_momentum()
        super()._begin()
        # As in torch the first rate is the optimizer's own if another schedule was built before.
        self._set(self._base)

    def _scale(self, x: float) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(x)
        if self.mode == "triangular":
            return 1.0
        return 1 / (2.0 ** (x - 1)) if self.mode == "triangular2" else self.gamma**x

    def _restart(self) -> None:
        self._epoch = 0
        self._move()

    def _move(self) -> None:
        # As in torch, from the step alone and not from the rate before: no rounding adds up.
        cycle = math.floor(1 + self._epoch / self.total_size)
        x = 1.0 + self._epoch / self.total_size - cycle
        rising = x <= self.step_ratio
        height = x / self.step_ratio if rising else (x - 1) / (self.step_ratio - 1)
        scale = self._scale(cycle if self.by_cycle else self._epoch)
        pairs = zip(self.base_lrs, self.max_lrs, strict=True)
        rates = [low + (high - low) * height * scale for low, high in pairs]
        if self.cycle_momentum:
            pairs = zip(self.base_momentums, self.max_momentums, strict=True)
            self._set_momentum([high - (high - low) * height * scale for low, high in pairs])
        self._set(rates)


class OneCycleLR(_WithMomentum):
    """A learning rate that rises and falls once: torch's OneCycleLR.

    Args:
        optimizer: The optimizer with the learning rate and momentum. The learning rate that
            it was built with is not used.
        max_lr: The highest rate, or a list with one for each parameter group.
        total_steps: The number of steps of the cycle. None is epochs * steps_per_epoch.
        epochs, steps_per_epoch: The number of epochs and of steps in each of them; used
            only if total_steps is None.
        pct_start: The share of the cycle in which the rate rises, in [0, 1].
        anneal_strategy: The shape of the rise and fall, "cos" or "linear".
        cycle_momentum: Whether momentum, or betas[0], changes too, in the other direction.
        base_momentum, max_momentum: The lowest and the highest momentum, or lists.
        div_factor: The quotient of max_lr and the first rate.
        final_div_factor: The quotient of the first rate and the last rate.
        three_phase: Whether the rate falls to the first rate in as many steps as it rose,
            and then to the last rate in a third phase.

    Raises:
        ValueError: An argument is out of range, the optimizer has no momentum to change, or
            a step beyond total_steps is asked for.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        super().__init__(optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or both epochs and steps_per_epoch")
            check_integer("OneCycleLR: epochs", epochs, least=1)
            check_integer("OneCycleLR: steps_per_epoch", steps_per_epoch, least=1)
            total_steps = epochs * steps_per_epoch
        check_integer("OneCycleLR: total_steps", total_steps, least=1)
        check_between("OneCycleLR", "pct_start", pct_start)
        check_strategy("OneCycleLR", anneal_strategy)
        self.total_steps, self.anneal_strategy = total_steps, anneal_strategy
        self.cycle_momentum = cycle_momentum
        self._bind_momentum(base_momentum, max_momentum)
        self.max_lrs = per_group("max_lr", max_lr, optimizer)
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        # Each phase: its last step, and the names of the rates and momenta between which it
        # goes. A number of steps counts from 0, hence the -1 and -2.
        up = float(pct_start * total_steps) - 1
        self.phases: list[tuple[float, str, str, str, str]]
        if three_phase:
            down = float(2 * pct_start * total_steps) - 2
            self.phases = [
                (up, "initial_lr", "max_lr", "max_momentum", "base_momentum"),
                (down, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
                (total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
            ]
        else:
            self.phases = [
                (up, "initial_lr", "max_lr", "max_momentum", "base_momentum"),
                (total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum"),
            ]

    def _begin(self) -> None:
        for group, high in zip(self._groups, self.max_lrs, strict=True):
            group["initial_lr"] = high / self.div_factor
            group["max_lr"] = high
            group["min_lr"] = group["initial_lr"] / self.final_div_factor
        self._begin_momentum()
        super()._begin()

    def _next(self, group: Group, base: float) -> float:
        t = self._epoch
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step: {t}; the cycle has {self.total_steps}")
        start = 0.0
        for phase in self.phases:
            end = phase[0]
            if t <= end or phase is self.phases[-1]:
                break
            start = end
        share = (t - start) / (end - start)
        if self.cycle_momentum:
            value = self._anneal(group[phase[3]], group[phase[4]], share)
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value
        return self._anneal(group[phase[1]], group[phase[2]], share)

    def _anneal(self, start: float, end: float, share: float) -> float:
        if self.anneal_strategy == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
