"""A recurrent layer over whole sequences: recurrent.c, recurrent_gradient.c, derivatives.

Backward differentiation calls the kernel's own backward pass. Everything else (forward
differentiation, the derivative of a gradient) goes through `Layer.plain`, the same layer
in JAX's operations, so that every derivative exists, in every order of the modes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxnet.kernels.layout import call

__all__ = ["Layer", "recurrent"]

_CELLS = {"tanh": 0, "relu": 1, "lstm": 2, "gru": 3}
_SLOTS = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 4}
_UNITS = 16  # what the kernel fills the hidden units up to a multiple of


class Layer(NamedTuple):
    """What a recurrent layer computes; hashable.

    Attributes:
        cell: "tanh", "relu", "lstm" or "gru".
        plain: the same layer in JAX's operations, with the arguments of `recurrent`
            after `layer`.
        reverse: whether time runs backwards.
        batch_first: whether the input is (N, L, ...) and not (L, N, ...), and whether the
            output is.
    """

    cell: str
    plain: Callable[..., Any]
    reverse: bool = False
    batch_first: tuple[bool, bool] = (False, False)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def recurrent(
    layer: Layer,
    x: jax.Array,
    weights: tuple[jax.Array | None, ...],
    first: tuple[jax.Array, ...],
    lengths: jax.Array | None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """One layer in one direction.

    Args:
        layer: what to compute.
        x: (L, N, I) or (N, L, I) float32.
        weights: w_ih (G H, I), w_hh (G H, H), b_ih and b_hh (G H,) or None, in torch's order.
        first: the state before the first step: h (N, H), of an LSTM also c (N, H).
        lengths: (N,), or None if all have L steps. Behind a sequence's end the state stays
            and the output is 0.

    Returns:
        h of all steps, (L, N, H) or (N, L, H), and the last state.
    """
    return _forward(layer, x, weights, first, lengths, keep=False)[0]


@partial(recurrent.defjvp, symbolic_zeros=True)
def _recurrent_jvp(layer, primals, tangents):
    results, kept = _keeping(layer, *primals)
    return results, _tangents(layer, primals, kept, tangents)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _keeping(layer, x, weights, first, lengths):
    """`recurrent`, and what its backward pass wants to know.

    That has no derivative here: derivatives of the backward pass start from the inputs.
    """
    return _forward(layer, x, weights, first, lengths, keep=True)


@partial(_keeping.defjvp, symbolic_zeros=True)
def _keeping_jvp(layer, primals, tangents):
    results, kept = _keeping(layer, *primals)
    still = jax.tree.map(jnp.zeros_like, kept)
    return (results, kept), (_tangents(layer, primals, kept, tangents), still)


def _sizes(layer, x, weights):
    """L, N, H, and H filled up."""
    steps, batch = x.shape[1::-1] if layer.batch_first[0] else x.shape[:2]
    hidden = weights[1].shape[1]
    return steps, batch, hidden, -(-hidden // _UNITS) * _UNITS


def _call(name, layer, shapes, arrays, aliases=None):
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


def _forward(layer, x, weights, first, lengths, keep):
    steps, batch, hidden, units = _sizes(layer, x, weights)
    ends = _ends(lengths, steps, batch)
    both = first if layer.cell == "lstm" else (*first, jnp.zeros((0, 0), jnp.float32))
    w_ih, w_hh, b_ih, b_hh = weights
    room = steps * batch * units if keep else 0
    shapes = [
        (batch, steps, hidden) if layer.batch_first[1] else (steps, batch, hidden),
        *(state.shape for state in both),
        (room * _SLOTS[layer.cell],),
        (room,),
        (room if layer.cell == "lstm" else 0,),
    ]
    arrays = (x, w_ih, w_hh, _slots(layer.cell, b_ih, b_hh, hidden), *both, ends)
    y, h_n, c_n, *kept = _call("jaxnet_recurrent", layer, shapes, arrays)
    return (y, (h_n, c_n)[: len(first)]), tuple(kept)


def _ends(lengths, steps, batch):
    return jnp.full(batch, steps, jnp.float32) if lengths is None else lengths.astype(jnp.float32)


def _slots(cell, b_ih, b_hh, hidden):
    """The biases of the kernel's sums, whose order for a GRU is n_x, r, z, n_h."""
    if b_ih is None:
        return jnp.zeros(_SLOTS[cell] * hidden, jnp.float32)
    if cell != "gru":
        return b_ih + b_hh
    both = 2 * hidden
    return jnp.concatenate([b_ih[both:], b_ih[:both] + b_hh[:both], b_hh[both:]])


def _biases(cell, slots, hidden):
    """The transpose of `_slots`."""
    if cell != "gru":
        return slots, slots
    n_x, both, n_h = jnp.split(slots, [hidden, 3 * hidden])
    return jnp.concatenate([both, n_x]), jnp.concatenate([both, n_h])


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _backward(layer, into_x, inputs, kept, slopes):
    """The slopes of x (None unless into_x), the weights and the first state."""
    x, weights, first, lengths = inputs
    steps, batch, hidden, units = _sizes(layer, x, weights)
    dy, d_last = slopes
    none = jnp.zeros((0, 0), jnp.float32)
    lstm = layer.cell == "lstm"
    shapes = [
        x.shape if into_x else (0, 0, 0),
        weights[0].shape,
        weights[1].shape,
        (_SLOTS[layer.cell] * hidden,),
        (batch, hidden),
        (batch, hidden) if lstm else (0, 0),
        (steps * batch * units * _SLOTS[layer.cell],),
    ]
    c0, dc_n = (first[1], d_last[1]) if lstm else (none, none)
    arrays = (x, *weights[:2], c0, _ends(lengths, steps, batch), *kept, dy, d_last[0], dc_n)
    name = "jaxnet_recurrent_gradient"
    # The slots that were kept, the sixth array, make room for their slopes.
    results = _call(name, layer, shapes, arrays, aliases={5: 6})
    dx, dw_ih, dw_hh, slots, dh0, dc0, _ = results
    biases = (None, None) if weights[2] is None else _biases(layer.cell, slots, hidden)
    return dx if into_x else None, (dw_ih, dw_hh, *biases), (dh0, dc0)[: len(first)]


