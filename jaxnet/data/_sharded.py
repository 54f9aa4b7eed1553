"""Record files that do not fit the memory, read in shuffled batches through Grain."""

import bisect
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self

from jaxnet._checks import check_integer
from jaxnet._extras import needed
from jaxnet.data import _prepared as prepared
from jaxnet.data._collate import default_collate

_Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class _Source(Protocol):
    """Records by number, and where each one lies."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Any: ...
    def place(self, i: int) -> str: ...


class ShardedReader:
    """Batches of records from array_record files or a prepared tensorflow-datasets folder.

    Only the batches on their way are in memory. Shuffling is global, over the records of
    all files, and costs no memory: Grain computes the i-th place of a permutation. Each
    process of a run takes its own share of every epoch; the shares are disjoint, and
    together they are everything.

    Every iteration starts anew at the first epoch and gives the same batches; an order of
    its own has each of its `epochs`. An iterator's state is small and can be saved as JSON:

        batches = iter(ShardedReader("records", 64, seed=0, decode=decode, epochs=10))
        batch = next(batches)
        saved = json.dumps(batches.get_state())
        ...
        batches.set_state(json.loads(saved))  # goes on with the second batch

    It needs the package grain: pip install grain array_record.

    Args:
        files: a folder with array_record files, taken by name; such a file, or a sequence
            of them, taken as given; or one version of a prepared data set
            (`tfds/cifar10/3.0.2`), whose records come decoded, as dictionaries.
        batch_size: records a batch, in each process.
        split: of a prepared data set: "train" or "test"; else leave it out.
        seed: of the shuffling, 0 to 2**32 - 1; None takes the records as they lie.
        decode: what makes a sample of a record (bytes, or a dictionary of a prepared data
            set): arrays, numbers, or dictionaries and tuples of them. Runs in threads.
        collate_fn: makes a batch of a list of samples.
        epochs: passes over the records; None never ends.
        drop_last: whether a last, smaller batch of an epoch is left out. All processes then
            have the same number of batches, as a step on all of them needs, and up to
            `process_count` - 1 records more are left out of an epoch.
        num_workers: threads that read ahead; 0 reads when a batch is asked for.
        prefetch_factor: batches that each thread reads ahead.
        process_index: which share is this process's; None for `jax.process_index()`.
        process_count: how many shares there are; None for `jax.process_count()`.

    Raises:
        ImportError: grain is not installed.
        FileNotFoundError: there is no such file or folder.
        ValueError: an argument outside its range, a shard that is missing or damaged
            (named), or fewer records than a batch of each process needs. A damaged
            record is named when it is read.
    """

    def __init__(
        self,
        files: _Paths,
        batch_size: int,
        *,
        split: str | None = None,
        seed: int | None = None,
        decode: Callable[[Any], Any] | None = None,
        collate_fn: Callable[[list[Any]], Any] = default_collate,
        epochs: int | None = 1,
        drop_last: bool = False,
        num_workers: int = 4,
        prefetch_factor: int = 2,
        process_index: int | None = None,
        process_count: int | None = None,
    ) -> None:
        grain = needed("grain", "ShardedReader", "grain array_record")
        check_integer("batch_size", batch_size, 1)
        check_integer("num_workers", num_workers, 0)
        check_integer("prefetch_factor", prefetch_factor, 1)
        if epochs is not None:
            check_integer("epochs", epochs, 1)
        if seed is not None:
            check_integer("seed", seed, 0, 2**32 - 1)
        index, count = _processes(process_index, process_count)
        source = _source(files, split)
        n = len(source)
        if n < count:
            raise ValueError(
                f"process_count: {count}; there are only {n} records, and each process needs one"
            )
        self.batch_size, self.seed, self.drop_last = batch_size, seed, drop_last
        self.process_index, self.process_count = index, count
        self.records = n
        dataset = grain.MapDataset.source(_Samples(source, decode))
        if seed is not None:
            dataset = dataset.shuffle(seed)  # a new order at each epoch
        # With drop_last every share has the same length.
        dataset = dataset[index : n - n % count if drop_last else n : count]
        share = len(dataset)
        if drop_last and share < batch_size:
            raise ValueError(
                f"batch_size: {batch_size}; this process has {share} records and drop_last "
                f"leaves out smaller batches: give at most {share}, or drop_last=False"
            )
        dataset = dataset.batch(
            batch_size, drop_remainder=drop_last, batch_fn=functools.partial(_batch, collate_fn)
        )
        self.batches_per_epoch = len(dataset)
        self.epochs = epochs
        self._files = _fingerprint(source)
        self._dataset = dataset.repeat(epochs).to_iter_dataset(
            grain.ReadOptions(
                num_threads=num_workers, prefetch_buffer_size=num_workers * prefetch_factor
            )
        )

    def __len__(self) -> int:
        """Batches of all epochs."""
        if self.epochs is None:
            raise TypeError("epochs: None; a reader that never ends has no length")
        return self.batches_per_epoch * self.epochs

    def __iter__(self) -> "ShardedIterator":
        facts = {
            "files": self._files,
            "records": self.records,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "drop_last": self.drop_last,
            "process_index": self.process_index,
            "process_count": self.process_count,
        }
        last = None if self.epochs is None else len(self)
        return ShardedIterator(self._dataset.__iter__(), facts, last)


class ShardedIterator(Iterator[Any]):
    """The batches of a `ShardedReader`, and how far it has come.

    A batch that raises an error is passed over: the next one is the one after it.
    """

    def __init__(self, batches: Any, facts: Mapping[str, Any], last: int | None) -> None:
        self._batches, self._facts, self._last = batches, dict(facts), last
        self._given = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except StopIteration:
            raise
        except Exception:
            # Grain's own place is somewhere among those that it reads ahead.
            self._go_to(self._given + 1)
            raise
        self._given += 1
        return batch

    def _go_to(self, batches: int) -> None:
        self._batches.set_state({"next_index": batches})
        self._given = batches

    def get_state(self) -> dict[str, Any]:
        """How many batches were given or failed, and of what; plain numbers and strings."""
        return {"batches": self._given, **self._facts}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on after the batches of a state; what comes next is what came then.

        Args:
            state: of `get_state`, of a reader of the same files and arguments; threads,
                `epochs` and `decode` may differ.

        Raises:
            ValueError: no state, or one of another reader, naming what differs.
        """
        for name, here in self._facts.items():
            if name not in state:
                raise ValueError(f"state: it has no {name!r}; give what get_state returned")
            if state[name] != here:
                raise ValueError(
                    f"state: its {name} is {state[name]!r}, this reader's {here!r}; make the "
                    "reader with the arguments that it was saved with"
                )
        batches: Any = state.get("batches")
        check_integer("state: batches", batches, least=0)
        if self._last is not None and batches > self._last:
            raise ValueError(
                f"state: {batches} batches were given, but this reader has {self._last}; "
                "raise epochs"
            )
        self._go_to(batches)

    def close(self) -> None:
        """Ends the threads that read ahead; so does the end of the iterator's life."""
        self._batches.close()


