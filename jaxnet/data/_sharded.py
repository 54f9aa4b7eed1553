"""Reading record files that do not fit the memory, in shuffled batches, through Grain."""

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
    """Records by number; `place(i)` describes record i in errors."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Any: ...
    def place(self, i: int) -> str: ...


class ShardedReader:
    """Batches of records from array_record files or a prepared tensorflow-datasets folder.

    Only the batches that are being read are in memory. Shuffling goes over the records of all
    files and takes no memory, because Grain computes each entry of the permutation when it
    is needed. In a run with several processes each process reads its own share of every
    epoch. The shares are disjoint and contain all records.

    Every epoch has its own order. Every new iterator begins at the first epoch and gives the
    same batches. The state of an iterator is small and can be saved as JSON:

        batches = iter(ShardedReader("records", 64, seed=0, decode=decode, epochs=10))
        batch = next(batches)
        saved = json.dumps(batches.get_state())
        ...
        batches.set_state(json.loads(saved))  # goes on with the second batch

    The packages grain and array_record are needed: pip install grain array_record.

    Args:
        files: The path of a folder with array_record files, which are read in the order of
            their names; the path of one file, or a sequence of paths; or the path of one
            version of a prepared data set (`tfds/cifar10/3.0.2`), whose records are
            decoded to dictionaries.
        batch_size: The number of records in a batch of each process, at least 1.
        split: The split of a prepared data set, "train" or "test"; None for other files.
        seed: The seed of the shuffling, 0 to 2**32 - 1. None reads the records in the order
            of the files.
        decode: The function that makes a sample of a record (bytes, or a dictionary of a
            prepared data set). A sample is an array, a number, or a dictionary or tuple of
            them. The function runs in threads.
        collate_fn: The function that makes a batch of a list of samples.
        epochs: The number of passes over the records. None is without end.
        drop_last: Whether the last, smaller batch of an epoch is left out. All processes then
            have the same number of batches, which a step on all of them needs. Up to
            `process_count` - 1 further records of an epoch are left out.
        num_workers: The number of threads that read batches in advance. With 0 a batch is
            read when it is needed.
        prefetch_factor: The number of batches that each thread reads in advance, at least 1.
        process_index: The number of this process. None is `jax.process_index()`.
        process_count: The number of processes. None is `jax.process_count()`. For `train.fit` over
            several processes a batch is that of all of them, of which each reads its own records:
            process_index=0, process_count=1.

    Raises:
        ImportError: grain is not installed.
        FileNotFoundError: A file or folder does not exist.
        ValueError: An argument is out of range, a file is missing or damaged, or there are
            too few records for a batch in each process. A damaged record is an error when
            it is read. The errors name the file and record.
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
        self.decode, self.collate_fn = decode, collate_fn
        self.process_index, self.process_count = index, count
        self.records = n
        dataset = grain.MapDataset.source(_Samples(source, decode))
        if seed is not None:
            dataset = dataset.shuffle(seed)  # Grain shuffles each epoch differently.
        # Process number `index` takes every count-th record from record `index` on. With
        # drop_last the end is cut so that all shares have the same length.
        dataset = dataset[index : n - n % count if drop_last else n : count]
        share = len(dataset)
        if drop_last and share < batch_size:
            raise ValueError(
                f"batch_size: {batch_size}; this process has {share} records and drop_last "
                f"leaves out smaller batches: give at most {share}, or drop_last=False"
            )
        self._rows = dataset
        dataset = dataset.batch(
            batch_size, drop_remainder=drop_last, batch_fn=functools.partial(_batch, collate_fn)
        )
        self.batches_per_epoch = len(dataset)
        self.epochs = epochs
        self._files = _fingerprint(source)
        self._options = grain.ReadOptions(
            num_threads=num_workers, prefetch_buffer_size=num_workers * prefetch_factor
        )
        self._dataset = dataset.repeat(epochs).to_iter_dataset(self._options)

    def __len__(self) -> int:
        """The number of batches in all epochs."""
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

    def _places(self, number: int) -> range:
        """The places of a batch's records in its epoch; its number counts through all epochs."""
        first = number % self.batches_per_epoch * self.batch_size
        return range(first, min(first + self.batch_size, len(self._rows)))

    def _read(self, number: int, own: Sequence[int] | None = None) -> Any:
        """A batch by its number, or those of its records that are at some places in it."""
        places = self._places(number)
        before = number // self.batches_per_epoch * len(self._rows)
        wanted = places if own is None else [places[i] for i in own]
        return _batch(self.collate_fn, [self._rows[before + i] for i in wanted])

    def _ahead(self, source: Any) -> Any:
        """The elements of a source by number, read ahead as the reader's own batches are."""
        grain = needed("grain", "ShardedReader", "grain array_record")
        return iter(grain.MapDataset.source(source).to_iter_dataset(self._options))


