"""Activations, elementwise and over an axis."""

import numpy as np

from tests.table import Case

# Every kink of every default lies among these, so the rows check its slope too.
KINKS = np.array([-6, -3, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 3, 6, 20])


def around(rng):
    return np.concatenate([KINKS, 3 * rng.standard_normal(10)])


def in_channels(rng):
    return around(rng).reshape(2, 2, 6)


def row(name, *args, **kwargs):
    return Case(name, args, kwargs, inputs=[around])


CASES = [
    *map(row, ["ReLU", "ReLU6", "Sigmoid", "Tanh", "SiLU", "Mish", "SELU", "LogSigmoid"]),
    *map(row, ["Softsign", "Tanhshrink", "Hardsigmoid", "Hardswish", "GELU", "Softplus"]),
    *map(row, ["ELU", "Hardtanh", "LeakyReLU", "Hardshrink", "Softshrink"]),
    row("GELU", approximate="tanh"),
    row("CELU", 2.0),
    row("Softplus", 2.0, 4.0),  # beta * 2 is just the threshold
    row("Threshold", 0.5, 20.0),
    Case("RReLU", (0.1, 0.4), inputs=[around], train=False),
    Case("PReLU", inputs=[around]),
    Case("PReLU", (2,), {"init": 0.5}, inputs=[in_channels]),
    Case("Softmax", (-1,), inputs=[(2, 3, 4)]),
    Case("LogSoftmax", (1,), inputs=[(2, 3, 4)]),
    Case("Softmin", (0,), inputs=[(3, 2)]),
    Case("Softmax2d", inputs=[(2, 3, 2, 2)]),
    Case("GLU", (1,), inputs=[(2, 4, 3)]),
]
