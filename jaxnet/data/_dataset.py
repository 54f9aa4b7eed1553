"""torch.utils.data's data sets: anything with a length and rows by number."""

import bisect
import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from jaxnet.random import Generator

Row = TypeVar("Row", covariant=True)


class Dataset(Generic[Row]):
    """Rows by number: define `__getitem__` and `__len__`.

    A class of your own need not inherit from this one; a list or an array will do
    too, and so will a `torch.utils.data.Dataset`.
    """

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has to define __getitem__")

    def __add__(self, other: Any) -> "ConcatDataset":
        return ConcatDataset([self, other])


class IterableDataset(Generic[Row]):
    """Rows one after another: define `__iter__`, and `__len__` if it is known."""


class TensorDataset(Dataset[Any]):
    """Arrays with the rows along axis 0; a row is a tuple of one piece of each.

    Args:
        *tensors: numpy, JAX or torch arrays of the same length. Those of JAX are kept
            in numpy: JAX gives the last row for one that is not there.

    >>> TensorDataset(np.arange(6).reshape(3, 2), np.array([7, 8, 9]))[1]
    (array([2, 3]), np.int64(8))
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise ValueError("tensors: none given; give arrays with the rows along axis 0")
        for i, tensor in enumerate(tensors):
            if not getattr(tensor, "shape", ()):
                raise ValueError(
                    f"tensors: number {i} is a {type(tensor).__name__} without rows; accepted "
                    "are arrays with the rows along axis 0"
                )
        lengths = [tensor.shape[0] for tensor in tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"tensors: of {lengths} rows; all need the same number")
        self.tensors = tuple(by_number(tensor) for tensor in tensors)

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)

    def __len__(self) -> int:
        return int(self.tensors[0].shape[0])


class Subset(Dataset[Any]):
    """Some rows of a data set.

    Args:
        dataset: to choose from.
        indices: the rows, in the order in which they are to come.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = by_number(dataset)
        self.indices = by_number(indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The rows of a batch; a data set that reads many at once may do so."""
        if type(self).__getitem__ is not Subset.__getitem__:  # a class of the user's own
            return [self[i] for i in indices]
        rows = [self.indices[i] for i in indices]
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.dataset.__getitems__(rows)
        return [self.dataset[row] for row in rows]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset[Any]):
    """Several data sets, one after the other.

    >>> joined = ConcatDataset([[1, 2], [3, 4, 5]])
    >>> len(joined), joined[2], joined[-1]
    (5, 3, 5)
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = [by_number(dataset) for dataset in datasets]
        if not self.datasets:
            raise ValueError("datasets: none given; give at least one")
        for i, dataset in enumerate(self.datasets):
            if is_iterable_only(dataset):
                raise ValueError(
                    f"datasets: number {i} has no rows by number (an IterableDataset); it "
                    "cannot be joined"
                )
        self.cumulative_sizes = list(itertools.accumulate(len(d) for d in self.datasets))

    def __getitem__(self, index: int) -> Any:
        if index < 0:
            if -index > len(self):
                raise ValueError(f"index: {index} of {len(self)} rows")
            index += len(self)
        which = bisect.bisect_right(self.cumulative_sizes, index)
        if which == len(self.datasets):
            raise IndexError(f"index: {index} of {len(self)} rows")
        before = self.cumulative_sizes[which - 1] if which else 0
        return self.datasets[which][index - before]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: Generator
) -> list[Subset]:
    """Deals the rows out at random: `torch.utils.data.random_split`.

    Args:
        dataset: something with a length.
        lengths: how many rows each part gets, or fractions that sum to 1; what
            rounding leaves over goes to the parts in turn.
        generator: to draw from. Torch draws alike from its global generator.

    Raises:
        ValueError: the lengths are not whole or do not sum to that of the data set.
        TypeError: generator is none of ours.

    >>> [part.indices for part in random_split(range(5), [3, 2], Generator(0))]
    [[4, 0, 1], [3, 2]]
    """
    n = len(dataset)
    checked_generator(generator)
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        for i, fraction in enumerate(lengths):
            if not 0 <= fraction <= 1:
                raise ValueError(f"lengths: the fraction {fraction} at {i} is not within [0, 1]")
        counts = [math.floor(n * fraction) for fraction in lengths]
        for i in range(n - sum(counts)):
            counts[i % len(counts)] += 1
        for i, count in enumerate(counts):
            if count == 0:
                warnings.warn(f"random_split: part {i} gets no rows", stacklevel=2)
    else:
        if sum(lengths) != n or any(length < 0 or length % 1 for length in lengths):
            raise ValueError(
                f"lengths: {list(lengths)} sum to {sum(lengths)}; accepted are whole lengths that "
                f"sum to the data set's {n} rows, or fractions that sum to 1"
            )
        counts = [int(length) for length in lengths]
    order = generator.randperm(n).tolist()
    ends = itertools.accumulate(counts)
    return [
        Subset(dataset, order[end - count : end]) for end, count in zip(ends, counts, strict=True)
    ]


def by_number(dataset: Any) -> Any:
    """As it is, but in numpy if it is a JAX array, which has no end: x[7] of 3 rows is x[2]."""
    return np.asarray(dataset) if isinstance(dataset, jax.Array) else dataset


def checked_generator(generator: Any, name: str = "generator") -> None:
    """Refuses what is no generator of ours, under the argument's name."""
    if not isinstance(generator, Generator):
        raise TypeError(
            f"{name}: {type(generator).__name__}; accepted is a jaxnet.random.Generator, such "
            "as Generator(0)"
        )


def is_iterable_only(dataset: Any) -> bool:
    """Whether a data set, torch's or ours, gives rows only one after another."""
    # torch's IterableDataset inherits a __getitem__ that raises.
    return is_iterable_data_set(dataset) or (
        hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")
    )


def is_iterable_data_set(dataset: Any) -> bool:
    """Whether it is an `IterableDataset`, torch's or ours."""
    return any(kind.__name__ == "IterableDataset" for kind in type(dataset).__mro__)


def arrays_of(dataset: Any) -> tuple[Any, ...] | None:
    """The arrays of a data set that is made of nothing else, ours or torch's; or None."""
    kind = type(dataset)
    if kind is Subset or (kind.__name__ == "Subset" and kind.__module__.startswith("torch.")):
        arrays = arrays_of(dataset.dataset)
        rows = np.asarray(dataset.indices, np.int64)
        return None if arrays is None else tuple(array[rows] for array in arrays)
    torchs = kind.__name__ == "TensorDataset" and kind.__module__.startswith("torch.")
    return tuple(dataset.tensors) if kind is TensorDataset or torchs else None


def gather(dataset: Any, rows: Sequence[int]) -> tuple[Any, ...] | None:
    """The rows of a data set of arrays at once, or None if it is no such data set."""
    if type(dataset) is Subset:
        return gather(dataset.dataset, [dataset.indices[i] for i in rows])
    if type(dataset) is TensorDataset:
        picked = np.asarray(rows)
        if picked.ndim != 1 or picked.dtype.kind not in "iu":
            return None  # a sampler may give anything that the data set takes
        return tuple(tensor[picked] for tensor in dataset.tensors)
    return None
