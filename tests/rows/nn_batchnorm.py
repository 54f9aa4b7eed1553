"""Batch and instance norm."""

from tests.table import Case


def faint(rng):
    return 3e-3 * rng.standard_normal((4, 2))


CASES = [
    Case("BatchNorm1d", (3,), inputs=[(4, 3)]),
    Case("BatchNorm1d", (3,), inputs=[(4, 3)], train=False),
    Case("BatchNorm1d", (2,), {"momentum": None, "bias": False}, inputs=[(3, 2, 4)]),
    Case("BatchNorm1d", (2,), inputs=[faint], id="faint"),
    Case("BatchNorm1d", (2, 1e-5, 0.1, False, False), inputs=[(3, 2)], train=False),
    Case("BatchNorm2d", (2, 0.1, 0.4), inputs=[(3, 2, 2, 3)]),
    Case("BatchNorm3d", (2,), inputs=[(2, 2, 1, 2, 3)]),
    Case("SyncBatchNorm", (2,), {"momentum": None}, inputs=[(3, 2, 1, 2)]),
    Case("InstanceNorm1d", (3,), inputs=[(2, 3, 4)]),
    Case("InstanceNorm1d", (3,), {"affine": True}, inputs=[(3, 4)]),
    Case("InstanceNorm2d", (2,), {"track_running_stats": True}, inputs=[(2, 2, 3)], train=False),
    Case("InstanceNorm3d", (2, 1e-3, 0.3, True, True), inputs=[(2, 2, 1, 2, 2)]),
]
