"""Layers built from Generator(seed) start as torch's do after torch.manual_seed(seed).

Bit for bit where torch draws uniform numbers, to 4 ulp where it draws normal ones.
Small nets are compared for a hundred seeds, large ones for few, to spare time.
"""

import inspect
from functools import partial

import numpy as np
import pytest
from flax import nnx

from jaxnet import nn, weights
from jaxnet.random import Generator
from tests.table import MAKERS, golden_arrays


class Seeded:
    """jaxnet.nn with a generator given to every layer that asks for one."""

    def __init__(self, rngs):
        self.rngs = rngs

    def __getattr__(self, name):
        kind = getattr(nn, name)
        takes = "rngs" in inspect.signature(kind).parameters
        return partial(kind, rngs=self.rngs) if takes else kind

    def kaiming_normal_(self, tensor, **options):
        nn.init.kaiming_normal_(tensor, generator=self.rngs, **options)


def perceptron(*sizes):
    """Linear layers with Tanh between them."""

    def build(lib):
        layers = [lib.Linear(sizes[0], sizes[1])]
        for i in range(1, len(sizes) - 1):
            layers += [lib.Tanh(), lib.Linear(sizes[i], sizes[i + 1])]
        return lib.Sequential(*layers)

    return build


def images(first, second, hidden=32):
    """The documents' net for 32 x 32 images: two convolutions and two linear layers."""

    def build(lib):
        return lib.Sequential(
            lib.Conv2d(3, first, kernel_size=3, padding=1), lib.Tanh(), lib.MaxPool2d(2),
            lib.Conv2d(first, second, kernel_size=3, padding=1), lib.Tanh(), lib.MaxPool2d(2),
            lib.Flatten(), lib.Linear(second * 8 * 8, hidden), lib.Tanh(), lib.Linear(hidden, 2),
        )  # fmt: skip

    return build


def deep(lib):
    """Blocks that share one convolution, drawn twice: by default, then by He's rule."""
    first = lib.Conv2d(3, 8, kernel_size=3, padding=1)
    block = lib.Conv2d(8, 8, kernel_size=3, padding=1, bias=False)
    lib.kaiming_normal_(block.weight, nonlinearity="relu")
    return lib.Sequential(first, *(10 * [block]), lib.Linear(8 * 8 * 8, 32), lib.Linear(32, 2))


def mixed(lib):
    """Kinds in turn: an odd number of normals leaves one waiting in the generator."""
    return lib.ModuleDict(
        {
            "words": lib.Embedding(3, 5),
            "join": lib.Bilinear(3, 2, 4),
            "tags": lib.Embedding(2, 3, padding_idx=0),
            "table": lib.Embedding(5, 7, padding_idx=-1),
            "empty": lib.Linear(0, 2),
            "out": lib.Linear(3, 1, bias=False),
        }
    )


def rest(lib):
    """What is made of other layers, or draws its weights anew."""
    return lib.ModuleDict(
        {
            "bags": lib.EmbeddingBag(4, 5, padding_idx=1),
            "translate": lib.Transformer(4, 2, 1, 2, 6, batch_first=True),
            "rare": lib.AdaptiveLogSoftmaxWithLoss(4, 9, [2, 5], div_value=2.0),
            "scores": lib.LinearCrossEntropyLoss(3, 2, out_features=(2,), bias=True),
        }
    )


SMALL = {
    "line": perceptron(1, 1),
    "curve": perceptron(1, 13, 1),
    "curve with names": perceptron(1, 8, 1),
    "houses": perceptron(13, 1),
    "two outputs": perceptron(200, 2),
    "images": images(16, 8),
    "deep": deep,
    "mixed": mixed,
}
LARGE = {
    "rest": rest,
    "digits": perceptron(784, 256, 10),
    "digits, three layers": perceptron(784, 128, 64, 10),
    "clothes": perceptron(784, 512, 512, 10),
    "clothes, small": perceptron(784, 128, 10),
    "birds": perceptron(3072, 512, 2),
    "birds, four layers": perceptron(3072, 1024, 512, 128, 2),
    "images, wide": images(32, 16),
}
NORMAL = ("words.", "tags.", "table.", "bags.")
HE = [f"{i}.weight" for i in range(1, 11)]


def ours(build, seed):
    return weights.state_dict(build(Seeded(Generator(seed))))


def torchs(build, seed):
    import torch

    class Lib:
        kaiming_normal_ = staticmethod(torch.nn.init.kaiming_normal_)

        def __getattr__(self, name):
            return getattr(torch.nn, name)

    torch.manual_seed(seed)
    return {k: v.numpy() for k, v in build(Lib()).state_dict().items()}


def assert_same(net, values, expected):
    assert list(values) == list(expected)
    for name, theirs in expected.items():
        drawn_normal = name.startswith(NORMAL) or (net == "deep" and name in HE)
        allowed = 4 * np.spacing(np.abs(theirs)) if drawn_normal else 0
        assert values[name].shape == theirs.shape
        assert values[name].dtype == theirs.dtype
        assert (np.abs(values[name] - theirs) <= allowed).all(), f"{net}: {name}"


def ends(array):
    """The first three numbers and the last three, enough to see that draws are in step."""
    flat = array.reshape(-1)
    return np.concatenate([flat[:3], flat[-3:]])


def golden():
    return {
        f"{net}|{seed}|{name}": ends(value)
        for net, build in {**SMALL, **LARGE}.items()
        for seed in ((0, 1, 99) if net in SMALL else (0,))
        for name, value in torchs(build, seed).items()
    }


MAKERS["nn_default_init"] = golden


@pytest.mark.parametrize("net", [*SMALL, *LARGE])
def test_equals_golden(net):
    expected = golden_arrays("nn_default_init")
    for seed in (0, 1, 99) if net in SMALL else (0,):
        start = f"{net}|{seed}|"
        theirs = {k[len(start) :]: v for k, v in expected.items() if k.startswith(start)}
        values = ours({**SMALL, **LARGE}[net], seed)
        assert_same(net, {k: ends(v) for k, v in values.items()}, theirs)


@pytest.mark.torch
@pytest.mark.parametrize("net", [*SMALL, *LARGE])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_equals_torch(net):
    for seed in range(100) if net in SMALL else (0, 7):
        build = {**SMALL, **LARGE}[net]
        assert_same(net, ours(build, seed), torchs(build, seed))


@pytest.mark.slow
@pytest.mark.torch
@pytest.mark.parametrize("net", LARGE)
def test_large_nets_equal_torch_for_every_seed(net):
    for seed in range(100):
        assert_same(net, ours(LARGE[net], seed), torchs(LARGE[net], seed))


@pytest.mark.parametrize("rngs", [Generator(3), nnx.Rngs(3)], ids=["generator", "rngs"])
def test_bounds_are_not_flaxs(rngs):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias; flax: lecun_normal and zeros."""
    bound = 100**-0.5
    for layer in (nn.Linear(100, 300, rngs=rngs), nn.Conv2d(4, 300, 5, rngs=rngs)):
        for values in (np.asarray(layer.weight[...]), np.asarray(layer.bias[...])):
            assert np.abs(values).max() <= bound * (1 + 1e-6)
            assert np.abs(values).max() > 0.97 * bound
            np.testing.assert_allclose(values.std(), bound / 3**0.5, rtol=0.1)


def test_no_other_source_of_numbers():
    with pytest.raises(TypeError, match="int is no source of random numbers"):
        nn.Linear(2, 2, rngs=0)
