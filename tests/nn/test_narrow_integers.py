"""Row numbers, lengths and classes of 8 bits mean what they mean in 32, whatever they meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from jaxnet.nn import functional as F
from jaxnet.random import Generator

RNG = np.random.RandomState(0)
TABLE = RNG.standard_normal((300, 2)).astype(np.float32)
LONG = RNG.standard_normal((2, 300, 1)).astype(np.float32)
SCORES = RNG.standard_normal((1, 3)).astype(np.float32)


def last_states(lengths):
    rnn = nn.RNN(1, 2, batch_first=True, rngs=Generator(0))
    return rnn(jnp.asarray(LONG), lengths=lengths)[1]


def rows_with_gradient(rows):
    return jax.grad(lambda table: F.embedding(rows, table, padding_idx=299).sum())(TABLE)


def bags(offsets):
    return F.embedding_bag(jnp.arange(300) % 100, jnp.asarray(TABLE), offsets, mode="sum")


def bag_without_padding(rows):
    return F.embedding_bag(rows[None], jnp.asarray(TABLE), padding_idx=299, mode="sum")


def unpooled(indices):
    return F.max_unpool1d(jnp.asarray([[[1.0, 2.0]]]), indices[None, None], 200)


def adaptive(target):
    layer = nn.AdaptiveLogSoftmaxWithLoss(3, 1000, [2, 400], rngs=Generator(0))
    return layer(jnp.asarray(SCORES), target).output


@pytest.mark.parametrize(
    ("function", "numbers", "dtype"),
    [
        (last_states, [200, 100], jnp.uint8),
        (rows_with_gradient, [43, 5], jnp.uint8),
        (bag_without_padding, [43, 5], jnp.uint8),
        (bags, [0, 100], jnp.uint8),
        (bags, [0, 100], jnp.int8),
        (unpooled, [3, 250], jnp.uint8),
        (adaptive, [200], jnp.uint8),
        (adaptive, [100], jnp.int8),
    ],
)
def test_eight_bits_are_as_good(function, numbers, dtype):
    narrow, wide = (function(jnp.asarray(numbers, kind)) for kind in (dtype, jnp.int32))
    assert np.isfinite(wide).all()
    np.testing.assert_array_equal(narrow, wide)
