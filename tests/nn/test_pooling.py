"""jaxnet/nn/_max_pooling.py, and the other files of pooling and unpooling"""

import itertools
import math
from functools import partial

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

NAN, INF = math.nan, math.inf


TestPooling = table("nn_pooling")

# One window over two rows: its numbers, and the place that torch takes.
WINNERS = [
    ([1, 2, 2, 2], 1),
    ([0, 0, 0, 0], 0),
    ([1, NAN, 3, NAN], 3),
    ([NAN, 5, 2, 0], 0),
    ([NAN, 5, NAN, INF], 2),
    ([-INF, -INF, -INF, -INF], 0),
    ([-INF, -INF, -INF, -5], 3),
]
# Windows side by side, overlapping or padded ones, and long ones go separate ways.
WAYS = {
    "blocks": lambda x, **k: F.max_pool2d(x, 2, **k),
    "shifts": lambda x, **k: F.max_pool2d(x, 2, 1, **k),
    "padded": lambda x, **k: F.max_pool2d(x, (4, 5), 7, (1, 2), **k),
    "long": lambda x, **k: F.max_pool2d(x, (2, 19), 19, (0, 9), **k),
    "adaptive": lambda x, **k: F.adaptive_max_pool2d(x, 1, **k),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_goes_where_torch_sends_it(way):
    pool = WAYS[way]
    x = jnp.array([numbers for numbers, _ in WINNERS]).reshape(-1, 2, 2)
    places = np.array([place for _, place in WINNERS])
    gradient = jax.grad(lambda x: (pool(x) * 3.0).sum())
    expected = 3.0 * np.eye(4)[places].reshape(x.shape)
    assert np.array_equal(gradient(x), expected)
    assert np.array_equal(jax.jit(gradient)(x), expected)
    values, indices = jax.jit(lambda x: pool(x, return_indices=True))(x)
    assert np.array_equal(indices.ravel(), places)
    assert np.array_equal(
        values.ravel(), x.reshape(-1, 4)[np.arange(len(x)), places], equal_nan=True
    )
    assert np.array_equal(pool(x), values, equal_nan=True)


@pytest.mark.torch
def test_winners_are_torchs():
    import torch

    x = torch.tensor([numbers for numbers, _ in WINNERS]).reshape(-1, 2, 2)
    _, indices = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    assert indices.ravel().tolist() == [place for _, place in WINNERS]


def test_indices_count_over_the_whole_volume():
    x = jnp.asarray(np.random.RandomState(0).permutation(2 * 60).reshape(2, 3, 4, 5))
    values, indices = jax.jit(lambda x: F.max_pool3d(x, 2, 1, 1, return_indices=True))(x)
    taken = jnp.take_along_axis(x.reshape(2, -1), indices.reshape(2, -1), 1)
    assert np.array_equal(taken.reshape(values.shape), values)
    values, indices = jax.jit(lambda x: F.adaptive_max_pool3d(x, (2, 3, 2), True))(x)
    taken = jnp.take_along_axis(x.reshape(2, -1), indices.reshape(2, -1), 1)
    assert np.array_equal(taken.reshape(values.shape), values)


def test_forward_mode_and_second_derivative():
    x = jnp.asarray(np.random.RandomState(0).standard_normal((1, 4, 4)))
    for pool in (lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 3, 1, 1)):

        def cube(x, pool=pool):
            return (pool(x) ** 3).sum()

        def slopes(x, cube=cube):
            gradient = jax.grad(cube)
            slope = jax.jvp(cube, [x], [jnp.ones_like(x)])[1]
            return slope, gradient(x), jax.grad(lambda x: gradient(x).sum())(x)

        slope, first, second = jax.jit(slopes)(x)
        assert np.allclose(slope, first.sum(), rtol=1e-5)
        assert np.allclose(second.sum(), 6 * pool(x).sum(), rtol=1e-4)


