"""Loss scaling, and leaving out the steps whose gradients are not finite."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet._checks import check_integer
from jaxnet.optim._accumulation import AccumulateState
from jaxnet.optim._optimizer import Optimizer
from jaxnet.optim._schedule import ScheduledState
from jaxnet.precision import promoted


class SkipState(NamedTuple):
    """The state of `skip_nonfinite`.

    Attributes:
        skipped: The number of steps that were left out, int32.
        inner: The state of the wrapped optimizer.
    """

    skipped: jax.Array
    inner: Any


def skip_nonfinite(optimizer: Optimizer) -> Optimizer:
    """Leaves out every step in which a gradient is nan or infinite.

    Neither the parameters nor the optimizer's state change in such a step. The state counts
    these steps in its field `skipped`.

    Args:
        optimizer: The optimizer that makes the other steps.

    Returns:
        An optimizer with the same parameter groups.
    """

    def init(params: Any) -> SkipState:
        return SkipState(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(
        grads: Any, state: SkipState, params: Any = None, **extra: Any
    ) -> tuple[Any, SkipState]:
        finite = _all_finite(grads)
        updates, inner = _update_if(finite, optimizer, grads, state.inner, params, extra)
        return updates, SkipState(state.skipped + jnp.where(finite, 0, 1), inner)

    return optimizer.around("skip_nonfinite", init, update)


class ScalerState(NamedTuple):
    """The state of `GradScaler`.

    Attributes:
        scale: The factor of the loss, float32.
        growth_tracker: The number of finite steps since the scale last changed, int32.
        inner: The state of the wrapped optimizer.
    """

    scale: jax.Array
    growth_tracker: jax.Array
    inner: Any


def GradScaler(
    optimizer: Optimizer,
    init_scale: float = 2.0**16,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
) -> Optimizer:
    """Loss scaling for half precision: torch.amp.GradScaler around an optimizer.

    The gradients given to `update` are those of the loss times `loss_scale(opt_state)`, and
    `update` divides them by the scale. If one of them is not finite, the step is left out
    and the scale is multiplied by backoff_factor. After growth_interval finite steps in a
    row the scale is multiplied by growth_factor.

    Args:
        optimizer: The optimizer that makes the steps.
        init_scale: The first scale, finite and above 0.
        growth_factor: The factor by which the scale grows, above 1.
        backoff_factor: The factor by which the scale shrinks, in (0, 1).
        growth_interval: The number of finite steps in a row before the scale grows, at
            least 1.

    Returns:
        An optimizer with the same parameter groups.

    Raises:
        ValueError: An argument is out of range, or (in init) there is a GradScaler inside.

    >>> from jaxnet import optim
    >>> optimizer = optim.GradScaler(optim.SGD(lr=0.5), init_scale=8.0)
    >>> params = {"w": jnp.ones(1)}
    >>> state = optimizer.init(params)
    >>> loss = lambda p: optim.loss_scale(state) * (p["w"] ** 2).sum()
    >>> updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    >>> updates["w"].tolist()
    [-1.0]
    """
    if not 0 < init_scale < math.inf:
        raise ValueError(
            f"GradScaler: init_scale: {init_scale}; accepted is a finite number above 0"
        )
    if not 1 < growth_factor < math.inf:
        raise ValueError(
            f"GradScaler: growth_factor: {growth_factor}; accepted is a finite number above 1"
        )
    if not 0 < backoff_factor < 1:
        raise ValueError(f"GradScaler: backoff_factor: {backoff_factor}; accepted is (0, 1)")
    check_integer("GradScaler: growth_interval", growth_interval, least=1)

    def init(params: Any) -> ScalerState:
        scale, inner = jnp.asarray(init_scale, jnp.float32), optimizer.init(params)
        if has_scaler(inner):
            raise ValueError("GradScaler: there is one inside already; one scales all gradients")
        return ScalerState(scale, jnp.zeros((), jnp.int32), inner)

    def update(
        grads: Any, state: ScalerState, params: Any = None, **extra: Any
    ) -> tuple[Any, ScalerState]:
        inverse = 1 / state.scale
        # In float32 or wider: in float16 the inverse of a large scale would be 0.
        grads = jax.tree.map(lambda g: g.astype(promoted(g.dtype, jnp.float32)) * inverse, grads)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        finite = _all_finite(grads)
        updates, inner = _update_if(finite, optimizer, grads, state.inner, params, extra)
        tracker = jnp.where(finite, state.growth_tracker + 1, 0)
        grow = tracker == growth_interval
        grown = state.scale * growth_factor
        # As in torch, a scale that would become infinite does not grow.
        scale = jnp.where(grow & jnp.isfinite(grown), grown, state.scale)
        scale = jnp.where(finite, scale, state.scale * backoff_factor)
        return updates, ScalerState(scale, jnp.where(grow, 0, tracker), inner)

    return optimizer.around("GradScaler", init, update)


def loss_scale(opt_state: Any) -> jax.Array:
    """The factor of the loss, by which it is multiplied before it is differentiated.

    Args:
        opt_state: The state of a `GradScaler`, plain or inside `scheduled` or `accumulate`.

    Returns:
        The scale, a 0-d float32 array.

    Raises:
        ValueError: The state has no GradScaler, or one inside another transformation, which would
            be given the gradients of the scaled loss.
    """
    state = opt_state
    while isinstance(state, ScheduledState | AccumulateState):
        state = state.inner
    if not isinstance(state, ScalerState):
        problem = "is inside another transformation" if has_scaler(state) else "is missing"
        raise ValueError(
            f"loss_scale: GradScaler {problem}; it goes around all that sees the gradients, such "
            "as optim.GradScaler(optim.chain(optim.clip_by_norm(1.0), optim.SGD(0.1))); only "
            "scheduled and accumulate go around it"
        )
    return state.scale


def has_scaler(opt_state: Any) -> bool:
    """Whether the state of an optimizer has that of a `GradScaler` in it, at any depth."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, ScalerState))
    return any(isinstance(leaf, ScalerState) for leaf in leaves)


def _all_finite(grads: Any) -> jax.Array:
    """Whether all gradients are finite; also True when there are none."""
    leaves = [jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]
    return jnp.stack(leaves).all() if leaves else jnp.ones((), bool)


def _update_if(
    condition: jax.Array, optimizer: Optimizer, grads: Any, inner: Any, params: Any, extra: Any
) -> tuple[Any, Any]:
    """The optimizer's updates and new state if the condition holds, else zeros and the old."""

    def apply(inner: Any) -> tuple[Any, Any]:
        return optimizer.update(grads, inner, params, **extra)

    def leave(inner: Any) -> tuple[Any, Any]:
        # Both branches of lax.cond have to give the same dtypes.
        shapes = jax.eval_shape(apply, inner)[0]
        return jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), shapes), inner

    return lax.cond(condition, apply, leave, inner)
