"""The order in which PyTorch's DataLoader visits its rows."""

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from jaxnet._checks import check_flag, check_integer
from jaxnet.data._dataset import by_number, checked_generator
from jaxnet.random import Generator


def epoch_order(n: int, generator: Generator, shuffle: bool = True) -> np.ndarray:
    """The rows of one pass over `DataLoader(dataset, shuffle=shuffle)`, int64 (n,).

    Args:
        n: rows in the data set.
        generator: stands for torch's global generator and advances as that does:
            each pass draws a seed for worker processes, used or not, and a
            shuffled one draws the seed of a permutation of its own. A generator
            that is given to torch's DataLoader is used otherwise: see
            `RandomSampler`.
        shuffle: whether the rows are shuffled.

    Batches are consecutive pieces of the order.

    >>> epoch_order(5, Generator(0))
    array([1, 4, 2, 3, 0])
    """
    checked_generator(generator)
    generator.random_()
    if not shuffle:
        return np.arange(n)
    return Generator(int(generator.random_())).randperm(n)


class SequentialSampler:
    """The rows 0, 1, 2, ... of a data set: `torch.utils.data.SequentialSampler`."""

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler:
    """The rows of a data set in random order: `torch.utils.data.RandomSampler`.

    Args:
        data_source: something with a length.
        replacement: whether a row may come more than once.
        num_samples: how many rows a pass has; the length of the data if None.
        generator: what torch's program gives as `generator`. Each pass draws its
            permutations from it directly, and one more at its end, as torch does.
        rngs: stands for torch's global generator, for a program that gives none.
            Each pass draws one seed from it.

    One of the two generators is needed: nothing here draws from hidden state.

    >>> list(RandomSampler(range(5), rngs=Generator(0)))
    [1, 3, 4, 2, 0]
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: Generator | None = None,
        *,
        rngs: Generator | None = None,
    ) -> None:
        check_flag("replacement", replacement)
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator, self.rngs = checked_generators(generator, rngs)
        if not isinstance(self.num_samples, int) or self.num_samples < 1:
            raise ValueError(
                f"num_samples: {self.num_samples!r}; accepted is a positive integer, or None for "
                "the length of a data set that is not empty"
            )

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, wanted = len(self.data_source), self.num_samples
        generator = self.generator
        if generator is None:
            assert self.rngs is not None  # checked_generators saw to it
            generator = Generator(int(self.rngs.random_()))
        if self.replacement:
            for _ in range(wanted // 32):
                yield from generator.randint(0, n, 32).tolist()
            yield from generator.randint(0, n, wanted % 32).tolist()
        else:
            for _ in range(wanted // n):
                yield from generator.randperm(n).tolist()
            yield from generator.randperm(n).tolist()[: wanted % n]

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler:
    """Given rows in random order: `torch.utils.data.SubsetRandomSampler`.

    Args:
        indices: the rows.
        generator: what torch's program gives as `generator`.
        rngs: stands for torch's global generator, for a program that gives none. A
            DataLoader with this sampler draws its seed from it before, as torch's does.

    One of the two generators is needed; both are drawn from directly.
    """

    def __init__(
        self,
        indices: Sequence[int],
        generator: Generator | None = None,
        *,
        rngs: Generator | None = None,
    ) -> None:
        self.indices = by_number(indices)
        self.generator, self.rngs = checked_generators(generator, rngs)

    def __iter__(self) -> Iterator[int]:
        source = self.rngs if self.generator is None else self.generator
        assert source is not None  # checked_generators saw to it
        for i in source.randperm(len(self.indices)).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class BatchSampler:
    """Batches of rows: `torch.utils.data.BatchSampler`.

    Args:
        sampler: gives rows one by one.
        batch_size: rows a batch.
        drop_last: whether a last, smaller batch is left out.

    >>> list(BatchSampler(range(5), batch_size=2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        check_integer("batch_size", batch_size, least=1)
        check_flag("drop_last", drop_last)
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        rows = iter(self.sampler)
        while batch := list(itertools.islice(rows, self.batch_size)):
            if self.drop_last and len(batch) < self.batch_size:
                return
            yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


def checked_generators(generator: Any, rngs: Any) -> tuple[Generator | None, Generator | None]:
    """The two, of which exactly one is given."""
    for name, value in (("generator", generator), ("rngs", rngs)):
        if value is not None:
            checked_generator(value, name)
    if (generator is None) == (rngs is None):
        which = "neither is" if generator is None else "both are"
        raise ValueError(
            f"generator, rngs: {which} given; give rngs=Generator(seed) to repeat a PyTorch "
            "program after torch.manual_seed(seed), or generator= where it gives one to its "
            "DataLoader"
        )
    return generator, rngs
