"""jaxnet/nn/_conv_transpose.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnet import nn
from jaxnet.random import Generator
from tests.table import table
from tests.tolerances import distance

F = nn.functional

TestConvTranspose = table("nn_conv_transpose")


def test_is_the_transpose_of_the_convolution():
    rng = np.random.RandomState(0)
    x, y, w = (rng.standard_normal(shape) for shape in [(2, 3, 7, 6), (2, 4, 4, 2), (4, 3, 3, 2)])
    options = {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2)}
    with jax.enable_x64(True):
        x, y, w = jnp.asarray(x), jnp.asarray(y), jnp.asarray(w)
        there = F.conv2d(x, w, **options)
        back = F.conv_transpose2d(y, w, **options, output_padding=(0, 0))
        assert there.shape == y.shape
        assert back.shape == x.shape
        assert abs((there * y).sum() - (back * x).sum()) < 1e-12


def test_kernel_padding_and_output_padding_by_hand():
    x, w = jnp.array([[[1.0, 10.0]]]), jnp.array([[[1.0, 2.0, 3.0]]])
    whole = F.conv_transpose1d(x, w, stride=2)
    assert whole.tolist() == [[[1, 2, 3 + 10, 20, 30]]]  # the kernel lies forwards
    assert F.conv_transpose1d(x, w, stride=2, padding=1).tolist() == [[[2, 13, 20]]]
    longer = F.conv_transpose1d(x, w, stride=2, padding=1, output_padding=1)
    assert longer.tolist() == [[[2, 13, 20, 30]]]  # more of what is there, not zeros


@st.composite
def transposes(draw):
    n = draw(st.integers(1, 2))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(n))

    groups = draw(st.sampled_from([1, 1, 2]))
    options = {
        "stride": numbers(1, 3),
        "padding": numbers(0, 2),
        "output_padding": numbers(0, 2),
        "dilation": numbers(1, 2),
        "groups": groups,
    }
    shape = (draw(st.integers(1, 2)), 2 * groups, *numbers(1, 4))
    weight = (2 * groups, draw(st.integers(1, 2)), *numbers(1, 3))
    return n, shape, weight, options, draw(st.integers(0, 2**16))


@pytest.mark.torch
@settings(max_examples=8, deadline=None)
@given(transposes())
def test_equals_torch(case):
    import torch

    n, shape, weight, options, seed = case
    rng = np.random.RandomState(seed)
    x, w = rng.standard_normal(shape), rng.standard_normal(weight)
    name = f"conv_transpose{n}d"
    with jax.enable_x64(True):
        ours = (jnp.asarray(x), jnp.asarray(w))
        try:
            theirs = getattr(torch.nn.functional, name)(torch.tensor(x), torch.tensor(w), **options)
        except RuntimeError:
            with pytest.raises(ValueError, match="output"):
                getattr(F, name)(*ours, **options)
            return
        assert distance("forward", getattr(F, name)(*ours, **options), theirs) <= 1e-10


def test_output_size():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=3, rngs=Generator(0))
    x = jnp.zeros((1, 2, 2, 2))
    assert layer(x).shape == (1, 3, 6, 6)
    assert layer(x, (8, 7)).shape == layer(x, (1, 3, 8, 7)).shape == (1, 3, 8, 7)
    assert layer(x[0], (3, 7, 8)).shape == (3, 7, 8)
    with pytest.raises(ValueError, match=r"output_size \(9, 7\); .* gives \(6, 6\) to \(8, 8\)"):
        layer(x, (9, 7))
    with pytest.raises(ValueError, match=r"output_size \(9,\); accepted are 2 or 4 numbers"):
        layer(x, (9,))


X = jnp.zeros((1, 4, 3, 3))
W = jnp.zeros((4, 2, 3, 3))
BAD_CALLS = [
    (lambda: F.conv_transpose2d(X[0, 0], W), r"conv_transpose2d: an input of shape \(3, 3\)"),
    (lambda: F.conv_transpose2d(X[:, :3], W), "expects 4 input channels; .* has 3"),
    (lambda: F.conv_transpose2d(X, W[0]), r"a weight of shape \(2, 3, 3\); accepted is \(C, O"),
    (lambda: F.conv_transpose2d(X, W, groups=3), "groups 3 does not divide the 4 input channels"),
    (lambda: F.conv_transpose2d(X, W, jnp.zeros(4)), r"a bias of shape \(4,\); accepted is \(2,\)"),
    (lambda: F.conv_transpose2d(X, W, padding=4), r"leaves an output of spatial size \(-3, -3\)"),
    (
        lambda: F.conv_transpose2d(X, W, output_padding=1),
        r"output_padding \(1, 1\) must be smaller",
    ),
    (
        lambda: nn.ConvTranspose2d(2, 2, 3, padding_mode="circular", rngs=Generator(0)),
        "padding_mode 'circular'; accepted is only 'zeros'",
    ),
    (
        lambda: nn.ConvTranspose2d(2, 2, 3, padding="same", rngs=Generator(0)),
        "padding 'same'; accepted are numbers",
    ),
    (
        lambda: nn.ConvTranspose2d(2, 2, 3, rngs=Generator(0))(X),
        r"ConvTranspose2d\(2, 2.*\(N, 2, H, W\) or \(2, H, W\); it got",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
