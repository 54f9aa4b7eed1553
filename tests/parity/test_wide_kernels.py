"""The operations that a recording computes in another way in float64 give torch's numbers."""

import pytest

from jaxnet.parity._twin import Twins
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


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("train", [True, False])  # what was computed within is kept, or not
@pytest.mark.parametrize("used", [(0,), (1, 2), (0, 1, 2)])
def test_an_lstm_and_its_gradients(used, train, reverse, biases):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    x, h, c = draw(5, 3, 4), draw(1, 3, 2), draw(1, 3, 2)
    weights = draw(8, 4), draw(8, 2), draw(8), draw(8)
    given = weights if biases else weights[:2]
    flipped = x.flip(0) if reverse else x
    output, *last = torch.lstm(flipped, (h, c), given, biases, 1, 0.0, True, False, False)
    expected = output.flip(0) if reverse else output, *last
    zeros = [torch.zeros(8, dtype=torch.float64)] * (0 if biases else 2)
    inputs = x, *given, *zeros, h, c
    layer = kernels(torch)
    found = layer["mkldnn_rnn_layer"](
        *(each.detach() for each in inputs), reverse, [], 2, 2, 1, biases, False, False, train
    )
    assert_equal(found[:3], [each.detach() for each in expected])

    slopes = [draw(*each.shape).detach() for each in expected]
    asked = x, *given, h, c
    ends = [expected[n] for n in used]
    gradients = [*torch.autograd.grad(ends, asked, [slopes[n] for n in used], allow_unused=True)]
    pairs = zip(asked, gradients, strict=True)
    gradients = [torch.zeros_like(a) if g is None else g for a, g in pairs]
    own = layer["mkldnn_rnn_layer_backward"](
        *(each.detach() for each in inputs),
        *found[:3],
        *(slopes[n] if n in used else None for n in range(3)),
        *(reverse, 2, 2, 1, biases, True, False, [], False, torch.empty(0)),
    )
    own = own if biases else (*own[:3], *own[5:])
    assert_equal([each.contiguous() for each in own], gradients)


def test_what_an_lstm_keeps_is_forgotten_with_all_twins():
    twins = Twins()
    shapes = (5, 3, 4), (8, 4), (8, 2), (8,), (8,), (1, 3, 2), (1, 3, 2)
    given = [torch.randn(*shape, dtype=torch.float64) for shape in shapes]
    layer = twins._special["mkldnn_rnn_layer"]
    output = layer(*given, False, [], 2, 2, 1, True, False, False, True)[0]
    assert layer.__self__._within(output) is not None
    twins.clear()
    assert layer.__self__._within(output) is None
