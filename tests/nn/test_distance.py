"""jaxnet/nn/_distance.py and _products.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from tests.table import table

F = nn.functional

TestDistance = table("nn_distance")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.cosine_similarity(jnp.ones((2, 3)), jnp.ones((2, 4))), ValueError, "broadcast"),
        (lambda: F.cosine_similarity(jnp.ones(2), jnp.ones(2)), ValueError, r"dim 1; .*\(2,\)"),
        (lambda: F.cosine_similarity(jnp.arange(2), jnp.arange(2)), TypeError, "floating"),
        (lambda: F.normalize(jnp.ones(2)), ValueError, r"normalize: dim 1; .*\(2,\)"),
        (lambda: F.normalize(jnp.arange(2), dim=0), TypeError, "floating"),
        (lambda: F.pdist(jnp.ones((2, 3, 4))), ValueError, r"\(2, 3, 4\); accepted is \(N, M\)"),
        (lambda: F.pdist(jnp.ones((2, 3)), -1.0), ValueError, "p -1.0; accepted are numbers"),
        (lambda: F.conv_tbc(jnp.ones((4, 1, 2)), jnp.ones((3, 2, 5)), jnp.ones(4)), ValueError,
         r"bias \(4,\); accepted"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pdist_of_few_or_empty_rows():
    assert F.pdist(jnp.ones((1, 3))).shape == F.pdist(jnp.ones((0, 3))).shape == (0,)
    assert F.pdist(jnp.ones((3, 0))).tolist() == [0, 0, 0]


A3, B3 = np.random.RandomState(0).standard_normal((2, 2, 8, 4)).astype(np.float32)
ENDS = [3, 6]
PRODUCTS = {
    "3d by 3d": (A3, B3.swapaxes(1, 2), None),
    "2d by 3d": (A3[0], B3.swapaxes(1, 2), ENDS),
    "3d by 2d": (A3, B3[0].T, ENDS),
    "2d by 2d": (A3[0].T, B3[0], ENDS),
}


def by_groups(a, b, ends):
    """The definition, in float64, and the gradient of the sum of its squares."""
    a, b = np.float64(a), np.float64(b)
    if ends is None:
        return a @ b
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    if b.ndim == 3:
        rows = [a[i:j] @ b[g] for g, (i, j) in enumerate(spans)]
        return np.concatenate([*rows, np.zeros((len(a) - ends[-1], b.shape[2]))])
    if a.ndim == 3:
        return by_groups(b.T, a.swapaxes(1, 2), ends).T
    return np.stack([a[:, i:j] @ b[i:j] for i, j in spans])


@pytest.mark.parametrize(("a", "b", "ends"), PRODUCTS.values(), ids=PRODUCTS)
def test_grouped_mm_multiplies_group_by_group(a, b, ends):
    offs = None if ends is None else jnp.array(ends)
    call = jax.jit(lambda a, b: F.grouped_mm(a, b, offs=offs))
    expected = by_groups(a, b, ends)
    np.testing.assert_allclose(call(a, b), expected, rtol=1e-5, atol=1e-5)
    slope = jax.grad(lambda a: jnp.vdot(call(a, b), expected.astype(np.float32)))(a)
    nudged = by_groups(a + 1e-3 * np.cos(a), b, ends) - by_groups(a, b, ends)
    moved = np.vdot(nudged, expected)
    np.testing.assert_allclose(np.vdot(slope, 1e-3 * np.cos(a)), moved, rtol=1e-3)


@pytest.mark.torch
def test_grouped_mm_is_torchs():
    import torch

    # torch wants rows of a multiple of 16 bytes, and groups up to the end.
    offs = torch.tensor([4, 8], dtype=torch.int32)
    a, b = torch.tensor(A3[0]), torch.tensor(B3).mT
    theirs = torch.nn.functional.grouped_mm(a, b, offs=offs)
    ours = F.grouped_mm(A3[0], B3.swapaxes(1, 2), offs=jnp.array([4, 8]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "more", "message"),
    [
        ((2, 3, 4), (2, 5, 4), {}, "accepted are"),
        ((2, 3, 4), (3, 4, 5), {}, "have 2 and 3 groups"),
        ((3, 4), (2, 4, 5), {}, "with offs None"),
        ((2, 3, 4), (2, 4, 5), {"offs": jnp.array([1])}, "offs is for factors with two axes"),
        ((3, 4), (2, 4, 5), {"offs": jnp.array([1, 4])}, r"offs \[1, 4\]; .* from 0 to 3"),
        ((3, 4), (2, 4, 5), {"offs": jnp.array([3])}, r"offs of shape \(1,\); accepted is \(2,\)"),
        ((3, 4), (2, 4, 5), {"bias": jnp.ones(5)}, "bias and out_dtype"),
    ],
)
def test_grouped_mm_names_what_is_wrong(a, b, more, message):
    with pytest.raises(ValueError, match=message):
        F.grouped_mm(jnp.ones(a), jnp.ones(b), **more)
