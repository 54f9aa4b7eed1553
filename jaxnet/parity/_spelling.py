"""Names of layers that are spelled in two ways."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment


def by_name(
    own_names: Sequence[str], torch_names: Sequence[str], fits: Any
) -> tuple[list[tuple[int, int]] | None, bool]:
    """The pairs with the most similar names, if no other choice is as good.

    Args:
        own_names: The names in the model.
        torch_names: As many names in the recorded program.
        fits: A matrix that says which can be partners.

    Returns:
        The numbers of the partners, or None; and whether their names are the same but for usual
        spellings.
    """
    own, theirs = [_words(name) for name in own_names], [_words(name) for name in torch_names]
    likeness = np.array(
        [[difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() for b in theirs] for a in own]
    )
    likeness = np.where(fits, likeness, -10.0)
    rows, columns = linear_sum_assignment(-likeness)
    best = likeness[rows, columns]
    if (best < 0).any():
        return None, False
    chosen = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]
    exact = bool((best == 1.0).all()) and len({tuple(a) for a in own}) == len(own)
    swapped = likeness[np.ix_(rows, columns)]
    gain = best[:, None] + best[None, :] - swapped - swapped.T
    np.fill_diagonal(gain, 1.0)
    return (chosen if exact or gain.min() > 1e-6 else None), exact


_SPELLINGS = {
    "ln": "norm", "bn": "norm", "gn": "norm", "layernorm": "norm", "batchnorm": "norm",
    "groupnorm": "norm", "rmsnorm": "norm", "fc": "linear", "dense": "linear", "lin": "linear",
    "embedding": "embed", "embeddings": "embed", "emb": "embed", "q": "query", "k": "key",
    "v": "value", "convolution": "conv", "pos": "position", "tok": "token", "attn": "attention",
    "self": "", "layers": "", "layer": "", "blocks": "", "block": "", "h": "", "stages": "",
    "modules": "", "module": "", "cell": "", "proj": "", "projection": "",
}  # fmt: skip


def _words(name: str) -> list[str]:
    """The words of a name in one spelling: "layers.0.ln_1" is ["0", "norm", "1"]."""
    words = re.findall(r"[a-z]+|[A-Z][a-z]*|\d+", name)
    spelled = [_SPELLINGS.get(word.lower(), word.lower()) for word in words]
    return [word for word in spelled if word]
