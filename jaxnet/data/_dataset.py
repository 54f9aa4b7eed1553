"""The data sets of torch.utils.data: objects with a length and rows by number."""

import bisect
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from jaxnet.random import Generator

Row = TypeVar("Row", covariant=True)


class Dataset(Generic[Row]):
    """A data set with rows by number: torch.utils.data.Dataset.

    A subclass defines `__getitem__` and `__len__`. Any other object with these two methods
    is a data set too, such as a list, an array or a `torch.utils.data.Dataset`.
    """

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has to define __getitem__")

    def __add__(self, other: Any) -> "ConcatDataset":
        return ConcatDataset([self, other])


class IterableDataset(Generic[Row]):
    """A data set with rows one after another: torch.utils.data.IterableDataset.

    A subclass defines `__iter__`, and `__len__` if the number of rows is known.
    """

    def __add__(self, other: Any) -> "ChainDataset":
        return ChainDataset([self, other])


class TensorDataset(Dataset[Any]):
    """A data set of arrays with the rows along axis 0: torch.utils.data.TensorDataset.

    A row is a tuple with one row of each array.

    Args:
        *tensors: The arrays, of numpy, JAX or torch, with the same number of rows. JAX arrays
            are converted to numpy, because indexing a JAX array past its end gives the last
            row and no error.

    Raises:
        ValueError: There are no arrays, one has no axis, or the numbers of rows differ.

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
    """Some rows of a data set: torch.utils.data.Subset.

    Args:
        dataset: The data set.
        indices: The numbers of the rows, in order.
    """

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = by_number(dataset)
        self.indices = by_number(indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The rows of a batch, read at once if the data set can read several rows at once."""
        if type(self).__getitem__ is not Subset.__getitem__:  # Overridden in a subclass.
            return [self[i] for i in indices]
        rows = [self.indices[i] for i in indices]
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self.dataset.__getitems__(rows)
        return [self.dataset[row] for row in rows]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset[Any]):
    """Several data sets one after another: torch.utils.data.ConcatDataset.

    Args:
        datasets: The data sets, with rows by number.

    Raises:
        ValueError: There are no data sets, or one is an `IterableDataset`.

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


class StackDataset(Dataset[Any]):
    """Several data sets side by side: torch.utils.data.StackDataset.

    A row is a tuple with the row of each data set, or a dictionary for data sets by keyword.

    Args:
        *args: The data sets, with rows by number and of equal length.
        **kwargs: The data sets by name, in place of args.

    Raises:
        ValueError: There are no data sets, both kinds are given, or the lengths differ.

    >>> StackDataset(image=[1, 2], label=["a", "b"])[1]
    {'image': 2, 'label': 'b'}
    """

    datasets: tuple[Any, ...] | dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if bool(args) == bool(kwargs):
            given = "both are given" if args else "none given"
            raise ValueError(f"StackDataset: {given}; give data sets by position or by keyword")
        self.datasets = tuple(map(by_number, args))
        if kwargs:
            self.datasets = {name: by_number(dataset) for name, dataset in kwargs.items()}
        lengths = [len(dataset) for dataset in args or kwargs.values()]
        if len(set(lengths)) > 1:
            raise ValueError(f"StackDataset: of {lengths} rows; all need the same number")
        self._length = lengths[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: dataset[index] for name, dataset in self.datasets.items()}
        return tuple(dataset[index] for dataset in self.datasets)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The rows of a batch, read at once from data sets that can."""
        if isinstance(self.datasets, dict):
            columns = [_rows(dataset, indices) for dataset in self.datasets.values()]
            names = list(self.datasets)
            return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        return list(zip(*(_rows(dataset, indices) for dataset in self.datasets), strict=True))

    def __len__(self) -> int:
        return self._length


def _rows(dataset: Any, indices: Sequence[int]) -> Any:
    if not callable(getattr(dataset, "__getitems__", None)):
        return [dataset[i] for i in indices]
    rows = dataset.__getitems__(indices)
    if len(rows) != len(indices):
        raise ValueError(
            f"{type(dataset).__name__}.__getitems__: it gave {len(rows)} rows for {len(indices)}"
        )
    return rows