@_backward.defjvp
def _backward_jvp(layer, into_x, primals, tangents):
    (inputs, kept, slopes), (d_inputs, _, d_slopes) = primals, tangents

    def plain(inputs, slopes):
        *moving, lengths = inputs
        _, back = jax.vjp(lambda *moving: layer.plain(*moving, lengths), *moving)
        dx, *others = back(slopes)
        return dx if into_x else None, *others

    moved = jax.jvp(plain, (inputs, slopes), (d_inputs, d_slopes))[1]
    return _backward(layer, into_x, inputs, kept, slopes), moved


# The derivative of the layer in one direction of its inputs. It is an operation of its
# own because JAX's decorators give a function either a forward derivative or a backward
# pass; this one is linear in its direction, and its transpose is the kernel's backward.
# Arguments, flat: the inputs, what was kept, and those parts of the direction that move.

_tangents_p = Primitive("jaxnet_recurrent_tangents")
_tangents_p.multiple_results = True


def _tangents(layer, inputs, kept, direction):
    """What y and the last state do when x, the weights and the first state move."""
    fixed, tree = jax.tree.flatten((inputs, kept))
    parts = jax.tree.flatten(direction[:3])[0]
    moves = tuple(not isinstance(part, jax.custom_derivatives.SymbolicZero) for part in parts)
    moving = [part for part, moves_ in zip(parts, moves, strict=True) if moves_]
    flat = _tangents_p.bind(*fixed, *moving, layer=layer, tree=tree, moves=moves)
    return flat[0], tuple(flat[1:])


def _cut(flat, tree, moves):
    """The inputs, what was kept, and the moving parts, from the operation's arguments."""
    fixed = len(flat) - sum(moves)
    return *jax.tree.unflatten(tree, flat[:fixed]), flat[fixed:]


def _plain_tangents(*flat, layer, tree, moves):
    inputs, _, moving = _cut(flat, tree, moves)
    leaves, structure = jax.tree.flatten(inputs[:3])
    given = iter(moving)
    direction = [
        next(given) if moves_ else jnp.zeros_like(leaf)
        for leaf, moves_ in zip(leaves, moves, strict=True)
    ]
    moved = jax.jvp(
        lambda *moving: layer.plain(*moving, inputs[3]),
        inputs[:3],
        jax.tree.unflatten(structure, direction),
    )[1]
    return jax.tree.leaves(moved)


def _tangents_shapes(*flat, layer, tree, moves):
    x, weights, first, _ = jax.tree.unflatten(tree, flat[: len(flat) - sum(moves)])[0]
    steps, batch, hidden, _ = _sizes(layer, x, weights)
    sizes = (batch, steps) if layer.batch_first[1] else (steps, batch)
    return [jax.core.ShapedArray(shape, x.dtype) for shape in (
        (*sizes, hidden), *((batch, hidden) for _ in first)
    )]  # fmt: skip


def _tangents_jvp(primals, tangents, **about):
    filled = tuple(map(ad.instantiate_zeros, tangents))
    return jax.jvp(partial(_plain_tangents, **about), primals, filled)


def _tangents_transpose(slopes, *flat, layer, tree, moves):
    inputs, kept, moving = _cut(flat, tree, moves)
    dy, *d_last = (ad.instantiate_zeros(s) for s in slopes)
    into_x = moves[0] and ad.is_undefined_primal(moving[0])
    found = jax.tree.leaves(_backward(layer, into_x, inputs, kept, (dy, tuple(d_last))))
    if not into_x:
        found = [None, *found]
    wanted = [slope for slope, moves_ in zip(found, moves, strict=True) if moves_]
    return [None] * (len(flat) - len(moving)) + [
        slope if ad.is_undefined_primal(part) else None
        for slope, part in zip(wanted, moving, strict=True)
    ]


def _tangents_batched(arguments, axes, **about):
    """One after the other, so that the transpose stays the kernel's."""
    batched = [axis is not None for axis in axes]
    front = [
        jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arguments, axes, strict=True)
        if axis is not None
    ]

    def one(parts):
        given = iter(parts)
        flat = [
            next(given) if is_batched else a
            for a, is_batched in zip(arguments, batched, strict=True)
        ]
        return _tangents_p.bind(*flat, **about)

    results = lax.map(one, front)
    return results, [0] * len(results)


_tangents_p.def_abstract_eval(_tangents_shapes)
_tangents_p.def_impl(partial(jax.jit, static_argnames=("layer", "tree", "moves"))(_plain_tangents))
mlir.register_lowering(_tangents_p, mlir.lower_fun(_plain_tangents, multiple_results=True))
ad.primitive_jvps[_tangents_p] = _tangents_jvp
ad.primitive_transposes[_tangents_p] = _tangents_transpose
batching.primitive_batchers[_tangents_p] = _tangents_batched
