"""The samplers of torch.utils.data: the order of rows in a pass, with torch's random numbers."""

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxnet._checks import check_flag, check_integer
from jaxnet.data._dataset import by_number, checked_generator
from jaxnet.random import Generator

Index = TypeVar("Index", covariant=True)


def epoch_order(n: int, generator: Generator, shuffle: bool = True) -> np.ndarray:
    """The order of the rows in one pass over `DataLoader(dataset, shuffle=shuffle)` in torch.

    The batches are consecutive parts of the order.

    Args:
        n: The number of rows in the data set.
        generator: The generator in place of torch's global generator. It advances as torch's
            does: each pass draws a seed for worker processes, used or not, and a shuffled
            pass also draws the seed of its permutation. This differs from a generator that
            is passed to torch's DataLoader; `RandomSampler` has both.
        shuffle: Whether the rows are shuffled.

    Returns:
        The row numbers, int64 (n,).

    Raises:
        TypeError: The generator is no jaxnet.random.Generator.

    >>> epoch_order(5, Generator(0))
    array([1, 4, 2, 3, 0])
    """
    checked_generator(generator)
    generator.random_()
    if not shuffle:
        return np.arange(n)
    return Generator(int(generator.random_())).randperm(n)


class Sampler(Generic[Index]):
    """The base class of samplers: torch.utils.data.Sampler.

    A subclass defines `__iter__`, which gives the row numbers of one pass, or the lists of row
    numbers of its batches, and `__len__`, their number. `DataLoader` takes any other iterable too.
    """

    def __iter__(self) -> Iterator[Index]:
        raise NotImplementedError(f"{type(self).__name__} has to define __iter__")


