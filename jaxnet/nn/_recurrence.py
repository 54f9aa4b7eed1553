"""The loop over time that the recurrent layers share, with a fast derivative."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.precision import full_float32

State = tuple[jax.Array, ...]
Step = Callable[[jax.Array, Any, State], State]
"""(gates, extra, state) -> state: `gates` is the part that the product with h is added
to, `extra` is what the input gives besides, and the state begins with h."""


@full_float32()
def _product(h: jax.Array, weights: State) -> jax.Array:
    for weight in weights:
        h = h @ weight.T
    return h


def _advance(
    step: Step, valid: jax.Array | None, gates: jax.Array, extra: Any, state: State
) -> State:
    """One step; where `valid` is False the state stays as it is."""
    new = step(gates, extra, state)
    if valid is None:
        return new
    return tuple(jnp.where(valid, after, before) for after, before in zip(new, state, strict=True))


# Compiled by itself, so that calls outside of jit do not compile the loop every time.
@partial(jax.jit, static_argnums=(0, 1))
def _states(step, reverse, gates, extra, valid, weights, first):
    def body(state, now):
        gates, extra, valid = now
        state = _advance(step, valid, gates + _product(state[0], weights), extra, state)
        return state, state

    return lax.scan(body, first, (gates, extra, valid), reverse=reverse)[1]


# The derivative is written out for speed: differentiating the scan itself adds to the
# weight's gradient at every step, and takes 26 ms where this takes 14 (two-layer LSTM,
# batch 64, 50 steps, 64 hidden). All steps are linearised at once outside the loop,
# whose body is then linear, so that forward, reverse and higher derivatives all work.
@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def recurrence(
    step: Step,
    reverse: bool,
    gates: jax.Array,
    extra: Any,
    valid: jax.Array | None,
    weights: State,
    first: State,
) -> State:
    """All states of state_t = step(gates_t + weights h_{t-1}, extra_t, state_{t-1}).

    Args:
        step: acts on each element of the batch by itself.
        reverse: whether time runs backwards.
        gates: (L, N, G).
        extra: (L, N, ...) or None.
        valid: (L, N, 1), False where the state does not move; or None.
        weights: matrices that h is multiplied by, one after the other.
        first: the state before the first step, h (N, H) first.

    Returns:
        The states, each (L, N, H).
    """
    return _states(step, reverse, gates, extra, valid, weights, first)


@recurrence.defjvp
def _recurrence_jvp(step, reverse, primals, tangents):
    states = recurrence(step, reverse, *primals)
    d_gates, d_extra, _, d_weights, d_first = tangents
    moving = (d_gates, d_extra, d_weights, d_first)
    return states, _tangents(step, reverse, primals, states, moving)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def known_recurrence(
    step: Step,
    reverse: bool,
    gates: jax.Array,
    extra: Any,
    valid: jax.Array | None,
    weights: State,
    first: State,
    states: State,
) -> State:
    """`recurrence`, whose states were kept from before: a backward pass needs no loop forward.

    No gradient goes through `states`.
    """
    return states


@known_recurrence.defjvp
def _known_recurrence_jvp(step, reverse, primals, tangents):
    *primals, states = primals
    d_gates, d_extra, _, d_weights, d_first, _ = tangents
    moving = (d_gates, d_extra, d_weights, d_first)
    return states, _tangents(step, reverse, tuple(primals), states, moving)


@partial(jax.jit, static_argnums=(0, 1))
def _tangents(step, reverse, primals, states, tangents):
    gates, extra, valid, weights, first = primals
    d_gates, d_extra, d_weights, d_first = tangents
    before = tuple(
        jnp.concatenate([s[1:], s0[None]] if reverse else [s0[None], s[:-1]])
        for s, s0 in zip(states, first, strict=True)
    )
    product, d_product = jax.jvp(lambda w: _product(before[0], w), (weights,), (d_weights,))

    def linearise(valid, *at):
        return jax.linearize(partial(_advance, step, valid), *at)[1]

    pushes = jax.vmap(linearise)(valid, gates + product, extra, before)

    def body(d_state, now):
        d_gates, d_extra, push = now
        d_state = push(d_gates + _product(d_state[0], weights), d_extra, d_state)
        return d_state, d_state

    moving = (d_gates + d_product, d_extra, pushes)
    return lax.scan(body, d_first, moving, reverse=reverse)[1]
