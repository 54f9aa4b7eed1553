"""jaxnet/nn/_dropout.py"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from tests.table import table

F = nn.functional

TestDropout = table("nn_dropout")

KEY = jax.random.key(0)
CHANNELS = [
    (F.dropout1d, (50, 40, 3), 2),
    (F.dropout1d, (200, 3), 1),
    (F.dropout2d, (50, 40, 2, 2), 2),
    (F.dropout3d, (50, 40, 1, 2, 2), 2),
    (F.dropout3d, (200, 1, 2, 2), 1),
]


def within_binomial(hits, n, p):
    """Whether a count lies within five standard deviations of n p."""
    return abs(hits - n * p) <= 5 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keep_rate_and_scale(p):
    y = np.asarray(F.dropout(jnp.ones(20_000), p, key=KEY))
    assert within_binomial((y != 0).sum(), y.size, 1 - p)
    assert np.allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


def test_probabilities_that_are_nearly_0_or_1():
    assert F.dropout(jnp.ones(1000), 1e-12, key=KEY).all()
    assert not F.dropout(jnp.ones(1000), 1 - 1e-12, key=KEY).any()


@pytest.mark.parametrize(("function", "shape", "leading"), CHANNELS)
def test_whole_channels_are_dropped(function, shape, leading):
    y = np.asarray(function(jnp.ones(shape), 0.4, key=KEY))
    flat = y.reshape(math.prod(shape[:leading]), -1)
    assert ((flat != 0) == (flat[:, :1] != 0)).all()
    assert within_binomial((flat[:, 0] != 0).sum(), len(flat), 0.6)
    assert np.allclose(flat[flat != 0], 1 / 0.6)


def test_three_axes_mean_torchs_channels_to_dropout2d():
    with pytest.warns(UserWarning, match=r"dropout2d: .* is read as \(N, C, \.\.\.\)"):
        y = F.dropout2d(jnp.ones((20, 30, 4)), key=KEY)
    flat = np.asarray(y).reshape(600, 4)
    assert (flat == flat[:, :1]).all()
    assert 0 < flat[:, 0].sum() < 1200
    with pytest.warns(UserWarning, match=r"dropout3d: .* is read as \(C, \.\.\.\)"):
        flat = np.asarray(F.dropout3d(jnp.ones((50, 2, 2)), key=KEY)).reshape(50, 4)
    assert (flat == flat[:, :1]).all()


@pytest.mark.parametrize("function", [F.alpha_dropout, F.feature_alpha_dropout])
def test_alpha_dropout_keeps_mean_and_variance(function):
    x = jax.random.normal(jax.random.key(1), (200, 200))
    y = function(x, 0.3, True, key=KEY)
    assert abs(y.mean()) < 0.03
    assert abs(y.var() - 1) < 0.05
    assert function(x, 0.3) is x  # torch's default: not in training
    a = 1 / math.sqrt((1.7580993408473766**2 * 0.3 + 1) * 0.7)
    low = -1.7580993408473766 * a * 0.7
    assert within_binomial(int((abs(y - low) < 1e-6).sum()), y.size, 0.3)


def test_feature_alpha_dropout_drops_whole_channels():
    y = np.asarray(F.feature_alpha_dropout(jnp.ones((20, 10, 3)), 0.5, True, key=KEY))
    assert (y == y[..., :1]).all()
    assert len(np.unique(y)) == 2


@pytest.mark.parametrize("layer", [nn.Dropout(1.0), nn.Dropout2d(1.0), nn.AlphaDropout(1.0)])
def test_p_of_one_gives_zeros_with_finite_gradients_and_needs_no_key(layer):
    x = jnp.full((2, 3, 2, 2), 5.0)
    y, slope = jax.value_and_grad(lambda x: layer(x).sum())(x)
    assert y == 0
    assert not slope.any()


def test_gradient_is_the_mask_times_the_scale():
    x = jnp.linspace(-1, 1, 64)
    slope = jax.grad(lambda x: F.dropout(x, 0.25, key=KEY).sum())(x)
    kept = np.asarray(F.dropout(jnp.ones(64), 0.25, key=KEY)) != 0
    assert np.allclose(slope, kept / 0.75)


def test_mask_does_not_depend_on_the_precision():
    single = F.dropout(jnp.ones(200), key=KEY)
    with jax.enable_x64(True):
        double = F.dropout(jnp.ones(200, jnp.float64), key=KEY)
        assert double.dtype == jnp.float64
    half = F.dropout(jnp.ones(200, jnp.bfloat16), key=KEY)
    assert half.dtype == jnp.bfloat16
    assert single.tolist() == double.tolist() == half.tolist()


def test_evaluation_p_0_and_empty_inputs_draw_nothing():
    x = jnp.ones((2, 3))
    assert nn.Dropout().eval()(x) is x
    assert nn.Dropout(0.0)(x) is x
    assert nn.Dropout()(jnp.ones((0, 3))).shape == (0, 3)
    assert F.dropout(x, 0.5, False) is x


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Dropout(), (3,)), (nn.Dropout2d(), (1, 2, 2, 2)), (nn.AlphaDropout(), (3,))],
)
def test_training_without_a_key_names_the_way_out(layer, shape):
    with pytest.raises(ValueError, match=r"with nn\.keys\(jax\.random\.key\(0\)\):.*model\.eval"):
        layer(jnp.ones(shape))


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p_outside_0_to_1(p):
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1, but got"):
        nn.Dropout(p)
    for function in (F.dropout, F.alpha_dropout):
        with pytest.raises(ValueError, match="has to be between 0 and 1"):
            function(jnp.ones(2), p)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"dropout1d: .*\(1, 3, 2, 1\); accepted are \(N, C, L\)"):
        F.dropout1d(jnp.ones((1, 3, 2, 1)))
    for function in (F.dropout2d, F.feature_alpha_dropout):
        with pytest.raises(ValueError, match=r"shape \(3,\); accepted is \(N, C, \.\.\.\)"):
            function(jnp.ones(3))
    with pytest.raises(TypeError, match="the input is int32; accepted are floats"):
        F.dropout(jnp.ones(3, int), key=KEY)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "shape", "noise"),
    [
        ("dropout", (4, 6), (4, 6)),
        ("dropout1d", (4, 6, 2), (4, 6, 1)),
        ("dropout2d", (4, 6, 2, 2), (4, 6, 1, 1)),
        ("dropout3d", (6, 1, 2, 2), (6, 1, 1, 1)),
        ("alpha_dropout", (4, 6), (4, 6)),
        ("feature_alpha_dropout", (4, 6, 2), (4, 6, 1)),
    ],
)
def test_torchs_dropout_is_replayed_from_its_masks(name, shape, noise):
    import torch

    x = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    torch.manual_seed(0)
    of_ones = getattr(torch.nn.functional, name)(torch.ones(shape), 0.3, True).numpy()
    torch.manual_seed(0)
    theirs = getattr(torch.nn.functional, name)(torch.tensor(x), 0.3, True).numpy()
    mask = of_ones == of_ones.max()
    assert 0 < mask.mean() < 1
    corner = mask[tuple(slice(n) for n in noise)]
    for recorded in (mask, corner.astype(np.int64)):
        with nn.draws([recorded]):
            ours = getattr(F, name)(jnp.asarray(x), 0.3, True)
        assert np.abs(ours - theirs).max() < 1e-6
