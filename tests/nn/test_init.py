"""jaxnet/nn/init.py, init_structured.py and draw.py"""

import inspect
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import nn
from jaxnet.nn import init
from jaxnet.random import Generator
from tests.table import MAKERS, golden_arrays

# Function, shape, arguments, dtype. Where the golden arrays must agree to the last
# bit, the row is drawn from uniform numbers alone; others agree to 4 ulp or `close`.
ROWS = [
    ("uniform_", (3, 5), (), "float32"),
    ("uniform_", (7,), (-2.5, 0.3), "float64"),
    ("normal_", (3, 3), (1.0, 2.0), "float32"),
    ("normal_", (5, 7), (0.0, 0.1), "float64"),
    ("constant_", (2, 3), (0.3,), "float32"),
    ("ones_", (2,), (), "float32"),
    ("zeros_", (2,), (), "float32"),
    ("eye_", (2, 4), (), "float32"),
    ("dirac_", (4, 3, 3), (), "float32"),
    ("dirac_", (6, 2, 4, 3), (3,), "float32"),
    ("dirac_", (2, 3, 1, 2, 3), (2,), "float64"),
    ("xavier_uniform_", (3, 4, 2), (), "float32"),
    ("xavier_uniform_", (4, 6), (5 / 3,), "float64"),
    ("xavier_normal_", (4, 3, 2), (1.5,), "float32"),
    ("kaiming_uniform_", (5, 4), (5**0.5,), "float32"),
    ("kaiming_uniform_", (5, 2, 2), (0.0, "fan_out", "relu"), "float64"),
    ("kaiming_normal_", (3, 6), (0.0, "fan_in", "relu"), "float32"),
    ("kaiming_normal_", (3, 6), (0.2, "FAN_OUT"), "float32"),
    ("trunc_normal_", (5, 5), (), "float32"),
    ("trunc_normal_", (3, 3), (0.5, 1.0, -0.2, 1.5), "float32"),
    ("trunc_normal_", (4, 5), (0.0, 1.0, 1.0, 1.5), "float32"),
    ("trunc_normal_", (4, 5), (0.0, 2.0, -0.5, 0.5), "float64"),
    ("orthogonal_", (6, 4), (), "float32"),
    ("orthogonal_", (3, 2, 4), (2.0,), "float64"),
    ("orthogonal_", (4, 4), (), "float64"),
    ("sparse_", (6, 4), (0.4,), "float32"),
    ("sparse_", (5, 5), (0.5, 1.0), "float64"),
]
EXACT = {"uniform_", "constant_", "ones_", "zeros_", "eye_", "dirac_", "xavier_uniform_",
         "kaiming_uniform_"}  # fmt: skip


def label(row):
    return f"{row[0]}{row[1]}{row[2]}{row[3]}"


def ours(row, rngs=None):
    name, shape, args, dtype = row
    function = getattr(init, name)
    rngs = rngs or Generator(zlib.crc32(label(row).encode()))
    takes = "generator" in inspect.signature(function).parameters
    tensor = nn.Parameter(jnp.full(shape, 7.0, dtype))
    assert function(tensor, *args, **({"generator": rngs} if takes else {})) is tensor
    assert tensor.dtype == dtype
    return np.asarray(tensor[...])


def torchs(row):
    import torch

    name, shape, args, dtype = row
    tensor = torch.full(shape, 7.0, dtype=getattr(torch, dtype))
    torch.manual_seed(zlib.crc32(label(row).encode()))
    return getattr(torch.nn.init, name)(tensor, *args).numpy()


MAKERS["nn_init"] = lambda: {label(row): torchs(row) for row in ROWS}


def assert_same(row, theirs):
    with jax.enable_x64(True):
        values = ours(row)
    if row[0] in EXACT:
        np.testing.assert_array_equal(values, theirs, strict=True)
    elif row[0] == "orthogonal_":  # of a QR decomposition in the tensor's own dtype
        np.testing.assert_allclose(values, theirs, atol=1e-13 if row[3] == "float64" else 2e-6)
    else:
        largest = np.abs(theirs).max() if row[0] == "normal_" else np.abs(theirs)
        assert (np.abs(values - theirs) <= 4 * np.spacing(largest)).all()


@pytest.mark.parametrize("row", ROWS, ids=label)
def test_values_are_golden(row):
    assert_same(row, golden_arrays("nn_init")[label(row)])


