"""The operations that a recording computes in another way in float64 give torch's numbers."""

import pytest

from jaxnet.parity._wide_kernels import kernels

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")
aten = torch.ops.aten

# The number of images, and stride, padding and dilation.
CONVOLUTIONS = {
    "plain": (3, 1, 0, 1),
    "stride and padding": (3, 2, 1, 1),
    "dilation": (2, 1, 1, 2),
    "no image": (0, 1, 0, 1),
}


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.is_contiguous()
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("wanted", [(True, True, True), (False, True, False)])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_and_its_gradients(name, wanted):
    count, *options = CONVOLUTIONS[name]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight = draw(count, 2, 5, 4), draw(3, 2, 3, 2)
    bias = draw(3) if wanted[2] else None
    rest = (*([n, n] for n in options), False, [0, 0], 1)
    own = kernels(torch)
    output = aten.convolution.default(x, weight, bias, *rest)
    assert output.shape[2:].numel() <= 16  # more positions are left to torch
    assert_equal([own["convolution"](x, weight, bias, *rest)], [output])
    given = draw(*output.shape), x, weight, [3] if wanted[2] else None, *rest, [*wanted]
    assert_equal(own["convolution_backward"](*given), aten.convolution_backward.default(*given))


@pytest.mark.parametrize("shape", [(3, 9, 6, 5), (3, 2, 6, 5), (0, 9, 6, 5)])
def test_max_pooling(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = x, [3, 2], [2, 2], [1, 0]
    found = kernels(torch)["max_pool2d_with_indices"](*given)
    assert_equal(found, aten.max_pool2d_with_indices.default(*given))
