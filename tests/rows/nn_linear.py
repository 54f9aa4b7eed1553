"""Linear layers, and those that only reshape."""

from tests.table import Case

CASES = [
    Case("Linear", (3, 2), inputs=[(5, 3)]),
    Case("Linear", (3, 2), {"bias": False}, inputs=[(4, 5, 3)]),
    Case("Linear", (1, 1), inputs=[(1,)]),
    Case("Linear", (3, 2), inputs=[(0, 3)]),
    Case("Bilinear", (2, 3, 4), inputs=[(5, 6, 2), (5, 6, 3)]),
    Case("Bilinear", (2, 3, 1), {"bias": False}, inputs=[(2,), (3,)]),
    Case("Flatten", (), inputs=[(2, 3, 4, 5)]),
    Case("Flatten", (-3, -2), inputs=[(2, 3, 4, 5)]),
    Case("Unflatten", (-1, (2, -1)), inputs=[(3, 6)]),
    Case("Identity", (), inputs=[(2, 3)]),
]
