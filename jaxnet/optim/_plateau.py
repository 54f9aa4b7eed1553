"""Lower learning rates when a metric stops improving."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet._checks import check_choice
from jaxnet.optim._lr_scheduler import per_group
from jaxnet.optim._optimizer import Optimizer, map_states


class PlateauState(NamedTuple):
    """The best metric so far, bad epochs in a row, and epochs of rest left."""

    best: jax.Array
    num_bad_epochs: jax.Array
    cooldown_counter: jax.Array


class ReduceLROnPlateau:
    """lr times factor after more than `patience` epochs without progress: torch's class.

    Args:
        optimizer: whose learning rates they are.
        mode: "min" or "max": which way is better.
        factor: below 1.
        patience: bad epochs that are borne; the next one acts (optax's acts one earlier).
        threshold: how much better counts as better.
        threshold_mode: "rel", a share of the best, or "abs".
        cooldown: epochs after a cut in which bad ones do not count.
        min_lr: the lowest rate, or a list, one for each group.
        eps: a cut smaller than that is not made.

    Raises:
        ValueError: an argument is out of range.

    Its state is a pytree and `step` is pure, so it runs compiled too; a learning rate
    in float32 is rounded once at each cut.

    >>> from jaxnet import optim
    >>> optimizer = optim.SGD(lr=0.1)
    >>> plateau = optim.ReduceLROnPlateau(optimizer, patience=1)
    >>> opt_state, state = optimizer.init({"weight": jnp.zeros(3)}), plateau.init()
    >>> for loss in (1.0, 1.0, 1.0):
    ...     state, opt_state = plateau.step(state, loss, opt_state)
    >>> round(float(optim.get_hyperparams(opt_state)["lr"]), 6)
    0.01
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"ReduceLROnPlateau: optimizer: {type(optimizer).__name__}; "
                "accepted is an optimizer of jaxnet.optim"
            )
        if not factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor: {factor}; accepted is a number below 1")
        check_choice("ReduceLROnPlateau: mode", mode, ("min", "max"))
        check_choice("ReduceLROnPlateau: threshold_mode", threshold_mode, ("rel", "abs"))
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.eps = cooldown, eps
        self.min_lrs = per_group("min_lr", min_lr, optimizer)

    def init(self) -> PlateauState:
        """The state before the first epoch."""
        worst = math.inf if self.mode == "min" else -math.inf
        count = jnp.zeros((), jnp.int32)
        return PlateauState(jnp.asarray(worst, jnp.result_type(float)), count, count)

    def step(self, state: PlateauState, metric: Any, opt_state: Any) -> tuple[PlateauState, Any]:
        """One epoch's metric: the new state and the optimizer's, with its rates cut or not."""
        metric = jnp.asarray(metric, state.best.dtype)
        if metric.ndim != 0:
            raise ValueError(f"metric: shape {metric.shape}; accepted is one number")
        better = self._better(metric, state.best)
        bad = jnp.where(better, 0, state.num_bad_epochs + 1)
        resting = state.cooldown_counter > 0
        rest = jnp.where(resting, state.cooldown_counter - 1, state.cooldown_counter)
        bad = jnp.where(resting, 0, bad)
        cut = bad > self.patience
        lows = iter(self.min_lrs)

        def change(_: int, group: Any) -> Any:
            lr = group.hyperparams["lr"]
            new = jnp.maximum(lr * self.factor, next(lows))
            new = jnp.where(cut & (lr - new > self.eps), new, lr).astype(lr.dtype)
            return group._replace(hyperparams={**group.hyperparams, "lr": new})

        return (
            PlateauState(
                jnp.where(better, metric, state.best),
                jnp.where(cut, 0, bad),
                jnp.where(cut, self.cooldown, rest),
            ),
            map_states(change, opt_state),
        )

    def _better(self, metric: jax.Array, best: jax.Array) -> jax.Array:
        if self.mode == "min":
            relative = self.threshold_mode == "rel"
            return metric < (best * (1 - self.threshold) if relative else best - self.threshold)
        relative = self.threshold_mode == "rel"
        return metric > (best * (1 + self.threshold) if relative else best + self.threshold)
