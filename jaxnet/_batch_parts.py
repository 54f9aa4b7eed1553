"""The parts of a batch whose statistics a layer takes, as a training step asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet._names import is_module


class _Cut(NamedTuple):
    parts: int
    rows: int  # of the batch


# A context of JAX's own kind, so that jit traces a function again where it differs.
_cut = jax.make_user_context(None)


@contextmanager
def batch_norm_in_parts(parts: int, batch: Any) -> Iterator[None]:
    """Inside, batch norms in training mode take the statistics of each part of the batch alone.

    Args:
        parts: The number of equal parts, one after another; 1 for the whole batch.
        batch: The batch that the model is given, a pytree of arrays; a model in it has no rows.

    Raises:
        ValueError: The batch's arrays have no rows, or not all as many, or the rows cannot be cut
            into equal parts.
    """
    if parts == 1:
        yield
        return
    leaves = jax.tree.leaves(batch, is_leaf=is_module)
    sizes = sorted({np.shape(x)[0] for x in leaves if not is_module(x) and np.ndim(x)})
    if len(sizes) != 1:
        given = f"arrays of {', '.join(map(str, sizes))} rows" if sizes else "no arrays with rows"
        raise ValueError(
            f"batch_norm_parts: the batch has {given}; accepted are arrays that all have a row "
            "for each example"
        )
    (rows,) = sizes
    if rows % parts:
        raise ValueError(
            f"batch_norm_parts: a batch of {rows} rows cannot be cut into {parts} equal parts"
        )
    with _cut(_Cut(parts, rows)):
        yield


@contextmanager
def whole_batch() -> Iterator[None]:
    """Inside, statistics are those of the whole batch whatever the step asks for."""
    with _cut(None):
        yield


def parts_of(name: str, rows: int) -> int:
    """The number of parts into which a layer in training mode cuts its input.

    Args:
        name: The function that asks.
        rows: The rows of the input.

    Raises:
        ValueError: They are not those of the batch, so that nobody knows which belong together.
    """
    cut: _Cut | None = _cut.value
    if cut is None:
        return 1
    if rows != cut.rows:
        raise ValueError(
            f"batch_norm_parts: {name} is given {rows} rows where the batch has {cut.rows}, so "
            f"that it is not known which of them belong to one of the {cut.parts} parts. Accepted "
            "is an input with one row for each row of the batch, in their order: call the layer "
            "for each tensor of so many rows, keep further axes (time, frames) behind the first, "
            "or give the layer the whole batch as nn.SyncBatchNorm"
        )
    return cut.parts
