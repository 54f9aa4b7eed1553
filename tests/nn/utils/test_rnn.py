"""jaxnet/nn/utils/rnn.py; the rows of tests/rows/nn_utils.py compare recurrent layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from jaxnet.nn.utils import rnn
from jaxnet.random import Generator

DRAWN = np.random.RandomState(0)
SEQUENCES = [DRAWN.standard_normal((n, 2)).astype(np.float32) for n in (3, 1, 4, 3)]
SORTED = sorted(SEQUENCES, key=len, reverse=True)


def same(ours, theirs):
    assert (ours is None) == (theirs is None)
    if theirs is not None:
        np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.torch
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sequences", [SEQUENCES, SORTED], ids=["unsorted", "sorted"])
def test_packing_is_torchs(sequences, batch_first):
    import torch
    from torch.nn.utils import rnn as theirs

    tensors, lengths = [torch.tensor(s) for s in sequences], list(map(len, sequences))
    for side in ("right", "left"):
        padded = rnn.pad_sequence(sequences, batch_first, 7.5, side)
        same(padded, theirs.pad_sequence(tensors, batch_first, 7.5, side))
    ordered = sequences is SORTED
    padded = rnn.pad_sequence(sequences, batch_first)
    packs = [
        (rnn.pack_sequence(sequences, ordered), theirs.pack_sequence(tensors, ordered)),
        (
            rnn.pack_padded_sequence(padded, lengths, batch_first, ordered),
            theirs.pack_padded_sequence(
                torch.tensor(np.asarray(padded)), torch.tensor(lengths), batch_first, ordered
            ),
        ),
    ]
    for ours, expected in packs:
        for mine, its in zip(ours, expected, strict=True):
            same(mine, its)
        again = rnn.PackedSequence(*ours)
        scaled = ours._replace(data=ours.data * 2)
        for mine, total in ((ours, None), (again, None), (again, 6), (scaled, 4)):
            its = expected._replace(data=expected.data * 2) if mine is scaled else expected
            padded, counts = rnn.pad_packed_sequence(mine, batch_first, -1.0, total)
            expected_padded, expected_counts = theirs.pad_packed_sequence(
                its, batch_first, -1.0, total
            )
            same(padded, expected_padded)
            same(counts, expected_counts)
        for mine, sequence in zip(rnn.unpack_sequence(ours), sequences, strict=True):
            np.testing.assert_array_equal(mine, sequence)
    order = [2, 0, 1]
    same(rnn.invert_permutation(order), theirs.invert_permutation(torch.tensor(order)))
    assert rnn.invert_permutation(None) is None


def test_lengths_may_be_traced():
    """One program serves all lengths, and what is behind an end reaches no gradient."""
    layer = nn.GRU(2, 3, rngs=Generator(0))
    x = np.full((4, 2, 2), np.nan, np.float32)
    traced = 0

    def total(x, lengths):
        nonlocal traced
        traced += 1
        packed = rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, h_n = layer(packed)
        padded, counts = rnn.pad_packed_sequence(output)
        return (padded**2).sum() + h_n.sum(), (padded.shape, counts)

    program = jax.jit(lambda x, n: jax.value_and_grad(total, has_aux=True)(x, n))
    for lengths in ([2, 3], [4, 1]):
        for i, n in enumerate(lengths):
            x[:, i] = np.nan
            x[:n, i] = 1.0
        (value, (shape, counts)), gradient = program(x, jnp.array(lengths, jnp.uint8))
        assert shape == (4, 2, 3)
        assert counts.tolist() == lengths
        fixed = jax.jit(lambda x, lengths=lengths: total(x, lengths))
        expected, (shape, _) = fixed(x)
        assert shape == (max(lengths), 2, 3)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        for i, n in enumerate(lengths):
            assert (gradient[n:, i] == 0).all()
            assert (gradient[:n, i] != 0).all()
    assert traced == 3  # once for traced lengths, twice for known ones
    packed = rnn.pack_sequence(SORTED)
    # As in every batch of `fit`, which may cut it into microbatches, the rows are on axis 0.
    assert {len(leaf) for leaf in jax.tree.leaves(packed)} == {4}
    np.testing.assert_array_equal(jax.jit(lambda p: p)(packed).data, packed.data)


ONES = np.ones((3, 2, 1), np.float32)


def gru(packed, **kwargs):
    return nn.GRU(1, 2, rngs=Generator(0))(packed, **kwargs)


REFUSED = [
    (lambda: rnn.pack_padded_sequence(ONES, [1, 3]), ValueError, r"\[1, 3\] grow.*enforce_sorted"),
    (
        lambda: rnn.pack_padded_sequence(ONES, [4, 1]),
        ValueError,
        "accepted are lengths from 1 to 3",
    ),
    (
        lambda: rnn.pack_padded_sequence(ONES, [3, 0]),
        ValueError,
        "accepted are lengths from 1 to 3",
    ),
    (lambda: rnn.pack_padded_sequence(ONES, [3]), ValueError, r"accepted is \(2,\)"),
    (lambda: rnn.pack_padded_sequence(ONES, [3.0, 1.0]), TypeError, "whole numbers"),
    (lambda: rnn.pack_padded_sequence(ONES[:, 0, 0], [1]), ValueError, r"input: shape \(3,\)"),
    (lambda: rnn.pack_sequence([]), ValueError, "at least one"),
    (lambda: rnn.pad_sequence([ONES, ONES[0]]), ValueError, r"\(3, 2, 1\), \(2, 1\)"),
    (lambda: rnn.pad_sequence([ONES], padding_side="top"), ValueError, "padding_side: 'top'"),
    (lambda: rnn.unpad_sequence(ONES, [3]), ValueError, r"accepted is \(2,\)"),
    (
        lambda: rnn.pad_packed_sequence(rnn.pack_sequence([ONES]), total_length=2),
        ValueError,
        "total_length: 2",
    ),
    (lambda: rnn.pad_packed_sequence(ONES), TypeError, "sequence: ndarray; accepted is a Pac"),
    (
        lambda: jax.jit(lambda n: rnn.pack_padded_sequence(ONES, n).data)(jnp.array([3, 1])),
        ValueError,
        "traced inside a compiled function",
    ),
    (lambda: rnn.PackedSequence(ONES[:, 0], [1, 2]), ValueError, r"\[1, 2\].*do not grow"),
    (lambda: rnn.PackedSequence(ONES[:, 0], [2, 2]), ValueError, "3 time steps.*sum to 4"),
    (lambda: rnn.PackedSequence(ONES[:, 0], [2, 1], [1, 1]), ValueError, r"indices: \[1, 1\]"),
    (lambda: gru(rnn.pack_sequence([ONES[:, 0]]), lengths=[3]), ValueError, "leave out lengths"),
    (lambda: gru(rnn.pack_sequence([ONES[:, 0, 0]])), ValueError, r"steps of shape \(\)"),
    (lambda: gru(rnn.pack_sequence([jnp.ones((3, 2))])), ValueError, r"\(N, L, 1\)"),
]


@pytest.mark.parametrize(("call", "error", "says"), REFUSED)
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
