"""One of several processes reads only its own rows of each batch, where that changes no number."""

import gc
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.data._collate import default_collate
from jaxnet.data._dataset import readers_of
from jaxnet.data._loader import DataLoader
from jaxnet.data._sharded import ShardedReader
from jaxnet.data._state import state_of
from jaxnet.data._worker import global_states
from jaxnet.random import Generator

Places = Callable[[int], np.ndarray | None]
"""Of a batch with so many rows, the places of those that this process needs; None for all."""

_AGAIN = 4  # rows of the first batch that are read twice
_GENERATORS = (Generator, random.Random, np.random.Generator, np.random.RandomState)
_REMEDY = (
    "each process reads its own rows alone, so that the numbers would differ from those of one "
    "process; read whole batches in each by a collate_fn of your own, such as "
    "collate_fn=lambda rows: data.default_collate(rows)"
)


class ReadBatch(NamedTuple):
    """A batch as one process has read it.

    Attributes:
        rows: The number of rows of the whole batch.
        numbers: Their numbers in the data set; None where they are not known.
        whole: Whether all rows were read, and not only those that this process needs.
        batch: What was read.
    """

    rows: int
    numbers: np.ndarray | None
    whole: bool
    batch: Any


class OwnRows:
    """Reads the own rows of each batch of a loader.

    The first batch of every pass is read whole, by every process, and shows whether a row depends
    on its number alone: reading it changes nothing in the data set (`state_of`), and no random
    generator of this process draws. Otherwise that pass is read whole. What this does not see
    shows where this process's first rows of the batch are read again.

    Args:
        loader: A loader for which `by_number` is True.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._readers = _readers(loader) or []
        self._begun = False
        self._alone = False  # whether rows may be read without the others of their batch
        self._keeps_changing = False  # or draws, or cannot be looked at
        self._after: bytes | None = None  # the state after the first batch
        self._kept: list[Any] = []

    def read(self, places: Places, first: int = 0, count: int = 0) -> Iterator[ReadBatch]:
        """The batches of a pass.

        Args:
            places: Which rows of a batch this process needs.
            first, count: Of a `ShardedReader`, which can begin anywhere, the number of the first
                batch, counted through all epochs, and the number of batches.

        Raises:
            RuntimeError: Rows that were read alone draw random numbers or change the data set,
                which the first batch of the pass did not, or a row is another one when it is read
                again.
        """
        self._begun, self._alone, self._after, self._kept = False, False, None, []
        if isinstance(self._loader, ShardedReader):
            batches = self._of_reader(places, first, count)
        else:
            batches = self._loader._pass(lambda rows: self._read(rows, places))
        try:
            yield from batches
        finally:
            if hasattr(batches, "close"):
                batches.close()  # ends the threads that read ahead
        if self._after is not None and self._after != self._state():
            self._keeps_changing = True
            if self._alone:
                raise RuntimeError(f"dataset: reading rows changed something in it; {_REMEDY}")

    def _read(self, rows: Any, places: Places) -> ReadBatch:
        """The batch of some row numbers, of which this process reads its own."""
        numbers = _numbers(rows)
        mine = None if numbers is None else places(len(rows))
        part = lambda own: self._loader._read([rows[i] for i in own])  # noqa: E731
        if not self._begun:
            batch = self._first(lambda: self._loader._read(rows), part, mine)
        elif self._alone and mine is not None:
            return ReadBatch(len(rows), numbers, False, _drawing_nothing(part, mine))
        else:
            batch = self._loader._read(rows)
        return ReadBatch(len(rows), numbers, True, batch)

    def _first(
        self, whole: Callable[[], Any], part: Callable[[Any], Any], mine: np.ndarray | None
    ) -> Any:
        """Reads the first batch whole, and sees whether later ones may be read in part.

        Args:
            whole, part: What reads it, and what reads the rows at some of its places.
            mine: The places of the rows that this process needs; None for all.
        """
        self._begun = True
        # Wherever a generator lies, in a global variable or in a library: nothing else draws now.
        # Those that were frozen are not listed.
        hidden = self._readers and gc.get_freeze_count()
        if mine is None or self._keeps_changing or hidden:
            return whole()
        found = gc.get_objects() if self._readers else []
        found = [each for each in found if issubclass(type(each), _GENERATORS)]
        found = [each for each in found if type(each) is not random.SystemRandom]
        before, drawn, states = self._state(), state_of(found, self._kept), global_states()
        batch = whole()
        self._after = self._state()
        quiet = drawn is not None and drawn == state_of(found, self._kept)
        quiet &= states == global_states()
        self._keeps_changing = before is None or self._after is None or not quiet
        self._alone = before == self._after and not self._keeps_changing
        if self._alone and self._readers:
            again = _drawing_nothing(part, mine[:_AGAIN])
            for one, other in zip(_arrays(batch), _arrays(again), strict=True):
                one = one[mine[:_AGAIN]]
                if not np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"):
                    raise RuntimeError(
                        "dataset: rows of the first batch were read twice, and had other numbers "
                        f"the second time, though no generator that is known draws; {_REMEDY}"
                    )
        return batch

    def _state(self) -> bytes | None:
        return state_of(self._readers, self._kept)

    def _of_reader(self, places: Places, first: int, count: int) -> Iterator[ReadBatch]:
        """The batches of a `ShardedReader` from a number on, which counts through the epochs."""
        reader = self._loader
        if count:
            size = len(reader._places(first))
            part = lambda own=None: reader._read(first, own)  # noqa: E731
            batch = self._first(part, part, places(size))
            yield ReadBatch(size, None, True, batch)
        sizes = [len(reader._places(first + i)) for i in range(1, count)]
        if not sizes:
            return
        if self._alone:
            rest = reader._ahead(_Parts(reader, first + 1, list(map(places, sizes))))
        else:
            rest = iter(reader)
            rest.set_state({**rest.get_state(), "batches": first + 1})
        try:
            for i, (size, batch) in enumerate(zip(sizes, rest, strict=False)):
                mine = places(size) if self._alone else None
                # Which records these are is the same everywhere, as the first batch has shown.
                yield ReadBatch(size, np.array([first + 1 + i]), mine is None, batch)
        finally:
            rest.close()


class _Parts:
    """The own records of the batches of a `ShardedReader`, by number."""

    def __init__(self, reader: Any, first: int, places: list[np.ndarray | None]) -> None:
        self._reader, self._first_number, self._own = reader, first, places

    def __len__(self) -> int:
        return len(self._own)

    def __getitem__(self, i: int) -> Any:
        return _drawing_nothing(
            lambda own: self._reader._read(self._first_number + i, own), self._own[i]
        )


def by_number(loader: Any) -> bool:
    """Whether the rows of a loader's batches are known by number, and each is read by itself."""
    return _readers(loader) is not None


