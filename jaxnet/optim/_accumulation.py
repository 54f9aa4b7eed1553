"""One update from the gradients of several batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet._checks import check_choice, check_integer
from jaxnet.optim._optimizer import Optimizer


class AccumulateState(NamedTuple):
    """Batches since the last update, the sum of their gradients, the optimizer's state."""

    done: jax.Array
    total: Any
    inner: Any


def accumulate(optimizer: Optimizer, batches: int, reduction: str = "mean") -> Optimizer:
    """Collects gradients over several batches, then updates once.

    Args:
        optimizer: what updates.
        batches: how many batches make one update, at least 1.
        reduction: "mean" for losses that are means over a batch, "sum" for sums. With
            it and batches of one size the update is that of one large batch.

    Returns:
        An optimizer whose updates are zero but for every `batches`-th call. A
        schedule within counts updates, not calls.

    Raises:
        ValueError: an argument is out of range.

    Layers that look at the whole batch, as BatchNorm does, still see the small ones.
    """
    check_integer("accumulate: batches", batches, least=1)
    check_choice("accumulate: reduction", reduction, ("mean", "sum"))

    def init(params: Any) -> AccumulateState:
        total = jax.tree.map(jnp.zeros_like, params)
        return AccumulateState(jnp.zeros((), jnp.int32), total, optimizer.init(params))

    def update(
        grads: Any, state: AccumulateState, params: Any = None, **extra: Any
    ) -> tuple[Any, AccumulateState]:
        total = jax.tree.map(lambda s, g: s + g.astype(s.dtype), state.total, grads)

        def apply(inner: Any) -> tuple[Any, Any, Any]:
            share = jax.tree.map(lambda s: s / batches if reduction == "mean" else s, total)
            updates, inner = optimizer.update(share, inner, params, **extra)
            return updates, jax.tree.map(jnp.zeros_like, total), inner

        def wait(inner: Any) -> tuple[Any, Any, Any]:
            shapes = jax.eval_shape(apply, inner)[0]
            updates = jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), shapes)
            return updates, total, inner

        full = state.done + 1 == batches
        updates, total, inner = lax.cond(full, apply, wait, state.inner)
        return updates, AccumulateState((state.done + 1) % batches, total, inner)

    return optimizer.around("accumulate", init, update)