class SequentialSampler(Sampler[int]):
    """The rows of a data set in order: torch.utils.data.SequentialSampler.

    Args:
        data_source: The data set, an object with a length.
    """

    def __init__(self, data_source: Sized) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """The rows of a data set in random order: torch.utils.data.RandomSampler.

    Args:
        data_source: The data set, an object with a length.
        replacement: Whether a row may come more than once.
        num_samples: The number of rows in a pass. None is the length of the data set.
        generator: The generator that the PyTorch program passes as `generator`. As in torch,
            each pass draws its permutations from it, and one more permutation at its end.
        rngs: The generator in place of torch's global generator, for a PyTorch program that
            passes none. Each pass draws one seed from it.

    One of the two generators is needed, because there is no global generator.

    Raises:
        ValueError: num_samples is below 1, or not exactly one generator is given.
        TypeError: A generator is no jaxnet.random.Generator.

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
            assert self.rngs is not None  # checked_generators has checked it.
            generator = Generator(int(self.rngs.random_()))
        # The numbers are drawn in torch's portions, 32 at a time or one permutation at a time. The
        # last permutation is drawn even if none of its rows is used.
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


class SubsetRandomSampler(Sampler[int]):
    """Some rows of a data set in random order: torch.utils.data.SubsetRandomSampler.

    Args:
        indices: The row numbers.
        generator: The generator that the PyTorch program passes as `generator`.
        rngs: The generator in place of torch's global generator, for a PyTorch program that
            passes none. As in torch, a DataLoader with this sampler first draws a seed from
            it.

    One of the two generators is needed. The permutation is drawn directly from either.

    Raises:
        ValueError: Not exactly one generator is given.
        TypeError: A generator is no jaxnet.random.Generator.
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
        assert source is not None  # checked_generators has checked it.
        for i in source.randperm(len(self.indices)).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Rows drawn with probabilities of their own: torch.utils.data.WeightedRandomSampler.

    A usual choice against classes of unequal size is 1 / count of the row's class. Each pass
    draws torch's numbers, those of `torch.multinomial` on a CPU.

    Args:
        weights: The weights of the rows, at least 0; they need not sum to 1. They are computed
            with in float64, as in torch.
        num_samples: The number of rows in a pass.
        replacement: Whether a row may come more than once.
        generator: The generator that the PyTorch program passes as `generator`.
        rngs: The generator in place of torch's global generator, for a PyTorch program that
            passes none. The numbers are drawn directly from either.

    One of the two generators is needed.

    Raises:
        ValueError: A weight is negative or not finite, they are all 0, or without replacement
            fewer than num_samples of them are above 0, where torch would take rows of weight 0;
            or num_samples is below 1, or not exactly one generator is given.
        TypeError: A generator is no jaxnet.random.Generator.

    >>> list(WeightedRandomSampler([0.1, 0.0, 0.7, 0.2], 5, rngs=Generator(0)))
    [3, 2, 2, 3, 2]
    """

    def __init__(
        self,
        weights: ArrayLike,
        num_samples: int,
        replacement: bool = True,
        generator: Generator | None = None,
        *,
        rngs: Generator | None = None,
    ) -> None:
        check_integer("num_samples", num_samples, least=1)
        check_flag("replacement", replacement)
        self.weights = np.asarray(weights, np.float64)
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator, self.rngs = checked_generators(generator, rngs)
        if self.weights.ndim != 1:
            raise ValueError(
                f"weights: shape {self.weights.shape}; accepted is one weight for each row"
            )
        if not ((self.weights >= 0) & (self.weights < np.inf)).all():
            raise ValueError("weights: one is negative or not finite; accepted are numbers from 0")
        positive = int((self.weights > 0).sum())
        if positive < (1 if replacement else num_samples):
            raise ValueError(
                f"weights: {positive} are above 0; {num_samples} rows "
                f"{'with' if replacement else 'without'} replacement need "
                f"{'at least one' if replacement else 'as many'}"
            )

    def __iter__(self) -> Iterator[int]:
        source = self.rngs if self.generator is None else self.generator
        assert source is not None  # checked_generators has checked it.
        if self.replacement and self.num_samples > 1:
            sums = np.cumsum(self.weights)
            uniform = source.rand(self.num_samples, dtype=np.float64)
            rows = np.searchsorted(sums / sums[-1], uniform)
        else:
            # The largest of weight / exponential number are a sample without replacement, which
            # torch takes for a single row in either case.
            exponential = -np.log1p(-source.rand(len(self.weights), dtype=np.float64))
            with np.errstate(divide="ignore", invalid="ignore"):
                rows = np.argsort(-(self.weights / exponential), kind="stable")[: self.num_samples]
        yield from rows.tolist()

    def __len__(self) -> int:
        return self.num_samples


class DistributedSampler(Sampler[int]):
    """The rows of one of several processes: torch.utils.data.DistributedSampler.

    The rows of a pass are dealt out to the processes in turn. `train.fit` calls `set_epoch`
    before each epoch; a loop of your own has to, or all epochs have the same order.

    Args:
        dataset: The data set, an object with a length.
        num_replicas: The number of processes. None is `jax.process_count()`.
        rank: The number of this process. None is `jax.process_index()`.
        shuffle: Whether every epoch has a new random order, the same one in all processes.
        seed: The seed of the order, the same one in all processes.
        drop_last: Whether rows at the end are left out, so that all processes have the same
            number of rows. Otherwise the first rows come twice.

    Raises:
        ValueError: The rank is not one of 0 to num_replicas - 1, or the data set is empty.

    >>> [list(DistributedSampler(range(5), 2, rank, shuffle=False)) for rank in (0, 1)]
    [[0, 2, 4], [1, 3, 0]]
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.num_replicas = jax.process_count() if num_replicas is None else num_replicas
        self.rank = jax.process_index() if rank is None else rank
        check_integer("num_replicas", self.num_replicas, least=1)
        check_integer("rank", self.rank, least=0, most=self.num_replicas - 1)
        check_flag("shuffle", shuffle)
        check_flag("drop_last", drop_last)
        check_integer("seed", seed)
        n = len(dataset)
        if n == 0:
            raise ValueError("dataset: it is empty; accepted is one with rows")
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.epoch = 0
        self.num_samples = n // self.num_replicas if drop_last else -(-n // self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)
        order = Generator(self.seed + self.epoch).randperm(n) if self.shuffle else np.arange(n)
        dealt = np.resize(order, self.total_size)  # repeated, or cut off
        return iter(dealt[self.rank :: self.num_replicas].tolist())

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of an epoch.

        Args:
            epoch: The number of the epoch, which is added to the seed.
        """
        self.epoch = epoch


class BatchSampler(Sampler[list[int]]):
    """Lists of row numbers, one for each batch: torch.utils.data.BatchSampler.

    Args:
        sampler: An iterable of row numbers.
        batch_size: The number of rows in a batch, at least 1.
        drop_last: Whether a last, smaller batch is left out.

    Raises:
        ValueError: An argument is out of range.

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
    """The generators `generator` and `rngs`, after a check that exactly one is given."""
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
