"""Transposed convolutions over one to three axes."""

from tests.table import Case

CASES = [
    Case("ConvTranspose1d", (4, 2, 2, 3, 1, 2, 2, True, 3), inputs=[(4, 5)]),
    Case("ConvTranspose2d", (3, 2, 3), {"stride": 2, "padding": 1}, inputs=[(2, 3, 4, 3)]),
    Case(
        "ConvTranspose2d", (2, 3, (2, 3), (2, 3), (0, 1), (1, 2), 1, False), inputs=[(1, 2, 3, 4)]
    ),
    Case("ConvTranspose2d", (2, 2, 3), {"padding": 2, "dilation": (2, 1)}, inputs=[(1, 2, 4, 5)]),
    Case(
        "ConvTranspose2d",
        (4, 4, 3),
        {"stride": 2, "padding": 1, "groups": 4},
        inputs=[(2, 4, 3, 3)],
    ),
    Case("ConvTranspose2d", (4, 6, 2), {"stride": 3, "groups": 2}, inputs=[(4, 3, 2)]),
    Case(
        "ConvTranspose2d",
        (2, 2, 3),
        {"stride": 2},
        inputs=[(1, 2, 3, 3)],
        call={"output_size": (8, 7)},
    ),
    Case(
        "ConvTranspose3d",
        (2, 2, 2),
        {"stride": (2, 1, 2), "padding": 1, "output_padding": (1, 0, 1)},
        inputs=[(1, 2, 3, 3, 2)],
    ),
]
