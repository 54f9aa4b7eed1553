"""What `fit` takes as data, and the feed that fits it."""

from collections.abc import Iterable
from typing import Any

import jax

from jaxnet.data.collate import as_numpy, is_array
from jaxnet.data.dataset import arrays_of, is_iterable_only
from jaxnet.data.loader import DataLoader
from jaxnet.data.sharded import ShardedReader
from jaxnet.random import Generator
from jaxnet.train.feed import Arrays, Feed, rows_of
from jaxnet.train.loaders import Loader, is_mapped
from jaxnet.train.memory import choose_place

__all__ = ["gives_batches", "is_function", "open_feed"]

_ACCEPTED = (
    "a pytree of arrays, a data set with rows by number, an IterableDataset, or a loader: "
    "jaxnet's or torch's DataLoader, a ShardedReader, Grain's, or any iterable of batches"
)


def open_feed(
    data: Any,
    *,
    batch_size: int | None,
    forced: str,
    shuffle: bool | None = None,
    generator: Generator | None = None,
    epochs: int = 1,
    resumes: bool = False,
    name: str = "data",
) -> tuple[Feed, str]:
    """The feed for some data, and why it is that one, in a line to print.

    Args:
        data: see `fit`.
        batch_size: rows a step; None where a loader makes the batches.
        forced: "auto", "device" or "host".
        shuffle: None shuffles what has no order of its own, if there is a generator.
        generator: draws the order of each pass; None for the order that is there.
        epochs: how many passes will be asked for.
        resumes: whether a pass may have to be begun again from a checkpoint.
        name: of the argument, for errors.

    Raises:
        TypeError: it is nothing that can be trained on.
        ValueError: an argument that does not go with this data.
    """
    sizes = "batch_size" if name == "data" else "eval_batch_size"
    kind = type(data).__name__
    if gives_batches(data):
        given = (sizes, batch_size), ("shuffle", shuffle)
        for argument, value in given:
            if value is not None:
                raise ValueError(
                    f"{argument}: {value!r}; a {kind} has its own batches, leave it out"
                )
        return _of_loader(data, kind, forced, epochs, resumes, name)
    if batch_size is None:
        raise ValueError(f"{sizes}: None; accepted is an integer, at least 1")
    shuffles = generator is not None and shuffle is not False
    arrays = data if _is_pytree(data) else arrays_of(data)
    if arrays is not None:
        arrays = jax.tree.map(lambda x: as_numpy(x) if hasattr(x, "detach") else x, arrays)
        rows_of(arrays, name)
        on_device, why = choose_place(arrays, forced, name)
        return Arrays(arrays, batch_size, on_device, generator, shuffles, name), why
    if not is_iterable_only(data) and not hasattr(data, "__getitem__"):
        raise TypeError(f"{name}: {kind}; accepted are {_ACCEPTED}")
    if is_iterable_only(data):
        if shuffle is not None:
            raise ValueError(f"shuffle: {shuffle!r}; a {kind} has its own order, leave it out")
        loader = DataLoader(data, batch_size, rngs=generator)
    else:
        loader = DataLoader(data, batch_size, shuffles, rngs=generator)
    return _of_loader(loader, kind, forced, epochs, resumes, name)


def is_function(data: Any) -> bool:
    """Whether it is a function of the epoch's number, and no data itself."""
    return callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def _of_loader(
    loader: Any, kind: str, forced: str, epochs: int, resumes: bool, name: str
) -> tuple[Feed, str]:
    if forced == "device":
        raise ValueError(
            f"feed: 'device'; a {kind} gives its rows one after another, from the host: give "
            "arrays, or leave it out"
        )
    why = f"{name} fed from the host in pieces: a {kind} gives it batch by batch"
    return Loader(loader, epochs, resumes, name), why


def _is_pytree(data: Any) -> bool:
    """Whether it is an array, or made of several things."""
    if hasattr(data, "__next__"):  # an iterator: no leaf for jax.tree
        return False
    leaves = jax.tree.leaves(data)
    return len(leaves) != 1 or leaves[0] is not data or is_array(data)


def gives_batches(data: Any) -> bool:
    """Whether it makes its own batches."""
    if _is_pytree(data):
        return False
    if hasattr(data, "batch_sampler") or isinstance(data, ShardedReader) or is_mapped(data):
        return True
    named = any(kind.__name__ == "IterableDataset" for kind in type(data).__mro__)
    rows = hasattr(data, "__getitem__") or named  # a data set: single rows
    return isinstance(data, Iterable) and not rows
