"""Pooling: largest, mean, power mean; by window and by output size."""

import math

import numpy as np

from tests.table import Case


def ties(*shape):
    """Few different numbers, so that most windows have several largest."""
    return lambda rng: rng.randint(-1, 2, size=shape).astype(np.float32)


def places(n, *shape, most):
    """Different positions from 0 to most - 1 for each channel, over n spatial axes."""

    def draw(rng):
        size = math.prod(shape[-n:])
        channels = [rng.permutation(most)[:size] for _ in range(math.prod(shape[:-n]))]
        return np.reshape(channels, shape)

    return draw


def samples(*shape):
    """The random numbers of fractional pooling, as an array of either library."""
    return lambda make: make(np.full(shape, 0.25))


CASES = [
    Case("MaxPool1d", (2,), inputs=[ties(2, 3, 7)]),
    Case("MaxPool2d", ((2, 3),), inputs=[ties(2, 5, 7)], id="rest left out"),
    Case("MaxPool2d", (3, 2, 1), inputs=[ties(2, 2, 6, 5)]),
    Case("MaxPool2d", ((3, 2), (2, 1), (1, 0), (2, 3), False, True), inputs=[ties(1, 2, 7, 6)]),
    Case("MaxPool3d", (2, 2, 1), inputs=[ties(1, 2, 3, 4, 3)]),
    Case("AvgPool1d", (3, 2, 1, True), inputs=[(2, 2, 6)]),
    Case("AvgPool2d", (3, 2, 1, True), inputs=[(1, 2, 6, 5)]),
    Case("AvgPool2d", ((3, 2), 2, 1, True, False), inputs=[(2, 6, 5)]),
    Case("AvgPool2d", (3, 1, 1, False, True, 5), inputs=[(1, 2, 4, 4)]),
    Case("AvgPool3d", (2, 2, 1, True, False), inputs=[(1, 2, 3, 4, 3)]),
    Case("LPPool1d", (3, 2), {"ceil_mode": True}, [(2, 2, 5)]),
    Case("LPPool2d", (2, 2, 1), inputs=[ties(1, 2, 4, 4)]),
    Case("AdaptiveAvgPool1d", (3,), inputs=[(2, 2, 7)]),
    Case("AdaptiveAvgPool2d", ((3, None),), inputs=[(2, 5, 3)]),
    Case("AdaptiveAvgPool3d", (2,), inputs=[(1, 2, 3, 4, 2)]),
    Case("AdaptiveMaxPool1d", (1,), inputs=[ties(2, 2, 12)]),
    Case("AdaptiveMaxPool2d", ((3, None),), inputs=[ties(2, 2, 5, 3)]),
    Case("AdaptiveMaxPool3d", ((1, None, 3),), inputs=[ties(2, 3, 2, 4)]),
    Case("MaxUnpool1d", (2,), inputs=[(2, 2, 3), places(1, 2, 2, 3, most=6)]),
    Case("MaxUnpool2d", ((2, 3), None, 1), inputs=[(2, 2, 3), places(2, 2, 2, 3, most=14)]),
    Case("MaxUnpool3d", (2, 1), inputs=[(1, 2, 2, 1, 2), places(3, 1, 2, 2, 1, 2, most=18)]),
    Case("FractionalMaxPool2d", (2, (3, 2)), {"_random_samples": samples(2, 2, 2)}, [(2, 2, 6, 5)]),
    Case(
        "FractionalMaxPool3d",
        ((1, 2, 2),),
        {"output_ratio": 0.5, "_random_samples": samples(1, 2, 3)},
        [ties(2, 4, 5, 6)],
    ),
]
