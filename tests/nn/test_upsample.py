"""jaxnet/nn/_upsample.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxnet import nn
from tests.table import table
from tests.tolerances import distance

F = nn.functional

TestUpsample = table("nn_upsample")

MODES = {
    1: ["nearest", "nearest-exact", "linear", "area"],
    2: ["nearest", "nearest-exact", "bilinear", "bicubic", "area"],
}


@st.composite
def resizes(draw):
    n = draw(st.integers(1, 2))
    options = {"mode": draw(st.sampled_from(MODES[n]))}
    sizes = tuple(draw(st.integers(1, 6)) for _ in range(n))
    if draw(st.booleans()):
        options["size"] = tuple(draw(st.integers(1, 9)) for _ in range(n))
    else:
        factors = [1.0, 2.0, 3.0, 0.5, 1.5, 1.3]
        options["scale_factor"] = tuple(max(draw(st.sampled_from(factors)), 1 / m) for m in sizes)
        options["recompute_scale_factor"] = draw(st.sampled_from([None, False, True]))
    if options["mode"].endswith(("linear", "cubic")):
        options["align_corners"] = draw(st.booleans())
    # torch's CPU code gives the first row everywhere if the width becomes 1 and the height changes,
    # and its gradients with a scale factor are not those of its outputs if an axis keeps its size.
    if options["mode"].startswith("bi") and "size" in options and options["size"][1] > 1:
        options["antialias"] = draw(st.booleans())
    return (2, 2, *sizes), options


BICUBIC = {"mode": "bicubic", "scale_factor": (1.0, 1.3), "align_corners": False}


@pytest.mark.torch
@settings(max_examples=12, deadline=None)
@given(resizes())
@example(((2, 2, 1, 2), BICUBIC))
def test_equals_torch(case):
    import torch

    shape, options = case
    x = np.random.RandomState(0).standard_normal(shape)
    there = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.interpolate(there, **options)
    weight = np.random.RandomState(1).standard_normal(expected.shape)
    (expected * torch.tensor(weight)).sum().backward()
    theirs = there.grad
    if options["mode"] == "bicubic" and expected.shape == shape:
        # torch's backward pass copies where no axis changes its size, though with a scale factor
        # its forward pass does not. The derivative of a linear function is its transpose.
        units = torch.eye(x.size, dtype=torch.float64).reshape(-1, *shape[1:])
        outputs = torch.nn.functional.interpolate(units, **options).reshape(x.size, -1)
        theirs = (outputs @ torch.tensor(weight).ravel()).reshape(shape)
    with jax.enable_x64(True):

        def both(x, weight):
            output, back = jax.vjp(lambda x: F.interpolate(x, **options), x)
            return output, back(weight)[0]

        output, gradient = jax.jit(both)(jnp.asarray(x), jnp.asarray(weight))
    assert distance("forward", output, expected.detach()) <= 1e-10
    assert distance("gradient", gradient, theirs) <= 1e-10


@settings(max_examples=10, deadline=None)
@given(resizes())
def test_a_constant_stays_and_sizes_are_right(case):
    shape, options = case
    wanted = options.get("size") or tuple(
        int(m * s) for m, s in zip(shape[2:], options["scale_factor"], strict=True)
    )
    out = F.interpolate(jnp.full(shape, 3.0), **options)
    assert out.shape == (2, 2, *wanted)
    assert np.allclose(out, 3.0, rtol=1e-6)


def test_corners():
    x = jnp.array([[[0.0, 1.0, 2.0]]])
    aligned = F.interpolate(x, 5, mode="linear", align_corners=True)
    assert np.allclose(aligned, [[[0, 0.5, 1, 1.5, 2]]])
    assert np.allclose(F.interpolate(x, 6, mode="linear")[0, 0, :3], [0, 0.25, 0.75])
    # The scale is 1 / scale_factor unless it is computed again from the sizes.
    given, again = (
        F.interpolate(x, scale_factor=1.4, mode="linear", recompute_scale_factor=r)
        for r in (False, True)
    )
    assert np.allclose(given[0, 0, 1], 1.5 / 1.4 - 0.5)
    assert np.allclose(again[0, 0, 1], 1.5 * 3 / 4 - 0.5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
def test_a_filter_leaves_an_axis_that_keeps_its_size_alone(mode):
    x = jnp.arange(15.0).reshape(1, 1, 3, 5) ** 2
    both = F.interpolate(x, scale_factor=(1.3, 0.5), mode=mode, antialias=True)
    one = F.interpolate(x[:, :, :1], scale_factor=(1.0, 0.5), mode=mode, antialias=True)
    assert both.shape == (1, 1, 3, 2)
    assert np.allclose(both[:, :, :1], one)


def test_nearest_takes_every_dtype_and_an_empty_batch():
    mask = jnp.array([[[True, False]]])
    assert F.interpolate(mask, scale_factor=2).tolist() == [[[True, True, False, False]]]
    assert F.interpolate(jnp.zeros((0, 2, 3, 3)), 5, mode="bilinear").shape == (0, 2, 5, 5)


X = jnp.zeros((1, 2, 3, 3))
BAD_CALLS = [
    (lambda: F.interpolate(X), "size None and scale_factor None; give exactly one"),
    (lambda: F.interpolate(X, 2, 2.0), "size 2 and scale_factor 2.0; give exactly one"),
    (lambda: F.interpolate(X, 2, mode="cubic"), "mode: 'cubic'; accepted are 'nearest'"),
    (lambda: F.interpolate(X, 2, mode="linear"), "mode 'linear' takes an input of 3 axes"),
    (lambda: F.interpolate(X[0, 0], 2), "takes an input of 3 or 4 or 5 axes"),
    (lambda: F.interpolate(X, (2, 2, 2)), r"size \(2, 2, 2\) for an input of shape"),
    (lambda: F.interpolate(X, scale_factor=(2.0,)), r"scale_factor \(2.0,\) for an input of shape"),
    (lambda: F.interpolate(X, 2, align_corners=True), "align_corners True with mode 'nearest'"),
    (
        lambda: F.interpolate(X, 2, recompute_scale_factor=True),
        "recompute_scale_factor with size 2",
    ),
    (lambda: F.interpolate(X, 0), r"to a spatial size of \(0, 0\)"),
    (lambda: F.interpolate(X, 2, antialias=True), "antialias with mode 'nearest'"),
    (lambda: F.interpolate(X, 2, mode="lanczos"), "'lanczos' with antialias False"),
    (
        lambda: F.interpolate(X, 2, mode="lanczos", align_corners=True, antialias=True),
        "align_corners True; accepted are",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_types():
    with pytest.raises(TypeError, match=r"size 2.5; accepted are whole numbers"):
        F.interpolate(X, 2.5)
    with pytest.raises(TypeError, match="dtype int32 with mode 'bilinear'"):
        F.interpolate(X.astype(int), 2, mode="bilinear")
    assert nn.Upsample(scale_factor=[2, 3]).scale_factor == (2.0, 3.0)