def _readers(loader: Any) -> list[Any] | None:
    """The code of the user's that reads a loader's rows; None if it may mix the rows of a batch."""
    if type(loader) is ShardedReader:
        if loader.collate_fn is not default_collate or loader.process_count != 1:
            return None
        return [] if loader.decode is None else [loader.decode]
    # Of other classes, rows that come one after another, and functions of whole batches, nobody
    # knows what the rows left out would change.
    if type(loader) is not DataLoader or loader.batch_sampler is None or not loader._stacks:
        return None
    return None if loader._iterable else readers_of(loader.dataset)


def _arrays(batch: Any) -> list[np.ndarray]:
    return [leaf for leaf in jax.tree.leaves(batch) if isinstance(leaf, np.ndarray)]


def _numbers(rows: Any) -> np.ndarray | None:
    try:
        numbers = np.asarray(rows)
    except ValueError:
        return None
    return numbers if numbers.ndim == 1 and numbers.dtype.kind in "iu" else None


def _drawing_nothing(read: Callable[[Any], Any], rows: Any) -> Any:
    """Reads rows, and sees that no random number is drawn for it."""
    # Another thread may draw meanwhile; that it does so each time is left out of account.
    for _ in range(3):
        before = global_states()
        batch = read(rows)
        if global_states() == before:
            return batch
    raise RuntimeError(
        "dataset: reading a row draws from a generator of Python, NumPy or torch, and the first "
        f"batch of the pass drew nothing; {_REMEDY}"
    )
