"""Distances, cosines, and products that are no layers."""

from tests.rows.nn_pad import function
from tests.table import Case


def whole(*shape):
    """Small whole numbers, among which there are equal ones and zeros."""
    return lambda rng: rng.randint(-1, 2, shape).astype(float)


CASES = [
    Case("CosineSimilarity", inputs=[(4, 3), (4, 3)]),
    Case("CosineSimilarity", (-1, 1.5), inputs=[(2, 4, 3), (4, 3)]),
    function("cosine_similarity", whole(5, 2), whole(1, 2), eps=1.2, id=":zeros"),
    function("normalize", (4, 3)),
    function("normalize", whole(3, 2), p=3.0, dim=0, eps=1.2),
    function("normalize", (2, 3, 2), p=1.0, dim=(0, 2)),
    function("normalize", whole(4, 3), p=float("inf"), dim=-1),
    function("pdist", (4, 3)),
    function("pdist", whole(5, 2), p=1.0),
    function("pdist", whole(5, 2), p=2.0),
    function("pdist", whole(4, 3), p=float("inf")),
    function("pdist", whole(4, 3), p=0.5),
    function("conv_tbc", (5, 2, 3), (2, 3, 4), (4,), pad=1),
]
