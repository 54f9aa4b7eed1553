"""jaxnet/nn/_fold.py and _shuffle.py"""

import jax.numpy as jnp
import pytest

from jaxnet import nn
from tests.table import table

F = nn.functional

TestFold = table("nn_fold")

X = jnp.arange(48.0).reshape(1, 3, 4, 4)


def test_fold_counts_what_unfold_takes():
    ones = jnp.ones((1, 1, 5, 6))
    for options in (
        {"kernel_size": 3},
        {"kernel_size": (4, 2), "dilation": (1, 2), "padding": 1, "stride": (3, 2)},
        {"kernel_size": 2, "dilation": 2, "stride": 2},
    ):
        counts = F.fold(F.unfold(ones, **options), (5, 6), **options)
        x = jnp.arange(30.0).reshape(ones.shape)
        again = F.fold(F.unfold(x, **options), (5, 6), **options)
        assert again.tolist() == (x * counts).tolist()


def test_empty_batches():
    assert F.unfold(X[:0], 2).shape == (0, 12, 9)
    assert F.fold(jnp.zeros((0, 12, 9)), 4, 2).shape == (0, 3, 4, 4)
    assert F.pixel_shuffle(jnp.zeros((0, 4, 2, 2)), 2).shape == (0, 1, 4, 4)


def test_shuffles_by_hand():
    assert F.channel_shuffle(jnp.arange(6).reshape(1, 6, 1), 2).ravel().tolist() == [
        0, 3, 1, 4, 2, 5,
    ]  # fmt: skip
    assert F.native_channel_shuffle is F.channel_shuffle
    mask = jnp.eye(4, dtype=bool)[None]
    assert (F.pixel_shuffle(F.pixel_unshuffle(mask, 2), 2) == mask).all()


BAD_CALLS = [
    (lambda: F.unfold(X, 5), r"no window of kernel_size 5 .* fits an image of \(4, 4\)"),
    (lambda: F.unfold(X, 2, padding=-1), "unfold: padding -1; the least that is accepted is 0"),
    (lambda: F.unfold(X, 2, stride=0), "unfold: stride 0; the least"),
    (lambda: F.unfold(X[0, 0], 2), r"unfold: an input of shape \(4, 4\)"),
    (lambda: F.unfold(X[:, :0], 2), "only the batch of an input may be empty"),
    (lambda: F.fold(X[0], (4, 4), 3), "its second last axis must be a multiple of 9"),
    (lambda: F.fold(X[0], 4, 2), "its last axis must be 9, since 3 by 3 windows fit"),
    (lambda: F.fold(X, 4, 2), r"an input of shape \(1, 3, 4, 4\); accepted are \(N, C \* kH"),
    (lambda: F.fold(X[0], 0, 2), "output_size 0; the least"),
    (lambda: nn.Unfold(2)(X[0, 0]), r"Unfold\(kernel_size=2.* expects .*\(C, H, W\)"),
    (lambda: F.pixel_shuffle(X, 2), "has 3 channels; accepted are multiples of 4"),
    (lambda: F.pixel_shuffle(X[0, 0], 1), r"pixel_shuffle: the input has shape \(4, 4\)"),
    (lambda: F.pixel_shuffle(X, -1), "upscale_factor: -1; accepted is an integer, at least 1"),
    (lambda: F.pixel_unshuffle(X, 3), "downscale_factor 3 must divide"),
    (lambda: F.channel_shuffle(X, 2), "groups 2 does not divide 3 channels"),
    (lambda: F.channel_shuffle(X[0, 0], 2), r"the input has shape \(4, 4\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_dtypes():
    with pytest.raises(TypeError, match="unfold: dtype int32; accepted are floats"):
        F.unfold(X.astype(int), 2)
    with pytest.raises(TypeError, match="fold: dtype int32; accepted are floats"):
        F.fold(X[0].astype(int), 4, 2)
