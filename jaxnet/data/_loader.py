"""torch.utils.data.DataLoader with the same batches in the same order, in numpy or on a device."""

import functools
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxnet._arrays import check_fits
from jaxnet.data._ahead import END, ReadAhead, SendAhead
from jaxnet.data._collate import default_collate, default_convert, each, is_array, own_copy
from jaxnet.data._dataset import by_number, gather, is_iterable_data_set, is_iterable_only
from jaxnet.data._sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    checked_generators,
)
from jaxnet.data._worker import Streams, introduce
from jaxnet.random import Generator


class DataLoader:
    """Batches of a data set in torch's order: torch.utils.data.DataLoader.

    Args:
        dataset: The data set: rows by number (`Dataset`, a list, an array), rows one after
            another (`IterableDataset`), a data set of torch of either kind, or a DataLoader
            of torch, whose batches are converted to numpy.
        batch_size: The number of rows in a batch. None gives the rows one by one.
        shuffle: Whether every pass has a new random order.
        sampler: An iterable of row numbers, in place of `shuffle`. With a sampler of torch,
            which draws from torch's generators, the loader draws from them too.
        batch_sampler: An iterable of lists of row numbers, in place of `batch_size`,
            `shuffle`, `sampler` and `drop_last`.
        num_workers: The number of threads that read batches in advance. With 0 a batch is
            read when it is needed. Threads help if reading waits or is not in Python
            (files, decoding, numpy). They share the data set, which needs no pickling. Rows that
            draw from the global generators (`np.random`, `random`, torch's) get the numbers of
            torch's workers, but are read one batch at a time, when it is needed; without
            `rngs` and `generator` they are refused.
        collate_fn: The function that makes a batch of a list of rows. Torch tensors in the
            batch are converted to numpy.
        pin_memory: Accepted for compatibility, without effect; `device` is used instead.
        drop_last: Whether a last, smaller batch is left out.
        timeout: The seconds to wait for a worker's batch; 0 waits for ever. A thread that
            never returns delays the end of the program by at most a few seconds.
        worker_init_fn: The function that each worker thread calls first with its number.
        multiprocessing_context: Always None, because workers are threads.
        generator: The generator that the PyTorch program passes as `generator`, if any.
        prefetch_factor: The number of batches that each worker reads in advance. None is 2.
        persistent_workers: Whether the seed for workers is drawn only in the first pass, as
            in torch. It changes the order of later passes.
        pin_memory_device: Accepted for compatibility, without effect.
        in_order: Accepted for compatibility; the batches are always in order.
        rngs: The generator in place of torch's global generator, `Generator(seed)` for
            `torch.manual_seed(seed)`: the same one from which the layers are initialized.
        device: The JAX device or sharding to which batches are sent in advance; the batches
            are then JAX arrays. None gives numpy arrays.
        prefetch: The number of batches that are sent in advance. A pass that is stopped
            early has read this many batches more, as torch's workers have.

    A shuffled loader needs `rngs` or `generator` and gives the same batches as torch for the
    same seed. A loader that does not shuffle accepts them too and draws one number from them
    in each pass, as torch does.

    Numbers become int64 and float64 arrays as in torch. With `device`, JAX converts them to
    32 bits unless jax_enable_x64 is set, and integers that do not fit are an error. A tuple stays
    a tuple, where torch makes it a list.

    If the data set fits the memory of the device, `epoch_order` with `train.make_epoch` is
    faster, because a whole pass is then one compiled call.

    Raises:
        ValueError: Arguments are out of range or do not go together.
        TypeError: generator or rngs is no jaxnet.random.Generator.

    >>> loader = DataLoader(range(5), batch_size=2, shuffle=True, rngs=Generator(0))
    >>> [batch.tolist() for batch in loader]
    [[1, 4], [2, 3], [0]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        rngs: Generator | None = None,
        device: Any = None,
        prefetch: int = 2,
    ) -> None:
        _check_numbers(num_workers, timeout, prefetch_factor, persistent_workers, prefetch)
        if multiprocessing_context is not None:
            raise ValueError(
                f"multiprocessing_context: {multiprocessing_context!r}; workers are threads "
                "here, leave it out"
            )
        _check_data(dataset)
        if device is not None and not isinstance(device, (jax.Device, jax.sharding.Sharding)):
            raise ValueError(
                f"device: {device!r}; accepted is a JAX device, such as jax.devices()[0], or a "
                "sharding"
            )
        dataset = by_number(dataset)
        self._passes_through = _is_loader(dataset)
        self._iterable = not self._passes_through and is_iterable_only(dataset)
        given: dict[str, Any] = {
            "shuffle": shuffle,
            "sampler": sampler,
            "batch_sampler": batch_sampler,
        }
        if self._passes_through:
            given |= {"batch_size": None if batch_size == 1 else batch_size}
            given |= {"drop_last": drop_last, "collate_fn": collate_fn}
        if self._passes_through or self._iterable:
            what = "a DataLoader" if self._passes_through else "an iterable data set"
            for name, value in given.items():
                if value is not None and value is not False:
                    raise ValueError(f"{name}: {value!r}; {what} has its own order, leave it out")
        if sampler is not None and shuffle:
            raise ValueError("sampler, shuffle: both are given; a sampler is the order itself")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler: it takes the place of batch_size, shuffle, sampler and "
                    "drop_last; leave these out"
                )
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("drop_last: there are no batches with batch_size=None; leave it out")
        if shuffle or generator is not None or rngs is not None:
            generator, rngs = checked_generators(generator, rngs)
        else:  # The global generator is then the one from which the sampler draws.
            within: Any = batch_sampler if sampler is None else sampler
            rngs = getattr(getattr(within, "sampler", within), "rngs", None)
        self._torchs_sampler = _is_torchs_sampler(sampler) or _is_torchs_sampler(batch_sampler)

        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.prefetch_factor = (prefetch_factor or 2) if num_workers else None
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.persistent_workers = persistent_workers
        self.in_order = in_order
        self.generator, self.rngs = generator, rngs
        self.device, self.prefetch = device, prefetch
        if self._passes_through or self._iterable:
            sampler = itertools.repeat(None)
        elif sampler is None and shuffle:
            sampler = RandomSampler(dataset, generator=generator, rngs=rngs)
        elif sampler is None:
            sampler = SequentialSampler(dataset)
        self.sampler = sampler
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_sampler = batch_sampler
        if collate_fn is None:
            collate_fn = default_convert if batch_sampler is None else default_collate
        self.collate_fn = collate_fn
        # Stacking copies the rows. A batch that was not stacked may share memory with a row that
        # the data set fills again, and is copied before another row is read.
        self._stacks = collate_fn is default_collate and not self._passes_through
        self._seeded = False
        self._worker_seed: int | None = None
        self._streams: Streams | None = None  # of the workers; persistent ones draw on

    def __len__(self) -> int:
        """The number of batches in a pass."""
        if self._passes_through:
            return len(self.dataset)
        if not self._iterable:
            return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]
        n = len(self.dataset)
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        batches = self._pass(self._read)
        return batches if self.device is None else SendAhead(batches, self._send, self.prefetch)

    def _pass(self, read_rows: Callable[[Any], Any]) -> Iterator[Any]:
        """The batches of a pass in numpy; `read_rows` makes one of the numbers of its rows."""
        # Torch draws the seed for its workers when a pass begins, before any row number.
        source = self.rngs if self.generator is None else self.generator
        if not (self.persistent_workers and self._seeded):
            if source is not None:
                self._worker_seed, self._streams = int(source.random_()), None
            elif self._torchs_sampler:
                torch = sys.modules["torch"]
                torch.empty((), dtype=torch.int64).random_()
            self._seeded = True
        if self._passes_through:
            jobs: Iterator[Any] = itertools.repeat(None)
            rows = iter(self.dataset)
            read: Callable[[Any], Any] = lambda _: default_convert(next(rows, END))  # noqa: E731
        elif self._iterable:
            jobs, rows = itertools.repeat(None), iter(self.dataset)
            read = lambda _: self._next_of(rows)  # noqa: E731
        else:
            jobs = iter(self.sampler if self.batch_sampler is None else self.batch_sampler)
            read = read_rows
        if self.num_workers == 0:
            return itertools.takewhile(lambda batch: batch is not END, map(read, jobs))
        # One iterator cannot be read by several threads at once.
        workers = 1 if self._passes_through or self._iterable else self.num_workers
        ahead = workers * (self.prefetch_factor or 2)
        owned = read if self._stacks else lambda rows: own_copy(read(rows))
        begin = functools.partial(
            introduce,
            num_workers=workers,
            seed=self._worker_seed,
            dataset=self.dataset,
            worker_init_fn=self.worker_init_fn,
        )
        if self._streams is None and self._worker_seed is not None:
            self._streams = Streams(self._worker_seed, workers)
        return ReadAhead(jobs, owned, workers, ahead, self.timeout, begin, self._streams)

    def _read(self, rows: Any) -> Any:
        """The batch of the given row numbers."""
        if self.batch_sampler is None:
            return self._collated(self.dataset[rows])
        # Rows of arrays are taken by one index operation, which gives what stacking would give.
        if self._stacks:
            whole = gather(self.dataset, rows)
            if whole is not None:
                return default_convert(whole)
        if callable(getattr(self.dataset, "__getitems__", None)):
            return self._collated(self.dataset.__getitems__(rows))
        return self._collated([self.dataset[row] for row in rows])

    def _next_of(self, rows: Iterator[Any]) -> Any:
        """The next batch of an iterable data set, or END."""
        if self.batch_size is None:
            row = next(rows, END)
            return row if row is END else self._collated(row)
        batch = list(itertools.islice(rows, self.batch_size))
        if not batch or (self.drop_last and len(batch) < self.batch_size):
            return END
        return self._collated(batch)

    def _collated(self, rows: Any) -> Any:
        batch = self.collate_fn(rows)
        return batch if self._stacks else default_convert(batch)

    def _send(self, batch: Any) -> Any:
        """The batch on the device, which the transfer may not have reached yet."""
        # `each` keeps the order of a dictionary's keys, which JAX would sort. JAX looks into the
        # classes that are registered as pytrees.
        return each(lambda part: jax.tree.map(self._send_leaf, part), batch)

    def _send_leaf(self, leaf: Any) -> Any:
        check_fits("a batch", leaf)
        numeric = is_array(leaf) or isinstance(leaf, (bool, int, float, np.number, np.bool_))
        if isinstance(leaf, np.ndarray) and not self._stacks:
            leaf = leaf.copy()  # On a CPU the JAX array could share the data set's memory.
        return jax.device_put(leaf, self.device) if numeric else leaf


def _check_data(dataset: Any) -> None:
    """Refuses objects that are no data set, and iterators, which give their rows only once."""
    if hasattr(dataset, "__next__") and not is_iterable_data_set(dataset):
        raise ValueError(
            f"dataset: a {type(dataset).__name__} gives its rows once; give a list of them, or an "
            "IterableDataset whose __iter__ begins anew"
        )
    if not (hasattr(dataset, "__iter__") or hasattr(dataset, "__getitem__")):
        raise ValueError(
            f"dataset: a {type(dataset).__name__}; accepted is something with rows by number "
            "(__getitem__ and __len__) or one after another (__iter__)"
        )


def _is_torchs_sampler(sampler: Any) -> bool:
    """Whether a sampler is one of torch's, or of a subclass, and draws from torch's generators."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(sampler, torch.utils.data.Sampler)


def _is_loader(dataset: Any) -> bool:
    """Whether a data set is a DataLoader, which gives batches."""
    return hasattr(dataset, "batch_sampler") and hasattr(dataset, "collate_fn")


def _check_numbers(
    num_workers: int,
    timeout: float,
    prefetch_factor: int | None,
    persistent_workers: bool,
    prefetch: int,
) -> None:
    if not isinstance(num_workers, int) or num_workers < 0:
        raise ValueError(
            f"num_workers: {num_workers!r}; accepted is a whole number, 0 to read in this thread"
        )
    if timeout < 0:
        raise ValueError(f"timeout: {timeout}; at least 0, which waits for ever")
    if prefetch_factor is not None and (num_workers == 0 or prefetch_factor < 1):
        raise ValueError(
            f"prefetch_factor: {prefetch_factor} with {num_workers} workers; accepted is a "
            "positive integer where there are workers"
        )
    if persistent_workers and num_workers == 0:
        raise ValueError("persistent_workers: there are no workers; give num_workers")
    if prefetch < 0:
        raise ValueError(f"prefetch: {prefetch}; at least 0")
