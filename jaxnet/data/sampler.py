"""The order in which PyTorch's DataLoader visits its rows."""

import numpy as np

from jaxnet.random import Generator

__all__ = ["epoch_order"]


def epoch_order(n: int, generator: Generator, shuffle: bool = True) -> np.ndarray:
    """The rows of one pass over `DataLoader(dataset, shuffle=shuffle)`, int64 (n,).

    Args:
        n: rows in the data set.
        generator: stands for torch's global generator and advances as that does:
            each pass draws a seed for worker processes, used or not, and a
            shuffled one draws the seed of a permutation of its own.
        shuffle: whether the rows are shuffled.

    Batches are consecutive pieces of the order.

    >>> epoch_order(5, Generator(0))
    array([1, 4, 2, 3, 0])
    """
    generator.random_()
    if not shuffle:
        return np.arange(n)
    return Generator(int(generator.random_())).randperm(n)
