"""Sequences of several lengths in one batch: torch.nn.utils.rnn."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnet._checks import check_choice
from jaxnet.nn._recurrent import before_end

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]

Lengths = ArrayLike | Sequence[int]


class PackedSequence:
    """A batch of sequences of several lengths: torch.nn.utils.rnn.PackedSequence.

    `pack_padded_sequence` and `pack_sequence` make it, nn.RNN, nn.GRU and nn.LSTM take it, and
    `pad_packed_sequence` takes it apart. Torch stores the time steps of all sequences without
    padding. A compiled program of JAX has arrays of fixed shapes, so here the sequences stay
    padded, beside their lengths, and `data` and `batch_sizes` are computed when they are read.

    It is a pytree: inside jit the lengths may be traced. Then `data` cannot be read, because its
    shape depends on them.

    Args:
        data: The time steps without padding, (sum of the lengths, ...): first the first steps of
            all sequences, the longest sequence first, then their second steps, and so on.
        batch_sizes: The number of sequences that have a first step, a second step, and so on.
        sorted_indices: The numbers of the sequences in the order of `data`; None if the batch
            is in this order itself.
        unsorted_indices: The inverse of sorted_indices, which is computed if it is None.

    Raises:
        ValueError: The sizes do not fit each other.
    """

    # The sequences in the order of the batch, (N, L, ...): the parts of a batch have their rows on
    # axis 0, so that a batch can be cut and spread over devices.
    _padded: jax.Array
    _lengths: jax.Array | np.ndarray  # (N,)
    _sorted: bool  # whether the batch is in the order of `data`

    def __init__(
        self,
        data: jax.Array,
        batch_sizes: ArrayLike,
        sorted_indices: ArrayLike | None = None,
        unsorted_indices: ArrayLike | None = None,
    ) -> None:
        sizes = _known("PackedSequence: batch_sizes", batch_sizes)
        if sizes.ndim != 1 or sizes.size == 0 or sizes.min() < 1 or (np.diff(sizes) > 0).any():
            raise ValueError(
                f"PackedSequence: batch_sizes: {sizes.tolist()}; accepted are positive numbers "
                "that do not grow"
            )
        if sizes.sum() != data.shape[0]:
            raise ValueError(
                f"PackedSequence: data has {data.shape[0]} time steps, but batch_sizes sum to "
                f"{sizes.sum()}"
            )
        if sorted_indices is None and unsorted_indices is not None:
            sorted_indices = invert_permutation(unsorted_indices)
        order = np.arange(sizes[0])
        if sorted_indices is not None:
            order = _known("PackedSequence: sorted_indices", sorted_indices)
            if sorted(order.tolist()) != list(range(sizes[0])):
                raise ValueError(
                    f"PackedSequence: sorted_indices: {order.tolist()}; accepted is an order of "
                    f"the {sizes[0]} sequences"
                )
        self._lengths = np.zeros(sizes[0], np.int64)
        self._lengths[order] = [(sizes > i).sum() for i in range(sizes[0])]
        self._sorted = sorted_indices is None
        steps = np.repeat(np.arange(len(sizes)), sizes)
        places = order[np.concatenate([np.arange(n) for n in sizes])]
        blank = jnp.zeros((sizes[0], len(sizes), *data.shape[1:]), data.dtype)
        self._padded = blank.at[places, steps].set(data)

    @classmethod
    def _of(cls, padded: Any, lengths: Any, is_sorted: bool) -> Self:
        made = object.__new__(cls)
        made._padded, made._lengths, made._sorted = padded, lengths, is_sorted
        return made

    def _order(self, reader: str) -> np.ndarray:
        lengths = _known(f"PackedSequence.{reader}: lengths", self._lengths)
        return np.argsort(-lengths, kind="stable")

    @property
    def data(self) -> jax.Array:
        """The time steps without padding, (sum of the lengths, ...)."""
        order = self._order("data")
        sizes = self.batch_sizes
        steps = np.repeat(np.arange(len(sizes)), sizes)
        return self._padded[order[np.concatenate([np.arange(n) for n in sizes])], steps]

    @property
    def batch_sizes(self) -> np.ndarray:
        """The number of sequences that have a first step, a second step, and so on."""
        lengths = _known("PackedSequence.batch_sizes: lengths", self._lengths)
        return (lengths[None] > np.arange(lengths.max())[:, None]).sum(1)

    @property
    def sorted_indices(self) -> np.ndarray | None:
        """The numbers of the sequences in the order of `data`, None for a sorted batch."""
        return None if self._sorted else self._order("sorted_indices")

    @property
    def unsorted_indices(self) -> np.ndarray | None:
        """The inverse of `sorted_indices`."""
        return None if self._sorted else np.argsort(self._order("unsorted_indices"))

    def __iter__(self) -> Iterator[Any]:
        """The four arguments of the constructor, as torch's named tuple."""
        return iter((self.data, self.batch_sizes, self.sorted_indices, self.unsorted_indices))

    def _replace(self, *, data: jax.Array) -> Self:
        """A packed sequence of the same lengths with other time steps."""
        return type(self)(data, self.batch_sizes, self.sorted_indices, self.unsorted_indices)

    def __repr__(self) -> str:
        return f"PackedSequence(padded={jnp.shape(self._padded)}, lengths={self._lengths})"


