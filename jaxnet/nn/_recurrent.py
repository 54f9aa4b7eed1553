"""One recurrent layer in one direction.

`recurrent_layer` chooses how it is computed. On a CPU batches of float32 sequences go through
jaxnet's own C code (`jaxnet._kernels`), with one call for the whole sequence. Everything else
is one matrix product for the inputs of all steps, and a `recurrence` over time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet import _kernels as kernels
from jaxnet._kernels.recurrent import Layer
from jaxnet.backend import Operation, is_between, is_wanted, tangents_along
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

# The kernel reorders its weights at every call, which pays only for many rows (steps times
# sequences). A few sequences do not fill its vector registers, and one step needs no loop.
_FEWEST_ROWS = 128
_LEAST_BATCH = 4


class Weights(NamedTuple):
    """The weights of one layer in one direction. G is 4 for an LSTM, 3 for a GRU, else 1.

    Attributes:
        w_ih: The weight of the input, (G * H, I).
        w_hh: The weight of h, (G * H, H), or (G * H, proj_size).
        b_ih: The bias of the input, (G * H,), or None.
        b_hh: The bias of h, (G * H,), or None.
        w_hr: The projection of h, (proj_size, H), or None.
    """

    w_ih: jax.Array
    w_hh: jax.Array
    b_ih: jax.Array | None
    b_hh: jax.Array | None
    w_hr: jax.Array | None


def before_end(lengths: jax.Array, steps: int) -> jax.Array:
    """A mask (steps, N) that is True before the end of each sequence."""
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
    """Runs one layer over whole sequences.

    Args:
        cell: The kind of cell, "tanh", "relu", "lstm" or "gru".
        input: The sequences, (L, N, I) or (N, L, I). The padding behind the end of a sequence
            must not contain nan.
        weights: The weights of the layer.
        first: The state before the first step: h (N, proj_size or H), and for an LSTM c.
        lengths: The lengths of the sequences, (N,), each from 1 to L; by default all have L
            steps. Behind the end of a sequence the output is 0 and the state unchanged.
        reverse: Whether the loop starts with the last time step.
        batch_first: Whether the input is (N, L, I), and whether the output shall be (N, L, H).

    Returns:
        The pair of h of every step, (L, N, H) or (N, L, H), and the last state.
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
        and is_between(batch, _LEAST_BATCH)
        and is_between(steps, 2)
        and batch * steps >= _FEWEST_ROWS
    )


def _steps_and_batch(input: jax.Array, batch_first: bool) -> tuple[int, int]:
    steps, batch = input.shape[1::-1] if batch_first else input.shape[:2]
    return steps, batch


@full_float32()
def _plain(layer, input, weights, first, lengths, states=None):
    """The layer without the kernel: ((output, last state), all states).

    The states may be given if they are known from the forward pass.
    """
    cell, reverse, batch_first = layer
    x = jnp.swapaxes(input, 0, 1) if batch_first[0] else input  # (L, N, I)
    steps = x.shape[0]
    valid = None if lengths is None else before_end(lengths, steps)[..., None]
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    gates, extra = _gates(cell, x, w_ih, b_ih, b_hh)
    factors: Any = (w_hh,)
    if w_hr is not None:
        # The state of the loop is h before its projection. The given h0 is already projected,
        # so it is added to the gates of the first step, and the loop starts from zeros.
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
        # The state stays unchanged behind a sequence's end, but the output is 0 there, as in
        # torch's pad_packed_sequence.
        output = jnp.where(valid, output, jnp.zeros_like(output))
    return ((jnp.swapaxes(output, 0, 1) if batch_first[1] else output), last), states


def _gates(cell, x, w_ih, b_ih, b_hh):
    """The input's part of the gates of all time steps, by one matrix product."""
    if cell == "gru":
        return gru_gates(x, w_ih, b_ih, b_hh)
    return linear(x, w_ih, None if b_ih is None else b_ih + b_hh), None


# The layer without a projection as a differentiable operation. Its backward pass is the
# kernel's, or that of `_plain` with the states of the forward pass. All other derivatives
# (forward mode, derivatives of a gradient) are those of `_plain`, so derivatives of every order
# exist, in every combination of modes.


def _layer(x, weights, first, lengths, layer, keep):
    (y, last), states = _plain(layer, x, Weights(*weights, None), first, lengths)
    if not keep:
        return [y, *last]
    # This backward pass needs the states only. They are stored in arrays of the shapes that
    # the kernel asks for, because an operation has the same shapes in all of its forms.
    kept = [
        jnp.zeros(shape, y.dtype) for shape in kernels.kept_shapes(layer.cell, *states[0].shape)
    ]
    for i, state in enumerate(states):
        kept[1 + i] = _filled(state, kept[1 + i].size)
    return [y, *last, *kept]


def _filled(state, room):
    """Flattens (L, N, H) to an array of `room` numbers, with zeros appended to each row."""
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
    """The tangents of y and the last state for tangents of x, the weights and the first state."""
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
    # An argument without a tangent must get None, although the kernel computes its gradient.
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


def _rows(x, weights, first, lengths, layer, keep):
    if keep:  # what is kept for the backward pass has no axis for the rows
        return None
    of_input, of_output = (0 if first else 1 for first in layer.batch_first)
    fixed, carried = [None for w in weights if w is not None], [0 for _ in first]
    ends = [] if lengths is None else [0]
    return (of_input, *fixed, *carried, *ends), (of_output, *carried)


def _tangents_shapes(inputs, kept, direction, layer):
    return _result_shapes(layer, inputs[0], inputs[2])


def _backward_shapes(inputs, kept, slopes, layer, into_x):
    return [part.shape for part in jax.tree.leaves(inputs[:3])[not into_x :]]


_LAYER = Operation(
    "recurrent",
    native=_layer,
    kernel=_layer_in_c,
    rows=_rows,
    shapes=_layer_shapes,
    jvp=_layer_jvp,
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
