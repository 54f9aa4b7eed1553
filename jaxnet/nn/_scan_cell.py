"""The loop over time of a recurrent cell."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet._keys import key_at_hand, keys, replaying
from jaxnet.nn._rnn_cell import GRUCell, LSTMCell, RNNCell, RNNCellBase

State = Any
"""What goes from step to step: h, or the pair (h, c), or a tree of arrays that begins with h."""


def scan_cell(
    cell: Callable[[jax.Array, State], State],
    input: jax.Array,
    hx: State = None,
    *,
    batch_first: bool = False,
    reverse: bool = False,
) -> tuple[jax.Array, State]:
    """Calls a recurrent cell at every time step, in one loop that is compiled once.

    It stands for torch's loop, which a compiled function would unroll, and compile every step by
    itself: of 50 steps of an LSTMCell that takes most of a minute.

        outputs = []
        for x in input:                   # (N, input_size)
            h, c = cell(x, (h, c))
            outputs.append(h)
        outputs = torch.stack(outputs)    # outputs, (h, c) = nn.scan_cell(cell, input, (h, c))

    Two cells on top of each other are two calls, the second with the outputs of the first. A whole
    layer, `nn.LSTM`, `nn.GRU` or `nn.RNN`, is faster where it computes the same.

    Args:
        cell: An RNNCell, LSTMCell or GRUCell, or a function (x, state) -> state, which is called
            with x of one step. It may draw random numbers, every step other ones, but it cannot
            change buffers, as BatchNorm in training mode does.
        input: The sequence, (L, ...), such as (L, N, input_size).
        hx: The state before the first step; for one of the three cells zeros by default.
        batch_first: Whether the second axis of input and outputs is that of time: (N, L, ...).
        reverse: Whether the loop goes from the last step to the first. The outputs stand where
            their inputs stand.

    Returns:
        The outputs, (L, N, H), each the state, or the first part of it, after its step; and the
        state after the loop.

    Raises:
        ValueError: The input has too few axes, or a buffer is changed.
        TypeError: The cell is none of the three and hx is not given, or the cell returns another
            kind of state than it was given. Inside `nn.draws` a function of one's own is called
            in a loop of Python's, which takes buffers and states as they come.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> cell = nn.LSTMCell(3, 4, rngs=Generator(0))
    >>> outputs, (h, c) = nn.scan_cell(cell, jnp.ones((50, 2, 3)))
    >>> outputs.shape, h.shape
    ((50, 2, 4), (2, 4))
    """
    least = 1 + batch_first
    if input.ndim < least:
        raise ValueError(
            f"scan_cell: the input has shape {input.shape}; accepted are at least {least} axes"
        )
    steps = jnp.moveaxis(input, 1, 0) if batch_first else input
    if hx is None:
        hx = _zeros(cell, steps)
    # The three cells draw nothing, and an empty sequence has no steps to replay.
    draws = type(cell) not in (RNNCell, LSTMCell, GRUCell) and steps.shape[0] > 0
    if draws and replaying():
        outputs, state = _one_by_one(cell, steps, hx, reverse)
    else:
        outputs, state = _scanned(cell, steps, hx, reverse)
    return (jnp.moveaxis(outputs, 0, 1) if batch_first else outputs), state


def _zeros(cell: Any, steps: jax.Array) -> State:
    if not isinstance(cell, RNNCellBase):
        raise TypeError(
            "scan_cell: hx is not given, and zeros are known only for RNNCell, LSTMCell and "
            f"GRUCell; the cell is a {type(cell).__name__}"
        )
    h = cell._state(jax.ShapeDtypeStruct(steps.shape[1:], steps.dtype), None)  # type: ignore[arg-type]
    return (h, h) if isinstance(cell, LSTMCell) else h


def _scanned(
    cell: Callable[..., State], steps: jax.Array, hx: State, reverse: bool
) -> tuple[jax.Array, State]:
    key = key_at_hand()

    def body(state: State, now: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        x, number = now
        if key is None:
            state = cell(x, state)
        else:  # the body is traced once, but each step draws numbers of its own
            with keys(jax.random.fold_in(key, number)):
                state = cell(x, state)
        return state, _output(state)

    numbers = jnp.arange(steps.shape[0])
    state, outputs = lax.scan(body, hx, (steps, numbers), reverse=reverse)
    return outputs, state


def _one_by_one(
    cell: Callable[..., State], steps: jax.Array, hx: State, reverse: bool
) -> tuple[jax.Array, State]:
    """The loop in Python, for recorded draws, of which every step has its own."""
    outputs = []
    for x in steps[::-1] if reverse else steps:
        hx = cell(x, hx)
        outputs.append(_output(hx))
    return jnp.stack(outputs[::-1] if reverse else outputs), hx


def _output(state: State) -> jax.Array:
    return state[0] if isinstance(state, tuple | list) else state
