"""The loop over time of the recurrent layers, with a fast derivative."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.precision import full_float32

State = tuple[jax.Array, ...]
Step = Callable[[jax.Array, Any, State], State]
"""A function (gates, extra, state) -> state. `gates` already includes the product with h,
`extra` is a part of the input that the product is not added to, and h comes first in the
state."""


@full_float32()
def _product(h: jax.Array, weights: State) -> jax.Array:
    for weight in weights:
        h = h @ weight.T
    return h


def _advance(
    step: Step, valid: jax.Array | None, gates: jax.Array, extra: Any, state: State
) -> State:
    """One step, after which the state is unchanged where `valid` is False."""
    new = step(gates, extra, state)
    if valid is None:
        return new
    return tuple(jnp.where(valid, after, before) for after, before in zip(new, state, strict=True))


# This jit is for calls outside of any other jit, which would compile the loop every time.
@partial(jax.jit, static_argnums=(0, 1))
def _states(step, reverse, gates, extra, valid, weights, first):
    def body(state, now):
        gates, extra, valid = now
        state = _advance(step, valid, gates + _product(state[0], weights), extra, state)
        return state, state

    return lax.scan(body, first, (gates, extra, valid), reverse=reverse)[1]


# The derivative is written out for speed. JAX's own derivative of the scan adds to the weight's
# gradient at every step and takes 26 ms, where this takes 14 ms (two-layer LSTM, batch 64, 50
# steps, 64 hidden units). Here all steps are linearised at once outside the loop. The body of
# the loop is then linear, so that forward, reverse and higher derivatives all exist.
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
    """Computes all states state_t = step(gates_t + weights h_{t-1}, extra_t, state_{t-1}).

    Args:
        step: The function of one step, which acts on each element of the batch by itself.
        reverse: Whether the loop starts with the last time step.
        gates: The gates without the product with h, (L, N, G).
        extra: A part of the input that the product is not added to, (L, N, ...), or None.
        valid: A mask (L, N, 1) that is False where the state stays unchanged, or None.
        weights: The matrices that h is multiplied by, one after the other.
        first: The state before the first step, with h (N, H) first.

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
    """`recurrence` with states that are known from the forward pass.

    A backward pass then needs no forward loop. No gradient passes through `states`; the other
    arguments are those of `recurrence`.
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
    # The state before each step. With these known, every step's Jacobian is independent of the
    # other steps, so all steps are linearised together, by vmap.
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
    # Only this linear loop is sequential. JAX transposes it for the backward pass.
    return lax.scan(body, d_first, moving, reverse=reverse)[1]
