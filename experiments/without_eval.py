"""The pitfall of two documents: they measure a net without calling `model.eval()`."""

from collections.abc import Callable
from typing import Any

import jax

from jaxnet import nn


def without_eval(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """An evaluation step of a net that stays in training mode.

    Dropout drops, and every batch is normalised by its own statistics.

    Args:
        loss: A function of model and batch that returns the loss and the metrics.
    """

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        model = state.model()
        model.train()
        with nn.keys(jax.random.fold_in(state.key, state.step)):
            _, measured = loss(model, batch)
        return state.replace(step=state.step + 1), measured

    return step
