"""jaxnet/nn/_container.py"""

from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, train, weights
from jaxnet.random import Generator


def linear(n):
    """A square layer; its size tells it apart from others."""
    return nn.Linear(n, n, bias=False, rngs=Generator(n))


def numbered(lib, make, n=4):
    return lib.Sequential(*(make(i) for i in range(1, n + 1)))


def named(lib, make):
    return lib.Sequential(OrderedDict(a=make(1), b=make(2), c=make(3)))


def listed(lib, make):
    return lib.ModuleList([make(1), make(2), make(3)])


def keyed(lib, make):
    return lib.ModuleDict({"z": make(1), "a": make(2), "m": make(3)})


def shared(lib, make):
    block = make(1)
    return lib.Sequential(make(2), *(3 * [block]), block)


def changed(change):
    """The container after a change in place."""

    def build(start):
        def run(lib, make):
            container = start(lib, make)
            change(container, make)
            return container

        return run

    return build


def delete(index):
    def change(container, make):
        del container[index]

    return changed(change)


def assign(index):
    def change(container, make):
        container[index] = make(9)

    return changed(change)


def call(method, *sizes, at=()):
    return changed(lambda c, make: getattr(c, method)(*at, *(make(n) for n in sizes)))


def times(container, make):
    container *= 2


# What each builds: the names and sizes of the weights in its state_dict.
BUILDS = {
    "numbered": (numbered, "0:1 1:2 2:3 3:4"),
    "named": (named, "a:1 b:2 c:3"),
    "twelve": (lambda lib, make: numbered(lib, make, 12),
               "0:1 1:2 2:3 3:4 4:5 5:6 6:7 7:8 8:9 9:10 10:11 11:12"),
    "shared": (shared, "0:2 1:1 2:1 3:1 4:1"),
    "slice": (lambda lib, make: numbered(lib, make)[1:3], "1:2 2:3"),
    "slice of names": (lambda lib, make: named(lib, make)[::2], "a:1 c:3"),
    "append": (call("append", 9)(numbered), "0:1 1:2 2:3 3:4 4:9"),
    "append to names": (call("append", 9)(named), "a:1 b:2 c:3 3:9"),
    "extend": (changed(lambda c, make: c.extend([make(8), make(9)]))(numbered),
               "0:1 1:2 2:3 3:4 4:8 5:9"),
    "extend by itself": (changed(lambda c, make: c.extend(list(c)))(named),
                         "a:1 b:2 c:3 3:1 4:2 5:3"),
    "insert": (call("insert", 9, at=(1,))(numbered), "0:1 1:9 2:2 3:3 4:4"),
    "insert at the end": (call("insert", 9, at=(4,))(numbered), "0:1 1:2 2:3 3:4 4:9"),
    "insert from the end": (call("insert", 9, at=(-1,))(numbered), "0:1 1:2 2:3 3:9 4:4"),
    "assign": (assign(-1)(numbered), "0:1 1:2 2:3 3:9"),
    "assign to a name": (assign(1)(named), "a:1 b:9 c:3"),
    "delete": (delete(1)(numbered), "0:1 1:3 2:4"),
    "delete a slice": (delete(slice(0, 3, 2))(numbered), "0:2 1:4"),
    "delete from names": (delete(-2)(named), "0:1 1:3"),
    "pop": (changed(lambda c, make: c.pop(0))(numbered), "0:2 1:3 2:4"),
    "add": (lambda lib, make: named(lib, make) + numbered(lib, make, 2), "0:1 1:2 2:3 3:1 4:2"),
    "times": (lambda lib, make: 2 * named(lib, make), "0:1 1:2 2:3 3:1 4:2 5:3"),
    "times in place": (changed(times)(lambda lib, make: numbered(lib, make, 2)),
                       "0:1 1:2 2:1 3:2"),
    "list": (listed, "0:1 1:2 2:3"),
    "list slice": (lambda lib, make: listed(lib, make)[1:], "0:2 1:3"),
    "list insert": (call("insert", 9, at=(1,))(listed), "0:1 1:9 2:2 3:3"),
    "list delete": (delete(0)(listed), "0:2 1:3"),
    "list delete a slice": (delete(slice(1, None))(listed), "0:1"),
    "list assign": (assign(-1)(listed), "0:1 1:2 2:9"),
    "list add": (lambda lib, make: listed(lib, make) + listed(lib, make)[:1], "0:1 1:2 2:3 3:1"),
    "list of lists": (lambda lib, make: lib.ModuleList([listed(lib, make), numbered(lib, make, 2)]),
                      "0.0:1 0.1:2 0.2:3 1.0:1 1.1:2"),
    "runs": (lambda lib, make: lib.ModuleList([make(1), *(numbered(lib, make, 2) for _ in range(3)),
                                               make(2), make(2)]),
             "0:1 1.0:1 1.1:2 2.0:1 2.1:2 3.0:1 3.1:2 4:2 5:2"),
    "empty": (lambda lib, make: lib.Sequential(lib.Sequential(), lib.ModuleList(),
                                               lib.ModuleDict()), ""),
    "dict": (keyed, "z:1 a:2 m:3"),
    "dict assign": (assign("a")(keyed), "z:1 a:9 m:3"),
    "dict new": (assign("b")(keyed), "z:1 a:2 m:3 b:9"),
    "dict delete": (delete("z")(keyed), "a:2 m:3"),
    "dict update": (changed(lambda c, make: c.update([("a", make(8)), ["q", make(9)]]))(keyed),
                    "z:1 a:8 m:3 q:9"),
    "dict pop": (changed(lambda c, make: c.pop("a"))(keyed), "z:1 m:3"),
    "dict clear": (changed(lambda c, make: c.clear())(keyed), ""),
}  # fmt: skip


