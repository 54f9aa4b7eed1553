"""One recurrent layer in one direction, in the form that runs fast.

`recurrent_layer` alone chooses the form: on a CPU float32 batches go through jaxnet's own C
(`jaxnet._kernels`), the whole sequence in one call; everything else is one matrix product
for the input of all steps and a `recurrence` over time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet import _kernels as kernels
from jaxnet._kernels.recurrent import Layer
from jaxnet.backend import Operation, is_wanted, tangents_along
from jaxnet.nn._linear import linear
from jaxnet.nn._recurrence import State, Step, known_recurrence, recurrence
from jaxnet.nn._rnn_cell import gru_gates, gru_step, lstm_step, relu_step, tanh_step
from jaxnet.precision import full_float32, promoted

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
    numbers = jnp.arange(steps)
    dtype = promoted(numbers, lengths)  # uint8 lengths cannot count 300 steps
    return numbers.astype(dtype)[:, None] < lengths.astype(dtype)[None, :]


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
    layer = Layer(cell, reverse, batch_first)
    if _for_kernel(input, weights, batch_first[0]):
        y, *last = _LAYER(input, tuple(weights[:4]), first, lengths, layer=layer, keep=False)
        return y, tuple(last)
    return _plain(layer, input, weights, first, lengths)[0]


def _for_kernel(input: jax.Array, weights: Weights, batch_first: bool) -> bool:
    steps, batch = _steps_and_batch(input, batch_first)
    return (
        input.dtype == jnp.float32
        and weights.w_hr is None
        and batch >= _LEAST_BATCH
        and steps > 1
        and batch * steps >= _FEWEST_ROWS
    )


def _steps_and_batch(input: jax.Array, batch_first: bool) -> tuple[int, int]:
    steps, batch = input.shape[1::-1] if batch_first else input.shape[:2]
    return steps, batch


@full_float32()
def _plain(layer, input, weights, first, lengths, states=None):
    """(output, last state) and all states, which may be known already."""
    cell, reverse, batch_first = layer
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
    given = (_STEPS[cell], reverse, gates, extra, valid, factors, first)
    states = recurrence(*given) if states is None else known_recurrence(*given, states)
    output = states[0]
    if w_hr is not None:
        output = output @ w_hr.T
    end = 0 if reverse else -1
    last = (output[end], *(s[end] for s in states[1:]))
    if valid is not None:
        output = jnp.where(valid, output, jnp.zeros_like(output))
    return ((jnp.swapaxes(output, 0, 1) if batch_first[1] else output), last), states


def _gates(cell, x, w_ih, b_ih, b_hh):
    """What the input of all time steps gives to the step, by one matrix product."""
    if cell == "gru":
        return gru_gates(x, w_ih, b_ih, b_hh)
    return linear(x, w_ih, None if b_ih is None else b_ih + b_hh), None


# The layer without a projection as an operation. Backward differentiation calls the
# kernel's backward pass, or the plain form's with the states that were kept. All other
# derivatives (forward, of a gradient) go through the plain form, so that every one exists,
# in every order of the modes.


def _layer(x, weights, first, lengths, layer, keep):
    (y, last), states = _plain(layer, x, Weights(*weights, None), first, lengths)
    if not keep:
        return [y, *last]
    # The backward pass wants the states alone, in the room that the kernel takes for them.
    kept = [
        jnp.zeros(shape, y.dtype) for shape in kernels.kept_shapes(layer.cell, *states[0].shape)
    ]
    for i, state in enumerate(states):
        kept[1 + i] = _filled(state, kept[1 + i].size)
    return [y, *last, *kept]


def _filled(state, room):
    """(L, N, H) as an array of so many numbers, each row with zeros behind."""
    steps, batch, hidden = state.shape
    more = room // (steps * batch) - hidden
    return jnp.pad(state, ((0, 0), (0, 0), (0, more))).ravel()


def _layer_in_c(x, weights, first, lengths, layer, keep):
    y, last, kept = kernels.recurrent(layer, x, weights, first, lengths, keep)
    return [y, *last, *(kept if keep else ())]


def _layer_jvp(arguments, tangents, layer, keep):
    *results, gates, h, c = _LAYER(*arguments, layer=layer, keep=True)
    kept = (gates, h, c)
    moved = _TANGENTS(arguments, kept, tuple(tangents[:3]), layer=layer)
    if keep:
        return [*results, *kept], [*moved, None, None, None]
    return results, moved


def _tangents(inputs, kept, direction, layer):
    """What y and the last state do when x, the weights and the first state move."""
    *moving, lengths = inputs

    def plain(x, weights, first):
        (y, last), _ = _plain(layer, x, Weights(*weights, None), first, lengths)
        return [y, *last]

    return tangents_along(plain, moving, direction)


def _tangents_transpose(arguments, slopes, layer):
    inputs, kept, direction = arguments
    x, _, first, _ = inputs
    into_x = is_wanted(direction[0])
    filled = tuple(
        jnp.zeros(shape, x.dtype) if slope is None else slope
        for slope, shape in zip(slopes, _result_shapes(layer, x, first), strict=True)
    )
    found = iter(_BACKWARD(inputs, kept, filled, layer=layer, into_x=into_x))
    dx = next(found) if into_x else None
    slopes = [[None if leaf is None else next(found) for leaf in part] for part in inputs[1:3]]
    wanted = [
        tuple(None if moves is None else slope for slope, moves in zip(*parts, strict=True))
        for parts in zip(slopes, direction[1:], strict=True)
    ]
    return None, None, (dx, *wanted)


def _result_shapes(layer, x, first):
    steps, batch = _steps_and_batch(x, layer.batch_first[0])
    sizes = (batch, steps) if layer.batch_first[1] else (steps, batch)
    return [(*sizes, first[0].shape[1]), *(state.shape for state in first)]


def _backward(inputs, kept, slopes, layer, into_x):
    x, _, first, _ = inputs
    steps, batch = _steps_and_batch(x, layer.batch_first[0])
    hidden = first[0].shape[1]
    rooms = [room.reshape(steps, batch, -1)[..., :hidden] for room in kept[1 : 1 + len(first)]]
    return _plain_backward(inputs, slopes, layer, into_x, tuple(rooms))


def _recomputed_backward(inputs, kept, slopes, layer, into_x):
    return _plain_backward(inputs, slopes, layer, into_x, None)


def _plain_backward(inputs, slopes, layer, into_x, states):
    *moving, lengths = inputs

    def plain(x, weights, first):
        (y, last), _ = _plain(layer, x, Weights(*weights, None), first, lengths, states)
        return [y, *last]

    dx, *others = jax.vjp(plain, *moving)[1](list(slopes))
    return [*([dx] if into_x else []), *jax.tree.leaves(others)]


def _backward_in_c(inputs, kept, slopes, layer, into_x):
    return jax.tree.leaves(kernels.recurrent_gradient(layer, *inputs, kept, slopes, into_x))


def _layer_shapes(x, weights, first, lengths, layer, keep):
    shapes = _result_shapes(layer, x, first)
    if not keep:
        return shapes
    steps, batch = _steps_and_batch(x, layer.batch_first[0])
    return shapes + kernels.kept_shapes(layer.cell, steps, batch, first[0].shape[1])


def _tangents_shapes(inputs, kept, direction, layer):
    return _result_shapes(layer, inputs[0], inputs[2])


def _backward_shapes(inputs, kept, slopes, layer, into_x):
    return [part.shape for part in jax.tree.leaves(inputs[:3])[not into_x :]]


_LAYER = Operation(
    "recurrent", native=_layer, kernel=_layer_in_c, shapes=_layer_shapes, jvp=_layer_jvp
)
_TANGENTS = Operation(
    "recurrent_tangents",
    native=_tangents,
    shapes=_tangents_shapes,
    transpose=_tangents_transpose,
)
_BACKWARD = Operation(
    "recurrent_gradient",
    native=_backward,
    kernel=_backward_in_c,
    shapes=_backward_shapes,
    derivative=_recomputed_backward,
)
