"""Writes tests/golden/random.npz with torch: python -m tests.golden.random

One program of draws, run through one generator for several seeds, so that what a
draw leaves behind for the next (a cached normal, a half-used block) is recorded too.
"""

from typing import Any

import numpy as np

from jaxnet.random import Generator

SEEDS = (0, 99, -1, 2**40 + 5)
SIZES = (0, 1, 2, 15, 16, 17, 31, 32, 33)

# method of Generator, its arguments; `size` and `dtype` last, as torch's tensors have them
PROGRAM: list[tuple[str, tuple[Any, ...]]] = [
    *(("uniform", (0.0, 1.0, n, dtype)) for n in SIZES for dtype in ("float32", "float64")),
    *(("normal", (0.0, 1.0, n, dtype)) for n in SIZES for dtype in ("float32", "float64")),
    ("normal", (0.0, 1.0, 3, "float32")),  # leaves a second value behind
    ("uniform", (-0.3, 0.7, (2, 3), "float32")),
    ("normal", (2.0, 0.5, 1, "float64")),  # which is used here
    ("normal", (-1.0, 3.0, (4, 5), "float32")),
    ("uniform", (-1 / 3, 1 / 7, (7,), "float64")),
    ("uniform", (1000.0, 1000.001, 40, "float32")),  # often rounds up to the end
    ("uniform", (0.1, 0.1 + 1e-16, 40, "float64")),
    ("uniform", (-1e-30, 1e30, 5, "float32")),
    ("uniform", (-8e307, 8e307, 5, "float64")),
    *(
        ("randint", (low, high, 7, dtype))
        for low, high, dtype in (
            (0, 10, "int64"),
            (-5, 2**28 - 6, "int64"),
            (-5, 2**28 - 5, "int64"),
            (0, 2**32 - 1, "int64"),
            (0, 2**32, "int64"),
            (-(2**63), 2**63 - 1, "int64"),
            (0, 256, "uint8"),
            (-128, 128, "int8"),
            (0, 2, "bool"),
            (-(2**24), 2**24 + 1, "float32"),
        )
    ),
    *(
        ("random_", (5, dtype))
        for dtype in (
            *("bool", "uint8", "int8", "int16", "int32", "int64"),
            *("float16", "float32", "float64"),
        )
    ),
    *(("randperm", (n,)) for n in (0, 1, 2, 3, 10, 100)),
    *(("bernoulli", (0.3, 20, dtype)) for dtype in ("float32", "float64")),
    ("uniform", (0.0, 1.0, 700, "float32")),  # past the end of a block of 624 words
]


def ours(generator: Generator, method: str, arguments: tuple) -> np.ndarray:
    """One row of the program from jaxnet."""
    if method == "bernoulli":
        p, size, dtype = arguments
        arguments = (np.full(size, p, dtype),)
    return getattr(generator, method)(*arguments)


def theirs(generator: Any, method: str, arguments: tuple) -> np.ndarray:
    """The same row from torch."""
    import torch

    if method == "randperm":
        return torch.randperm(arguments[0], generator=generator).numpy()
    *numbers, size, dtype = arguments
    size = (size,) if isinstance(size, int) else size
    tensor = torch.empty(size, dtype=getattr(torch, dtype))
    if method == "uniform":
        tensor.uniform_(*numbers, generator=generator)
    elif method == "normal":
        tensor.normal_(*numbers, generator=generator)
    elif method == "randint":
        tensor = torch.randint(*numbers, size, dtype=tensor.dtype, generator=generator)
    elif method == "random_":
        tensor.random_(generator=generator)
    else:
        tensor = torch.bernoulli(torch.full_like(tensor, *numbers), generator=generator)
    return tensor.numpy()


def main() -> None:
    import torch

    arrays = {}
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        for i, row in enumerate(PROGRAM):
            arrays[f"{seed}|{i}"] = theirs(generator, *row)
        arrays[f"{seed}|state"] = generator.get_state().numpy()[:5016]  # without the normal
    np.savez_compressed("tests/golden/random.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
