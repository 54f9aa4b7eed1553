"""Loss scaling, and steps that are left out when a gradient is not finite."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet._checks import check_integer
from jaxnet.optim._optimizer import Optimizer
from jaxnet.precision import promoted


class SkipState(NamedTuple):
    """How many steps were left out, and the optimizer's state."""

    skipped: jax.Array
    inner: Any


def skip_nonfinite(optimizer: Optimizer) -> Optimizer:
    """Leaves out the steps for which any gradient is nan or infinite.

    Neither the parameters nor the optimizer's state change in such a step; it is
    counted in the state's `skipped`.
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
    """The factor of the loss, finite steps since its last change, the optimizer's state."""

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

    The gradients that come in are those of the loss times `loss_scale(opt_state)`.
    They are divided by the scale; the step is left out if one is not finite, and the
    scale is lowered then, and raised after enough finite steps.

    Args:
        optimizer: what updates.
        init_scale: the first scale.
        growth_factor: above 1.
        backoff_factor: in (0, 1).
        growth_interval: finite steps in a row before the scale grows, at least 1.

    Raises:
        ValueError: an argument is out of range.

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
        scale = jnp.asarray(init_scale, jnp.float32)
        return ScalerState(scale, jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(
        grads: Any, state: ScalerState, params: Any = None, **extra: Any
    ) -> tuple[Any, ScalerState]:
        inverse = 1 / state.scale
        # in float32 at least: the inverse of a large scale is nothing in float16
        grads = jax.tree.map(lambda g: g.astype(promoted(g.dtype, jnp.float32)) * inverse, grads)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        finite = _all_finite(grads)
        updates, inner = _update_if(finite, optimizer, grads, state.inner, params, extra)
        tracker = jnp.where(finite, state.growth_tracker + 1, 0)
        grow = tracker == growth_interval
        grown = state.scale * growth_factor
        scale = jnp.where(grow & jnp.isfinite(grown), grown, state.scale)
        scale = jnp.where(finite, scale, state.scale * backoff_factor)
        return updates, ScalerState(scale, jnp.where(grow, 0, tracker), inner)

    return optimizer.around("GradScaler", init, update)


def loss_scale(opt_state: Any) -> jax.Array:
    """The factor by which the loss must be multiplied before it is differentiated."""
    found = [
        leaf
        for leaf in jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, ScalerState))
        if isinstance(leaf, ScalerState)
    ]
    if len(found) != 1:
        raise ValueError(f"opt_state: it holds {len(found)} states of GradScaler; one is needed")
    return found[0].scale


def _all_finite(grads: Any) -> jax.Array:
    leaves = [jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]
    return jnp.stack(leaves).all() if leaves else jnp.ones((), bool)


def _update_if(
    condition: jax.Array, optimizer: Optimizer, grads: Any, inner: Any, params: Any, extra: Any
) -> tuple[Any, Any]:
    def apply(inner: Any) -> tuple[Any, Any]:
        return optimizer.update(grads, inner, params, **extra)

    def leave(inner: Any) -> tuple[Any, Any]:
        shapes = jax.eval_shape(apply, inner)[0]
        return jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), shapes), inner

    return lax.cond(condition, apply, leave, inner)
