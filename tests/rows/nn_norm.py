"""Norms without running statistics."""

from tests.table import Case


def faint(shape):
    """Numbers whose variance is about eps, so that eps shows in the result."""
    return lambda rng: 3e-3 * rng.standard_normal(shape)


CASES = [
    Case("LayerNorm", ((2, 3),), {"bias": False}, inputs=[(4, 2, 3)]),
    Case("LayerNorm", ([3],), {"eps": 0.1, "elementwise_affine": False}, inputs=[(2, 3)]),
    Case("LayerNorm", (4,), inputs=[faint((3, 4))], id="faint"),
    Case("GroupNorm", (3, 3), {"bias": False}, inputs=[(2, 3, 2, 2)]),
    Case("GroupNorm", (2, 4), inputs=[faint((2, 4, 3))], id="faint"),
    Case("RMSNorm", (4,), inputs=[(3, 4)]),
    Case("RMSNorm", ((2, 3),), {"eps": 0.1}, inputs=[(2, 3)]),
    Case("RMSNorm", (3,), {"elementwise_affine": False, "eps": 1e-5}, inputs=[faint((2, 3))]),
    Case("LocalResponseNorm", (2, 0.5, 1.2, 2.0), inputs=[(2, 3, 2, 2)]),
]
