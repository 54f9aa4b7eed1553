"""A recurrent layer over whole sequences, by recurrent.c and recurrent_gradient.c."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._kernels.layout import call

# The kinds of cells and the number of sums for each hidden unit, both as in recurrent.h.
_CELLS = {"tanh": 0, "relu": 1, "lstm": 2, "gru": 3}
_SLOTS = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 4}
_UNITS = 16  # the kernel pads the hidden units to a multiple of this number

States = tuple[jax.Array, ...]
Weights = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None]
"""The weights w_ih (G H, I), w_hh (G H, H), b_ih and b_hh (G H,) or None, in torch's order."""


class Layer(NamedTuple):
    """The options of a recurrent layer, as a hashable tuple.

    Attributes:
        cell: The kind of cell, "tanh", "relu", "lstm" or "gru".
        reverse: Whether the loop starts with the last time step.
        batch_first: Whether the input is (N, L, ...) instead of (L, N, ...), and whether the
            output is.
    """

    cell: str
    reverse: bool = False
    batch_first: tuple[bool, bool] = (False, False)


def kept_shapes(cell: str, steps: int, batch: int, hidden: int) -> list[tuple[int, ...]]:
    """The shapes of the arrays for the backward pass: the gates, all states h and all states c."""
    room = steps * batch * -(-hidden // _UNITS) * _UNITS
    return [(room * _SLOTS[cell],), (room,), (room if cell == "lstm" else 0,)]


def recurrent(
    layer: Layer,
    x: jax.Array,
    weights: Weights,
    first: States,
    lengths: jax.Array | None,
    keep: bool,
) -> tuple[jax.Array, States, States]:
    """Runs one layer in one direction.

    Args:
        layer: The options of the layer.
        x: The sequences, (L, N, I) or (N, L, I), float32.
        weights: The weights of the layer. G is 4 for an LSTM, 3 for a GRU, else 1.
        first: The state before the first step: h (N, H), and for an LSTM also c (N, H).
        lengths: The lengths of the sequences, (N,), or None if all have L steps. Behind the
            end of a sequence the state is unchanged and the output is 0.
        keep: Whether the backward pass will follow.

    Returns:
        h of all steps, (L, N, H) or (N, L, H), the last state, and the arrays for the backward
        pass, which are empty without `keep`.
    """
    steps, batch, hidden = _sizes(layer, x, weights)
    ends = _ends(lengths, steps, batch)
    # The kernel always takes two states; other cells than an LSTM have an empty c.
    both = first if layer.cell == "lstm" else (*first, jnp.zeros((0, 0), jnp.float32))
    w_ih, w_hh, b_ih, b_hh = weights
    shapes = [
        (batch, steps, hidden) if layer.batch_first[1] else (steps, batch, hidden),
        *(state.shape for state in both),
        *(kept_shapes(layer.cell, steps, batch, hidden) if keep else [(0,)] * 3),
    ]
    arrays = (x, w_ih, w_hh, _slots(layer.cell, b_ih, b_hh, hidden), *both, ends)
    y, h_n, c_n, *kept = _call("jaxnet_recurrent", layer, shapes, arrays)
    return y, (h_n, c_n)[: len(first)], tuple(kept)


def recurrent_gradient(
    layer: Layer,
    x: jax.Array,
    weights: Weights,
    first: States,
    lengths: jax.Array | None,
    kept: States,
    slopes: States,
    into_x: bool,
) -> tuple[jax.Array | None, Weights, States]:
    """Computes the gradients of x, the weights and the first state.

    Args:
        layer: The options of the layer, as in `recurrent`.
        x: The sequences, as in `recurrent`.
        weights: The weights, as in `recurrent`.
        first: The state before the first step, as in `recurrent`.
        lengths: The lengths of the sequences, as in `recurrent`.
        kept: The arrays for the backward pass that `recurrent` returned.
        slopes: The gradients of h of all steps, and of the last state.
        into_x: Whether the gradient of x is computed.

    Returns:
        The gradients of x (None without into_x), of the weights and of the first state.
    """
    steps, batch, hidden = _sizes(layer, x, weights)
    dy, *d_last = slopes
    none = jnp.zeros((0, 0), jnp.float32)
    lstm = layer.cell == "lstm"
    shapes = [
        x.shape if into_x else (0, 0, 0),
        weights[0].shape,
        weights[1].shape,
        (_SLOTS[layer.cell] * hidden,),
        (batch, hidden),
        (batch, hidden) if lstm else (0, 0),
        kept_shapes(layer.cell, steps, batch, hidden)[0],
    ]
    c0, dc_n = (first[1], d_last[1]) if lstm else (none, none)
    arrays = (x, *weights[:2], c0, _ends(lengths, steps, batch), *kept, dy, d_last[0], dc_n)
    name = "jaxnet_recurrent_gradient"
    # The kernel overwrites the stored gates, argument 5, by their gradients, result 6.
    results = _call(name, layer, shapes, arrays, aliases={5: 6})
    dx, dw_ih, dw_hh, slots, dh0, dc0, _ = results
    biases = (None, None) if weights[2] is None else _biases(layer.cell, slots, hidden)
    return dx if into_x else None, (dw_ih, dw_hh, *biases), (dh0, dc0)[: len(first)]


def _sizes(layer: Layer, x: jax.Array, weights: Weights) -> tuple[int, int, int]:
    """Returns L, N and H."""
    steps, batch = x.shape[1::-1] if layer.batch_first[0] else x.shape[:2]
    return steps, batch, weights[1].shape[1]


def _call(name: str, layer: Layer, shapes: Any, arrays: Any, aliases: Any = None) -> Any:
    return call(
        name,
        arrays,
        shapes,
        aliases=aliases,
        kind=np.int64(_CELLS[layer.cell]),
        reverse=np.int64(layer.reverse),
        x_batch_first=np.int64(layer.batch_first[0]),
        y_batch_first=np.int64(layer.batch_first[1]),
    )


def _ends(lengths: jax.Array | None, steps: int, batch: int) -> jax.Array:
    # The kernel takes float32 only, which is exact for whole numbers up to 2^24.
    return jnp.full(batch, steps, jnp.float32) if lengths is None else lengths.astype(jnp.float32)


def _slots(cell: str, b_ih: jax.Array | None, b_hh: jax.Array | None, hidden: int) -> jax.Array:
    """The biases of the kernel's sums, which for a GRU are in the order n_x, r, z, n_h.

    A GRU has four sums, because the reset gate multiplies only the state's part of n.
    """
    if b_ih is None or b_hh is None:
        return jnp.zeros(_SLOTS[cell] * hidden, jnp.float32)
    if cell != "gru":
        return b_ih + b_hh
    both = 2 * hidden
    return jnp.concatenate([b_ih[both:], b_ih[:both] + b_hh[:both], b_hh[both:]])


def _biases(cell: str, slots: jax.Array, hidden: int) -> tuple[jax.Array, jax.Array]:
    """The transpose of `_slots`: the gradients of b_ih and b_hh."""
    if cell != "gru":
        return slots, slots
    n_x, both, n_h = jnp.split(slots, [hidden, 3 * hidden])
    return jnp.concatenate([both, n_x]), jnp.concatenate([both, n_h])
