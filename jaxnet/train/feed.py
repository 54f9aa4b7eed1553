"""How rows get to the device: all at once, or in pieces that Grain fetches ahead."""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import random
from jaxnet.data.sampler import epoch_order
from jaxnet.extras import needed

__all__ = ["Arrays", "Feed", "Piece", "rows_of"]

_THREADS, _AHEAD = 2, 2  # pieces that are made at once, and kept ready


@dataclasses.dataclass(frozen=True)
class Piece:
    """The arrays for some steps of a pass, on the device.

    Attributes:
        data: a pytree of arrays.
        order: which of their rows the steps take, one after another.
        size: rows a step.
        capacity: the most steps of one call.
        first, last: the steps of the pass that it serves, from `first` to before `last`.
        shift: the step of the pass that is step 0 of `order`.
    """

    data: Any
    order: jax.Array
    size: int
    capacity: int
    first: int
    last: int
    shift: int


Pieces = Generator[Piece, None, None]


class Feed(Protocol):
    """What gives the passes over some data in pieces.

    Attributes:
        rows, steps: of a pass; None where that is not known.
        size: rows a step; None where that is not known.
        on_device: whether all data lies there.
        facts: what has to be the same for a stopped run to go on, by name.
    """

    on_device: bool
    facts: dict[str, Any]

    @property
    def rows(self) -> int | None: ...

    @property
    def steps(self) -> int | None: ...

    @property
    def size(self) -> int | None: ...

    def get_state(self) -> dict[str, Any]:
        """What the next pass draws its order from; JSON and bytes."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes back to what `get_state` gave."""

    def reached(self, step: int) -> dict[str, Any]:
        """What `set_state` needs besides to go on at a step of the running pass; JSON."""

    def example(self) -> Any:
        """A batch, or its shapes; of a pass that is running."""

    def pieces(self, epoch: int, start: int, room: Callable[[Any], int]) -> Pieces:
        """A pass from a step on; `room` gives the most steps of a piece from a batch."""


class Arrays:
    """A feed of arrays that are all there, on the device or on the host.

    From the host, pieces of some steps each are gathered and sent to the device by
    Grain's threads, while the steps before are computed. Grain reads by number, and the
    numbers are those of the order drawn here: torch's.

    Args:
        data: a pytree of arrays with the rows along axis 0.
        size: rows a step; the last one of a pass may have fewer.
        on_device: whether all of it is put on the device at once.
        generator: draws the order of each pass; None for the order that is there.
        shuffle: whether it shuffles, or only advances as torch's loader does.
        name: of the argument, for errors.

    Raises:
        ValueError: the arrays do not have the same rows.
        ImportError: fed from the host, without Grain.
    """

    def __init__(
        self,
        data: Any,
        size: int,
        on_device: bool,
        generator: random.Generator | None = None,
        shuffle: bool = False,
        name: str = "data",
    ) -> None:
        self.rows, self.size, self.on_device = rows_of(data, name), size, on_device
        self.steps = -(-self.rows // size)
        self.facts = {"rows": self.rows, "batch_size": size, "shuffle": shuffle}
        self._generator, self._shuffle = generator, shuffle
        if on_device:
            self._data = jax.tree.map(jnp.asarray, data)
        else:
            self._data = data
            self._grain = needed("grain", f"{name}: fed from the host", "grain")

    def get_state(self) -> dict[str, Any]:
        return {}  # the order is drawn from the run's own generator

    def set_state(self, state: dict[str, Any]) -> None:
        pass

    def reached(self, step: int) -> dict[str, Any]:
        return {}

    def example(self) -> Any:
        size = min(self.size, self.rows)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), self._data
        )

    def pieces(self, epoch: int, start: int, room: Callable[[Any], int]) -> Pieces:
        order = np.arange(self.rows)
        if self._generator is not None:
            order = epoch_order(self.rows, self._generator, self._shuffle)
        whole, rest = divmod(self.rows, self.size)
        if start < whole:
            capacity = max(1, min(whole, room(self.example())))
            if self.on_device:
                rows = jnp.asarray(order, jnp.int32)
                yield Piece(self._data, rows, self.size, capacity, start, whole, 0)
            else:
                yield from self._from_host(_Cuts(self, order, start, whole, capacity))
        if rest and start <= whole:
            local = jnp.arange(rest, dtype=jnp.int32)
            data = self.gather(order[whole * self.size :])
            yield Piece(data, local, rest, 1, whole, whole + 1, whole)

    def _from_host(self, cuts: "_Cuts") -> Pieces:
        options = self._grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
        pieces = iter(self._grain.MapDataset.source(cuts).to_iter_dataset(options))
        try:
            yield from pieces
        finally:
            pieces.close()  # else its threads stay

    def gather(self, rows: np.ndarray) -> Any:
        """Some rows of all arrays, on the device."""
        if self.on_device:
            return jax.tree.map(lambda column: column[rows], self._data)
        return jax.tree.map(lambda column: jnp.asarray(np.asarray(column)[rows]), self._data)


class _Cuts:
    """The pieces of a pass by number, as Grain reads them."""

    def __init__(
        self, feed: Arrays, order: np.ndarray, start: int, stop: int, capacity: int
    ) -> None:
        self._feed, self._order, self._capacity = feed, order, capacity
        self._firsts, self._stop = range(start, stop, capacity), stop

    def __len__(self) -> int:
        return len(self._firsts)

    def __getitem__(self, i: int) -> Piece:
        size, capacity, first = self._feed.size, self._capacity, self._firsts[i]
        last = min(first + capacity, self._stop)
        rows = self._order[first * size : last * size]
        short = capacity * size - len(rows)  # filled up, so that one program serves all
        data = self._feed.gather(np.concatenate([rows, np.repeat(rows[:1], short)]))
        local = jnp.arange(capacity * size, dtype=jnp.int32)
        return Piece(data, local, size, capacity, first, last, first)


def rows_of(data: Any, name: str) -> int:
    """How many rows the arrays of a pytree have, all the same."""
    counts = {leaf.shape[0] if getattr(leaf, "ndim", 0) else None for leaf in jax.tree.leaves(data)}
    if len(counts) != 1 or None in counts:
        shapes = [getattr(leaf, "shape", type(leaf).__name__) for leaf in jax.tree.leaves(data)]
        raise ValueError(
            f"{name}: arrays of shapes {shapes}; accepted is a pytree of arrays with the same "
            "number of rows along axis 0"
        )
    rows = int(counts.pop() or 0)
    if rows == 0:
        raise ValueError(f"{name}: it holds no rows")
    return rows