def test_average_divisors_by_hand():
    ones = jnp.ones((1, 5))
    third = 1 / 3
    assert np.allclose(F.avg_pool1d(ones, 4, 3, 2)[0], [0.5, 1.0])
    assert np.allclose(F.avg_pool1d(ones, 3, 3, 1, ceil_mode=True)[0], [2 * third, 1.0])
    # What hangs over the padding never counts: 1 of 4 places here, 3 of 4 there.
    assert np.allclose(F.avg_pool1d(ones, 4, 4, 0, ceil_mode=True)[0], [1.0, 1.0])
    assert np.allclose(F.avg_pool1d(ones, 4, 4, 1, ceil_mode=True)[0], [0.75, 2 * third])
    assert np.allclose(F.avg_pool1d(ones, 4, 3, 2, count_include_pad=False)[0], [1.0, 1.0])
    square = jnp.ones((1, 2, 2))
    assert F.avg_pool2d(square, 2, padding=1, divisor_override=2).tolist() == [[[0.5] * 2] * 2]


def test_power_mean_of_zeros_has_slope_zero():
    gradient = jax.grad(lambda x: F.lp_pool2d(x, 2, 2).sum())(jnp.zeros((1, 2, 2)))
    assert not gradient.any()


@st.composite
def pools(draw):
    n = draw(st.integers(1, 2))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(n))

    window = numbers(1, 4)
    padding = tuple(draw(st.integers(0, k // 2)) for k in window)
    sizes = tuple(k + draw(st.integers(0, 4)) for k in window)
    options = {"stride": numbers(1, 4), "padding": padding, "ceil_mode": draw(st.booleans())}
    return n, window, options, (2, *sizes), draw(st.integers(0, 2**16))


def _windows(x, window, stride, padding, ceil_mode):
    """What each window of (C, ...) sees, and how many padded places it covers."""
    counts = []
    for size, k, s, p in zip(x.shape[1:], window, stride, padding, strict=True):
        count = (math.ceil if ceil_mode else math.floor)((size + 2 * p - k) / s) + 1
        counts.append(count - (ceil_mode and (count - 1) * s >= size + p))
    for place in itertools.product(*map(range, counts)):
        starts = [i * s - p for i, s, p in zip(place, stride, padding, strict=True)]
        axes = zip(starts, window, x.shape[1:], padding, strict=True)
        ends = [min(a + k, n + p) for a, k, n, p in axes]
        inside = [slice(max(a, 0), max(b, 0)) for a, b in zip(starts, ends, strict=True)]
        covered = math.prod(b - a for a, b in zip(starts, ends, strict=True))
        yield place, x[(slice(None), *inside)], covered


@settings(max_examples=10, deadline=None)
@given(pools())
def test_equal_their_definitions(case):
    n, window, options, shape, seed = case
    x = np.random.RandomState(seed).standard_normal(shape)
    axes = tuple(range(1, n + 1))
    with jax.enable_x64(True):
        max_pool, avg_pool = getattr(F, f"max_pool{n}d"), getattr(F, f"avg_pool{n}d")
        largest, mean, inner = jax.jit(
            lambda x: (
                max_pool(x, window, **options),
                avg_pool(x, window, **options),
                avg_pool(x, window, **options, count_include_pad=False),
            )
        )(jnp.asarray(x))
    seen = list(_windows(x, window, **options))
    assert largest.shape[1:] == tuple(1 + i for i in seen[-1][0])
    for place, numbers, covered in seen:
        at = (slice(None), *place)
        assert np.array_equal(largest[at], numbers.max(axes))
        assert np.allclose(mean[at], numbers.sum(axes) / covered, rtol=0, atol=1e-12)
        assert np.allclose(inner[at], numbers.mean(axes), rtol=0, atol=1e-12)


@pytest.mark.torch
@settings(max_examples=6, deadline=None)
@given(pools(), st.integers(1, 2), st.booleans())
def test_equal_torch(case, dilation, count_include_pad):
    import torch

    n, window, options, shape, seed = case
    x = np.random.RandomState(seed).randint(-2, 3, shape).astype(np.float64)
    for name, more in (
        (f"max_pool{n}d", {"dilation": dilation}),
        (f"avg_pool{n}d", {"count_include_pad": count_include_pad}),
    ):
        there = torch.tensor(x, requires_grad=True)
        with jax.enable_x64(True):
            here = jnp.asarray(x)
            try:
                expected = getattr(torch.nn.functional, name)(there, window, **options, **more)
            except RuntimeError:
                with pytest.raises(ValueError, match="do not fit"):
                    getattr(F, name)(here, window, **options, **more)
                continue
            expected.sum().backward()

            def both(x, name=name, more=more):
                pool = getattr(F, name)
                output, back = jax.vjp(lambda x: pool(x, window, **options, **more), x)
                return output, back(jnp.ones_like(output))[0]

            output, gradient = jax.jit(both)(here)
        assert distance("forward", output, expected.detach()) <= 1e-12
        assert distance("gradient", gradient, there.grad) <= 1e-12


def test_shapes_that_torch_takes():
    x = jnp.zeros((0, 3, 5, 5))
    assert F.max_pool2d(x, 2).shape == F.avg_pool2d(x, 2).shape == (0, 3, 2, 2)
    assert F.adaptive_avg_pool2d(x, (1, None)).shape == (0, 3, 1, 5)
    assert F.adaptive_max_pool2d(jnp.zeros((3, 5, 5)), (0, 2)).shape == (3, 0, 2)
    assert F.adaptive_avg_pool2d(jnp.zeros((3, 5, 5)), (0, 2)).shape == (3, 0, 2)
    assert F.max_pool1d(jnp.arange(6).reshape(1, 6), 3, 2, 1).tolist() == [[1, 3, 5]]
    far = F.avg_pool1d(jnp.ones((1, 40)), 20, 1, 10)
    assert np.allclose(far[0, [0, 15, 20]], [0.5, 1, 1])
    assert np.isfinite(
        jax.grad(lambda x: F.avg_pool1d(x, 20, 1, 10).sum())(jnp.ones((1, 40)))
    ).all()


def test_unpooling_puts_the_largest_back():
    x = jnp.asarray(np.random.RandomState(0).permutation(2 * 30).reshape(2, 5, 6), float)
    for options in ({"kernel_size": 2}, {"kernel_size": (3, 2), "stride": 1, "padding": (1, 0)}):
        pool = partial(F.max_pool2d, **options, return_indices=True)
        largest, where = jax.jit(pool)(x)
        size = {"output_size": (5, 6)}
        back = F.max_unpool2d(largest, where, **options, **size)
        taken = np.isin(np.arange(30), where[0]).reshape(5, 6)
        assert back[0].tolist() == np.where(taken, x[0], 0).tolist()
        unpool = nn.MaxUnpool2d(**options)
        assert unpool(largest, where, output_size=(1, 2, 5, 6)).tolist() == back.tolist()


def test_numbers_that_share_a_place_get_its_gradient_each():
    x, shared = jnp.array([[1.0, 2.0]]), jnp.array([[3, 3]])
    slope = jax.grad(lambda x: (F.max_unpool1d(x, shared, 2) * jnp.arange(4.0)[None]).sum())(x)
    assert slope.tolist() == [[3, 3]]


def test_an_index_outside_of_the_output_shows():
    x, outside = jnp.ones((2, 2)), jnp.array([[0, 2], [0, 4]])
    with pytest.raises(ValueError, match="max_unpool1d: indices from 0 to 4; accepted are 0 to 3"):
        F.max_unpool1d(x, outside, 2)
    compiled = jax.jit(lambda x, places: F.max_unpool1d(x, places, 2))(x, outside)
    assert compiled[0].tolist() == [1, 0, 1, 0]
    assert np.isnan(compiled[1]).all()


@pytest.mark.torch
def test_fractional_windows_are_torchs():
    import torch

    torch.manual_seed(3)
    x = np.random.RandomState(0).randint(-2, 3, (2, 3, 9, 7)).astype(np.float32)
    expected = torch.nn.functional.fractional_max_pool2d(
        torch.tensor(x), (2, 3), (5, 4), return_indices=True
    )
    samples = Generator(3).rand(2, 3, 2)
    found = F.fractional_max_pool2d(
        jnp.asarray(x), (2, 3), (5, 4), return_indices=True, _random_samples=samples
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_fractional_windows_are_drawn_from_the_key():
    x = jnp.asarray(np.random.RandomState(0).permutation(800).reshape(1, 2, 20, 20), float)
    layer = nn.FractionalMaxPool2d(2, output_ratio=0.6)
    with pytest.raises(ValueError, match="fractional_max_pool2d: no random key is at hand"):
        layer.eval()(x)
    with nn.keys(jax.random.key(0)):
        first, second = layer(x), layer(x)
    assert first.shape == (1, 2, 12, 12)
    assert not np.array_equal(first, second)
    with nn.keys(jax.random.key(0)):
        assert np.array_equal(layer(x), first)
    assert np.isin(first, x).all()


X = jnp.zeros((2, 3, 5, 5))
BAD_CALLS = [
    (lambda: F.max_unpool2d(X, X[0].astype(int), 2), r"indices of shape \(3, 5, 5\) for an input"),
    (lambda: F.max_unpool2d(X, X.astype(int), 2, None, 0, (8, 10)), r"an output of \(8, 10\); acc"),
    (lambda: F.max_unpool2d(X, X.astype(int), 2, None, 0, (1, 10, 10)), "output_size .* accepted"),
    (lambda: F.fractional_max_pool2d(X, 2), "neither output_size nor output_ratio"),
    (lambda: F.fractional_max_pool2d(X, 2, 5), "5 windows of 2 need an axis of at least 6"),
    (lambda: F.fractional_max_pool2d(X, 2, output_ratio=0.1), "leaves an output of .0, 0."),
    (lambda: F.fractional_max_pool2d(X, 2, output_ratio=1.5), "output_ratio 1.5; accepted"),
    (
        lambda: F.fractional_max_pool2d(X, 2, 2, _random_samples=jnp.zeros((2, 2))),
        r"_random_samples of shape \(2, 2\); accepted is \(2, 3, 2\)",
    ),
    (lambda: nn.FractionalMaxPool3d(2), "output_size None and output_ratio None; give exactly"),
    (lambda: F.max_pool2d(X[0, 0], 2), r"max_pool2d: an input of shape \(5, 5\); accepted are"),
    (lambda: F.max_pool2d(X, 3, padding=2), "padding 2 is more than half of kernel_size 3"),
    (lambda: F.max_pool2d(X, 6), r"windows of \(6, 6\) .* do not fit an input of shape"),
    (lambda: F.max_pool2d(X, 0), "kernel_size 0; the least that is accepted is 1"),
    (lambda: F.max_pool2d(X, 2, 0), "stride 0; the least that is accepted is 1"),
    (lambda: F.max_pool2d(X[:, :0], 2), "do not fit an input of shape"),
    (
        lambda: F.max_pool1d(X[0, :, :, :2], 2, 1, 1, 3, return_indices=True),
        "sees nothing of the input",
    ),
    (lambda: F.avg_pool2d(X, 2, divisor_override=0), "divisor_override 0; accepted"),
    (lambda: F.avg_pool3d(X[0, None], 4, padding=2), "windows of 4 are larger than the input"),
    (lambda: F.lp_pool2d(X, 0, 2), "norm_type 0; accepted"),
    (lambda: F.adaptive_avg_pool2d(X, (1, 2, 3)), r"output_size \(1, 2, 3\); accepted"),
    (lambda: F.adaptive_avg_pool2d(X, -1), "output_size -1; the least"),
    (lambda: F.adaptive_max_pool2d(X[:, :, :0], 1), "only the batch of an input may be empty"),
    (lambda: nn.MaxPool2d(2)(X[0, 0]), r"MaxPool2d\(kernel.*\(N, C, H, W\) or \(C, H, W\); it got"),
    (lambda: nn.AvgPool1d(2)(X), r"AvgPool1d\(kernel.*\(N, C, L\) or \(C, L\); it got"),
    (lambda: nn.AdaptiveAvgPool1d(2)(X), r"AdaptiveAvgPool1d\(.*\(N, C, L\) or \(C, L\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_dtypes():
    with pytest.raises(TypeError, match="avg_pool2d: dtype int32; accepted are floats"):
        F.avg_pool2d(X.astype(int), 2)
    with pytest.raises(TypeError, match="indices of dtype float32; accepted are integers"):
        F.max_unpool2d(X, X, 2)
    with pytest.raises(TypeError, match="_random_samples of int32; accepted is the dtype"):
        F.fractional_max_pool2d(X, 2, 2, _random_samples=jnp.zeros((2, 3, 2), int))
    with pytest.raises(TypeError, match="max_pool2d: dtype bool; accepted are floats and integers"):
        F.max_pool2d(X.astype(bool), 2)
