"""Loaders as training data: batches that come one after another, joined for compiled calls."""

import random
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._extras import needed
from jaxnet.data._collate import default_convert
from jaxnet.data._sharded import ShardedReader
from jaxnet.train._chunk import Batches, Parts, batch_shapes

_STEPS = 32  # of one compiled call, at most
_SECONDS = 0.25  # a slow loader is not waited for longer than this to fill a call
_END: Any = object()


class LoaderFeed:
    """The batches of a loader: jaxnet's, torch's, Grain's, or any iterable of batches.

    A thread reads batches, joins some of them and sends them to the device while the steps
    before are computed.

    A `ShardedReader` and a Grain MapDataset go on at any batch. Of any other loader a
    resumed run reads the batches that were trained on already once more, after what
    they draw from has been set back: the generators of the loader and its samplers, and
    the global ones of Python, numpy and torch.

    Args:
        loader: A loader that gives the batches of an epoch at each iteration.
        epochs: How many epochs will be asked for.
        resumes: Whether an epoch may have to be begun again from a checkpoint.
        name: The name of the argument, for errors.

    Raises:
        ValueError: The loader cannot be read as often as asked, or the run could not go on
            with it after a stop.
    """

    on_device = False

    def __init__(self, loader: Any, epochs: int, resumes: bool, name: str = "data") -> None:
        self._loader, self._name, self._resumes = loader, name, resumes
        self._epochs = epochs
        self.batch_size = _batch_size(loader)
        self.steps = _length(loader)
        self.rows = _rows(loader)
        self._check()
        self.identity: dict[str, Any] = {"loader": type(loader).__name__, "batches": self.steps}
        if self._sharded:
            state = iter(loader).get_state()
            self.identity |= {k: v for k, v in state.items() if k != "batches"}
        self._generators = _generators(loader)
        self._example: Any = None
        self._sums: dict[int, int] = {}
        self._expected: int | None = None
        self._usual: str | None = None  # the shapes of the epoch's first batch

    @property
    def _sharded(self) -> bool:
        return isinstance(self._loader, ShardedReader)

    @property
    def _jumps(self) -> bool:
        """Whether an epoch can begin at any batch."""
        return self._sharded or is_mapped(self._loader)

    def _check(self) -> None:
        name, loader, epochs = self._name, self._loader, self._epochs
        kind = type(loader).__name__
        if self._sharded:
            self.steps = loader.batches_per_epoch
            if loader.epochs is not None and loader.epochs < epochs:
                raise ValueError(
                    f"{name}: this ShardedReader has {loader.epochs} epochs, the run {epochs}; "
                    "make it with epochs=None"
                )
        elif is_mapped(loader) and self.steps == sys.maxsize:
            raise ValueError(f"{name}: this {kind} has no end; leave its repeat() out")
        inner = innermost(loader)
        if self._resumes and getattr(inner, "persistent_workers", False):
            raise ValueError(
                f"{name}: with persistent_workers=True a {kind} does not give its batches again "
                "after a stop; leave it out, or leave checkpoint out"
            )

    # what the epochs draw from

    def get_state(self) -> dict[str, Any]:
        if self._jumps:
            return {}
        drawn = [np.asarray(g.get_state()).tobytes() for g in self._generators]
        return {"generators": drawn, "global": _global_states()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._expected, self._usual = state.get("checksum"), state.get("usual")
        drawn = state.get("generators", [])
        if drawn and len(drawn) != len(self._generators):
            raise ValueError(
                f"{self._name}: the checkpoint is of a loader with {len(drawn)} generators, this "
                f"one has {len(self._generators)}"
            )
        _set_global_states(state.get("global", {}))
        for generator, kept in zip(self._generators, drawn, strict=False):
            _set(generator, kept)

    def draws_from(self, generator: Any) -> bool:
        """Whether its batches are drawn from this generator."""
        return any(generator is mine for mine in self._generators)

    def state_within(self, step: int) -> dict[str, Any]:
        sums = {"checksum": self._sums[step]} if step in self._sums else {}
        return sums | {"usual": self._usual}

    def example(self) -> Any:
        if self._example is None and self._jumps:  # begun at its end: none was read
            with closing(self._batches(0, 0)) as batches:
                next(batches)
        return self._example

    # batches

    def batches(self, epoch: int, start: int, capacity: Callable[[Any], int]) -> Parts:
        self._sums.clear()
        if start == 0:
            self._usual = None
        return _ahead(self._parts(epoch, start, capacity))

    def _parts(self, epoch: int, start: int, most: Callable[[Any], int]) -> Parts:
        group: list[Any] = []
        first, capacity, began = start, 1, 0.0
        for batch in self._batches(epoch, start):
            shapes = batch_shapes(batch)
            late = time.perf_counter() - began > _SECONDS
            if group and (len(group) == capacity or late or shapes != batch_shapes(group[0])):
                yield _joined(group, first, capacity)
                first, group = first + len(group), []
            if not group:
                began = time.perf_counter()
                # Batches of the usual shapes share a call. Which are usual is said by the first
                # of the epoch, and kept for a run that goes on within it: another capacity is
                # another program, and two programs may round differently.
                self._usual = self._usual or str(shapes)
                capacity = max(1, min(_STEPS, most(batch))) if str(shapes) == self._usual else 1
            group.append(batch)
        if group:
            yield _joined(group, first, capacity)

    def _batches(self, epoch: int, start: int) -> Generator[Any, None, None]:
        """The batches from number `start` on, as numpy arrays."""
        batches = self._open(epoch, start)
        done = start
        try:
            for batch in batches:
                batch = self._checked(batch)
                done += 1
                if self._resumes:
                    self._sums[done] = checksum(batch)
                yield batch
        finally:
            if hasattr(batches, "close"):
                batches.close()  # else threads and processes that read ahead stay
        if done == 0:
            raise ValueError(f"{self._name}: {type(self._loader).__name__} gave no batch")

    def _open(self, epoch: int, start: int) -> Iterator[Any]:
        loader, n = self._loader, self.steps
        epoch = min(epoch, self._epochs - 1)  # a function's loader has one epoch
        if self._sharded:
            assert n is not None
            reader = iter(loader)
            reader.set_state({**reader.get_state(), "batches": epoch * n + start})
            return _first(reader, n - start)
        if is_mapped(loader):
            assert n is not None
            grain = needed("grain", self._name, "grain")
            rest = loader.repeat()[epoch * n + start : (epoch + 1) * n]
            # What a filter left out would shift the numbers: it is refused as no batch.
            return iter(rest.to_iter_dataset(grain.ReadOptions(), allow_nones=True))
        for sampler in _samplers(loader):
            if hasattr(sampler, "set_epoch"):  # torch's DistributedSampler
                sampler.set_epoch(epoch)
        batches = iter(loader)
        if start:
            self._read_again(batches, start)
        return batches

    def _read_again(self, batches: Iterator[Any], count: int) -> None:
        kind = type(self._loader).__name__
        last = _END
        for i in range(count):
            last = next(batches, _END)
            if last is _END:
                raise ValueError(
                    f"{self._name}: this {kind} gave {i} batches where it gave {count} before the "
                    "stop; give the same data"
                )
        if self._expected is not None and checksum(self._checked(last)) != self._expected:
            raise ValueError(
                f"{self._name}: this {kind} does not give the batches again that it gave before "
                "the stop, so the run cannot go on exactly. It draws from something that a "
                "checkpoint does not hold: give it a generator, or give a function of the "
                "epoch's number that makes the same loader again"
            )

    def _checked(self, batch: Any) -> Any:
        batch = default_convert(batch)
        row_count(batch, f"{self._name}: a batch")
        self._example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        # Copies: a loader may fill the same arrays again for its next batch.
        return jax.tree.map(np.array, batch)


def _first(reader: Any, count: int) -> Iterator[Any]:
    try:
        yield from islice(reader, count)
    finally:
        reader.close()


def is_mapped(data: Any) -> bool:
    """Whether it is a Grain MapDataset: batches by number."""
    return all(hasattr(data, name) for name in ("to_iter_dataset", "repeat", "__getitem__"))


def innermost(loader: Any) -> Any:
    """The loader that another one passes on."""
    inner = getattr(loader, "dataset", None)
    return innermost(inner) if hasattr(inner, "batch_sampler") else loader


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # no length, or not known
        return None


def _batch_size(loader: Any) -> int | None:
    size = getattr(loader, "batch_size", None)
    return size if isinstance(size, int) else None


def _rows(loader: Any) -> int | None:
    """Rows of an epoch, where the loader cuts a sampler's rows into batches."""
    size, sampler = _batch_size(loader), getattr(loader, "sampler", None)
    rows = None if sampler is None else _length(sampler)
    if size is None or rows is None:
        return None
    return rows // size * size if getattr(loader, "drop_last", False) else rows


def _samplers(loader: Any) -> list[Any]:
    inner = innermost(loader)
    batches = getattr(inner, "batch_sampler", None)
    found = getattr(inner, "sampler", None), batches, getattr(batches, "sampler", None)
    return [sampler for sampler in found if sampler is not None]


def _generators(loader: Any) -> list[Any]:
    """All that a loader draws from, ours or torch's, each once."""
    found: dict[int, Any] = {}
    for source in (loader, innermost(loader), *_samplers(loader)):
        for name in ("generator", "rngs"):
            generator = getattr(source, name, None)
            if hasattr(generator, "get_state") and hasattr(generator, "set_state"):
                found[id(generator)] = generator
    return list(found.values())


def _set(generator: Any, kept: bytes) -> None:
    state = generator.get_state()
    if hasattr(state, "numpy"):  # torch's own takes a tensor
        state.numpy()[:] = np.frombuffer(kept, np.uint8)
    else:
        state = np.frombuffer(kept, np.uint8)
    generator.set_state(state)


def _global_states() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))
    key = numpy_state.pop("state")
    states = {
        "python": [version, np.array(numbers, np.uint32).tobytes(), gauss],
        "numpy": {**numpy_state, "key": key["key"].tobytes(), "pos": int(key["pos"])},
    }
    if "torch" in sys.modules:
        drawn = sys.modules["torch"].default_generator.get_state()
        states["torch"] = drawn.numpy().tobytes()
    return states


