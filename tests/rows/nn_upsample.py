"""Upsampling in every mode."""

from tests.rows.nn_pad import function
from tests.table import Case

CASES = [
    Case("Upsample", (None, 2), inputs=[(2, 2, 3, 4)]),
    Case("Upsample", ((7, 3),), inputs=[(1, 2, 4, 5)]),
    Case("Upsample", (5,), {"mode": "nearest-exact"}, inputs=[(2, 2, 3)]),
    Case("Upsample", (None, 1.7, "linear"), inputs=[(2, 2, 6)]),
    Case("Upsample", (None, 1.7, "linear", False, True), inputs=[(2, 2, 6)], id="recomputed"),
    Case("Upsample", (None, 2, "bilinear"), inputs=[(1, 2, 3, 4)]),
    Case("UpsamplingBilinear2d", ((5, 4),), inputs=[(1, 2, 3, 3)]),
    Case("Upsample", (None, (1.5, 3.0), "bicubic"), inputs=[(1, 2, 4, 3)]),
    Case("Upsample", ((4, 2, 5), None, "trilinear"), inputs=[(1, 2, 2, 3, 4)]),
    Case("Upsample", (None, 0.6, "area"), inputs=[(1, 2, 5, 4)]),
    Case("UpsamplingNearest2d", (), {"scale_factor": (3, 2)}, inputs=[(1, 2, 2, 3)]),
    function("interpolate", (1, 2, 7, 5), size=(3, 4), mode="bilinear", antialias=True),
    function("interpolate", (1, 2, 7, 5), size=(3, 8), mode="bicubic", antialias=True),
    function("interpolate", (1, 1, 9, 5), scale_factor=0.4, mode="lanczos", antialias=True),
]