def _batch(collate_fn: Callable[[list[Any]], Any], samples: Sequence[Any]) -> Any:
    try:
        batch = collate_fn(list(samples))
    except StopIteration as error:  # as in _Samples
        raise RuntimeError("collate_fn: it raised StopIteration") from error
    if batch is None:
        raise ValueError("collate_fn: it gave None; a batch is an array or several")
    return batch


class _Samples:
    """Decoded records; an error of the decoding says where its record lies."""

    def __init__(self, source: _Source, decode: Callable[[Any], Any] | None) -> None:
        self._source, self._decode = source, decode

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Any:
        record = self._source[i]
        if self._decode is None:
            return record
        try:
            sample = self._decode(record)
        except StopIteration as error:  # to Grain it would be the end of the data
            raise RuntimeError(f"decode: StopIteration at {self._source.place(i)}") from error
        except Exception as error:
            error.add_note(f"decode: {self._source.place(i)}")
            raise
        if sample is None:  # Grain would leave it out
            raise ValueError(f"decode: it gave None for {self._source.place(i)}")
        return sample


class _Shards:
    """The records of array_record files, one file after another."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        with ThreadPoolExecutor(16) as pool:  # each is opened for its length
            self._shards = list(pool.map(_open, files))
        self.ends = list(itertools.accumulate(map(len, self._shards)))

    def __len__(self) -> int:
        return self.ends[-1]

    def _find(self, i: int) -> tuple[int, int]:
        shard = bisect.bisect_right(self.ends, i)
        return shard, i - (self.ends[shard - 1] if shard else 0)

    def place(self, i: int) -> str:
        shard, row = self._find(i)
        return f"{self.files[shard]}, record {row}"

    def __getitem__(self, i: int) -> bytes:
        shard, row = self._find(i)
        try:
            return self._shards[shard][row]
        except Exception as error:  # the reader raises bare RuntimeErrors
            raise _damaged(self.place(i), error) from error


class _Prepared:
    """The records of one split of a prepared data set."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._records = prepared.open_split(folder, split)
        self.files, self.ends = [folder / split], [len(self._records)]

    def __len__(self) -> int:
        return len(self._records)

    def place(self, i: int) -> str:
        return f"{self._folder}, record {i} of {self._split}"

    def __getitem__(self, i: int) -> Any:
        try:
            return self._records[i]
        except Exception as error:
            raise _damaged(self.place(i), error) from error


