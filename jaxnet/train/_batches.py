"""Where batches come from: what `fit` takes as data, and how it gets to the device."""

import functools
import logging
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnet import _memory as memory
from jaxnet import random
from jaxnet._arrays import as_jax, on_devices
from jaxnet._checks import check_integer
from jaxnet._extras import needed
from jaxnet._processes import agreed, check_same, several
from jaxnet.data._collate import as_numpy, is_array
from jaxnet.data._dataset import arrays_of, is_iterable_only
from jaxnet.data._loader import DataLoader
from jaxnet.data._sampler import epoch_order
from jaxnet.data._sharded import ShardedReader
from jaxnet.train._loaders import LoaderFeed, host_batches, is_mapped, row_count, sampled
from jaxnet.train._mesh import everywhere
from jaxnet.train._runner import Batches, Parts

_log = logging.getLogger(__name__)

_THREADS, _AHEAD = 2, 2  # parts of an epoch that are made at once, and kept ready

_ACCEPTED = (
    "a pytree of arrays, a pandas DataFrame, a data set with rows by number, an "
    "IterableDataset, or a loader: jaxnet's or torch's DataLoader, a ShardedReader, Grain's, or "
    "any iterable of batches"
)

_OTHER_ROWS = (
    "{}: the processes have other rows ({{}}); give the same rows to each, in the same order. Each "
    "trains on its own part of every batch"
)


class ArrayFeed:
    """Batches of arrays that are all there, on the device or on the host.

    From the host, some batches at a time are gathered and sent to the device by Grain's
    threads, while the steps before are computed. Grain reads by number, and the numbers
    are those of the order that is drawn here: torch's.

    Args:
        data: A pytree of arrays with the rows along axis 0.
        batch_size: The rows of a step; the last step of an epoch may have fewer.
        on_device: Whether all data is put on the device at once. If not, Grain is needed.
        generator: The generator of each epoch's order; None for the order that is there.
        shuffle: Whether the order is shuffled; if not, the generator only advances as that
            of torch's loader does.
        drop_last: Whether a last step of fewer rows is left out.
        name: The name of the argument, for errors.
        mesh: The devices that all data is put on, or its rows; None for the default device.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        on_device: bool,
        generator: random.Generator | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        name: str = "data",
        mesh: Mesh | None = None,
    ) -> None:
        self._count, self.batch_size = row_count(data, name), batch_size
        self.rows = self._count // batch_size * batch_size if drop_last else self._count
        if self.rows == 0:
            raise ValueError(
                f"drop_last: True leaves nothing of {self._count} rows in batches of {batch_size}"
            )
        self.on_device = on_device
        self.steps = -(-self.rows // batch_size)
        self.identity = {
            "rows": self._count,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "drop_last": drop_last,
        }
        self._generator, self._shuffle, self._mesh = generator, shuffle, mesh
        if on_device:
            self.data = jax.tree.map(functools.partial(as_jax, name), data)
            if mesh is not None:
                put = functools.partial(on_devices, sharding=everywhere(mesh))
                self.data = jax.tree.map(put, self.data)
        else:
            self.data = data
            self._grain = needed("grain", f"{name}: fed from the host", "grain")

    def get_state(self) -> dict[str, Any]:
        return {}  # the order is drawn from the run's own generator

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def state_within(self, step: int) -> dict[str, Any]:
        return {}

    def example(self) -> Any:
        size = min(self.batch_size, self.rows)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), self.data
        )

    def batches(self, epoch: int, start: int, capacity: Callable[[Any], int]) -> Parts:
        order = np.arange(self._count)
        if self._generator is not None:
            order = epoch_order(self._count, self._generator, self._shuffle)
        size = self.batch_size
        whole, rest = divmod(self.rows, size)
        if start < whole:
            most = max(1, min(whole, capacity(self.example())))
            if self.on_device:
                yield Batches(self.data, self._numbers(order), size, most, start, whole, 0)
            else:
                yield from self._from_host(order, start, whole, most)
        if rest and start <= whole:
            last = order[whole * size :]
            if self.on_device:
                local = self._numbers(np.arange(rest))
                data = jax.tree.map(lambda column: column[last], self.data)
                yield Batches(data, local, rest, 1, whole, whole + 1, whole)
            else:
                yield host_batches(self.data, last, rest, 1, whole, whole + 1, self._mesh)

    def _numbers(self, rows: np.ndarray) -> jax.Array:
        """Numbers of rows, where the data lies."""
        numbers = rows.astype(np.int32)
        if self._mesh is None:
            return jnp.asarray(numbers)
        return on_devices(numbers, everywhere(self._mesh))

    def _from_host(self, order: np.ndarray, start: int, stop: int, capacity: int) -> Parts:
        size = self.batch_size

        def part(first: int) -> Batches:
            last = min(first + capacity, stop)
            rows = order[first * size : last * size]
            short = capacity * size - len(rows)  # filled up, so that one program serves all
            rows = np.concatenate([rows, np.repeat(rows[:1], short)])
            return host_batches(self.data, rows, size, capacity, first, last, self._mesh)

        firsts = self._grain.MapDataset.range(start, stop, capacity)
        options = self._grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
        parts = iter(firsts.map(part).to_iter_dataset(options))
        try:
            yield from parts
        finally:
            parts.close()  # else its threads stay

    def sample(self) -> Any:
        """What tells this data from other data."""
        return sampled(self.data)


Feed = ArrayFeed | LoaderFeed
"""What gives the batches of each epoch, in parts that lie on the device.