def contents(state):
    return " ".join(f"{k.removesuffix('.weight')}:{v.shape[0]}" for k, v in state.items())


@pytest.mark.parametrize("build", BUILDS)
def test_names_and_order_stay(build):
    make, expected = BUILDS[build]
    ours = make(nn, linear)
    assert contents(weights.state_dict(ours)) == expected
    # Taken apart and put together again it is the same, whatever the names sort to.
    again = train.merge(*train.split(ours))
    assert contents(weights.state_dict(again)) == expected
    assert repr(again) == repr(ours)


@pytest.mark.torch
@pytest.mark.parametrize("build", BUILDS)
def test_names_order_and_print_are_torchs(build):
    import torch

    make, expected = BUILDS[build]
    ours = make(nn, linear)
    theirs = make(torch.nn, lambda n: torch.nn.Linear(n, n, bias=False))
    assert contents(theirs.state_dict()) == expected
    assert repr(ours) == repr(theirs)
    names = [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_parameters()] == names
    assert sorted(train.split(ours)[1]) == sorted(names)


class Add(nn.Module):
    """Appends its number, so that an output tells the order of calls."""

    def __init__(self, digit):
        self.digit = digit

    def __call__(self, x):
        return 12 * x + self.digit


def test_twelve_modules_run_in_order_after_split_and_merge():
    """flax sorts attributes as text: "10" before "2"."""
    net = nn.Sequential(*(Add(i % 3) for i in range(14)))
    assert train.merge(*train.split(net))(0) == net(0) == int("01201201201201", 12)


