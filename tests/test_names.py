"""jaxnet/_names.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import losses, nn, optim, train, weights
from jaxnet._names import (
    dotted,
    matches,
    named_leaves,
    named_modules,
    named_variables,
    select,
)
from jaxnet.random import Generator

G = Generator(0)


def linear():
    return nn.Linear(2, 2, rngs=G)


class Tied(nn.Module):
    """A block that is used twice, a weight that is borrowed, a list of flax's."""

    def __init__(self):
        self.second = linear()
        block = nn.Sequential(linear(), nn.BatchNorm1d(2))
        self.first = block
        self.again = block
        self.head = linear()
        self.head.weight = self.second.weight
        self.scales = nnx.List([nn.Parameter(jnp.ones(1)), nn.Parameter(jnp.ones(1))])


def test_leaves_are_named_by_their_keys_in_the_trees_order():
    state = train.create(linear(), optim.SGD(0.1, momentum=0.9))
    names = list(named_leaves(state))
    assert names[:3] == ["step", "params.bias", "params.weight"]
    assert "opt_state.slots.momentum_buffer.weight" in names
    assert [np.shape(x) for x in named_leaves(state).values()] == [
        np.shape(x) for x in jax.tree.leaves(state)
    ]
    assert list(named_leaves({"a": {"b": 1}, "a.b": 2})) == ["a.b", "a.b#2"]
    assert named_leaves([None, 1], is_leaf=lambda x: x is None) == {"0": None, "1": 1}
    assert named_leaves(3) == {"": 3}
    assert dotted(jax.tree_util.tree_leaves_with_path({"x": (0, [1])})[1][0]) == "x.1.0"


def test_every_walker_gives_the_same_names():
    """Modules, state_dict, training state, optimizer groups and penalties speak of one thing."""
    model = Tied()
    parameters = [name for name, _ in model.named_parameters()]
    assert parameters == [
        "second.weight", "second.bias", "first.0.weight", "first.0.bias", "first.1.weight",
        "first.1.bias", "head.bias", "scales.0", "scales.1",
    ]  # fmt: skip
    assert parameters == [name for name, _ in named_variables(model, nnx.Param)]
    _, params, buffers = train.split(model)
    assert sorted(params) == sorted(parameters)
    assert sorted(buffers) == sorted(name for name, _ in model.named_buffers())
    assert optim.SGD().partition(params) == [sorted(parameters)]
    aliases = {"head.weight", *(name for name in weights.state_dict(model) if "again" in name)}
    assert set(weights.state_dict(model)) - aliases == {*parameters, *buffers}
    for name in parameters:
        one = losses.l2_penalty(model, name)
        np.testing.assert_array_equal(one, losses.l2_penalty(params, name))


def test_a_models_arrays_come_before_its_childrens_and_parameters_first():
    class Own(nn.Module):
        def __init__(self):
            self.child = linear()
            self.register_buffer("mean", jnp.zeros(1))
            self.scale = nn.Parameter(jnp.ones(1))

    model = nn.Sequential(Own(), linear())
    names = [name for name, _ in named_variables(model, prefix="net")]
    assert names == [
        "net.0.scale", "net.0.mean", "net.0.child.weight", "net.0.child.bias",
        "net.1.weight", "net.1.bias",
    ]  # fmt: skip
    assert [name for name, _ in named_variables(model[0], recurse=False)] == ["scale", "mean"]


def test_modules_of_plain_flax_have_names_too():
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    assert [name for name, _ in named_modules(model)][-2:] == ["layers.0", "layers.1"]
    names = {name for name, _ in named_variables(model, nnx.Param)}
    assert names == {f"layers.{n}" for n in ("0.kernel", "0.bias", "1.scale", "1.bias")}
    assert losses.l1_penalty(model, "*.scale") == 3


NAMED = {"layer1.0.weight": 1, "layer1.0.bias": 2, "layer2.weight": 3, "fc.bias": 4}


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        (None, list(NAMED)),
        ("*", list(NAMED)),
        ("*.bias", ["layer1.0.bias", "fc.bias"]),
        ("layer1.*", ["layer1.0.weight", "layer1.0.bias"]),
        ("layer?.weight", ["layer2.weight"]),
        ("layer[12].*weight", ["layer1.0.weight", "layer2.weight"]),
        (["fc.*", "layer2.*"], ["layer2.weight", "fc.bias"]),
        (lambda name, leaf: leaf > 2, ["layer2.weight", "fc.bias"]),
    ],
)
def test_patterns_choose_in_the_given_order(where, chosen):
    assert list(select("where", where, NAMED)) == chosen
    if where is not None:
        assert [name for name, leaf in NAMED.items() if matches(where, name, leaf)] == chosen


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("fc.bios", ValueError, r"f: where: 'fc.bios' fits no name; near are \['fc.bias'"),
        (
            "bias",
            ValueError,
            r"'bias' fits no name; '\*.bias' does. A pattern has to fit the",
        ),
        ("layer2", ValueError, r"'layer2' fits no name; 'layer2.\*' does"),
        (["fc.*", "xyz"], ValueError, r"'xyz' fits no name; there are \['layer1.0.weight'"),
        (r"weight$", ValueError, r"'weight\$' fits no name; near are \['layer2.weight'"),
        (lambda name, leaf: False, ValueError, r"fits none of \['layer1.0.weight'"),
        (3, TypeError, r'f: where: 3; accepted are a pattern such as "\*.bias", a list'),
        ([3], TypeError, r"f: where: \[3\]; accepted"),
    ],
)
def test_a_pattern_that_fits_nothing_is_an_error_with_near_names(where, error, message):
    with pytest.raises(error, match=message):
        select("f: where", where, NAMED)


def test_a_choice_of_nothing_from_nothing_is_nothing():
    assert select("where", None, {}) == {}
    with pytest.raises(ValueError, match=r"'\*' fits no name; there are \[\]"):
        select("where", "*", {})
