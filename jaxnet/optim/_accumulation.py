"""Gradient accumulation: one update from the gradients of several batches."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet._checks import check_choice, check_integer
from jaxnet._names import named_leaves
from jaxnet.optim._optimizer import Optimizer


class AccumulateState(NamedTuple):
    """The state of `accumulate`.

    Attributes:
        done: The number of batches since the last update, int32.
        total: The sum of their gradients, a pytree like the parameters.
        inner: The state of the wrapped optimizer.
    """

    done: jax.Array
    total: Any
    inner: Any


def accumulate(optimizer: Optimizer, batches: int, reduction: str = "mean") -> Optimizer:
    """Collects the gradients of several batches and then updates the parameters once.

    Args:
        optimizer: The optimizer that makes the update.
        batches: The number of batches for one update, at least 1.
        reduction: "mean" if the loss is a mean over a batch, "sum" if it is a sum. If all
            batches have the same size, the update is then that of one large batch.

    Returns:
        An optimizer whose updates are zero except at every `batches`-th call. A schedule
        inside it counts the updates and not the calls.

    Raises:
        ValueError: An argument is out of range.

    Layers that use statistics of the batch, such as BatchNorm, still use those of each
    small batch.
    """
    check_integer("accumulate: batches", batches, least=1)
    check_choice("accumulate: reduction", reduction, ("mean", "sum"))

    def init(params: Any) -> AccumulateState:
        total = jax.tree.map(jnp.zeros_like, params)
        return AccumulateState(jnp.zeros((), jnp.int32), total, optimizer.init(params))

    def update(
        grads: Any, state: AccumulateState, params: Any = None, **extra: Any
    ) -> tuple[Any, AccumulateState]:
        # The sum has the parameters' dtype, so that the state's dtypes never change.
        total = jax.tree.map(lambda s, g: s + g.astype(s.dtype), state.total, grads)
        # A parameter without a gradient in this batch may have had one in a batch before.
        if missing := [name for name, has in extra.get("has_gradient", {}).items() if has is False]:
            named = named_leaves(total)
            extra["has_gradient"] = {name: jnp.any(named[name] != 0) for name in missing}

        def apply(inner: Any) -> tuple[Any, Any, Any]:
            share = jax.tree.map(lambda s: s / batches if reduction == "mean" else s, total)
            updates, inner = optimizer.update(share, inner, params, **extra)
            return updates, jax.tree.map(jnp.zeros_like, total), inner

        def wait(inner: Any) -> tuple[Any, Any, Any]:
            # Both branches of lax.cond have to give the same dtypes.
            shapes = jax.eval_shape(apply, inner)[0]
            updates = jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), shapes)
            return updates, total, inner

        full = state.done + 1 == batches
        updates, total, inner = lax.cond(full, apply, wait, state.inner)
        return updates, AccumulateState((state.done + 1) % batches, total, inner)

    whole = optimizer.around("accumulate", init, update)
    whole.defaults = {"batches": batches, "reduction": reduction}
    return whole
