"""Faults of recurrent layers."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.parity._traps._trap import Trap

LSTM, GRU, RNN = ("LSTM", "LSTMCell"), ("GRU", "GRUCell"), ("RNN", "RNNCell")
ALL = (*LSTM, *GRU, *RNN)
_GATES = {"LSTM": "ifgo", "GRU": "rzn"}


def _orders(layer: Any) -> list[str]:
    own = _GATES[layer.kind.removesuffix("Cell")]
    return ["".join(order) for order in itertools.permutations(own) if "".join(order) != own]


def _reordered(layer: Any, order: str) -> Any:
    """A layer that takes the rows of its weights for the gates in another order."""
    own = _GATES[layer.kind.removesuffix("Cell")]

    def rows(array: Any) -> Any:
        parts = dict(zip(order, jnp.split(array, len(order)), strict=True))
        return jnp.concatenate([parts[gate] for gate in own])

    names = [name for name in layer.parameters if not name.startswith("weight_hr")]
    return layer.with_parameters(**dict.fromkeys(names, rows))


def _one_bias(layer: Any, left_out: str) -> Any:
    names = [name for name in layer.parameters if name.startswith(left_out)]
    if not names:
        raise ValueError("it has no bias")
    return layer.with_parameters(**dict.fromkeys(names, jnp.zeros_like))


def _reset_before(layer: Any) -> Any:
    """The GRU of the first paper: the reset gate is applied before the product."""
    config = layer.config
    if config.get("num_layers", 1) != 1 or config.get("bidirectional") or layer.input.ndim != 3:
        raise ValueError("only one layer in one direction is rebuilt")
    size = config["hidden_size"]

    def run(inner: Any, p: Mapping[str, Any], b: Any, x: Mapping[str, Any]) -> Any:
        given = x[layer.first]
        steps = given.swapaxes(0, 1) if config.get("batch_first") else given
        zero = jnp.zeros(3 * size, given.dtype)
        b_ih, b_hh = p.get("bias_ih_l0", zero), p.get("bias_hh_l0", zero)
        w_hh = p["weight_hh_l0"]

        def step(h: Any, x_t: Any) -> Any:
            from_x = x_t @ p["weight_ih_l0"].T + b_ih
            from_h = h @ w_hh[: 2 * size].T + b_hh[: 2 * size]
            r, z = jnp.split(jax.nn.sigmoid(from_x[:, : 2 * size] + from_h), 2, -1)
            new = (r * h) @ w_hh[2 * size :].T + b_hh[2 * size :] + from_x[:, 2 * size :]
            h = (1 - z) * jnp.tanh(new) + z * h
            return h, h

        start = (
            x["1"][0] if x.get("1") is not None else jnp.zeros((steps.shape[1], size), given.dtype)
        )
        last, outputs = jax.lax.scan(step, start, steps)
        outputs = outputs.swapaxes(0, 1) if config.get("batch_first") else outputs
        return (outputs, last[None]), b

    return layer.wrapped(run)


def _bias_outside(layer: Any) -> Any:
    """A GRU whose hidden bias of n is added outside of the product with the reset gate."""
    size = layer.config["hidden_size"]
    biases = [n for n in layer.parameters if n.startswith("bias_hh")]
    if not biases:
        raise ValueError("it has no bias")

    def run(inner: Any, p: Mapping[str, Any], b: Any, x: Any) -> Any:
        moved = dict(p)
        for name in biases:
            other = name.replace("bias_hh", "bias_ih")
            moved[other] = p[other].at[2 * size :].add(p[name][2 * size :])
            moved[name] = p[name].at[2 * size :].set(0)
        return inner(moved, b, x)

    return layer.wrapped(run)


def _update_swapped(layer: Any) -> Any:
    """z h + (1 - z) n with 1 - z in the place of z: the update gate with the other sign."""
    size = layer.config["hidden_size"]

    def negated(array: Any) -> Any:
        return array.at[size : 2 * size].multiply(-1)

    return layer.with_parameters(**dict.fromkeys(layer.parameters, negated))


def _other_layout(layer: Any) -> Any:
    if layer.input.ndim != 3:
        raise ValueError("there is no batch")
    return layer.altered(batch_first=not layer.config.get("batch_first", False))


def _has_state(layer: Any) -> bool:
    """Whether it is given a state that is not None."""
    return any(layer.inputs[name] is not None for name in [*layer.inputs][1:])


def _stateless(layer: Any) -> Any:
    if not _has_state(layer):
        raise ValueError("it begins with zeros")

    def run(inner: Any, p: Any, b: Any, x: Mapping[str, Any]) -> Any:
        return inner(p, b, {layer.first: x[layer.first]})

    return layer.wrapped(run)


def _started(layer: Any) -> Any:
    config = layer.config
    if _has_state(layer) or layer.input.ndim != 3 or config.get("proj_size"):
        raise ValueError("it is given a state")
    count = config.get("num_layers", 1) * (2 if config.get("bidirectional") else 1)
    batch = layer.input.shape[0 if config.get("batch_first") else 1]

    def run(inner: Any, p: Any, b: Any, x: Mapping[str, Any]) -> Any:
        ones = jnp.ones((count, batch, config["hidden_size"]), x[layer.first].dtype)
        return inner(p, b, {**x, "1": (ones, ones) if layer.kind == "LSTM" else ones})

    return layer.wrapped(run)


def _directions(layer: Any, form: str) -> Any:
    """The two directions' outputs in another arrangement."""
    time = 1 if layer.config.get("batch_first") and layer.input.ndim == 3 else 0

    def arranged(output: Any) -> Any:
        y, last = output
        forward, backward = jnp.split(y, 2, -1)
        if form == "swapped":
            y = jnp.concatenate([backward, forward], -1)
        elif form == "not turned back":
            y = jnp.concatenate([forward, jnp.flip(backward, time)], -1)
        else:
            y = forward + backward
        return y, last

    return layer.then(arranged)


