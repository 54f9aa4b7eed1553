"""CyclicLR and OneCycleLR: schedules of the learning rate and the momentum."""

import math
from collections.abc import Callable
from typing import Any

from jaxnet._checks import check_choice, check_integer
from jaxnet.optim._lr_scheduler import check_between, check_strategy, per_group
from jaxnet.optim._optimizer import Optimizer
from jaxnet.optim._schedule import Group, Schedule


class _WithMomentum(Schedule):
    """A schedule that may move momentum, or the first of betas, against the rate."""

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

    def _set_momentum(self, values: list[float]) -> None:
        for group, value in zip(self._groups, values, strict=True):
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value


class CyclicLR(_WithMomentum):
    """Up and down between two rates, again and again: torch's CyclicLR.

    Args:
        optimizer: whose learning rate and momentum it is; its own rate is not used.
        base_lr, max_lr: the rates at the ends, or lists, one for each group.
        step_size_up: steps up.
        step_size_down: steps down; as many as up, if None.
        mode: "triangular", "triangular2" (the height halves every cycle) or
            "exp_range" (the height is scaled by gamma^step).
        gamma: for "exp_range".
        scale_fn: in place of mode: the factor of the height, of the cycle (from 1) or
            of the step, by scale_mode.
        scale_mode: "cycle" or "iterations".
        cycle_momentum: moves momentum, or the first of betas, the other way.
        base_momentum, max_momentum: its ends.

    Raises:
        ValueError: an argument is out of range, or there is no momentum to move.
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
        if self.cycle_momentum:
            self._set_momentum(self.max_momentums)
        super()._begin()

    def _scale(self, x: float) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(x)
        if self.mode == "triangular":
            return 1.0
        return 1 / (2.0 ** (x - 1)) if self.mode == "triangular2" else self.gamma**x

    def _step(self) -> None:
        self._count += 1
        self._epoch += 1
        self._move()

    def _restart(self) -> None:
        self._epoch = 0
        self._move()

    def _move(self) -> None:
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
    """Once up and down, momentum the other way: torch's OneCycleLR.

    Args:
        optimizer: whose learning rate and momentum it is; its own rate is not used.
        max_lr: the highest rate, or a list, one for each group.
        total_steps: of the cycle; or else
        epochs, steps_per_epoch: whose product it is.
        pct_start: the share of the cycle on the way up, in [0, 1].
        anneal_strategy: "cos" or "linear".
        cycle_momentum: moves momentum, or the first of betas.
        base_momentum, max_momentum: its ends, or lists.
        div_factor: max_lr over the first rate.
        final_div_factor: the first rate over the last.
        three_phase: down in the same time as up, then to the last rate.

    Raises:
        ValueError: an argument is out of range, there is no momentum to move, or a
            step beyond total_steps is asked for.
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
        if self.cycle_momentum:
            self._set_momentum(self.max_momentums)
            ends = zip(self._groups, self.max_momentums, self.base_momentums, strict=True)
            for group, high, low in ends:
                group["max_momentum"], group["base_momentum"] = high, low
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
