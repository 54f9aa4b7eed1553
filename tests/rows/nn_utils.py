"""Layers whose weights are computed, and recurrent layers with packed sequences."""

import inspect

import numpy as np

from jaxnet import nn
from jaxnet.random import Generator
from tests.rows.nn_rnn import flat
from tests.table import Case


def utils_of(module):
    """nn.utils of the library that a module comes from."""
    if isinstance(module, nn.Module):
        return nn.utils
    import torch
    from torch.nn.utils import prune  # noqa: F401  which torch does not import by itself

    return torch.nn.utils


def through(function, generator=None, **kwargs):
    """Changes the module of either library with a function of its nn.utils."""

    def change(module):
        found = utils_of(module)
        for name in function.split("."):
            found = getattr(found, name)
        draws = "rngs" in inspect.signature(found).parameters
        rngs = {"rngs": generator or Generator(0)} if draws else {}
        return found(module, **kwargs, **rngs)

    return change


def row(kind, args, inputs, function, train=True, **arguments):
    words = ", ".join([function, *(f"{k}={v}" for k, v in arguments.items())])
    change = through(function, **arguments)
    output = flat if kind == "LSTM" else lambda out: out
    return Case(kind, args, {}, inputs=inputs, change=change, train=train, output=output, id=words)


def packed(*lengths, enforce_sorted=True):
    """Calls a recurrent layer of either library with a packed sequence."""

    def apply(module, input, *hx):
        rnn = utils_of(module).rnn
        state = None if not hx else hx[0] if len(hx) == 1 else hx
        given = np.array(lengths) if rnn is nn.utils.rnn else list(lengths)
        sequences = rnn.pack_padded_sequence(input, given, enforce_sorted=enforce_sorted)
        output, state = module(sequences, state)
        total = input.shape[0] + 1
        padded, _ = rnn.pad_packed_sequence(output, True, padding_value=0.5, total_length=total)
        return padded, output.data, state

    return apply


def with_data(result):
    padded, data, state = result
    return (data, *flat((padded, state)))


WN, SN, ORTH = (
    f"parametrizations.{name}" for name in ("weight_norm", "spectral_norm", "orthogonal")
)
IMAGES, ROWS = [(2, 3, 4, 4)], [(5, 4)]

CASES = [
    row("Linear", (4, 3), ROWS, "weight_norm"),
    row("Linear", (4, 3), ROWS, WN, dim=1),
    row("Conv2d", (3, 4, 2), IMAGES, WN),
    row("Conv2d", (3, 4, 2), IMAGES, "weight_norm", dim=None),
    row("Conv2d", (3, 4, 2), IMAGES, "spectral_norm", n_power_iterations=2),
    row("Conv2d", (3, 4, 2), IMAGES, SN),
    row("Conv2d", (3, 4, 2), IMAGES, SN, train=False),
    row("Linear", (4, 3), ROWS, "spectral_norm", train=False),
    row("ConvTranspose1d", (3, 4, 2), [(2, 3, 4)], SN),
    row("LayerNorm", (4,), ROWS, SN),
    row("Linear", (4, 4), ROWS, ORTH),
    row("Linear", (4, 3), ROWS, ORTH, orthogonal_map="cayley"),
    row("Linear", (4, 6), ROWS, ORTH),
    row("LSTM", (4, 3), [(5, 2, 4)], WN, name="weight_hh_l0"),
    row("Linear", (4, 3), ROWS, "prune.l1_unstructured", name="weight", amount=3),
    Case("LSTM", (2, 3), {"bidirectional": True}, inputs=[(4, 3, 2), (2, 3, 3), (2, 3, 3)],
         apply=packed(4, 2, 1), output=with_data, id="packed"),
    Case("GRU", (2, 3, 2), {"bidirectional": True, "batch_first": True}, inputs=[(4, 3, 2)],
         apply=packed(2, 4, 2, enforce_sorted=False), output=with_data, id="packed unsorted"),
]  # fmt: skip
