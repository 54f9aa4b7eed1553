"""jaxnet/nn/_grid_sample.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from tests.table import table
from tests.tolerances import distance

F = nn.functional

TestGridSample = table("nn_grid_sample")

X = jnp.arange(1.0, 7).reshape(1, 1, 2, 3)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_grid_of_the_identity_gives_the_image(align_corners):
    grid = F.affine_grid(jnp.array([[[1.0, 0, 0], [0, 1, 0]]]), X.shape, align_corners)
    for mode in ("bilinear", "nearest", "bicubic"):
        again = F.grid_sample(X, grid, mode, "border", align_corners)
        assert np.allclose(again, X, atol=1e-5)


@pytest.mark.torch
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_the_gradients_at_edges_and_centres_are_torchs(padding_mode, align_corners):
    """Positions on the edges, on the centres of pixels, and far outside."""
    import torch

    x = np.random.RandomState(0).standard_normal((1, 1, 2, 4))
    steps = np.arange(-5, 5.1, 0.25)
    grid = np.stack([steps, 0 * steps], -1)[None, None]
    there = torch.tensor(grid, requires_grad=True)
    how = "bilinear", padding_mode, align_corners
    expected = torch.nn.functional.grid_sample(torch.tensor(x), there, *how)
    expected.sum().backward()
    with jax.enable_x64(True):
        output, back = jax.vjp(lambda g: F.grid_sample(jnp.asarray(x), g, *how), jnp.asarray(grid))
        (gradient,) = back(jnp.ones_like(output))
    assert distance("forward", output, expected.detach()) <= 1e-10
    assert distance("gradient", gradient, there.grad) <= 1e-10


def test_a_nan_shows_and_infinity_is_far_away():
    for padding_mode in ("zeros", "border", "reflection"):
        for mode in ("bilinear", "nearest", "bicubic"):
            read = F.grid_sample(X, jnp.array([[[[jnp.nan, 0], [0, 0]]]]), mode, padding_mode)
            assert np.isnan(read.ravel()).tolist() == [True, False]
    infinite = jnp.array([[[[jnp.inf, -1]]]])
    assert F.grid_sample(X, infinite, "nearest").item() == 0
    assert F.grid_sample(X, infinite, "nearest", "border").item() == 3


def test_half_precision_reads_at_float32_positions():
    grid = F.affine_grid(jnp.array([[[1.0, 0, 0], [0, 1, 0]]], jnp.bfloat16), X.shape)
    read = F.grid_sample(X.astype(jnp.bfloat16), grid)
    assert read.dtype == jnp.bfloat16
    assert np.allclose(read, X, atol=0.05)


GRID = jnp.zeros((1, 2, 2, 2))
BAD_CALLS = [
    (lambda: F.grid_sample(X, GRID, "cubic"), "grid_sample: mode: 'cubic'; accepted are"),
    (lambda: F.grid_sample(X, GRID, padding_mode="circular"), "padding_mode: 'circular'"),
    (lambda: F.grid_sample(X, GRID[..., :1]), r"a grid of shape \(1, 2, 2, 1\); accepted are"),
    (lambda: F.grid_sample(X[0], GRID), r"an input of shape \(1, 2, 3\)"),
    (lambda: F.grid_sample(X[:0], GRID), "the number of images differs"),
    (lambda: F.grid_sample(X[:, :, :0], GRID), "nothing can be read from an input of shape"),
    (lambda: F.grid_sample(X[None], jnp.zeros((1, 1, 1, 1, 3)), "bicubic"), "takes images"),
    (lambda: F.affine_grid(jnp.zeros((1, 2, 3)), (1, 1, 2)), r"size \(1, 1, 2\); accepted are"),
    (lambda: F.affine_grid(jnp.zeros((1, 2, 3)), (1, 0, 2, 2)), "with positive numbers"),
    (lambda: F.affine_grid(jnp.zeros((2, 2, 3)), (1, 1, 2, 2)), r"accepted is \(1, 2, 3\)"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_dtypes():
    with pytest.raises(TypeError, match="dtypes float32 and int32; input and grid must share"):
        F.grid_sample(X, GRID.astype(int))
    with pytest.raises(TypeError, match="theta of int32; accepted are floats"):
        F.affine_grid(jnp.zeros((1, 2, 3), int), (1, 1, 2, 2))