def _undropped(layer: Any) -> Any:
    return dataclasses.replace(layer.altered(dropout=0.0), draws=())


def _is_deep(config: Mapping[str, Any]) -> bool:
    return config.get("num_layers", 1) > 1


def _nonlinearities(layer: Any) -> Sequence[str]:
    return ["relu" if layer.config.get("nonlinearity", "tanh") == "tanh" else "tanh"]


TRAPS = (
    Trap(
        "rnn-gate-order",
        (*LSTM, *GRU),
        _reordered,
        "The gates are taken in the order {order}; torch's is i, f, g, o in an LSTM and r, z, n in "
        "a GRU.",
        "Permute the blocks of the weights and biases.",
        options={"order": _orders},
    ),
    Trap(
        "rnn-one-bias",
        ALL,
        _one_bias,
        "The bias {left_out} is left out; torch adds bias_ih and bias_hh.",
        "Give the sum of torch's two biases as the one (in a GRU, the hidden bias of n apart).",
        when=lambda config: config.get("bias", True),
        options={"left_out": ("bias_ih", "bias_hh")},
    ),
    Trap(
        "gru-reset-before",
        ("GRU",),
        _reset_before,
        "The reset gate is applied to the state before the product with the weights; torch applies "
        "it after, to W h + b.",
        "Compute n = tanh(W_in x + b_in + r (W_hn h + b_hn)).",
    ),
    Trap(
        "gru-bias-outside",
        GRU,
        _bias_outside,
        "The hidden bias of n is added outside of the product with the reset gate, as flax's "
        "GRUCell, which has one bias for both, does; torch's is inside of it.",
        "Give dense_h of nnx.GRUCell a bias: cell.dense_h = nnx.Linear(H, 3 * H, rngs=rngs).",
        when=lambda config: config.get("bias", True),
    ),
    Trap(
        "gru-update-complement",
        GRU,
        _update_swapped,
        "The update gate weighs the new state; in torch h = (1 - z) n + z h.",
        "Compute (1 - z) n + z h.",
    ),
    Trap(
        "rnn-batch-first",
        ("LSTM", "GRU", "RNN"),
        _other_layout,
        "The batch is taken for the time: batch_first is the other way around than torch's "
        "{torch[batch_first]}.",
        "Give batch_first={torch[batch_first]}; flax's layers take (N, L, features).",
    ),
    Trap(
        "rnn-state-ignored",
        ALL,
        _stateless,
        "The layer begins with zeros; torch's is given an initial state.",
        "Give the state: initial_carry in flax.",
    ),
    Trap(
        "rnn-state-of-ones",
        ("LSTM", "GRU", "RNN"),
        _started,
        "The layer begins with an initial state of ones; torch's begins with zeros.",
        "Begin with zeros.",
    ),
    Trap(
        "rnn-directions",
        ("LSTM", "GRU", "RNN"),
        _directions,
        "The outputs of the two directions are {form}; torch has forward and backward side by "
        "side, both in the order of the input.",
        "Concatenate forward and backward, the latter turned back in time (keep_order=True).",
        when=lambda config: bool(config.get("bidirectional")),
        options={"form": ("swapped", "not turned back", "added")},
    ),
    Trap(
        "rnn-dropout-missing",
        ("LSTM", "GRU", "RNN"),
        _undropped,
        "There is no dropout between the layers; torch's rate is {torch[dropout]}.",
        "Drop what goes from one layer to the next, and not what the last one gives.",
        when=lambda config: _is_deep(config) and config.get("dropout", 0) > 0,
    ),
    Trap(
        "rnn-nonlinearity",
        RNN,
        lambda layer, function: layer.altered(nonlinearity=function),
        "The nonlinearity is {function}; torch's is {torch[nonlinearity]}.",
        "Use {torch[nonlinearity]}.",
        options={"function": _nonlinearities},
    ),
)
