"""Lower learning rates after a metric has stopped improving."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet._checks import check_choice
from jaxnet.optim._hyperparams import map_states
from jaxnet.optim._lr_scheduler import per_group
from jaxnet.optim._optimizer import Optimizer


class PlateauState(NamedTuple):
    """The state of `ReduceLROnPlateau`.

    Attributes:
        best: The best metric so far.
        num_bad_epochs: The number of epochs in a row without improvement, int32.
        cooldown_counter: The number of cooldown epochs that are left, int32.
    """

    best: jax.Array
    num_bad_epochs: jax.Array
    cooldown_counter: jax.Array


class ReduceLROnPlateau:
    """Multiplies lr by factor when a metric stagnates: torch's ReduceLROnPlateau.

    Args:
        optimizer: The optimizer with the learning rates.
        mode: The direction of improvement, "min" or "max".
        factor: The factor of the learning rate, below 1.
        patience: The number of epochs without improvement that have no effect. The epoch
            after them lowers the rate (optax does so one epoch earlier).
        threshold: The smallest change that is an improvement.
        threshold_mode: The unit of threshold: "rel", a share of the best metric, or "abs".
        cooldown: The number of epochs after a change in which epochs without improvement
            are not counted.
        min_lr: The lowest learning rate, or a list with one for each parameter group.
        eps: The smallest change of the learning rate; a smaller change is not made.

    Raises:
        ValueError: An argument is out of range.

    Unlike in torch, the state is a pytree and `step` is a pure function, so it may also be
    compiled. A float32 learning rate is rounded once at each change.

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
        """The state before the first epoch, a `PlateauState`."""
        worst = math.inf if self.mode == "min" else -math.inf
        count = jnp.zeros((), jnp.int32)
        return PlateauState(jnp.asarray(worst, jnp.result_type(float)), count, count)

    def step(self, state: PlateauState, metric: Any, opt_state: Any) -> tuple[PlateauState, Any]:
        """Counts the metric of one epoch, and lowers the learning rates if it is time.

        Args:
            state: The `PlateauState` after the epoch before.
            metric: The metric of the epoch, one number.
            opt_state: The state of the optimizer.

        Returns:
            The new `PlateauState` and the new state of the optimizer.

        Raises:
            ValueError: The metric has axes.
        """
        metric = jnp.asarray(metric, state.best.dtype)
        if metric.ndim != 0:
            raise ValueError(f"metric: shape {metric.shape}; accepted is one number")
        better = self._better(metric, state.best)
        bad = jnp.where(better, 0, state.num_bad_epochs + 1)
        # The order is torch's: in the last epoch of the cooldown a bad epoch is still not counted.
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
