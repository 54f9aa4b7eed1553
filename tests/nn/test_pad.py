"""jaxnet/nn/_pad.py"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from tests.table import table

F = nn.functional

TestPad = table("nn_pad")

X = jnp.arange(1.0, 4)[None]


def test_modes_by_hand():
    assert F.pad(X, (1, 0)).tolist() == [[0, 1, 2, 3]]
    assert F.pad(X, (2, 1), "reflect").tolist() == [[3, 2, 1, 2, 3, 2]]
    assert F.pad(X, (2, 1), "replicate").tolist() == [[1, 1, 1, 2, 3, 3]]
    assert F.pad(X, (2, 1), "circular").tolist() == [[2, 3, 1, 2, 3, 1]]


def test_negative_sizes_by_hand():
    assert F.pad(X, (-1, 1)).tolist() == [[2, 3, 0]]
    # The axis is continued before numbers are taken away, but "circular" copies what is left.
    assert F.pad(X, (-1, 2), "reflect").tolist() == [[2, 3, 2, 1]]
    assert F.pad(X, (-5, 4), "replicate").tolist() == [[3, 3]]
    assert F.pad(X, (2, -1), "circular").tolist() == [[1, 2, 1, 2]]


def test_dtypes_and_values():
    assert F.pad(jnp.array([1, 2]), (1, 0), value=7.9).tolist() == [7, 1, 2]
    assert F.pad(jnp.array([False]), (0, 1), value=1).tolist() == [False, True]
    assert F.pad(jnp.array(3.0), ()).tolist() == 3
    assert F.pad(X, [np.int64(1), 0], value=jnp.float32(5)).tolist() == [[5, 1, 2, 3]]
    assert F.pad(jnp.zeros((0, 2, 3)), (1, 1), "reflect").shape == (0, 2, 5)


BAD_CALLS = [
    (lambda: F.pad(X, (1, 1), "edge"), "pad: mode: 'edge'; accepted are 'constant'"),
    (lambda: F.pad(X, (1,)), r"pad \(1,\) for an input of shape \(1, 3\); accepted are two"),
    (lambda: F.pad(X, (1,) * 6), "for at most 2 axes"),
    (lambda: F.pad(X, (1, 1), "reflect", 2.0), "value 2.0 with mode 'reflect'"),
    (lambda: F.pad(X[0], (1, 1), "reflect"), r"2 sizes for an input of shape \(3,\)"),
    (lambda: F.pad(X, (), "circular"), "0 sizes for an input"),
    (lambda: F.pad(X, (3, 0), "reflect"), "padding 3 is too large for a side of 3; 'reflect'"),
    (lambda: F.pad(X, (4, 0), "circular"), "padding 4 is too large for a side of 3; 'circular'"),
    (lambda: F.pad(X, (3, -1), "circular"), "padding 3 is too large for a side of 2"),
    (lambda: F.pad(X[:, :0], (1, 0), "replicate"), "padding 1 is too large for a side of 0"),
    (lambda: F.pad(X, (-2, -1), "replicate"), r"leaves nothing of an input of \(1, 3\)"),
    (lambda: F.pad(X, (-2, -2)), r"padding \(-2, -2\) takes more than a side of 3"),
    (lambda: F.pad(X, (-5, 4)), r"padding \(-5, 4\) takes more than a side of 3"),
    (lambda: F.pad(jnp.array([1]), (1, 0), value=float("nan")), "value nan does not fit .* int32"),
    (lambda: F.pad(jnp.array([1], "uint8"), (1, 0), value=300), "value 300 does not fit .* uint8"),
    (lambda: nn.ZeroPad2d((1, 2)), r"ZeroPad2d: padding \(1, 2\); accepted are .* 4 of them"),
    (lambda: nn.ConstantPad1d(1.5, 0.0), "ConstantPad1d: padding 1.5; accepted"),
    (lambda: nn.CircularPad1d(1)(X[0]), r"CircularPad1d\(\(1, 1\)\) expects .*\(C, L\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_types():
    with pytest.raises(TypeError, match=r"pad 1; accepted is a sequence"):
        F.pad(X, 1)
    with pytest.raises(TypeError, match=r"pad \(1.0, 2\); accepted is a sequence"):
        F.pad(X, (1.0, 2))
    with pytest.raises(TypeError, match="value 1j; accepted is a real number"):
        F.pad(X, (1, 1), value=1j)
