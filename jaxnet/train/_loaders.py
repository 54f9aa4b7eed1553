"""Loaders as training data: batches that come one by one, joined for each compiled call."""

import random
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnet._arrays import check_fits
from jaxnet._extras import needed
from jaxnet._processes import checksum, several
from jaxnet.data._collate import default_convert
from jaxnet.data._dataset import arrays_of
from jaxnet.data._own_rows import OwnRows, ReadBatch, by_number
from jaxnet.data._sharded import ShardedReader
from jaxnet.train._mesh import on_rows, own_places
from jaxnet.train._runner import Batches, Parts, batch_shapes

_STEPS = 32  # the most steps in one compiled call
_SECONDS = 0.25  # the longest wait for a slow loader to fill a call
_END: Any = object()


class _Own(NamedTuple):
    """The rows of a batch that this process needs, and what it has to know of all of them."""

    data: Any  # a pytree of numpy arrays
    whole: Any  # the shapes and dtypes of the whole batch, as a pytree
    rows: int  # of the whole batch
    seen: int  # a checksum of what every process has to have read alike


class LoaderFeed:
    """The batches of a loader: jaxnet's, torch's, Grain's, or any iterable of batches.

    A thread reads the next batches, joins some of them and sends them to the device while
    the steps before are computed.

    Of several processes each reads its own rows alone if the loader knows the rows of a batch by
    number and nothing else shows in them (`jaxnet.data._own_rows`); from any other loader it reads
    whole batches, and sends its own rows.

    A `ShardedReader` and a Grain MapDataset can start at any batch. From any other loader a
    resumed run first reads the batches again that it was trained on before the stop. For
    that, the generators of the loader and its samplers, and the global ones of Python, numpy
    and torch, are set back to their states at the beginning of the epoch.

    Args:
        loader: The loader, which gives the batches of an epoch at each iteration.
        epochs: The number of epochs that the run will ask for.
        resumes: Whether a checkpoint may have to resume within an epoch.
        name: The name of the argument, for errors.
        once: Whether the loader is made anew for the one epoch that it serves, so that its
            generators need not be saved.
        mesh: The devices that the rows of a batch are sent to; None for the default device.

    Raises:
        ValueError: The loader cannot be read as often as asked, or the run could not go on
            with it after a stop.
    """

    on_device = False

    def __init__(
        self,
        loader: Any,
        epochs: int,
        resumes: bool,
        name: str = "data",
        once: bool = False,
        mesh: Mesh | None = None,
    ) -> None:
        self._loader, self._name, self._resumes, self._mesh = loader, name, resumes, mesh
        self._epochs, self._once = epochs, once
        size = getattr(loader, "batch_size", None)
        self.batch_size = size if isinstance(size, int) else None
        self.steps, self.rows = _length(loader), _rows(loader, self.batch_size)
        self._generators = _generators(loader)
        self._sharded = isinstance(loader, ShardedReader)
        self._jumps = self._sharded or is_mapped(loader)  # reading can start at any batch
        self._own_rows = OwnRows(loader) if by_number(loader) else None
        self._example: Any = None
        # What tells a batch from another one, by the number of steps that are done after it.
        self._sums: dict[int, dict[str, int]] = {}
        self._expected: dict[str, int] = {}
        # A checksum of the epoch's first batch and the row numbers after it.
        self._order: int | None = None
        self._usual: str | None = None  # the shapes of the epoch's first batch, as text
        kind = type(loader).__name__
        if self._sharded:
            self.steps = loader.batches_per_epoch
            if several(mesh) and loader.process_count != 1:
                raise ValueError(
                    f"{name}: this ShardedReader has batches of {loader.batch_size} records for "
                    f"process {loader.process_index} of {loader.process_count} alone; here a batch "
                    "is that of all processes, of which each reads its own records: give the "
                    "reader process_index=0, process_count=1, and the batch_size of all of them"
                )
            if loader.epochs is not None and loader.epochs < epochs:
                raise ValueError(
                    f"{name}: this ShardedReader has {loader.epochs} epochs, the run {epochs}; "
                    "make it with epochs=None"
                )
        elif self._jumps and self.steps == sys.maxsize:
            raise ValueError(f"{name}: this {kind} has no end; leave its repeat() out")
        if resumes and getattr(innermost(loader), "persistent_workers", False):
            raise ValueError(
                f"{name}: with persistent_workers=True a {kind} does not give its batches again "
                "after a stop; leave it out, or leave checkpoint out"
            )
        self.identity: dict[str, Any] = {"loader": kind, "batches": self.steps}
        if self._sharded:
            state = iter(loader).get_state()
            self.identity |= {k: v for k, v in state.items() if k != "batches"}

    def sample(self) -> Any:
        """What tells the data of a loader from other data: the rows of a data set of arrays.

        For any other data set it is None, since reading its rows may draw random numbers.
        """
        arrays = arrays_of(getattr(innermost(self._loader), "dataset", None))
        return None if arrays is None else sampled(arrays)

    # the states of the generators

    def get_state(self) -> dict[str, Any]:
        """The states of all generators that a loader draws from, for a checkpoint."""
        if self._jumps or self._once:
            return {}
        drawn = [np.asarray(g.get_state()).tobytes() for g in self._generators]
        return {"generators": drawn, "global": _global_states()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Sets all generators back to what `get_state` and `state_within` gave, joined."""
        self._expected = {name: state[name] for name in ("checksum", "order") if name in state}
        self._usual = state.get("usual")
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
        """Whether the loader draws from a generator, which then need not be saved elsewhere."""
        return any(generator is mine for mine in self._generators)

    def state_within(self, step: int) -> dict[str, Any]:
        """What a checkpoint within an epoch needs besides, when some steps of it are done.

        It is the checksum of the last batch, by which a resumed run finds that the loader does
        not repeat its batches, and the shapes of the first batch. Where each process has read rows
        of its own, it is that of the epoch's first batch and of the order after it.
        """
        return self._sums.get(step, {}) | {"usual": self._usual}

    def example(self) -> Any:
        """The shapes and dtypes of a batch, or None if no batch has been read."""
        # A run that is resumed at the end of an epoch has read none.
        if self._example is None and self._jumps:
            with closing(self._batches(0, 0)) as batches:
                next(batches)
        return self._example

    # batches

    def batches(self, epoch: int, start: int, capacity: Callable[[Any], int]) -> Parts:
        """An epoch from a batch on; `capacity` gives the most batches of a call from one."""
        self._sums.clear()
        self._order = None
        if start == 0:
            self._usual = None
        return _ahead(self._parts(epoch, start, capacity))

    def _parts(self, epoch: int, start: int, most: Callable[[Any], int]) -> Parts:
        group: list[_Own] = []
        first, capacity, began = start, 1, 0.0
        for batch in self._batches(epoch, start):
            shapes = batch_shapes(batch.whole)
            # Several processes do not wait equally long, and have to make the same calls.
            late = time.perf_counter() - began > _SECONDS and not several(self._mesh)
            if group and (len(group) == capacity or late or shapes != batch_shapes(group[0].whole)):
                yield _joined(group, first, capacity, self._mesh)
                first, group = first + len(group), []
            if not group:
                began = time.perf_counter()
                # Batches with the shapes of the epoch's first batch share a call; any other,
                # such as a shorter last batch, gets a call of its own. The shapes are saved for
                # a run that is resumed within the epoch: another capacity is another program,
                # and two programs may round differently.
                self._usual = self._usual or str(shapes)
                capacity = (
                    max(1, min(_STEPS, most(batch.whole))) if str(shapes) == self._usual else 1
                )
            group.append(batch)
        if group:
            yield _joined(group, first, capacity, self._mesh)

    def _batches(self, epoch: int, start: int) -> Generator[_Own, None, None]:
        """The batches of an epoch from number `start` on."""
        batches = self._open(epoch, start)
        done = start
        try:
            for batch in batches:
                own, sums = self._checked(batch)
                done += 1
                if self._resumes:
                    kept = "checksum" if "checksum" in sums else "order"
                    self._sums[done] = {kept: sums[kept]}
                yield own
        finally:
            if hasattr(batches, "close"):
                batches.close()  # ends the threads and processes that read ahead
        if done == 0:
            raise ValueError(f"{self._name}: {type(self._loader).__name__} gave no batch")

    def _open(self, epoch: int, start: int) -> Iterator[Any]:
        loader, n = self._loader, self.steps
        # `fit` opens a feed with epochs=1 for each loader that a function makes for one epoch,
        # but goes on counting: such a loader is read from its own first epoch.
        epoch = min(epoch, self._epochs - 1)
        # The numbers of rows are of use too to compare with what several processes have saved.
        asked = several(self._mesh) or (start > 0 and "order" in self._expected)
        known = self._own_rows if asked else None
        if self._sharded:
            assert n is not None
            if known is not None and several(self._mesh):
                return known.read(self._places, epoch * n + start, n - start)
            reader = iter(loader)
            reader.set_state({**reader.get_state(), "batches": epoch * n + start})
            return _first(reader, n - start)
        if self._jumps:
            assert n is not None
            grain = needed("grain", self._name, "grain")
            rest = loader.repeat()[epoch * n + start : (epoch + 1) * n]
            # Elements that a filter drops would shift the numbers of the batches. They come as
            # None here, which `_checked` refuses.
            return iter(rest.to_iter_dataset(grain.ReadOptions(), allow_nones=True))
        for sampler in _samplers(loader):
            if hasattr(sampler, "set_epoch"):  # torch's DistributedSampler
                sampler.set_epoch(epoch)
        if known is None:
            batches = iter(loader)
        elif start and "checksum" in self._expected:  # of all rows of the last batch
            batches = known.read(lambda rows: None)
        else:
            batches = known.read(self._places)
        if start:
            self._read_again(batches, start)
        return batches

    def _places(self, rows: int) -> np.ndarray | None:
        return own_places(self._mesh, rows)

    def _read_again(self, batches: Iterator[Any], count: int) -> None:
        kind = type(self._loader).__name__
        found: dict[str, int] = {}
        for i in range(count):
            batch = next(batches, _END)
            if batch is _END:
                raise ValueError(
                    f"{self._name}: this {kind} gave {i} batches where it gave {count} before the "
                    "stop; give the same data"
                )
            if i == count - 1 or (i == 0 and isinstance(batch, ReadBatch)):
                found = self._checked(batch)[1]
            elif isinstance(batch, ReadBatch):
                self._count_in(batch)
        if any(found.get(name) != value for name, value in self._expected.items()):
            raise ValueError(
                f"{self._name}: this {kind} does not give the batches again that it gave before "
                "the stop, so the run cannot go on exactly. It draws from something that a "
                "checkpoint does not hold: give it a generator, or give a function of the "
                "epoch's number that makes the same loader again"
            )

    def _checked(self, batch: Any) -> tuple[_Own, dict[str, int]]:
        """What this process needs of a batch, and what tells the batch from another one.

        The checksum is that of all rows, and the order's that of the row numbers so far.
        """
        read = batch if isinstance(batch, ReadBatch) else None
        batch = default_convert(batch if read is None else read.batch)
        rows = row_count(batch, f"{self._name}: a batch")
        jax.tree.map(lambda x: check_fits(f"{self._name}: a batch", x), batch)
        # Copied, because a loader may fill the same arrays with its next batch.
        data = jax.tree.map(np.array, batch)
        whole = read is None or read.whole
        total = rows if read is None or read.whole else read.rows
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((total, *x.shape[1:]), x.dtype), data)
        self._example = shapes
        sums: dict[str, int] = {}
        if whole and (self._resumes or several(self._mesh)):
            sums["checksum"] = checksum(data)
        if read is not None:
            self._count_in(read, sums.get("checksum"))
            if self._order is not None:
                sums["order"] = self._order
        mine = self._places(total)
        if whole:
            own = data if mine is None else jax.tree.map(lambda x: x[mine], data)
            return _Own(own, shapes, total, sums.get("checksum", 0)), sums
        assert read is not None
        assert mine is not None
        if rows != len(mine):
            raise ValueError(
                f"{self._name}: the data set gave {rows} rows where it was asked for {len(mine)}"
            )
        # All processes have the same shapes, or their programs would differ.
        text = str(batch_shapes(shapes)).encode()
        return _Own(data, shapes, total, zlib.crc32(text, _crc(read.numbers, 0))), sums

    def _count_in(self, read: ReadBatch, first: int | None = None) -> None:
        """Goes on with the checksum of an epoch's order, which begins with its first batch."""
        if self._order is None:
            self._order = first
        elif read.numbers is not None:
            self._order = _crc(read.numbers, self._order)


def _crc(numbers: np.ndarray | None, before: int) -> int:
    return before if numbers is None else zlib.crc32(numbers.astype(np.int64).tobytes(), before)


def _first(reader: Any, count: int) -> Iterator[Any]:
    try:
        yield from islice(reader, count)
    finally:
        reader.close()


def is_mapped(data: Any) -> bool:
    """Whether data are a Grain MapDataset, which gives batches by number."""
    return all(hasattr(data, name) for name in ("to_iter_dataset", "repeat", "__getitem__"))


def innermost(loader: Any) -> Any:
    """The loader at the core of loaders that wrap one another in their attribute `dataset`."""
    inner = getattr(loader, "dataset", None)
    return innermost(inner) if hasattr(inner, "batch_sampler") else loader


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # there is no length, or it is not known
        return None


def _rows(loader: Any, size: int | None) -> int | None:
    """The number of rows in an epoch, if the loader cuts a sampler's rows into batches."""
    rows = _length(getattr(loader, "sampler", None))
    if size is None or rows is None:
        return None
    return rows // size * size if getattr(loader, "drop_last", False) else rows


def _samplers(loader: Any) -> list[Any]:
    inner = innermost(loader)
    batches = getattr(inner, "batch_sampler", None)
    found = getattr(inner, "sampler", None), batches, getattr(batches, "sampler", None)
    return [sampler for sampler in found if sampler is not None]


def _generators(loader: Any) -> list[Any]:
    """The generators of a loader and its samplers, jaxnet's or torch's, each of them once."""
    found: dict[int, Any] = {}
    for source in (loader, innermost(loader), *_samplers(loader)):
        for name in ("generator", "rngs"):
            generator = getattr(source, name, None)
            if hasattr(generator, "get_state") and hasattr(generator, "set_state"):
                found[id(generator)] = generator
    return list(found.values())


def _set(generator: Any, kept: bytes) -> None:
    state = generator.get_state()
    if hasattr(state, "numpy"):  # torch's generator takes a tensor, which shares its memory
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
    """The same parts, each of them made in a thread while the one before is being used."""
    with ThreadPoolExecutor(1, thread_name_prefix="jaxnet-loader") as pool:
        coming = pool.submit(next, parts, None)
        try:
            while (part := coming.result()) is not None:
                coming = pool.submit(next, parts, None)
                yield part
        finally:
            pool.submit(parts.close)


def sampled(arrays: Any) -> Any:
    """Rows from everywhere in a pytree of arrays, at most 16 MiB, and the arrays' shapes."""
    leaves = jax.tree.leaves(arrays)
    count = len(leaves[0])
    most = 2**24 // max(1, sum(leaf.nbytes for leaf in leaves) // count)
    rows = np.linspace(0, count - 1, min(count, max(1, most))).astype(np.int64)
    return [(np.array(leaf.shape), np.asarray(leaf[rows])) for leaf in leaves]


def _joined(group: list[_Own], first: int, capacity: int, mesh: Mesh | None) -> Batches:
    size = group[0].rows
    places = own_places(mesh, size)
    # Filled up with zeros to the capacity, so that one program serves all calls.
    missing = (capacity - len(group)) * (size if places is None else len(places))

    def joined(*columns: Any) -> np.ndarray:
        filling = np.zeros((missing, *columns[0].shape[1:]), columns[0].dtype)
        return np.concatenate([*columns, filling])

    data = jax.tree.map(joined, *(batch.data for batch in group))
    # That all processes read the same is seen once a call.
    seen = zlib.crc32(np.array([batch.seen for batch in group]).tobytes())
    last = first + len(group)
    return host_batches(
        data, None, size, capacity, first, last, mesh, seen if several(mesh) else None, places
    )


def host_batches(
    data: Any,
    rows: np.ndarray | None,
    batch_size: int,
    capacity: int,
    first: int,
    last: int,
    mesh: Mesh | None,
    seen: int | None = None,
    places: np.ndarray | None = None,
) -> Batches:
    """Steps `first` to before `last` of an epoch, from arrays of the host.

    Args:
        data: A pytree of arrays with the rows along axis 0.
        rows: The numbers of the rows of `capacity` batches, one after another; None where the
            arrays have just these rows.
        batch_size: The rows of a batch.
        capacity: The most steps of a call.
        first, last: The numbers of the first step and of the one after the last.
        mesh: The devices, each of which is sent its own rows; None for the default device.
        seen: The checksum of what every process has to have read alike, if there is one.
        places: Without `rows`, the places in a batch of the rows that the arrays have; None if
            they have all.
    """
    grid = None if rows is None else rows.reshape(capacity, batch_size)

    def sent(column: Any) -> jax.Array:
        shape = capacity, batch_size, *column.shape[1:]

        def part(index: Any) -> np.ndarray:
            """The part of a device, in a dtype that JAX has."""
            host = np.asarray(column)
            if grid is not None:
                taken = host[grid[index[:2]]]
            elif places is None:
                taken = host.reshape(shape)[index]
            else:
                start, stop, _ = index[1].indices(batch_size)
                at = np.searchsorted(places, (start, stop))
                own = host.reshape(capacity, len(places), *shape[2:])
                taken = own[(index[0], slice(*at), *index[2:])]
            check_fits("data", taken)
            return taken.astype(jax.dtypes.canonicalize_dtype(taken.dtype), copy=False)

        if mesh is None:
            return jnp.asarray(part((slice(None), slice(None))))
        # Rows that only other processes need are not even read.
        return jax.make_array_from_callback(shape, on_rows(mesh, batch_size, axis=1), part)

    return Batches(jax.tree.map(sent, data), None, batch_size, capacity, first, last, first, seen)


def row_count(data: Any, name: str) -> int:
    """The number of rows that all arrays of a pytree, the argument `name`, have along axis 0."""
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
