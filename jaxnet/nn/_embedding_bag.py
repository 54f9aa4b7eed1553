"""Sums, means and maxima of the rows of an embedding table, bag by bag."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Integer

from jaxnet._checks import check_choice
from jaxnet.losses._reduction import host
from jaxnet.nn._draw import Rngs
from jaxnet.nn._embedding import Embedding, check_dense, check_rows, padding_row, renorm, rows_of
from jaxnet.nn._module import Module
from jaxnet.precision import promoted

_MODES = ("sum", "mean", "max")


def embedding_bag(
    input: Integer[Array, "..."],
    weight: jax.Array | nnx.Variable[Any],
    offsets: Integer[Array, " B"] | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Float[Array, "..."] | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Float[Array, "B D"]:
    """Reduces the rows of each bag of row numbers: torch.nn.functional.embedding_bag.

    Args:
        input: The row numbers, integers: (B, n) for B bags of n rows each, or all bags one after
            the other, (N,), with offsets.
        weight: The table, (rows, D).
        offsets: The position in `input` at which each bag begins, integers (B,) that do not
            decrease, the first of them 0. An empty bag gives zeros.
        max_norm: As in `embedding`.
        norm_type: As in `embedding`.
        scale_grad_by_freq: Whether the gradient of a row is divided by the number of times
            that the row is looked up in this call; not with mode "max".
        mode: The reduction, "sum", "mean" or "max".
        sparse: False; JAX has no sparse gradients.
        per_sample_weights: The factors of the rows, of the input's shape and the table's dtype;
            with mode "sum" alone.
        include_last_offset: Whether offsets has one entry more, the end of the last bag, which
            is N.
        padding_idx: The number of a row that is left out of every bag and gets no gradient; a
            negative number counts from the end.

    Returns:
        The reduced rows, (B, D).

    Raises:
        IndexError: A row number is negative or too large. Under `jax.jit` the numbers are not
            known, and the bag of such a row comes out as nan.
        ValueError: A shape or an argument does not fit the others, or the offsets do not divide
            the input. Under `jax.jit` their values are not known, and everything comes out as
            nan.
        TypeError: The numbers are not integers, or per_sample_weights has another dtype than the
            table.

    >>> table = jnp.arange(6.0).reshape(3, 2)
    >>> embedding_bag(jnp.array([0, 2, 1]), table, jnp.array([0, 2]), mode="sum").tolist()
    [[4.0, 6.0], [2.0, 3.0]]
    """
    name = "embedding_bag"
    check_choice("mode", mode, _MODES)
    check_dense(sparse)
    if weight.ndim != 2:
        raise ValueError(f"{name}: a weight of shape {weight.shape}; accepted is (rows, D)")
    if mode == "max" and scale_grad_by_freq:
        raise ValueError(f"{name}: scale_grad_by_freq with mode 'max'; give 'sum' or 'mean'")
    padding_idx = padding_row(padding_idx, weight.shape[0])
    input = check_rows(name, input, weight.shape[0])
    if input.ndim not in (1, 2) or (input.ndim == 1) != (offsets is not None):
        given = None if offsets is None else offsets.shape
        raise ValueError(
            f"{name}: input {input.shape} with offsets {given}; accepted are (B, n) without "
            "offsets, and (N,) with offsets (B,)"
        )
    if per_sample_weights is not None:
        if mode != "sum":
            raise ValueError(f"{name}: per_sample_weights with mode {mode!r}; accepted is 'sum'")
        if per_sample_weights.shape != input.shape:
            raise ValueError(
                f"{name}: per_sample_weights {per_sample_weights.shape}; accepted is the shape of "
                f"the input, {input.shape}"
            )
        if per_sample_weights.dtype != weight.dtype:
            raise TypeError(
                f"{name}: per_sample_weights of {per_sample_weights.dtype}; accepted is the "
                f"table's dtype, {weight.dtype}"
            )
    starts = None if offsets is None else _starts(name, offsets, input.size, include_last_offset)
    table = renorm(name, weight, input, max_norm, norm_type)
    rows = rows_of(table, input, padding_idx, scale_grad_by_freq)  # (*input.shape, D)
    counted = jnp.ones(input.shape, bool) if padding_idx is None else input != padding_idx
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    if starts is None:
        return _of_equal_bags(rows, counted, mode)
    return _of_any_bags(rows, counted, starts, mode)


def _starts(name: str, offsets: jax.Array, size: int, include_last: bool) -> jax.Array:
    """The checked first position of each bag; all -1 if they are wrong but not known."""
    if offsets.ndim != 1 or (include_last and offsets.size == 0):
        raise ValueError(f"{name}: offsets of shape {offsets.shape}; accepted is (B,)")
    if not jnp.issubdtype(offsets.dtype, jnp.integer):
        raise TypeError(f"{name}: offsets of dtype {offsets.dtype}; give integers")
    if offsets.size == 0:
        return offsets
    known = host(offsets)
    values = jnp.asarray(offsets) if known is None else known[0]
    wrong = (values[0] != 0) | (values[1:] < values[:-1]).any() | (values[-1] > size)
    if include_last:
        wrong |= values[-1] != size
    if known is not None and wrong:
        last = f"and the last is {size}" if include_last else f"and none is above {size}"
        raise ValueError(
            f"{name}: offsets {known[0].tolist()}; accepted are numbers that begin with 0 and do "
            f"not decrease, {last}, the length of the input"
        )
    # In JAX's own integers: -1 and the positions of all rows must fit.
    starts = values[:-1] if include_last else values
    return jnp.where(wrong, -1, starts.astype(int))


def _of_equal_bags(rows: jax.Array, counted: jax.Array, mode: str) -> jax.Array:
    """The reduction of (B, n, D) along n; `counted` (B, n) says which rows count."""
    there = counted[..., None]
    if rows.shape[1] == 0:
        return jnp.zeros((rows.shape[0], rows.shape[2]), rows.dtype)
    if mode == "max":
        # As in torch the first of several largest numbers has the whole gradient.
        seen = jnp.where(there, jax.lax.stop_gradient(rows), -jnp.inf)
        first = jnp.argmax(seen, axis=1, keepdims=True)
        return jnp.where(there.any(1), jnp.take_along_axis(rows, first, axis=1)[:, 0], 0)
    total = jnp.where(there, rows, 0).sum(1)
    if mode == "mean":
        total = total / jnp.maximum(there.sum(1), 1).astype(rows.dtype)
    return total


def _of_any_bags(rows: jax.Array, counted: jax.Array, starts: jax.Array, mode: str) -> jax.Array:
    """The reduction of (N, D) by bags that begin at `starts`."""
    bags, (n, width) = starts.shape[0], rows.shape
    if bags == 0 or n == 0:
        return jnp.where(starts[:, None] < 0, jnp.nan, jnp.zeros((bags, width), rows.dtype))
    there = counted[:, None]
    positions = jnp.arange(n, dtype=starts.dtype)
    of_bag = jnp.searchsorted(starts, positions, side="right") - 1

    def by_bag(reduce: Any, values: jax.Array) -> jax.Array:
        return reduce(values, of_bag, bags, indices_are_sorted=True)

    count = by_bag(jax.ops.segment_sum, there.astype(jnp.int32))  # (B, 1)
    if mode == "max":
        seen = jnp.where(there, jax.lax.stop_gradient(rows), -jnp.inf)
        largest = by_bag(jax.ops.segment_max, seen)
        is_largest = there & ((seen == largest[of_bag]) | jnp.isnan(seen))
        places = jnp.where(is_largest, positions[:, None], n)
        first = by_bag(jax.ops.segment_min, places)
        found = rows.at[first, jnp.arange(width)].get(mode="fill", fill_value=jnp.nan)
        out = jnp.where(count > 0, found, 0)
    else:
        # As in torch, half precision is summed in float32.
        wide = jnp.where(there, rows, 0).astype(promoted(rows, jnp.float32))
        out = by_bag(jax.ops.segment_sum, wide)
        if mode == "mean":
            out = out / jnp.maximum(count, 1).astype(out.dtype)
        out = out.astype(rows.dtype)
    return jnp.where(starts[0] < 0, jnp.nan, out)


class EmbeddingBag(Module):
    """Sums, means or maxima of rows of a table: torch.nn.EmbeddingBag.

    The parameter is `weight` (num_embeddings, embedding_dim), as in torch. The arguments that
    are not described here are those of `jaxnet.nn.functional.embedding_bag`.

    Args:
        num_embeddings: The number of rows of the table.
        embedding_dim: The size D of a row.
        max_norm: The largest norm of a row, as in `Embedding`.
        norm_type: The exponent p of the norm.
        scale_grad_by_freq: Whether the gradient of a row is divided by its frequency.
        mode: The reduction, "sum", "mean" or "max".
        sparse: False; JAX has no sparse gradients.
        _weight: The table, for `from_pretrained`.
        include_last_offset: Whether the offsets end with the end of the last bag.
        padding_idx: The number of a row that is initially zero, counts in no bag and gets no
            gradient; a negative number counts from the end.
        rngs: The source of the initial weights, N(0, 1).
        dtype: The dtype of the parameter.

    Raises:
        ValueError: The row padding_idx does not exist, the mode is unknown, or sparse is True.

    >>> from jaxnet.random import Generator
    >>> bags = EmbeddingBag(10, 3, mode="sum", rngs=Generator(0))
    >>> bags(jnp.array([[1, 2], [0, 9]])).shape
    (2, 3)
    """

    weight: nnx.Variable[Any]

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: jax.Array | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        rngs: Rngs | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        check_choice("mode", mode, _MODES)
        check_dense(sparse)
        table = Embedding(
            num_embeddings,
            embedding_dim,
            padding_idx,
            _weight=_weight,
            rngs=rngs,
            dtype=dtype,
        )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.mode = mode
        self.include_last_offset = include_last_offset
        self.padding_idx = table.padding_idx
        self.weight = table.weight

    @classmethod
    def from_pretrained(
        cls,
        embeddings: ArrayLike,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> "EmbeddingBag":
        """Makes a layer with a given table, which with freeze is a Buffer.

        The arguments are those of `EmbeddingBag`, and of `Embedding.from_pretrained`.
        """
        table = Embedding.from_pretrained(embeddings, freeze)
        bags = cls(
            table.num_embeddings,
            table.embedding_dim,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            table.weight[...],
            include_last_offset,
            padding_idx,
        )
        bags.weight = table.weight
        return bags

    def __call__(
        self,
        input: Integer[Array, "..."],
        offsets: Integer[Array, " B"] | None = None,
        per_sample_weights: Float[Array, "..."] | None = None,
    ) -> Float[Array, "B D"]:
        """Reduces the rows of each bag, as in `jaxnet.nn.functional.embedding_bag`."""
        return embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            False,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq:
            text += ", scale_grad_by_freq=True"
        text += f", mode={self.mode!r}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return text
