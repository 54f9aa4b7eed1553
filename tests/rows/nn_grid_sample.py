"""Images read at the positions of a grid, and the grids of affine maps."""

from tests.rows.nn_pad import function


def around(*shape):
    """Positions, of whose coordinates a third lie outside of the image."""
    return lambda rng: rng.uniform(-1.5, 1.5, shape)


CASES = [
    function("affine_grid", (2, 2, 3), size=(2, 1, 3, 2), align_corners=False),
    function("affine_grid", (1, 3, 4), size=(1, 1, 2, 3, 2), align_corners=True),
    function("grid_sample", (2, 3, 3, 4), around(2, 2, 3, 2), align_corners=False),
    function(
        "grid_sample", (1, 2, 3, 4), around(1, 4, 3, 2), padding_mode="border", align_corners=True
    ),
    function(
        "grid_sample",
        (1, 2, 3, 1),
        around(1, 4, 3, 2),
        padding_mode="reflection",
        align_corners=True,
    ),
    function("grid_sample", (1, 2, 3, 4), around(1, 4, 3, 2), mode="nearest", align_corners=False),
    function(
        "grid_sample",
        (1, 2, 4, 5),
        around(1, 4, 3, 2),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    ),
    function("grid_sample", (1, 2, 2, 3, 4), around(1, 2, 2, 2, 3), align_corners=False),
]