jax.tree_util.register_pytree_node(
    PackedSequence,
    lambda packed: ((packed._padded, packed._lengths), packed._sorted),
    lambda is_sorted, arrays: PackedSequence._of(*arrays, is_sorted),
)


def _known(what: str, values: Any) -> np.ndarray:
    """Whole numbers whose values are known.

    Raises:
        ValueError: They are traced.
        TypeError: They are no whole numbers.
    """
    if isinstance(values, jax.core.Tracer):
        raise ValueError(
            f"{what} are traced inside a compiled function, and shapes must not depend on them; "
            "give them as Python numbers, or work with pad_packed_sequence and a mask"
        )
    known = np.asarray(values)
    if known.dtype.kind not in "iu":
        raise TypeError(f"{what}: {known.dtype}; accepted are whole numbers")
    return known.astype(np.int64)


def invert_permutation(permutation: ArrayLike | None) -> jax.Array | np.ndarray | None:
    """The inverse of an order of numbers: torch.nn.utils.rnn.invert_permutation.

    Args:
        permutation: The order, (N,), or None.

    Returns:
        The inverse, or None for None.
    """
    if permutation is None:
        return None
    return (jnp if isinstance(permutation, jax.Array) else np).argsort(permutation)


def pack_padded_sequence(
    input: jax.Array, lengths: Lengths, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Packs padded sequences: torch.nn.utils.rnn.pack_padded_sequence.

    Args:
        input: The sequences, (L, N, ...), or (N, L, ...) with batch_first.
        lengths: Their lengths, (N,), each from 1 to L. Inside jit traced lengths are accepted;
            those outside of 1 to L then count as the nearest length.
        batch_first: Whether the input is (N, L, ...).
        enforce_sorted: Whether sequences that are not sorted by decreasing length are an error,
            as in torch. It has no other effect on what a layer computes.

    Returns:
        The packed sequences, cut at the longest one if the lengths are known.

    Raises:
        TypeError: The lengths are no whole numbers.
        ValueError: A length is missing or outside of 1 to L, or the sequences are not sorted.

    >>> packed = pack_padded_sequence(jnp.array([[1, 2, 3], [4, 0, 0]]), [3, 1], batch_first=True)
    >>> packed.data, packed.batch_sizes.tolist()
    (Array([1, 4, 2, 3], dtype=int32), [2, 1, 1])
    """
    if input.ndim < 2:
        raise ValueError(
            f"pack_padded_sequence: input: shape {input.shape}; accepted is (L, N, ...), or "
            "(N, L, ...) with batch_first"
        )
    padded = input if batch_first else jnp.swapaxes(input, 0, 1)
    batch, steps = padded.shape[:2]
    if np.shape(lengths) != (batch,):
        raise ValueError(
            f"pack_padded_sequence: lengths: shape {np.shape(lengths)}; accepted is ({batch},), "
            "one length for each sequence"
        )
    if isinstance(lengths, jax.core.Tracer):
        if not jnp.issubdtype(lengths.dtype, jnp.integer):
            raise TypeError(f"lengths: {lengths.dtype}; accepted are whole numbers")
        # First a wider dtype: uint8 lengths cannot be compared with 300 steps.
        return PackedSequence._of(padded, jnp.clip(lengths.astype(int), 1, steps), enforce_sorted)
    known = _known("pack_padded_sequence: lengths", lengths)
    if batch == 0 or known.min() < 1 or known.max() > steps:
        raise ValueError(
            f"pack_padded_sequence: lengths: {known.tolist()}; accepted are lengths from 1 to "
            f"{steps}"
        )
    if enforce_sorted and (np.diff(known) > 0).any():
        raise ValueError(
            f"pack_padded_sequence: lengths: {known.tolist()} grow; sort the sequences by "
            "decreasing length, or give enforce_sorted=False"
        )
    return PackedSequence._of(padded[:, : known.max()], known, enforce_sorted)


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[jax.Array, jax.Array | np.ndarray]:
    """Undoes `pack_padded_sequence`: torch.nn.utils.rnn.pad_packed_sequence.

    Args:
        sequence: The packed sequences.
        batch_first: Whether the result is (N, L, ...).
        padding_value: The value behind the end of a sequence.
        total_length: The length L of the result. None is the length of the longest sequence, or,
            if the lengths are traced, that of the input of `pack_padded_sequence`.

    Returns:
        The sequences, (L, N, ...) or (N, L, ...), and their lengths, (N,).

    Raises:
        ValueError: total_length is less than the length of the longest sequence.
        TypeError: The argument is no PackedSequence.
    """
    if not isinstance(sequence, PackedSequence):
        raise TypeError(
            f"pad_packed_sequence: sequence: {type(sequence).__name__}; accepted is a "
            "PackedSequence, which pack_padded_sequence and recurrent layers give"
        )
    padded, lengths = sequence._padded, sequence._lengths
    steps = padded.shape[1]
    longest = steps
    if not isinstance(lengths, jax.core.Tracer):
        longest = int(np.asarray(lengths).max())
    total = longest if total_length is None else total_length
    if total < longest:
        raise ValueError(
            f"pad_packed_sequence: total_length: {total}; the longest sequence may have {longest} "
            "steps, so accepted is at least that"
        )
    if total > steps:
        padded = jnp.pad(padded, ((0, 0), (0, total - steps)) + ((0, 0),) * (padded.ndim - 2))
    padded = padded[:, :total]
    valid = before_end(jnp.asarray(lengths), total).T
    valid = valid.reshape(*valid.shape, *(1,) * (padded.ndim - 2))
    padded = jnp.where(valid, padded, jnp.asarray(padding_value, padded.dtype))
    return padded if batch_first else jnp.swapaxes(padded, 0, 1), lengths


def pad_sequence(
    sequences: Iterable[jax.Array],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> jax.Array:
    """Stacks sequences of several lengths with padding: torch.nn.utils.rnn.pad_sequence.

    Args:
        sequences: The sequences, each (L, ...), with equal axes behind the first.
        batch_first: Whether the result is (N, longest L, ...) instead of (longest L, N, ...).
        padding_value: The value that fills up.
        padding_side: The side that is filled up, "right" or "left".

    Returns:
        The padded sequences.

    Raises:
        ValueError: There are no sequences, they do not fit each other, or the side is unknown.

    >>> pad_sequence([jnp.array([1, 2, 3]), jnp.array([4])], batch_first=True)
    Array([[1, 2, 3],
           [4, 0, 0]], dtype=int32)
    """
    check_choice("padding_side", padding_side, ("right", "left"))
    arrays = [jnp.asarray(sequence) for sequence in sequences]
    if not arrays or any(a.ndim == 0 or a.shape[1:] != arrays[0].shape[1:] for a in arrays):
        raise ValueError(
            f"pad_sequence: sequences: shapes {[a.shape for a in arrays]}; accepted are arrays "
            "(L, ...) that differ in L only, at least one"
        )
    longest = max(len(a) for a in arrays)
    padded = []
    for a in arrays:
        missing = longest - len(a)
        sides = (0, missing) if padding_side == "right" else (missing, 0)
        padded.append(jnp.pad(a, (sides, *((0, 0),) * (a.ndim - 1)), constant_values=padding_value))
    return jnp.stack(padded, 0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: jax.Array, lengths: Lengths, batch_first: bool = False
) -> list[jax.Array]:
    """Takes padded sequences apart: torch.nn.utils.rnn.unpad_sequence.

    Args:
        padded_sequences: The sequences, (L, N, ...), or (N, L, ...) with batch_first.
        lengths: Their lengths, (N,), whose values have to be known.
        batch_first: Whether the sequences are (N, L, ...).

    Returns:
        The sequences, each (its length, ...).

    Raises:
        ValueError: The lengths are traced, or there are not N of them.
    """
    known = _known("unpad_sequence: lengths", lengths)
    rows = padded_sequences if batch_first else jnp.swapaxes(padded_sequences, 0, 1)
    if known.shape != rows.shape[:1]:
        raise ValueError(
            f"unpad_sequence: lengths: shape {known.shape}; accepted is ({rows.shape[0]},)"
        )
    return [row[:length] for row, length in zip(rows, known.tolist(), strict=True)]


def pack_sequence(sequences: Sequence[jax.Array], enforce_sorted: bool = True) -> PackedSequence:
    """Packs sequences of several lengths: torch.nn.utils.rnn.pack_sequence.

    Args:
        sequences: The sequences, each (L, ...).
        enforce_sorted: Whether sequences that are not sorted by decreasing length are an error.

    Returns:
        The packed sequences.

    Raises:
        ValueError: The sequences do not fit each other, one is empty, or they are not sorted.
    """
    lengths = [len(sequence) for sequence in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[jax.Array]:
    """Takes packed sequences apart: torch.nn.utils.rnn.unpack_sequence.

    Args:
        packed_sequences: The packed sequences, whose lengths have to be known.

    Returns:
        The sequences, each (its length, ...).
    """
    return unpad_sequence(*pad_packed_sequence(packed_sequences, batch_first=True), True)
