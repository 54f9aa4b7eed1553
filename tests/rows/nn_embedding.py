"""Embeddings."""

import numpy as np

from tests.table import Case

ROWS = [lambda rng: rng.randint(0, 5, (3, 4))]
# All rows are looked up as often: torch's CPU kernel divides by the frequency of another row.
EVENLY = [lambda rng: np.array([[0, 3, 4], [4, 0, 3]])]
BAGS = [lambda rng: rng.randint(0, 5, 8), lambda rng: np.array([0, 3, 3, 6])]


CASES = [
    Case("Embedding", (5, 3), {"padding_idx": -2}, ROWS),
    Case("Embedding", (5, 3), {"padding_idx": 0, "scale_grad_by_freq": True}, ROWS),
    Case("Embedding", (5, 3), {"max_norm": 0.5, "norm_type": 1.0}, ROWS),
    Case("Embedding", (5, 3), inputs=[lambda rng: np.zeros((0, 2), int)], id="empty"),
    Case("EmbeddingBag", (5, 3), {"padding_idx": 1}, ROWS),
    Case("EmbeddingBag", (5, 3), {"mode": "sum", "scale_grad_by_freq": True}, EVENLY),
    Case("EmbeddingBag", (5, 3), {"mode": "max", "padding_idx": -1}, ROWS),
    Case("EmbeddingBag", (5, 3), {"mode": "sum", "padding_idx": 0}, [*BAGS, (8,)]),
    Case("EmbeddingBag", (5, 2), {"max_norm": 0.5, "norm_type": 1.0}, BAGS),
    Case("EmbeddingBag", (5, 2), {"mode": "max"}, BAGS),
    Case(
        "EmbeddingBag", (5, 2), {"include_last_offset": True},
        [BAGS[0], lambda rng: np.array([0, 2, 8])],
    ),
]  # fmt: skip