def _source(files: _Paths, split: str | None) -> Any:
    if isinstance(files, (str, os.PathLike)):
        folder = Path(files).expanduser()
        if (folder / "dataset_info.json").is_file():
            if split is None:
                raise ValueError(f'split: None; {folder} is a prepared data set, give "train"')
            return _Prepared(folder, split)
        paths = _whole(folder) if folder.is_dir() else [folder]
    else:
        paths = [Path(file).expanduser() for file in files]
        if not paths:
            raise ValueError("files: none given; name at least one")
    if split is not None:
        raise ValueError(
            f"split: {split!r}; only a prepared data set (a folder with dataset_info.json) "
            "has splits, leave it out"
        )
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"files: there is no file {path}")
    shards = _Shards(paths)
    if not len(shards):
        raise ValueError(f"files: no records in {paths[0]}{' and the others' if paths[1:] else ''}")
    return shards


def _whole(folder: Path) -> list[Path]:
    """A folder's shards, by name; `NAME-00003-of-00008` needs its seven others."""
    files = sorted(p for p in folder.iterdir() if ".array_record" in p.name and p.is_file())
    if not files:
        raise FileNotFoundError(
            f"{folder}: no array_record files in it (their names hold .array_record)"
        )
    there = {file.name for file in files}
    for name in sorted(there):
        if found := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})(.*)", name):
            start, _, count, end = found.groups()
            needed = [f"{start}-{i:05d}-of-{count}{end}" for i in range(int(count))]
            if missing := [other for other in needed if other not in there]:
                raise ValueError(
                    f"{folder}: {len(missing)} of {int(count)} shards are missing, the first is "
                    f"{missing[0]}; copy them too"
                )
    return files


def _open(path: Path) -> Any:
    module = "array_record.python.array_record_data_source"
    reader = needed(module, "ShardedReader", "array_record")
    try:
        return reader.ArrayRecordDataSource(str(path))
    except Exception as error:  # bare RuntimeErrors again
        raise _damaged(str(path), error) from error


def _damaged(place: str, error: Exception) -> ValueError:
    why = " ".join(str(error).split())[:200]
    return ValueError(f"{place}: damaged or no array_record: {why}; copy or write it again")


def _fingerprint(source: Any) -> str:
    """Of the files' names and lengths: another folder with the same files is the same."""
    facts = [[file.name for file in source.files], source.ends]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _processes(index: int | None, count: int | None) -> tuple[int, int]:
    if (index is None) != (count is None):
        raise ValueError(f"process_index, process_count: {index}, {count}; give both or neither")
    if index is None or count is None:
        import jax

        return jax.process_index(), jax.process_count()
    check_integer("process_count", count, 1)
    check_integer("process_index", index, 0, count - 1)
    return index, count