class ChainDataset(IterableDataset[Any]):
    """Data sets with rows one after another, joined: torch.utils.data.ChainDataset.

    Args:
        datasets: The data sets, each an `IterableDataset` of jaxnet or torch.

    Raises:
        ValueError: A data set is no `IterableDataset`.
    """

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        for i, dataset in enumerate(self.datasets):
            if not is_iterable_data_set(dataset):
                raise ValueError(
                    f"datasets: number {i} is a {type(dataset).__name__}; accepted are "
                    "IterableDatasets. ConcatDataset joins data sets with rows by number"
                )

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.datasets)

    def __len__(self) -> int:
        return sum(map(len, self.datasets))


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: Generator
) -> list[Subset]:
    """Splits the rows of a data set at random: torch.utils.data.random_split.

    Args:
        dataset: The data set, an object with a length.
        lengths: The numbers of rows of the parts, or fractions that sum to 1. The rows that
            are left over by rounding fractions go to the parts in turn.
        generator: The generator, `Generator(seed)`. Torch draws the same numbers from its
            global generator after `torch.manual_seed(seed)`.

    Returns:
        The parts.

    Raises:
        ValueError: The lengths are not whole numbers, or do not sum to the number of rows.
        TypeError: The generator is no jaxnet.random.Generator.

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
    """The data set, converted to numpy if it is a JAX array.

    Indexing a JAX array past its end raises no error: x[7] of 3 rows is x[2].
    """
    return np.asarray(dataset) if isinstance(dataset, jax.Array) else dataset


def checked_generator(generator: Any, name: str = "generator") -> None:
    """Refuses an argument that is no jaxnet.random.Generator; `name` is for the error."""
    if not isinstance(generator, Generator):
        raise TypeError(
            f"{name}: {type(generator).__name__}; accepted is a jaxnet.random.Generator, such "
            "as Generator(0)"
        )


def is_iterable_only(dataset: Any) -> bool:
    """Whether a data set, of torch or of jaxnet, gives rows only one after another."""
    # The class decides, because torch's IterableDataset inherits a __getitem__ that raises.
    return is_iterable_data_set(dataset) or (
        hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")
    )


def is_iterable_data_set(dataset: Any) -> bool:
    """Whether a data set is an `IterableDataset`, of torch or of jaxnet.

    The class's name decides, because torch may not be installed.
    """
    return any(kind.__name__ == "IterableDataset" for kind in type(dataset).__mro__)


def arrays_of(dataset: Any) -> tuple[Any, ...] | None:
    """The arrays of a data set of arrays, or None for other data sets.

    Data sets of arrays are a `TensorDataset` and a `Subset` of one, of torch or of jaxnet.
    """
    kind = type(dataset)
    if kind is Subset or (kind.__name__ == "Subset" and kind.__module__.startswith("torch.")):
        arrays = arrays_of(dataset.dataset)
        rows = np.asarray(dataset.indices, np.int64)
        return None if arrays is None else tuple(array[rows] for array in arrays)
    torchs = kind.__name__ == "TensorDataset" and kind.__module__.startswith("torch.")
    return tuple(dataset.tensors) if kind is TensorDataset or torchs else None


def readers_of(dataset: Any) -> list[Any] | None:
    """What of a data set is code of the user's: its parts that are more than arrays and lists.

    Returns:
        The objects that read its rows; None if a part reads the rows of a batch together, by
        `__getitems__`, so that a row may depend on the others.
    """
    kind = type(dataset)
    name = kind.__name__ if kind.__module__.startswith("torch.utils.data") else None
    if kind in (list, tuple, range, str, np.ndarray, TensorDataset) or name == "TensorDataset":
        return []
    joins = ("Subset", "ConcatDataset", "StackDataset")
    if kind not in (Subset, ConcatDataset, StackDataset) and name not in joins:
        return None if callable(getattr(dataset, "__getitems__", None)) else [dataset]
    parts = [dataset.dataset] if hasattr(dataset, "dataset") else dataset.datasets
    found = [readers_of(each) for each in (parts.values() if isinstance(parts, Mapping) else parts)]
    return None if None in found else [each for part in found for each in part or ()]


def gather(dataset: Any, rows: Sequence[int]) -> tuple[Any, ...] | None:
    """Several rows of a data set of arrays at once, or None for other data sets."""
    if type(dataset) is Subset:
        return gather(dataset.dataset, [dataset.indices[i] for i in rows])
    if type(dataset) is TensorDataset:
        picked = np.asarray(rows)
        if picked.ndim != 1 or picked.dtype.kind not in "iu":
            return None  # A sampler may give any index that the data set accepts.
        return tuple(tensor[picked] for tensor in dataset.tensors)
    return None
