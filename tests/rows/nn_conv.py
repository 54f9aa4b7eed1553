"""Convolutions over one to three axes."""

from tests.table import Case

CASES = [
    Case("Conv1d", (4, 6, 2, 2, 1, 2, 2), inputs=[(4, 9)]),
    Case("Conv2d", (3, 4, 3), {"padding": "valid"}, inputs=[(2, 3, 6, 5)]),
    Case("Conv2d", (2, 3, (2, 3), (2, 1), (1, 0), (1, 2), 1, False), inputs=[(2, 2, 6, 7)]),
    Case("Conv2d", (2, 3, (5, 3)), {"padding": "same", "dilation": (1, 2)}, inputs=[(1, 2, 5, 6)]),
    Case("Conv2d", (2, 2, 1), {"padding": 1, "stride": 3}, inputs=[(1, 2, 5, 4)], id="pad > span"),
    Case("Conv2d", (4, 4, 3), {"padding": 1, "stride": 2, "groups": 4}, inputs=[(2, 4, 6, 5)]),
    Case("Conv2d", (4, 6, 3), {"padding": 1, "dilation": 2, "groups": 2}, inputs=[(2, 4, 6, 6)]),
    Case("Conv2d", (16, 4, 2), {"stride": 2, "groups": 2}, inputs=[(1, 16, 4, 5)]),
    Case("Conv2d", (1, 2, 3), {"padding": (2, 1), "padding_mode": "reflect"}, inputs=[(1, 4, 3)]),
    Case(
        "Conv2d", (2, 2, 4), {"padding": "same", "padding_mode": "circular"}, inputs=[(1, 2, 4, 5)]
    ),
    Case("Conv3d", (2, 2, 2, (1, 2, 1), 1), inputs=[(1, 2, 3, 4, 3)]),
    Case(
        "Conv3d",
        (2, 2, 2),
        {"padding": 1, "groups": 2, "padding_mode": "replicate"},
        inputs=[(2, 2, 3, 2)],
    ),
]