def test_a_repeated_module_shares_its_weights():
    block = nn.Linear(2, 2, rngs=Generator(0))
    net = nn.Sequential(*(3 * [block]))
    names = [f"{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    assert list(weights.state_dict(net)) == names
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    assert net.num_parameters == 6
    x = jnp.ones((1, 2))
    np.testing.assert_array_equal(net(x), block(block(block(x))))
    again = train.merge(*train.split(net))
    assert again[0] is again[1] is again[2]


def test_a_shared_parameter_is_split_under_its_first_name():
    """The first in the order of assignment, as torch lists it, not in the alphabet."""
    late = linear(1)
    net = nn.Sequential(OrderedDict(z=late, m=linear(2), a=late))
    assert sorted(train.split(net)[1]) == ["m.weight", "z.weight"]


def test_positions():
    net = numbered(nn, linear)
    assert len(net) == 4
    assert net[-1] is net[3] is list(net)[3]
    assert net[1:3][0] is net[1]
    assert net[np.int64(2)] is net[2]
    for index in (4, -5):
        for container in (net, nn.ModuleList(net)):
            with pytest.raises(IndexError, match=f"index {index} is out of range; it has 4"):
                container[index]
    with pytest.raises(IndexError, match="index 7 is out of range"):
        net.insert(7, linear(1))
    assert net.pop(1).in_features == 2
    assert len(net) == 3


def test_dict_reads_as_a_dict():
    d = keyed(nn, linear)
    assert (list(d), len(d), "a" in d, "b" in d) == (["z", "a", "m"], 3, True, False)
    assert [v.in_features for v in d.values()] == [1, 2, 3]
    assert [(k, v.in_features) for k, v in d.items()] == [("z", 1), ("a", 2), ("m", 3)]
    assert list(d.keys()) == list(nn.ModuleDict(d))
    with pytest.raises(KeyError, match="b"):
        d["b"]
    with pytest.raises(KeyError, match="already has an attribute 'keys'"):
        d["keys"] = linear(1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Sequential(nn.Tanh), TypeError, "'0' is the class Tanh, not a module"),
        (lambda: nn.Sequential(jnp.tanh), TypeError, "'0' is .*, not a module"),
        (lambda: nn.Sequential({"a.b": nn.Tanh()}), KeyError, "must not be empty or hold a dot"),
        (lambda: nn.Sequential() + nn.ModuleList(), ValueError, "ModuleList cannot be added"),
        (lambda: nn.Sequential(nn.Tanh()) * 0, ValueError, "times 0"),
        (lambda: nn.Sequential(nn.Tanh()) * 1.5, TypeError, "times float"),
        (lambda: nn.ModuleList(nn.Tanh()), TypeError, "Tanh is no list of modules"),
        (lambda: nn.ModuleList([nn.Tanh()])(jnp.ones(1)), NotImplementedError, "no __call__"),
        (lambda: nn.ModuleDict([nn.Tanh()]), TypeError, "give a mapping, or pairs"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ParameterList and ParameterDict


def parameters(lib, array):
    """The same containers in either library, after some changes."""
    params = lib.ParameterList([array(2, 3), lib.Parameter(array(2)), 3, None])
    params.append(array(1))
    params += [array(4)]
    params[0] = array(5, 1)
    params[-1] = lib.Parameter(array(6))
    by_name = lib.ParameterDict({"b": array(2), "a": array(1, 2), "n": 3})
    by_name["later"] = array(3)
    by_name.update(OrderedDict(z=array(1), c=array(2)))
    by_name["a"] = array(7)
    del by_name["b"]
    by_name.setdefault("z", array(9))
    return params, by_name


@pytest.mark.torch
def test_parameter_containers_are_torchs():
    import torch

    ours = parameters(nn, lambda *shape: jnp.ones(shape))
    theirs = parameters(torch.nn, torch.ones)
    for one, other in zip(ours, theirs, strict=True):
        assert repr(one) == repr(other)
        assert len(one) == len(other)
        found = {name: p.shape for name, p in one.named_parameters()}
        expected = {name: tuple(p.shape) for name, p in other.named_parameters()}
        assert list(found.items()) == list(expected.items())
    assert repr(ours[0][1:3]) == repr(theirs[0][1:3])
    assert list(ours[1]) == list(theirs[1])
    assert list(reversed(ours[1])) == list(reversed(theirs[1]))
    assert repr(ours[1] | nn.ParameterDict({"q": 1})) == repr(
        theirs[1] | torch.nn.ParameterDict({"q": 1})
    )
    assert ours[1].popitem()[0] == theirs[1].popitem()[0]
    assert (ours[1].get("x", 5), ours[1].pop("n")) == (5, 3)
    with pytest.raises(TypeError, match=r"Parameter: Tensor is no array .* jnp.asarray"):
        nn.ParameterList([torch.ones(2)])


def test_parameter_containers_train():
    class Net(nn.Module):
        def __init__(self):
            self.scales = nn.ParameterList(jnp.ones(2) * i for i in range(3))
            self.named = nn.ParameterDict({"bias": jnp.zeros(2)})

        def __call__(self, x):
            for scale in self.scales:
                x = x + scale[...]
            return x + self.named["bias"][...]

    net = Net()
    assert list(weights.state_dict(net)) == ["scales.0", "scales.1", "scales.2", "named.bias"]
    structure, params, buffers = train.split(net)
    assert train.merge(structure, params, buffers)(jnp.zeros(2)).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.ParameterList()(1), TypeError, "ParameterList holds parameters"),
        (lambda: nn.ParameterList([1])[1], IndexError, "index 1 is out of range; it has 1"),
        (lambda: nn.ParameterList(jnp.ones(2)), TypeError, "accepted is a list of parameters"),
        (lambda: nn.ParameterDict()["x"], KeyError, "x"),
        (lambda: nn.ParameterDict({"keys": 1}), KeyError, "'keys' is the name of an attribute"),
        (lambda: nn.ParameterDict({"a.b": jnp.ones(1)}), KeyError, "'a.b'; .* or hold a dot"),
        (lambda: nn.ParameterDict([(1, 2)]), TypeError, "key 1; accepted are strings"),
        (lambda: nn.ParameterDict(5), TypeError, "give a mapping"),
        (lambda: nn.ParameterDict().popitem(), KeyError, "empty"),
    ],
)
def test_parameter_containers_name_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