@pytest.mark.torch
@pytest.mark.parametrize("row", ROWS, ids=label)
def test_values_are_torchs(row):
    assert_same(row, torchs(row))


def test_flaxs_keys_fill_too():
    rngs = nnx.Rngs(0)
    values = ours(("uniform_", (50, 4), (1.0, 3.0), "float32"), rngs)
    assert 1 <= values.min() < 1.1
    assert 2.9 < values.max() < 3
    values = ours(("trunc_normal_", (50, 4), (0.0, 1.0, 0.5, 0.7), "float32"), rngs)
    assert 0.5 <= values.min() < 0.51
    assert 0.69 < values.max() <= 0.7
    values = ours(("orthogonal_", (50, 4), (), "float32"), rngs)
    np.testing.assert_allclose(values.T @ values, np.eye(4), atol=1e-6)
    values = ours(("sparse_", (50, 4), (0.41,), "float32"), rngs)
    assert ((values == 0).sum(0) == 21).all()
    assert values.std() < 0.01


def test_orthogonal_under_jit():
    @jax.jit
    def make(key):
        weight = nn.Parameter(jnp.zeros((2, 5)))
        return init.orthogonal_(weight, generator=nnx.Rngs(key))[...]

    q = make(jax.random.key(0))
    np.testing.assert_allclose(q @ q.T, np.eye(2), atol=1e-6)


def test_gains():
    linear = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
              "conv_transpose3d", "sigmoid")  # fmt: skip
    assert [init.calculate_gain(name) for name in linear] == [1] * 8
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == 2**0.5
    assert init.calculate_gain("selu") == 0.75
    assert init.calculate_gain("leaky_relu") == (2 / (1 + 0.01**2)) ** 0.5
    assert init.calculate_gain("leaky_relu", 0.2) == (2 / (1 + 0.2**2)) ** 0.5
    for slope in (True, "0.2"):
        with pytest.raises(ValueError, match="the negative slope of leaky_relu is a number"):
            init.calculate_gain("leaky_relu", slope)
    with pytest.raises(ValueError, match="nonlinearity: 'gelu'; accepted are 'linear'"):
        init.calculate_gain("gelu")


def tensor(*shape):
    return nn.Parameter(jnp.full(shape, 7.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: init.eye_(tensor(3)), r"eye_: shape \(3,\); accepted are 2 dimensions"),
        (lambda g: init.sparse_(tensor(3, 2, 1), 0.5, generator=g), "accepted are 2 dimensions"),
        (lambda g: init.dirac_(tensor(3, 2)), "accepted are 3, 4 and 5 dimensions"),
        (lambda g: init.dirac_(tensor(4, 2, 3), 3), "do not divide into 3 groups"),
        (lambda g: init.orthogonal_(tensor(3), generator=g), "at least 2 dimensions are needed"),
        (lambda g: init.xavier_normal_(tensor(3), generator=g), "at least 2 dimensions"),
        (lambda g: init.xavier_uniform_(tensor(0, 0), generator=g), "joins no inputs"),
        (lambda g: init.kaiming_normal_(tensor(3, 2), 0, "fan", generator=g), "mode: 'fan'"),
        (lambda g: init.trunc_normal_(tensor(3), std=0.0, generator=g), "accepted are positive"),
        (lambda g: init.trunc_normal_(tensor(3), a=1, b=-1, generator=g), r"\[1, -1\] is empty"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(Generator(0))


def test_wrong_arguments():
    with pytest.raises(TypeError, match="cannot be changed in place; give a Parameter"):
        init.ones_(jnp.zeros(3))
    with pytest.raises(TypeError, match="int is no source of random numbers"):
        init.uniform_(tensor(3), generator=0)


def test_tensors_without_numbers():
    for fill in (init.kaiming_uniform_, init.kaiming_normal_):
        with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
            fill(tensor(0, 3), generator=Generator(0))
    assert init.orthogonal_(tensor(0, 3), generator=Generator(0)).shape == (0, 3)


def test_trunc_normal_warns_far_from_the_mean():
    with pytest.warns(UserWarning, match="mean is more than 2 std"):
        init.trunc_normal_(tensor(3), mean=9.0, generator=Generator(0))


def test_buffers_can_be_filled():
    assert init.constant_(nn.Buffer(jnp.zeros(2)), 3.0)[...].tolist() == [3, 3]