def _set_global_states(states: dict[str, Any]) -> None:
    if "python" in states:
        version, numbers, gauss = states["python"]
        random.setstate((version, tuple(np.frombuffer(numbers, np.uint32).tolist()), gauss))
    if "numpy" in states:
        kept = dict(states["numpy"])
        key = np.frombuffer(kept.pop("key"), np.uint32)
        np.random.set_state({**kept, "state": {"key": key, "pos": kept.pop("pos")}})
    if "torch" in states and "torch" in sys.modules:
        _set(sys.modules["torch"].default_generator, states["torch"])


def _ahead(parts: Parts) -> Parts:
    """The same parts, each made in a thread while the one before is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="jaxnet-loader") as pool:
        coming = pool.submit(next, parts, None)
        try:
            while (part := coming.result()) is not None:
                coming = pool.submit(next, parts, None)
                yield part
        finally:
            pool.submit(parts.close)


def checksum(batch: Any) -> int:
    """Of the numbers in a batch, or in any pytree of arrays."""
    found = 0
    for leaf in jax.tree.leaves(batch):
        found = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, found)
    return found


def _joined(group: list[Any], first: int, capacity: int) -> Batches:
    size = row_count(group[0], "data: a batch")
    missing = (capacity - len(group)) * size  # filled up, so that one program serves all

    def joined(*columns: Any) -> jax.Array:
        filling = np.zeros((missing, *columns[0].shape[1:]), columns[0].dtype)
        return jnp.asarray(np.concatenate([*columns, filling]))

    data = jax.tree.map(joined, *group)
    order = jnp.arange(capacity * size, dtype=jnp.int32)
    return Batches(data, order, size, capacity, first, first + len(group), first)


def row_count(data: Any, name: str) -> int:
    """How many rows the arrays of a pytree have, all the same."""
    counts = {leaf.shape[0] if getattr(leaf, "ndim", 0) else None for leaf in jax.tree.leaves(data)}
    if len(counts) != 1 or None in counts:
        shapes = [getattr(leaf, "shape", type(leaf).__name__) for leaf in jax.tree.leaves(data)]
        shown = f"{shapes[:8]}"[:-1] + ", ...]" if len(shapes) > 8 else f"{shapes}"
        raise ValueError(
            f"{name}: arrays of shapes {shown}; accepted is a pytree of arrays with the same "
            "number of rows along axis 0"
        )
    rows = int(counts.pop() or 0)
    if rows == 0:
        raise ValueError(f"{name}: it holds no rows")
    return rows
