"""jaxnet/nn/_conv.py and jaxnet/nn/_correlation.py"""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnet import nn
from jaxnet.backend import arithmetic_form
from jaxnet.nn._correlation import correlate, spread
from jaxnet.random import Generator
from tests.table import table
from tests.tolerances import distance, tolerance

F = nn.functional

TestConv = table("nn_conv")

# x, w, stride, pads, dilation, groups: plain, strided past the edge, dilated with
# uneven pads, depthwise, few channels a group, many channels a group, 1d, 3d
FORMS = [
    ((2, 3, 6, 5), (4, 3, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((2, 3, 6, 7), (4, 3, 2, 1), (3, 2), ((0, 0), (1, 1)), (1, 1), 1),
    ((1, 2, 7, 6), (2, 2, 2, 3), (1, 2), ((1, 2), (0, 1)), (3, 2), 1),
    ((2, 4, 6, 5), (4, 1, 3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), 4),
    ((2, 4, 6, 5), (6, 2, 3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), 2),
    ((2, 16, 5, 4), (4, 8, 2, 2), (2, 1), ((1, 0), (0, 1)), (1, 1), 2),
    ((2, 3, 8), (2, 3, 3), (2,), ((1, 1),), (1,), 1),
    ((1, 2, 4, 3, 4), (2, 2, 2, 2, 2), (2, 1, 1), ((1, 1), (0, 0), (1, 1)), (1, 1, 2), 1),
]


def _random(*shapes):
    rng = np.random.RandomState(0)
    return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


@pytest.mark.parametrize(("x", "w", "stride", "pads", "dilation", "groups"), FORMS)
def test_both_forms_agree(x, w, stride, pads, dilation, groups):
    low = tuple(p for p, _ in pads)

    def results(form):
        def both(x, w, dy):
            y, back = jax.vjp(lambda x, w: correlate(x, w, stride, pads, dilation, groups), x, w)
            again, back_again = jax.vjp(
                lambda y, w: spread(y, w, x.shape[2:], stride, low, dilation, groups), dy, w
            )
            return y, back(dy), again, back_again(x)

        with arithmetic_form(form):
            return jax.tree.leaves(jax.jit(both)(*arrays))

    with jax.enable_x64(True):
        arrays = _random(x, w)
        with arithmetic_form("native"):
            shape = jax.eval_shape(
                lambda x, w: correlate(x, w, stride, pads, dilation, groups), *arrays
            ).shape
        arrays += [jnp.asarray(np.random.RandomState(1).standard_normal(shape))]
        for loop, native in zip(results("loop"), results("native"), strict=True):
            assert distance("gradient", loop, native) <= tolerance("gradient", "float64")


@pytest.mark.parametrize("groups", [1, 2])
def test_every_convolution_of_a_training_step_has_the_numbers_that_xla_runs_fast(groups):
    x, w = _random((2, 16, 5, 5), (4, 16 // groups, 3, 3))

    def step(w, _):
        def loss(x, w):
            y = F.conv2d(x, w, padding=1, stride=2, groups=groups)
            return (F.conv_transpose2d(y, w, stride=2, padding=1, groups=groups) ** 2).sum()

        dx, dw = jax.grad(loss, (0, 1))(x, w)
        return w - dw, dx.sum()

    with arithmetic_form("loop"):
        text = jax.jit(lambda w: jax.lax.scan(step, w, length=2)).lower(w).as_text()
    found = re.findall(r"stablehlo.convolution.* dim_numbers = (.*), window", text)
    assert found == ["[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"] * 6 * groups


def test_the_gradient_of_an_input_that_is_not_differentiated_costs_nothing():
    x, w = _random((2, 3, 5, 5), (4, 3, 3, 3))
    gradient = jax.jit(jax.grad(lambda w: (F.conv2d(x, w) ** 2).sum()))
    with arithmetic_form("loop"):
        text = gradient.lower(w).compile().as_text()
    assert text.count(" convolution(") == 2  # forward and the weight's


def test_second_derivative():
    def penalty(x, w):
        slopes = jax.grad(lambda x: jnp.sum(jnp.tanh(F.conv2d(x, w, padding=1, stride=2))))(x)
        return (slopes**2).sum()

    with jax.enable_x64(True):
        x, w = _random((1, 2, 5, 4), (3, 2, 3, 3))
        found = {}
        for form in ("loop", "native"):
            with arithmetic_form(form):
                found[form] = jax.jit(jax.grad(lambda x, w: penalty(x, w), (0, 1)))(x, w)
        for a, b in zip(found["loop"], found["native"], strict=True):
            assert distance("gradient", a, b) <= tolerance("gradient", "float64")


def test_vmap():
    x, w = _random((3, 2, 2, 5, 5), (3, 4, 2, 3, 3))
    gradient = jax.grad(lambda w, x: (F.conv2d(x, w) ** 2).sum())
    together = jax.jit(jax.vmap(gradient))(w, x)
    alone = jax.lax.map(lambda pair: gradient(*pair), (w, x))
    assert distance("gradient", together, alone) <= tolerance("gradient", "float32")


def test_same_puts_the_odd_zero_behind():
    x, w = _random((1, 2, 5, 6), (3, 2, 4, 3))
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 2), (2, 2)))
    assert np.array_equal(
        F.conv2d(x, w, padding="same", dilation=(1, 2)), F.conv2d(padded, w, dilation=(1, 2))
    )


@st.composite
def convolutions(draw):
    n = draw(st.integers(1, 2))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(n))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    window, dilation = numbers(1, 3), numbers(1, 2)
    options = {"stride": numbers(1, 3), "dilation": dilation, "groups": groups}
    options["padding"] = numbers(0, 2)
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    sizes = tuple(span + draw(st.integers(0, 3)) for span in spans)
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    batch = draw(st.sampled_from([(), (0,), (1,), (2,)]))
    seed = draw(st.integers(0, 2**16))
    return n, channels, window, options, (*batch, channels[0], *sizes), seed


