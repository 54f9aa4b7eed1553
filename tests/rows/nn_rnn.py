"""Recurrent layers and cells."""

import jax.numpy as jnp

from jaxnet import nn
from tests.table import Case


def flat(result):
    """(output, h_n) or (output, (h_n, c_n)) as one tuple."""
    output, state = result
    return (output, *state) if isinstance(state, tuple) else (output, state)


def with_pair(module, input, h, c):
    return module(input, (h, c))


def with_lengths(*lengths):
    """Calls our module with lengths, and torch's with a packed sequence."""

    def apply(module, input, *hx):
        state = None if not hx else hx[0] if len(hx) == 1 else hx
        if isinstance(module, nn.Module):
            return module(input, state, lengths=jnp.asarray(lengths))
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        first = module.batch_first
        packed = pack_padded_sequence(
            input, torch.tensor(lengths), batch_first=first, enforce_sorted=False
        )
        output, state = module(packed, state)
        steps = input.shape[1 if first else 0]
        return pad_packed_sequence(output, batch_first=first, total_length=steps)[0], state

    return apply


def recurrent(name, args, kwargs=None, inputs=(), **fields):
    return Case(name, args, kwargs or {}, inputs, output=flat, **fields)


CASES = [
    recurrent("RNN", (3, 4), inputs=[(5, 2, 3)]),
    recurrent(
        "RNN", (2, 3, 1, "relu"), {"bidirectional": True, "bias": False},
        inputs=[(4, 3, 2), (2, 3, 3)], apply=with_lengths(2, 4, 1),
    ),
    recurrent("LSTM", (2, 3), inputs=[(4, 2), (1, 3), (1, 3)], apply=with_pair),
    recurrent(
        "LSTM", (2, 3, 2), {"bidirectional": True, "proj_size": 2, "batch_first": True},
        inputs=[(3, 4, 2), (4, 3, 2), (4, 3, 3)], apply=with_lengths(2, 4, 3),
    ),
    recurrent("GRU", (3, 4, 2), inputs=[(1, 2, 3), (2, 2, 4)]),
    recurrent(
        "GRU", (2, 3), {"bidirectional": True, "batch_first": True},
        inputs=[(3, 4, 2)], apply=with_lengths(4, 1, 2),
    ),
    Case("RNNCell", (3, 4), {"nonlinearity": "relu"}, inputs=[(2, 3), (2, 4)]),
    Case("RNNCell", (3, 4, False), inputs=[(3,)]),
    Case("LSTMCell", (3, 4), inputs=[(2, 3), (2, 4), (2, 4)], apply=with_pair),
    Case("GRUCell", (3, 4), inputs=[(2, 3), (2, 4)]),
]  # fmt: skip
