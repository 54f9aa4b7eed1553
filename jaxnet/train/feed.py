"""How rows get to the device: all at once, or in pieces that are fetched ahead."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Feed", "choose_feed", "rows_of"]


class Feed:
    """Gives each stretch of steps its arrays.

    Args:
        data: a pytree of arrays with the rows along axis 0.
        on_device: whether all of it is put on the device at once.
    """

    def __init__(self, data: Any, on_device: bool) -> None:
        self.on_device = on_device
        self.data = jax.tree.map(jnp.asarray, data) if on_device else data

    def pieces(
        self, order: np.ndarray, batch_size: int, start: int, stop: int, capacity: int
    ) -> Iterator[tuple[Any, Any, int, int, int]]:
        """The stretches of a pass, each (arrays, order, first step, last step, shift).

        On the device there is one; the caller cuts it as it likes. On the host each
        has `capacity` steps, and the next one is fetched while one is computed.
        """
        if self.on_device:
            yield self.data, jnp.asarray(order, jnp.int32), start, stop, 0
            return
        local = jnp.arange(capacity * batch_size, dtype=jnp.int32)

        def fetch(first: int) -> Any:
            last = min(first + capacity, stop)
            rows = order[first * batch_size : last * batch_size]
            short = capacity * batch_size - len(rows)
            rows = np.concatenate([rows, np.repeat(rows[:1], short)])
            return jax.tree.map(lambda column: jnp.asarray(np.asarray(column)[rows]), self.data)

        with ThreadPoolExecutor(1, thread_name_prefix="jaxnet-feed") as pool:
            ahead = pool.submit(fetch, start) if start < stop else None
            for first in range(start, stop, capacity):
                assert ahead is not None
                arrays = ahead.result()
                last = min(first + capacity, stop)
                ahead = pool.submit(fetch, last) if last < stop else None
                yield arrays, local, first, last, first


def choose_feed(data: Any, forced: str) -> tuple[bool, str]:
    """Whether the data goes to the device at once, and why."""
    if forced not in ("auto", "device", "host"):
        raise ValueError(f"feed: {forced!r}; accepted are 'auto', 'device' and 'host'")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(data))
    if forced != "auto":
        return forced == "device", f"data ({_mib(size)}) fed from the {forced}, as asked for"
    free = _free_bytes()
    if free is None:
        return True, f"data ({_mib(size)}) put on the device: its free memory is not known"
    fits = size < free / 2
    where = "put on the device" if fits else "fed from the host in pieces"
    return fits, f"data ({_mib(size)}) {where}: {_mib(free)} are free there"


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


def _free_bytes() -> int | None:
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if jax.default_backend() != "cpu":
        return None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