def _arrays(channels, window, options, shape, seed):
    rng = np.random.RandomState(seed)
    weight = rng.standard_normal((channels[1], channels[0] // options["groups"], *window))
    return rng.standard_normal(shape), weight, rng.standard_normal(channels[1])


def _by_loops(x, w, b, stride, padding, dilation, groups):
    """Convolution as its definition says it."""
    n = w.ndim - 2
    x = np.pad(x, [(0, 0)] * 2 + [(p, p) for p in padding])
    spans = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilation, strict=True)]
    counts = [(m - s) // t + 1 for m, s, t in zip(x.shape[2:], spans, stride, strict=True)]
    y = np.zeros((len(x), len(w), *counts))
    for o, place in itertools.product(range(len(w)), itertools.product(*map(range, counts))):
        axes = zip(place, stride, spans, dilation, strict=True)
        at = [slice(i * t, i * t + s, d) for i, t, s, d in axes]
        c = w.shape[1] * (o // (len(w) // groups))
        seen = x[(slice(None), slice(c, c + w.shape[1]), *at)]
        y[(slice(None), o, *place)] = (seen * w[o]).sum(tuple(range(1, n + 2))) + b[o]
    return y


@settings(max_examples=10, deadline=None)
@given(convolutions())
def test_equals_its_definition(case):
    n, channels, window, options, shape, seed = case
    x, w, b = _arrays(channels, window, options, shape, seed)
    with jax.enable_x64(True):
        ours = getattr(F, f"conv{n}d")(jnp.asarray(x), jnp.asarray(w), jnp.asarray(b), **options)
    theirs = _by_loops(x if x.ndim == n + 2 else x[None], w, b, **options)
    assert distance("forward", ours, theirs if x.ndim == n + 2 else theirs[0]) <= 1e-12


@pytest.mark.torch
@settings(max_examples=6, deadline=None)
@given(convolutions(), st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
def test_equals_torch(case, padding_mode):
    import torch

    n, channels, window, options, shape, _ = case
    theirs = getattr(torch.nn, f"Conv{n}d")(*channels, window, **options, padding_mode=padding_mode)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with jax.enable_x64(True):
        ours = getattr(nn, f"Conv{n}d")(
            *channels,
            window,
            **options,
            padding_mode=padding_mode,
            rngs=Generator(0),
            dtype="float64",
        )
        nn_weights = {k: v.double() for k, v in theirs.state_dict().items()}
        for name, parameter in ours.named_parameters():
            parameter[...] = jnp.asarray(nn_weights[name].numpy())
        given_x = jnp.asarray(x.detach().numpy())
        try:
            expected = theirs.double()(x)
        except RuntimeError:
            with pytest.raises(ValueError, match="padding"):
                ours(given_x)
            return
        expected.sum().backward()
        output, gradient = jax.jit(_output_and_gradient(ours))(given_x)
    assert distance("forward", output, expected.detach()) <= 1e-10
    assert distance("gradient", gradient, x.grad) <= 1e-10


def _output_and_gradient(function):
    def both(x):
        output, back = jax.vjp(function, x)
        return output, back(jnp.ones_like(output))[0]

    return both


INITIAL = [
    ("Conv1d", (3, 4, 5)),
    ("Conv2d", (6, 4, (3, 2), 1, 0, 1, 2)),
    ("Conv3d", (2, 3, 2)),
    ("ConvTranspose1d", (3, 4, 5)),
    ("ConvTranspose2d", (4, 6, 3, 1, 0, 0, 2)),
    ("ConvTranspose3d", (2, 3, 2)),
]


@pytest.mark.parametrize(("name", "args"), INITIAL)
def test_initial_weights_keep_torchs_bound(name, args):
    layer = getattr(nn, name)(*args, rngs=Generator(3))
    bound = 1 / np.sqrt(np.prod(layer.weight.shape[1:]))  # torch's fan_in
    for parameter in (layer.weight[...], layer.bias[...]):
        assert 0.5 * bound < np.abs(parameter).max() <= bound * (1 + 1e-6)


@pytest.mark.torch
@pytest.mark.parametrize(("name", "args"), INITIAL)
def test_initial_weights_are_torchs(name, args):
    import torch

    layer = getattr(nn, name)(*args, rngs=Generator(3))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = getattr(torch.nn, name)(*args).state_dict()
    assert np.array_equal(layer.weight[...], theirs["weight"])
    assert np.array_equal(layer.bias[...], theirs["bias"])


X = jnp.zeros((2, 4, 6, 6))
W = jnp.zeros((4, 4, 3, 3))
BAD_CALLS = [
    (lambda: F.conv2d(X[0, 0], W), r"conv2d: an input of shape \(6, 6\); accepted are"),
    (lambda: F.conv2d(X, W[0]), r"conv2d: a weight of shape \(4, 3, 3\)"),
    (lambda: F.conv2d(X[:, :3], W), "expects 4 input channels; .* has 3"),
    (lambda: F.conv2d(X, W, groups=3), "groups 3 does not divide the 4 output channels"),
    (lambda: F.conv2d(X, W, jnp.zeros(3)), r"a bias of shape \(3,\); accepted is \(4,\)"),
    (lambda: F.conv2d(X, W, stride=0), "stride 0; the least that is accepted is 1"),
    (lambda: F.conv2d(X, W, stride=(1, 2, 1)), r"stride \(1, 2, 1\); accepted are a whole"),
    (lambda: F.conv2d(X, W, stride=1.5), "stride 1.5; accepted are a whole number"),
    (lambda: F.conv2d(X, W, padding=-1), "padding -1; the least that is accepted is 0"),
    (lambda: F.conv2d(X, W, padding="full"), "padding 'full'; accepted words"),
    (lambda: F.conv2d(X, W, padding="same", stride=2), r"padding 'same' with stride \(2, 2\)"),
    (lambda: F.conv2d(X[:, :, :2], W), r"the window of \(3, 3\) .* is larger than the input"),
    (lambda: nn.Conv2d(4, 4, 0, rngs=Generator(0)), "Conv2d: kernel_size 0; the least"),
    (lambda: nn.Conv2d(4, 6, 3, groups=4, rngs=Generator(0)), "groups 4 must be"),
    (lambda: nn.Conv2d(4, 4, 3, padding_mode="mirror", rngs=Generator(0)), "mode: 'mirror'"),
    (lambda: nn.Conv1d(4, 4, 3, rngs=Generator(0))(X), r"Conv1d\(4, 4.*shape \(N, 4, L\) or"),
    (
        lambda: nn.Conv2d(4, 4, 3, padding=6, padding_mode="reflect", rngs=Generator(0))(X),
        "padding 6 is too large for a side of 6",
    ),
    (
        lambda: nn.Conv2d(4, 4, 3, padding=7, padding_mode="circular", rngs=Generator(0))(X),
        "padding 7 is too large for a side of 6",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_dtypes_must_match():
    with pytest.raises(TypeError, match="conv2d: dtypes float32, bfloat16; input, weight"):
        F.conv2d(X, W.astype(jnp.bfloat16))
    with pytest.raises(TypeError, match="conv2d: dtypes int32, int32"):
        F.conv2d(X.astype(int), W.astype(int))
