"""The dropouts where nothing is drawn: in eval mode, and at p = 0 and 1."""

from tests.table import Case

CASES = [
    Case("Dropout", (0.3,), inputs=[(2, 3)], train=False),
    Case("Dropout", (0.0,), inputs=[(2, 3)]),
    Case("Dropout1d", (0.3,), inputs=[(2, 3, 2)], train=False),
    Case("Dropout2d", inputs=[(2, 3, 2, 2)], train=False),
    Case("Dropout3d", (0.5, True), inputs=[(2, 3, 1, 2, 2)], train=False),
    Case("AlphaDropout", (0.2,), inputs=[(2, 3)], train=False),
    Case("FeatureAlphaDropout", (1.0,), inputs=[(2, 3, 2)]),
]
