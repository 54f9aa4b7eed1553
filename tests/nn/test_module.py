"""jaxnet/nn/_module.py"""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import nn, optim, train, weights
from jaxnet.random import Generator

G = Generator(0)


def linear(n=1):
    return nn.Linear(n, n, rngs=G)


class Body(nn.Module):
    def __init__(self):
        self.second = None
        self.register_buffer("mean", jnp.zeros(3))
        self.register_buffer("scratch", jnp.zeros(2), persistent=False)
        self.first = linear(2)
        self.register_parameter("shift", None)
        self.scale = nn.Parameter(jnp.ones(4))
        self.shift = nn.Parameter(jnp.ones(5))
        self.second = linear(3)


def test_names_come_in_torchs_order():
    """Own parameters, own buffers, then children; a place that was kept is kept."""
    names = ["shift", "scale", "mean", "first.weight", "first.bias", "second.weight", "second.bias"]
    body = Body()
    for module in (body, train.merge(*train.split(body)), copy.deepcopy(body), nnx.clone(body)):
        assert list(weights.state_dict(module)) == names
        assert [name for name, _ in module.named_buffers()] == ["mean", "scratch"]
        assert [name for name, _ in module.named_children()] == ["first", "second"]


def test_a_buffer_that_does_not_persist_is_no_part_of_the_state_dict():
    body = Body()
    state = weights.state_dict(body)
    with pytest.raises(ValueError, match="scratch: unexpected"):
        weights.load_state_dict(body, {**state, "scratch": np.ones(2)})
    _, params, buffers = train.split(body)
    assert "scratch" in buffers
    assert "scratch" not in params
    body.register_buffer("scratch", jnp.ones(2))
    assert "scratch" in weights.state_dict(body)


def test_an_array_takes_a_buffers_place_but_not_a_parameters():
    """A plain array would leave training and the state_dict without a word."""
    body = Body()
    body.scratch = jnp.ones(7)
    assert isinstance(body.scratch, nn.Buffer)
    assert "scratch" not in weights.state_dict(body)
    with pytest.raises(TypeError, match=r"Body.scale: an array cannot take the place of a Param"):
        body.scale = jnp.ones(4)
    with pytest.raises(TypeError, match=r"Body.layers: a plain list hides.*use nn.ModuleList"):
        body.layers = [linear()]


def test_a_module_can_be_taken_out_and_put_back():
    body = Body()
    body.first = None
    structure, params, _ = train.split(body)
    hash(structure)
    assert sorted(params) == ["scale", "second.bias", "second.weight", "shift"]
    body.first = linear(2)
    del body.second
    assert [name for name, _ in body.named_children()] == ["first"]
    assert train.merge(*train.split(body)).first.in_features == 2


@pytest.mark.parametrize(
    ("register", "error", "message"),
    [
        (lambda m: m.register_parameter("a.b", None), KeyError, "must not be empty or hold a dot"),
        (lambda m: m.register_buffer("", None), KeyError, "must not be empty"),
        (lambda m: m.register_buffer(3, None), TypeError, "3 is not a string"),
        (lambda m: m.register_parameter("train", None), KeyError, "already has an attribute"),
        (lambda m: m.register_buffer("scale", jnp.ones(1)), KeyError, "already has an attribute"),
        (lambda m: m.register_parameter("w", jnp.ones(1)), TypeError, "is no Parameter"),
        (lambda m: m.register_buffer("w", [1.0]), TypeError, "list is no array"),
        (lambda m: nn.Parameter([1.0]), TypeError, r"Parameter: list is .* jnp.asarray\(value"),
        (lambda m: nn.Buffer(1.0), TypeError, "Buffer: float is no array"),
        (lambda m: m.add_module("w", jnp.tanh), TypeError, "not a module"),
        (lambda m: m.train("yes"), ValueError, "mode: 'yes'; accepted are True and False"),
    ],
)
def test_registering_says_what_it_takes(register, error, message):
    with pytest.raises(error, match=message):
        register(Body())


def test_members_by_dotted_name():
    net = nn.Sequential(Body(), nn.Tanh())
    assert net.get_submodule("") is net
    assert net.get_submodule("0.first") is net[0].first
    assert net.get_parameter("0.first.weight") is net[0].first.weight
    assert net.get_buffer("0.mean") is net[0].mean
    with pytest.raises(AttributeError, match=r"'0.third': Body has no Module 'third'; it has fir"):
        net.get_submodule("0.third")
    with pytest.raises(AttributeError, match="Body has no Param 'mean'; it has shift, scale"):
        net.get_parameter("0.mean")
    with pytest.raises(AttributeError, match="Tanh has no Buffer 'mean'; it has none"):
        net.get_buffer("1.mean")


