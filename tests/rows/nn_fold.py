"""Patches of images, and rearrangements of channels and pixels."""

from tests.table import Case

CASES = [
    Case("Unfold", (2,), inputs=[(2, 2, 3, 4)]),
    Case("Unfold", ((3, 2), (1, 2), (2, 1), (2, 1)), inputs=[(2, 5, 4)]),
    Case("Unfold", (2,), {"stride": 2}, inputs=[(1, 3, 5, 4)], id="side by side"),
    Case("Fold", ((3, 4), 2), inputs=[(2, 8, 6)]),
    Case("Fold", ((5, 4), (3, 2), (1, 2), (2, 1), (2, 1)), inputs=[(12, 16)]),
    Case("Fold", ((5, 4), 2), {"stride": 2}, inputs=[(1, 12, 4)], id="side by side"),
    Case("PixelShuffle", (2,), inputs=[(2, 8, 2, 3)]),
    Case("PixelUnshuffle", (2,), inputs=[(3, 4, 2)]),
    Case("ChannelShuffle", (3,), inputs=[(2, 6, 2, 2)]),
]