Both have these attributes: `on_device`, whether all data lies on the device from the start;
`identity`, what has to be the same for a stopped run to go on, by name; `rows`, `steps` and
`batch_size`, the rows and steps of an epoch and the rows of a step, None where not known.
"""


def open_feed(
    data: Any,
    *,
    batch_size: int | None,
    where: str = "auto",
    shuffle: bool | None = None,
    drop_last: bool | None = None,
    generator: random.Generator | None = None,
    epochs: int = 1,
    resumes: bool = False,
    once: bool = False,
    name: str = "data",
    size_name: str = "batch_size",
    mesh: Mesh | None = None,
) -> tuple[Feed, str]:
    """The feed for some data, and why it is that one, in a line for the log.

    Arguments that are not listed here are those of `fit`.

    Args:
        where: "auto", "device" or "host": where the data lies.
        shuffle: Whether to shuffle; None shuffles what has no order of its own, if there is
            a generator.
        generator: The generator of each epoch's order; None for the order that is there.
        resumes: Whether an epoch may have to be begun again from a checkpoint.
        once: Whether this data is read only once, so that an iterator will do.
        name, size_name: The names of the arguments `data` and `batch_size`, for errors.
        mesh: The devices of the run; None for the default device.

    Raises:
        TypeError: It is nothing that gives rows or batches.
        ValueError: An argument does not go with this data.
    """
    _refuse_pairs(data, name)
    data = _as_numpy_rows(data, name)
    kind = type(data).__name__
    if gives_batches(data):
        own = ((size_name, batch_size), ("shuffle", shuffle), ("drop_last", drop_last))
        for argument, value in own:
            if value is not None:
                raise ValueError(
                    f"{argument}: {value!r}; a {kind} has its own batches, leave it out"
                )
        if hasattr(data, "__next__") and not once:
            raise ValueError(
                f"{name}: a {kind} gives its batches only once; give what it came from, or, as "
                "the data of fit, a function of the epoch's number that makes one"
            )
        return _of_loader(data, kind, where, epochs, resumes, once, name, mesh)
    check_integer(size_name, batch_size, least=1)
    assert batch_size is not None
    shuffles = generator is not None and shuffle is not False
    arrays = data if _is_pytree(data) else arrays_of(data)
    if arrays is not None:
        arrays = jax.tree.map(lambda x: as_numpy(x) if hasattr(x, "detach") else x, arrays)
        row_count(arrays, name)
        if several(mesh):
            check_same(mesh, _OTHER_ROWS.format(name), sampled(arrays))
        on_device, why = choose_device(arrays, where, name, mesh)
        drops = bool(drop_last)
        how = generator, shuffles, drops, name, mesh
        return ArrayFeed(arrays, batch_size, on_device, *how), why
    if not is_iterable_only(data) and not hasattr(data, "__getitem__"):
        raise TypeError(f"{name}: {kind}; accepted are {_ACCEPTED}")
    if is_iterable_only(data):
        if shuffle is not None:
            raise ValueError(f"shuffle: {shuffle!r}; a {kind} has its own order, leave it out")
        loader = DataLoader(data, batch_size, drop_last=bool(drop_last), rngs=generator)
    else:
        loader = DataLoader(data, batch_size, shuffles, drop_last=bool(drop_last), rngs=generator)
    return _of_loader(loader, kind, where, epochs, resumes, once, name, mesh)


def open_epochs(
    data: Any,
    batch_size: int | None,
    where: str,
    shuffle: bool | None,
    drop_last: bool | None,
    generator: random.Generator,
    epochs: int,
    resumes: bool,
    mesh: Mesh | None = None,
) -> Callable[[int], tuple[Feed, str]]:
    """A function that gives the feed of an epoch, and why it is that one, as `open_feed` does.

    Args:
        data: The data of the training, or a function of the epoch's number that gives it.
    """
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "shuffle": shuffle,
        "drop_last": drop_last,
        "generator": generator,
        "resumes": resumes,
        "mesh": mesh,
    }
    if not is_function(data):
        opened = open_feed(data, where=where, epochs=epochs, **options)
        return lambda epoch: opened

    @lru_cache(maxsize=1)
    def feed_of(epoch: int) -> tuple[Feed, str]:
        nonlocal where
        feed, why = open_feed(data(epoch), where=where, once=True, **options)
        if isinstance(feed, ArrayFeed):  # later epochs lie where the first one does
            where = "device" if feed.on_device else "host"
        return feed, why

    return feed_of


def _of_loader(
    loader: Any,
    kind: str,
    where: str,
    epochs: int,
    resumes: bool,
    once: bool,
    name: str,
    mesh: Mesh | None,
) -> tuple[Feed, str]:
    if where == "device":
        raise ValueError(
            f"feed: 'device'; a {kind} gives its rows one after another, from the host: give "
            "arrays, or leave it out"
        )
    why = f"{name} fed from the host in pieces: a {kind} gives it batch by batch"
    return LoaderFeed(loader, epochs, resumes, name, once, mesh), why


def _refuse_pairs(data: Any, name: str) -> None:
    """Refuses a list of rows, which torch's DataLoader takes: here a list is a pytree of arrays."""
    if not (isinstance(data, list) and data and all(isinstance(row, tuple) for row in data)):
        return
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
    if len(counts) > 1 or () in counts:
        raise TypeError(
            f"{name}: a list of {len(data)} tuples, which is row by row; give whole arrays, "
            "(inputs, targets), or data.DataLoader(rows, batch_size, shuffle=True, rngs=generator)"
        )


