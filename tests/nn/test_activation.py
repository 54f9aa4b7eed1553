"""jaxnet/nn/_activation.py, piecewise.py and softmax.py"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from tests.rows.nn_activation import KINKS
from tests.table import table

F = nn.functional

TestActivation = table("nn_activation")

ELEMENTWISE = [
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus,
    F.softsign, F.softshrink, F.hardshrink, F.tanhshrink, F.tanh, F.sigmoid, F.logsigmoid,
    F.hardtanh, F.hardsigmoid, F.hardswish, lambda x: F.gelu(x, "tanh"),
]  # fmt: skip


def test_gelu_is_exact_unless_told():
    exact = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in KINKS]
    assert np.allclose(F.gelu(jnp.asarray(KINKS)), exact, rtol=1e-6, atol=1e-6)
    assert abs(F.gelu(jnp.float32(2), "tanh") - F.gelu(jnp.float32(2))) > 5e-5


def test_far_numbers_have_finite_values_and_slopes():
    x = jnp.array([-1e18, -1e4, -100, 100, 1e4, 1e18])
    everything = [jax.vmap(jax.value_and_grad(function)) for function in ELEMENTWISE]
    for function, found in zip(ELEMENTWISE, jax.jit(lambda x: [f(x) for f in everything])(x),
                               strict=True):  # fmt: skip
        assert np.isfinite(found).all(), function


def test_second_derivatives_are_finite():
    bends = [jax.vmap(jax.grad(jax.grad(function))) for function in ELEMENTWISE]
    found = jax.jit(lambda x: [bend(x) for bend in bends])(jnp.asarray(KINKS))
    for function, bend in zip(ELEMENTWISE, found, strict=True):
        assert np.isfinite(bend).all(), function


def test_half_precision_stays():
    x = jnp.asarray(KINKS, jnp.bfloat16)
    softmaxes = [lambda x: F.softmax(x, 0), lambda x: F.log_softmax(x, 0), F.glu]
    for function in [*ELEMENTWISE, *softmaxes, lambda x: F.threshold(x, 0.5, 3.0)]:
        assert jax.eval_shape(function, x).dtype == jnp.bfloat16, function


def test_softmax_without_dim_takes_torchs_old_choice():
    for shape, dim in (((3,), 0), ((3, 2), 1), ((3, 2, 2), 0), ((1, 2, 3, 2), 1)):
        x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
        for function in (F.softmax, F.log_softmax, F.softmin):
            with pytest.warns(UserWarning, match="dim is not given"):
                chosen = function(x)
            assert np.array_equal(chosen, function(x, dim)), (function, shape)


def test_softmax_edges():
    assert F.softmax(jnp.zeros((2, 0)), 1).shape == (2, 0)
    assert F.softmax(jnp.float32(5), -1) == 1
    assert F.softmax(jnp.arange(2), 0, dtype=jnp.float32).dtype == jnp.float32
    assert F.softmax(jnp.array([0.0, -jnp.inf]), 0).tolist() == [1, 0]
    far = F.log_softmax(jnp.array([1e4, 0.0]), 0)
    assert far.tolist() == [0, -1e4]


INPLACE = ("ReLU", "ReLU6", "SiLU", "Mish", "SELU", "ELU", "CELU", "LeakyReLU", "Hardtanh",
           "Hardswish", "Hardsigmoid")  # fmt: skip


def test_inplace_is_taken_and_changes_nothing():
    x = jnp.array([-1.0, 8.0])
    for name in INPLACE:
        layer = getattr(nn, name)(inplace=True)
        assert np.array_equal(layer(x), getattr(nn, name)()(x)), name
        assert x.tolist() == [-1, 8]
    assert F.relu(x, inplace=True).tolist() == [0, 8]


@pytest.mark.torch
@pytest.mark.parametrize("name", INPLACE)
def test_inplace_is_printed_as_torch_prints_it(name):
    import torch

    assert repr(getattr(nn, name)(inplace=True)) == repr(getattr(torch.nn, name)(inplace=True))


def test_prelu_counts_its_slopes():
    assert nn.PReLU(4).num_parameters == 4
    assert F.prelu(jnp.float32(-2), jnp.float32(0.5)) == -1
    assert F.prelu(jnp.array([-2.0]), jnp.array([0.5])).tolist() == [-1]


def test_hardtanh_takes_the_older_names():
    with pytest.warns(FutureWarning, match="min_value is deprecated; its name is min_val"):
        assert nn.Hardtanh(min_value=-2.0)(jnp.float32(-5)) == -2


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: F.celu(x, 0.0), "celu: alpha is 0"),
        (lambda x: F.gelu(x, "exact"), "approximate is 'exact'; accepted are 'none' and 'tanh'"),
        (lambda x: F.hardtanh(x, 1.0, 0.0), "min_val 1.0 is greater than max_val 0.0"),
        (lambda x: nn.Hardtanh(1.0, 1.0), r"max_val \(1.0\) must be greater"),
        (lambda x: F.softshrink(x, -1.0), "lambd is -1.0; accepted is 0 or more"),
        (lambda x: F.prelu(x, jnp.ones(2)), r"weight of shape \(2,\) does not fit"),
        (lambda x: F.prelu(x, jnp.ones((1, 3))), r"accepted are \(\), \(1,\) and \(3,\)"),
        (lambda x: F.glu(x), "odd size"),
        (lambda x: F.glu(x[0, 0]), "no axis"),
        (lambda x: F.softmax(x, 2), "dim is 2; .* is -2 to 1"),
        (lambda x: nn.Softmax2d()(x), r"Softmax2d\(\) expects .* it got \(2, 3\)"),
    ],
)
def test_wrong_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call(jnp.ones((2, 3)))
