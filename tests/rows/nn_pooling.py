"""Pooling: largest, mean, power mean; by window and by output size."""

import numpy as np

from tests.table import Case


def ties(*shape):
    """Few different numbers, so that most windows have several largest."""
    return lambda rng: rng.randint(-1, 2, size=shape).astype(np.float32)


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
]