def _as_numpy_rows(data: Any, name: str) -> Any:
    """Data of pandas and Hugging Face as NumPy arrays; all other data as it is."""
    if hasattr(data, "with_format") and hasattr(data, "column_names"):
        return data.with_format("numpy")  # Hugging Face: it gives Python lists otherwise
    if hasattr(data, "__next__") or not (hasattr(data, "to_numpy") or _is_pytree(data)):
        return data

    def converted(leaf: Any) -> Any:
        if not hasattr(leaf, "to_numpy"):
            if isinstance(leaf, bool | int | float | str):
                raise TypeError(
                    f"{name}: lists with single values such as {leaf!r} in them; accepted are "
                    f"{_ACCEPTED}. numpy.array(...) makes an array of nested lists"
                )
            return leaf
        array = leaf.to_numpy()
        if array.dtype == object:
            columns = getattr(leaf, "columns", [getattr(leaf, "name", "?")])
            raise TypeError(
                f"{name}: a {type(leaf).__name__} with values that are not numbers (columns "
                f"{', '.join(map(str, columns))}); give columns of one numeric type, such as "
                'frame[["a", "b"]].astype("float32")'
            )
        return array

    return jax.tree.map(converted, data)


def is_function(data: Any) -> bool:
    """Whether it is a function of the epoch's number, and no data itself."""
    return callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def _is_pytree(data: Any) -> bool:
    """Whether it is an array, or made of several things."""
    if hasattr(data, "__next__"):  # an iterator: no leaf for jax.tree
        return False
    leaves = jax.tree.leaves(data)
    return len(leaves) != 1 or leaves[0] is not data or is_array(data)


def gives_batches(data: Any) -> bool:
    """Whether it makes its own batches."""
    if _is_pytree(data) or hasattr(data, "to_numpy"):
        return False
    if hasattr(data, "batch_sampler") or isinstance(data, ShardedReader) or is_mapped(data):
        return True
    named = any(kind.__name__ == "IterableDataset" for kind in type(data).__mro__)
    rows = hasattr(data, "__getitem__") or named  # a data set: single rows
    return isinstance(data, Iterable) and not rows


def choose_device(
    data: Any, where: str, name: str = "data", mesh: Mesh | None = None
) -> tuple[bool, str]:
    """Whether arrays are put on the device at once, and why, in a line for the log.

    "auto" puts them there if they take less than half of the memory that is free there, since
    a training step needs memory too; with several processes, if all of them have it.
    """
    leaves = jax.tree.leaves(data)
    size = _mib(sum(leaf.nbytes for leaf in leaves))
    if where != "auto":
        how = "put on the device" if where == "device" else "fed from the host"
        return where == "device", f"{name} ({size}) {how}, as asked for"
    missing = sum(leaf.nbytes for leaf in leaves if not isinstance(leaf, jax.Array))
    if missing == 0:
        return True, f"{name} ({size}) stays on the device, where it is"
    free = memory.free_bytes()
    (lacks,) = agreed(mesh, free is not None and missing >= free / 2)
    how = "fed from the host in pieces" if lacks else "put on the device"
    why = "its free memory is not known" if free is None else f"{_mib(free)} are free there"
    return not lacks, f"{name} ({size}) {how}: {why}"


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
