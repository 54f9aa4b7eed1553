"""Embeddings."""

import numpy as np

from tests.table import Case

ROWS = [lambda rng: rng.randint(0, 5, (3, 4))]
CASES = [
    Case("Embedding", (5, 3), {"padding_idx": -2}, ROWS),
    Case("Embedding", (5, 3), {"padding_idx": 0, "scale_grad_by_freq": True}, ROWS),
    Case("Embedding", (5, 3), {"max_norm": 0.5, "norm_type": 1.0}, ROWS),
    Case("Embedding", (5, 3), inputs=[lambda rng: np.zeros((0, 2), int)], id="empty"),
]
