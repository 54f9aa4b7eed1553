"""jaxnet/nn/_norm.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnet import nn
from tests.table import table

F = nn.functional


TestNorm = table("nn_norm")


def by_definition(x, axes, eps):
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def test_eps_is_torchs_by_default():
    assert nn.LayerNorm(2).eps == nn.GroupNorm(1, 2).eps == nn.BatchNorm1d(2).eps == 1e-5
    assert nn.InstanceNorm1d(2).eps == 1e-5
    x = jnp.array([[1e-3, -1e-3]])
    wanted = 1e-3 / np.sqrt(1e-6 + 1e-5)
    for y in (F.layer_norm(x, 2), F.group_norm(x, 1), F.instance_norm(x[None])[0]):
        assert np.allclose(y, [[wanted, -wanted]], rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    n=st.integers(1, 2),
    groups=st.integers(1, 2),
    per_group=st.integers(1, 2),
    length=st.integers(2, 3),
    centre=st.sampled_from([0.0, 1.0, -100.0]),
    spread=st.sampled_from([1e-2, 1.0, 1e3]),
    seed=st.integers(0, 99),
)
def test_normalisation_by_definition(n, groups, per_group, length, centre, spread, seed):
    c = groups * per_group
    with jax.enable_x64(True):
        x = centre + spread * np.random.RandomState(seed).standard_normal((n, c, length))
        a = jnp.asarray(x)
        grouped = by_definition(x.reshape(n, groups, -1), -1, 1e-5).reshape(x.shape)
        root = np.sqrt(np.square(x).mean(-1, keepdims=True) + np.finfo(np.float64).eps)
        batch = F.batch_norm(a, None, None, training=True)
        for ours, wanted in (
            (F.layer_norm(a, (c, length)), by_definition(x, (1, 2), 1e-5)),
            (F.group_norm(a, groups), grouped),
            (F.rms_norm(a, length), x / root),
            (F.instance_norm(a), by_definition(x, 2, 1e-5)),
            (batch, by_definition(x, (0, 2), 1e-5)),
        ):
            assert ours.dtype == jnp.float64
            assert np.allclose(ours, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_numbers_far_from_zero(offset):
    # A float32 mean alone costs 1e-3 at 1e4; mean(x^2) - mean(x)^2 gives nonsense.
    x = (offset + np.random.RandomState(0).standard_normal((4, 6, 50))).astype(np.float32)
    for y, axes in (
        (F.layer_norm(x, 50), 2),
        (F.instance_norm(x), 2),
        (F.batch_norm(x, None, None, training=True), (0, 2)),
        (F.group_norm(x, 6), 2),
    ):
        assert np.abs(y - by_definition(x, axes, 1e-5)).max() < 1e-5


def test_half_precision_is_computed_in_float32():
    x = np.random.RandomState(0).standard_normal((4, 64)) + 30
    half = jnp.asarray(x, jnp.bfloat16)
    exact = by_definition(np.asarray(half, np.float64), 1, 1e-5)
    for y in (nn.LayerNorm(64)(half), F.group_norm(half, 1)):
        assert y.dtype == jnp.bfloat16
        assert np.abs(np.asarray(y, np.float64) - exact).max() < 0.02
    assert nn.RMSNorm(64)(half).dtype == jnp.bfloat16
    faint = jnp.full((1, 2), 1e-4, jnp.bfloat16)  # torch: 0.2793, with float32's epsilon
    assert abs(float(F.rms_norm(faint, 2)[0, 0]) - 0.2793) < 1e-3


def test_empty_batches_stay_empty():
    assert nn.LayerNorm(3)(jnp.zeros((0, 3))).shape == (0, 3)
    assert nn.RMSNorm(3)(jnp.zeros((0, 3))).shape == (0, 3)
    assert nn.GroupNorm(1, 2)(jnp.zeros((0, 2, 3))).shape == (0, 2, 3)
    assert nn.LocalResponseNorm(2)(jnp.zeros((0, 2, 3))).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.LayerNorm((3, 4))(jnp.ones((2, 4, 3))), r"LayerNorm\(\(3, 4\), .*\(2, 4, 3\)"),
        (lambda: nn.RMSNorm(3)(jnp.ones((2, 4))), r"shape \(\.\.\., 3\); it got \(2, 4\)"),
        (lambda: F.layer_norm(jnp.ones(3), ()), "normalized_shape is empty"),
        (lambda: F.layer_norm(jnp.ones(3), 2), r"asks for \(\.\.\., 2\)"),
        (lambda: F.layer_norm(jnp.ones(3), 3, jnp.ones(2)), r"weight has shape \(2,\)"),
        (lambda: nn.GroupNorm(3, 4), r"num_channels \(4\) must be divisible by num_groups \(3\)"),
        (lambda: nn.GroupNorm(0, 4), "must be divisible"),
        (lambda: F.group_norm(jnp.ones((2, 4)), 3), "num_groups 3 does not divide 4 channels"),
        (lambda: nn.GroupNorm(2, 4)(jnp.ones((2, 6, 3))), r"\(N, 4, \.\.\.\); it got \(2, 6, 3\)"),
        (lambda: nn.GroupNorm(4, 4)(jnp.ones((1, 4))), "Expected more than 1 value per channel"),
        (lambda: nn.LocalResponseNorm(2)(jnp.ones((2, 2))), r"accepted is \(N, C, L, \.\.\.\)"),
        (lambda: nn.LocalResponseNorm(0)(jnp.ones((2, 2, 2))), "size is 0"),
    ],
)
def test_wrong_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_integers_are_refused():
    with pytest.raises(TypeError, match="layer_norm: the input is int32; accepted are floats"):
        F.layer_norm(jnp.ones(3, int), 3)