class ShardedIterator(Iterator[Any]):
    """An iterator over the batches of a `ShardedReader`, with a state that can be saved.

    If reading a batch raises an error, the next call gives the batch after it.
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
            # Grain reads in advance, so its own position is somewhere after the failed batch.
            self._go_to(self._given + 1)
            raise
        self._given += 1
        return batch

    def _go_to(self, batches: int) -> None:
        """Continues after the given number of batches."""
        self._batches.set_state({"next_index": batches})
        self._given = batches

    def get_state(self) -> dict[str, Any]:
        """The position of the iterator.

        Returns:
            The number of batches that were given or failed, and a description of the
            reader; a dictionary of numbers and strings.
        """
        return {"batches": self._given, **self._facts}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues at a saved position, with the same batches as after `get_state`.

        Args:
            state: The result of `get_state` of a reader of the same files and arguments.
                Only the number of threads, `epochs` and `decode` may differ.

        Raises:
            ValueError: The state is that of another reader; the error names the difference.
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
        """Ends the threads that read in advance, as the deletion of the iterator does too."""
        self._batches.close()


def _batch(collate_fn: Callable[[list[Any]], Any], samples: Sequence[Any]) -> Any:
    """The batch of some samples, with errors that name collate_fn."""
    try:
        batch = collate_fn(list(samples))
    except StopIteration as error:  # To Grain it would be the end of the data.
        raise RuntimeError("collate_fn: it raised StopIteration") from error
    if batch is None:
        raise ValueError("collate_fn: it gave None; a batch is an array or several")
    return batch


class _Samples:
    """Decoded records; an error in decoding names the file and the record."""

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
        except StopIteration as error:  # To Grain it would be the end of the data.
            raise RuntimeError(f"decode: StopIteration at {self._source.place(i)}") from error
        except Exception as error:
            error.add_note(f"decode: {self._source.place(i)}")
            raise
        if sample is None:  # Grain would leave the record out.
            raise ValueError(f"decode: it gave None for {self._source.place(i)}")
        return sample


class _Shards:
    """The records of array_record files, one file after another."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        with ThreadPoolExecutor(16) as pool:  # Every file has to be opened for its length.
            self._shards = list(pool.map(_open, files))
        self.ends = list(itertools.accumulate(map(len, self._shards)))

    def __len__(self) -> int:
        return self.ends[-1]

    def _find(self, i: int) -> tuple[int, int]:
        """The number of the file of record i, and the record's number in that file."""
        shard = bisect.bisect_right(self.ends, i)
        return shard, i - (self.ends[shard - 1] if shard else 0)

    def place(self, i: int) -> str:
        shard, row = self._find(i)
        return f"{self.files[shard]}, record {row}"

    def __getitem__(self, i: int) -> bytes:
        shard, row = self._find(i)
        try:
            return self._shards[shard][row]
        except Exception as error:  # The reader raises bare RuntimeErrors.
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
    """The records that the arguments `files` and `split` describe."""
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
    """The array_record files of a folder in the order of their names.

    If there is a file such as `NAME-00003-of-00008`, the seven others have to be there too.
    """
    files = sorted(p for p in folder.iterdir() if ".array_record" in p.name and p.is_file())
    if not files:
        raise FileNotFoundError(
            f"{folder}: no array_record files in it (their names hold .array_record)"
        )
    there = {file.name for file in files}
    for name in sorted(there):
        if found := re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})(.*)", name):
            start, _, count, end = found.groups()
            names = [f"{start}-{i:05d}-of-{count}{end}" for i in range(int(count))]
            if missing := [other for other in names if other not in there]:
                raise ValueError(
                    f"{folder}: {len(missing)} of {int(count)} shards are missing, the first is "
                    f"{missing[0]}; copy them too"
                )
    return files


def _open(path: Path) -> Any:
    """One array_record file, opened."""
    module = "array_record.python.array_record_data_source"
    reader = needed(module, "ShardedReader", "array_record")
    try:
        return reader.ArrayRecordDataSource(str(path))
    except Exception as error:  # The reader raises bare RuntimeErrors.
        raise _damaged(str(path), error) from error


def _damaged(place: str, error: Exception) -> ValueError:
    why = " ".join(str(error).split())[:200]
    return ValueError(f"{place}: damaged or no array_record: {why}; copy or write it again")


def _fingerprint(source: Any) -> str:
    """A hash of the files' names and lengths, but not of their folder, which may be moved."""
    facts = [[file.name for file in source.files], source.ends]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _processes(index: int | None, count: int | None) -> tuple[int, int]:
    """The checked number of this process and the number of processes."""
    if (index is None) != (count is None):
        raise ValueError(f"process_index, process_count: {index}, {count}; give both or neither")
    if index is None or count is None:
        import jax

        return jax.process_index(), jax.process_count()
    check_integer("process_count", count, 1)
    check_integer("process_index", index, 0, count - 1)
    return index, count
