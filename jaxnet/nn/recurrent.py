"""One recurrent layer in one direction, in the form that runs fast.

`recurrent_layer` alone chooses the form: on a CPU float32 batches go through jaxnet's own C
(`jaxnet.kernels`), the whole sequence in one call; everything else is one matrix product
for the input of all steps and a `recurrence` over time.
"""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet import kernels
from jaxnet.nn.linear import linear
from jaxnet.nn.recurrence import State, Step, recurrence
from jaxnet.nn.rnn_cell import gru_gates, gru_step, lstm_step, relu_step, tanh_step

__all__ = ["Weights", "before_end", "recurrent_layer"]

_STEPS: dict[str, Step] = {
    "tanh": tanh_step,
    "relu": relu_step,
    "lstm": lstm_step,
    "gru": gru_step,
}

# The kernel packs its weights at every call, so it wants many rows (steps times sequences)
# to use them on. One sequence keeps its registers waiting, and a loop of one step is none.
_FEWEST_ROWS = 128
_LEAST_BATCH = 4


class Weights(NamedTuple):
    """Of one layer in one direction; G is 4 for an LSTM, 3 for a GRU, else 1.

    Attributes:
        w_ih: (G * H, I).
        w_hh: (G * H, H), or (G * H, proj_size).
        b_ih, b_hh: (G * H,), or both None.
        w_hr: (proj_size, H), which h is multiplied by; None for none.
    """

    w_ih: jax.Array
    w_hh: jax.Array
    b_ih: jax.Array | None
    b_hh: jax.Array | None
    w_hr: jax.Array | None


def before_end(lengths: jax.Array, steps: int) -> jax.Array:
    """(steps, N), True before the end of each sequence."""
    return jnp.arange(steps)[:, None] < lengths[None, :]


def recurrent_layer(
    cell: str,
    input: jax.Array,
    weights: Weights,
    first: State,
    lengths: jax.Array | None = None,
    reverse: bool = False,
    batch_first: tuple[bool, bool] = (False, False),
) -> tuple[jax.Array, State]:
    """A layer over whole sequences.

    Args:
        cell: "tanh", "relu", "lstm" or "gru".
        input: (L, N, I), or (N, L, I); nothing behind a sequence's end may be nan.
        weights: as the cell has them.
        first: the state before the first step, h (N, proj_size or H) and, of an LSTM, c.
        lengths: (N,), each from 1 to L; without, all sequences have L steps. Behind a
            sequence's end the output is 0 and the state stays.
        reverse: whether time runs backwards.
        batch_first: whether the input is (N, L, I), and whether the output shall be.

    Returns:
        h of every step, (L, N, H) or (N, L, H), and the last state.
    """
    if _for_kernel(input, weights, batch_first[0]):
        layer = kernels.Layer(cell, _unprojected(cell, reverse, batch_first), reverse, batch_first)
        return kernels.recurrent(layer, input, tuple(weights[:4]), first, lengths)
    return _plain(cell, reverse, batch_first, input, weights, first, lengths)


def _for_kernel(input: jax.Array, weights: Weights, batch_first: bool) -> bool:
    batch, steps = input.shape[:2] if batch_first else input.shape[1::-1]
    return (
        jax.default_backend() == "cpu"
        and input.dtype == jnp.float32
        and weights.w_hr is None
        and batch >= _LEAST_BATCH
        and steps > 1
        and batch * steps >= _FEWEST_ROWS
        and kernels.available()
    )


@cache
def _unprojected(cell, reverse, batch_first):
    """`_plain` with the arguments of the kernel; one function for each layer's properties."""

    def plain(input, weights, first, lengths):
        given = Weights(*weights, None)
        return _plain(cell, reverse, batch_first, input, given, first, lengths)

    return plain


def _plain(cell, reverse, batch_first, input, weights, first, lengths):
    x = jnp.swapaxes(input, 0, 1) if batch_first[0] else input  # (L, N, I)
    steps = x.shape[0]
    valid = None if lengths is None else before_end(lengths, steps)[..., None]
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    gates, extra = _gates(cell, x, w_ih, b_ih, b_hh)
    factors: Any = (w_hh,)
    if w_hr is not None:
        # The loop carries h before its projection, where h0 has no counterpart:
        # it enters through the gates of the first step.
        factors = (w_hr, w_hh)
        start: Any = 0
        if reverse:
            start = steps - 1 if lengths is None else lengths - 1
        rows = jnp.arange(first[0].shape[0])
        gates = gates.at[jnp.broadcast_to(start, rows.shape), rows].add(first[0] @ w_hh.T)
        first = (jnp.zeros_like(first[1]), *first[1:])
    states = recurrence(_STEPS[cell], reverse, gates, extra, valid, factors, first)
    output = states[0]
    if w_hr is not None:
        output = output @ w_hr.T
    end = 0 if reverse else -1
    last = (output[end], *(s[end] for s in states[1:]))
    if valid is not None:
        output = jnp.where(valid, output, jnp.zeros_like(output))
    return (jnp.swapaxes(output, 0, 1) if batch_first[1] else output), last


def _gates(cell, x, w_ih, b_ih, b_hh):
    """What the input of all time steps gives to the step, by one matrix product."""
    if cell == "gru":
        return gru_gates(x, w_ih, b_ih, b_hh)
    return linear(x, w_ih, None if b_ih is None else b_ih + b_hh), None