def test_apply_goes_from_the_leaves_up():
    shared = linear()
    net = nn.Sequential(nn.Sequential(shared, shared), nn.Sequential(shared, nn.Tanh()))
    seen = []
    assert net.apply(seen.append) is net
    assert [type(m).__name__ for m in seen] == [
        "Linear", "Sequential", "Linear", "Tanh", "Sequential", "Sequential",
    ]  # fmt: skip


def test_modules_with_and_without_repeats():
    shared = linear()
    net = nn.Sequential(shared, nn.Sequential(shared))
    assert [name for name, _ in net.named_modules()] == ["", "0", "1"]
    assert len(list(net.modules(remove_duplicate=False))) == 4
    names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    assert names == ["0.weight", "0.bias", "1.0.weight", "1.0.bias"]


def test_train_and_eval_reach_every_module():
    net = nn.Sequential(Body(), nn.ModuleList([nn.Tanh()]))
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    assert all(module.training for module in net.train().modules())


class Two(nn.Module):
    """Prints extra text over several lines."""

    def __init__(self, *children):
        for i, child in enumerate(children):
            setattr(self, f"part{i}", child)

    def extra_repr(self):
        return "one\ntwo"


PRINTED = (
    "Sequential(\n  (0): Two(\n    one\n    two\n    (part0): Tanh()\n"
    "    (part1): Sequential()\n  )\n  (1): Two(\n    one\n    two\n  )\n)"
)


def test_printed_as_torch_prints():
    assert repr(nn.Sequential(Two(nn.Tanh(), nn.Sequential()), Two())) == PRINTED


@pytest.mark.torch
def test_torch_prints_so():
    from torch import nn as theirs

    two = type("Two", (theirs.Module,), {"extra_repr": Two.extra_repr})
    first = two()
    first.part0, first.part1 = theirs.Tanh(), theirs.Sequential()
    assert repr(theirs.Sequential(first, two())) == PRINTED


@pytest.mark.parametrize("dtype", [jnp.float64, "float64", np.dtype("float64"), np.float64])
@pytest.mark.parametrize("make", [nn.Linear, nn.Embedding, nn.LSTM])
def test_float64_without_x64_is_refused(make, dtype):
    with pytest.raises(ValueError, match=r"dtype: float64, of which JAX would make 32.*enable_x64"):
        make(3, 2, rngs=Generator(0), dtype=dtype)
    with pytest.raises(ValueError, match=r"to: float64, of which JAX would make 32 bits"):
        nn.BatchNorm1d(2).double()


@pytest.mark.parametrize("kind", ["Linear", "Embedding", "LSTM", "BatchNorm1d"])
def test_float64_draws_and_casts_are_torchs(kind):
    torch = pytest.importorskip("torch")
    sizes = (4,) if kind == "BatchNorm1d" else (4, 3)
    with jax.enable_x64(True):
        for cast in (False, True):
            options = {} if cast else {"dtype": jnp.float64}
            ours = getattr(nn, kind)(*sizes, rngs=Generator(0), **options)
            torch.manual_seed(0)
            theirs = getattr(torch.nn, kind)(*sizes, **({} if cast else {"dtype": torch.float64}))
            if cast:
                assert ours.double() is ours
                theirs.double()
            for name, value in theirs.state_dict().items():
                own = dict(weights.state_dict(ours))[name]
                assert str(own.dtype) == str(value.dtype).removeprefix("torch.")
                np.testing.assert_array_equal(own, value.numpy())


def test_a_plain_flax_module_around_jaxnets_layers_has_their_modes():
    """Its dropout would go on dropping, and its batch norm learning, in an evaluation."""

    class Plain(nnx.Module):
        def __init__(self, rngs):
            self.layers = nn.Sequential(nn.Linear(3, 8, rngs=rngs), nn.BatchNorm1d(8))
            self.dropout = nn.Dropout(0.5)
            self.flax = nnx.Dropout(0.5)

        def __call__(self, x):
            return self.dropout(self.layers(x))

    plain = Plain(Generator(0))
    parts = [plain.layers, plain.layers[1], plain.dropout]
    for mode, change in ((False, plain.eval), (True, plain.train)):
        change()
        assert [part.training for part in parts] == [mode] * 3
        assert [part.deterministic for part in parts] == [not mode] * 3
        assert plain.flax.deterministic is not mode
    outer = nn.Sequential(plain).eval()
    assert not any(part.training for part in parts)
    assert outer.train()
    assert all(part.training for part in parts)
    state = train.create(plain, optim.SGD(lr=0.1))
    x = Generator(1).randn(16, 3)
    first, second = (train.predict(state, x, batch_size=n, quiet=True) for n in (16, 4))
    np.testing.assert_allclose(first, second, rtol=1e-6)
