"""jaxnet/_state_dict.py"""

from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxnet import nn, weights
from jaxnet.random import Generator


class Norm(nn.Module):
    """The parameters and buffers of a normalisation layer, in mixed kinds."""

    def __init__(self, dtype: Any = jnp.float32) -> None:
        self.running_mean = nn.Buffer(jnp.zeros(2))
        self.num_batches_tracked = nn.Buffer(jnp.array(3, jnp.int32))
        self.weight = nn.Parameter(jnp.ones(2, dtype))
        self.bias = None


class Net(nn.Module):
    """One Linear under two names, and a Norm."""

    def __init__(self, dtype: Any = jnp.float32, seed: int = 0) -> None:
        self.first = nn.Linear(3, 3, rngs=Generator(seed))
        self.norm = Norm(dtype)
        self.again = self.first


NAMES = [
    *("first.weight", "first.bias"),
    *("norm.weight", "norm.running_mean", "norm.num_batches_tracked"),
    *("again.weight", "again.bias"),
]


def test_names_order_and_dtypes_are_torchs():
    state = weights.state_dict(Net(jnp.bfloat16))
    assert list(state) == NAMES
    assert state["norm.num_batches_tracked"].dtype == np.int64
    assert state["norm.num_batches_tracked"].shape == ()
    assert state["norm.weight"].dtype == ml_dtypes.bfloat16
    assert state["norm.running_mean"].dtype == np.float32
    assert all(isinstance(value, np.ndarray) for value in state.values())


def test_round_trip_answers_as_torch_does():
    net = Net(seed=1)
    keys = weights.load_state_dict(net, weights.state_dict(Net(seed=2)))
    assert keys == ([], [])
    assert repr(keys) == "<All keys matched successfully>"
    assert weights.state_dict(net)["first.weight"].tobytes() == (
        weights.state_dict(Net(seed=2))["first.weight"].tobytes()
    )
    assert net.again is net.first
    assert net.norm.num_batches_tracked.dtype == jnp.int32


def test_every_fault_is_listed_and_nothing_changes():
    net = Net()
    before = weights.state_dict(net)
    state = {k: v + 1 for k, v in before.items()}
    del state["norm.weight"]
    state["extra.weight"] = np.ones(2)
    state["first.bias"] = np.ones(4)
    state["again.bias"] = np.ones((3, 1))
    state["norm.running_mean"] = None
    with pytest.raises(ValueError, match="state_dict: it does not fit Net") as caught:
        weights.load_state_dict(net, state)
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.strip() for line in lines) == [
        "again.bias: shape (3, 1), the model has (3,)",
        "extra.weight: unexpected",
        "first.bias: shape (4,), the model has (3,)",
        "norm.running_mean: NoneType is no array",
        "norm.weight: missing",
    ]
    after = weights.state_dict(net)
    assert all(np.array_equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_prefix_of_all_names_is_named_once(prefix):
    state = {prefix + name: array for name, array in weights.state_dict(Net()).items()}
    with pytest.raises(ValueError, match="its names begin with") as caught:
        weights.load_state_dict(Net(), state)
    assert str(caught.value) == (
        f"state_dict: its names begin with {prefix!r}, those of Net do not; give "
        f"{{name.removeprefix({prefix!r}): array for name, array in state_dict.items()}}"
    )
    weights.load_state_dict(Net(), {name.removeprefix(prefix): v for name, v in state.items()})
    assert len(weights.load_state_dict(Net(), state, strict=False).unexpected_keys) == len(state)
    state["first.weight"] = state.pop(f"{prefix}first.weight")  # not all of them have it
    with pytest.raises(ValueError, match=f"{prefix}first.bias: unexpected"):
        weights.load_state_dict(Net(), state)


def test_an_error_of_many_or_long_names_stays_short():
    state = {f"{i}." + "x" * 10**6: np.ones(1) for i in range(300)}
    with pytest.raises(ValueError, match="it does not fit Net") as caught:
        weights.load_state_dict(Net(), state)
    text = str(caught.value)
    assert text.endswith("\n  and 206 more")
    assert len(text) < 30_000


def test_not_strict_tells_what_is_missing_and_unexpected():
    net = Net()
    state = {"first.weight": np.full((3, 3), 5), "other": None, "norm.bias": np.ones(2)}
    keys = weights.load_state_dict(net, state, strict=False)
    assert keys.missing_keys == [
        *("first.bias", "norm.weight", "norm.running_mean", "again.weight", "again.bias")
    ]
    assert keys.unexpected_keys == ["other", "norm.bias"]
    assert "missing_keys=['first.bias'" in repr(keys)
    assert (np.asarray(net.again.weight[...]) == 5).all()
    with pytest.raises(ValueError, match=r"first\.weight: shape \(2,\)"):
        weights.load_state_dict(net, {"first.weight": np.ones(2)}, strict=False)


def test_one_array_with_two_values_is_refused():
    net = Net()
    state = weights.state_dict(Net(seed=4))
    state["again.bias"] = state["again.bias"] + 1
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"again\.bias: other values than first\.bias"):
            weights.load_state_dict(net, state, strict=strict)
    state["again.bias"] = state["first.bias"].astype(np.float64)  # the same once it is cast
    weights.load_state_dict(net, state)
    state["again.bias"] = state["first.bias"] = np.full(3, np.nan)
    weights.load_state_dict(net, state)


def test_batches_may_be_uncounted_before_version_2():
    net = Net()
    state = OrderedDict(weights.state_dict(Net()))
    del state["norm.num_batches_tracked"]
    weights.load_state_dict(net, state)
    assert net.norm.num_batches_tracked[...] == 3
    for metadata in ({}, {"norm": {"version": 1}}, {"norm": None}, None):
        vars(state)["_metadata"] = metadata
        assert weights.load_state_dict(net, state).missing_keys == []
    vars(state)["_metadata"] = {"norm": {"version": 2}}
    with pytest.raises(ValueError, match=r"norm\.num_batches_tracked: missing"):
        weights.load_state_dict(net, state)


class Kinds(nn.Module):
    """One parameter of each of several dtypes."""

    def __init__(self) -> None:
        self.f = nn.Parameter(jnp.zeros(4, jnp.float32))
        self.h = nn.Parameter(jnp.zeros(4, jnp.bfloat16))
        self.i = nn.Buffer(jnp.zeros(4, jnp.int32))
        self.b = nn.Buffer(jnp.zeros(4, bool))
        self.c = nn.Parameter(jnp.zeros(4, jnp.complex64))
        self.s = nn.Parameter(jnp.zeros((), jnp.float32))


GIVEN = {
    "float64": np.array([0.1, -2.7, 3.999999999, 0.0]),
    "float16": np.array([0.1, -2.7, 3.5, 0.0], np.float16),
    "int64": np.array([0, -3, 2**24 + 1, 7]),
    "bool": np.array([True, False, True, True]),
    "uint8": np.array([0, 255, 3, 4], np.uint8),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", list(GIVEN))
def test_values_are_cast_as_torch_casts(name):
    import torch

    ours, theirs = Kinds(), torch.nn.Module()
    for key, value in weights.state_dict(ours).items():
        dtype = getattr(torch, value.dtype.name)
        theirs.register_buffer(key, torch.zeros(value.shape, dtype=dtype))
    state = dict.fromkeys("fhibc", GIVEN[name]) | {"s": GIVEN[name][:1]}
    weights.load_state_dict(ours, state)
    theirs.load_state_dict({key: torch.tensor(value) for key, value in state.items()})
    for key, value in weights.state_dict(ours).items():
        expected = theirs.get_buffer(key)
        if expected.dtype == torch.bfloat16:
            value, expected = value.astype(np.float32), expected.float()
        np.testing.assert_array_equal(value, expected.numpy(), err_msg=key)


def test_complex_numbers_lose_their_imaginary_part_with_a_warning():
    net = Kinds()
    with pytest.warns(UserWarning, match="discards the imaginary part") as caught:
        weights.load_state_dict(net, {"f": np.full(4, 1 + 2j)}, strict=False)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(net.f[...], np.ones(4))
    weights.load_state_dict(net, {"c": np.full(4, 1 + 2j)}, strict=False)
    np.testing.assert_array_equal(net.c[...], np.full(4, 1 + 2j))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2, 3, 4], "i: list is no array"),
        ("1234", "i: str is no array"),
        (None, "i: NoneType is no array"),
        (np.array([None] * 4), "i: dtype object, which is no number"),
        (np.array(["a"] * 4), "i: dtype <U1, which is no number"),
        (np.full(4, 2**31), "i: int64 values that int32 cannot hold"),
        (np.full(4, -(2**31) - 1.0), "i: float64 values that int32 cannot hold"),
        (np.full(4, np.nan), "i: float64 values that int32 cannot hold"),
        (np.full(4, np.inf, ml_dtypes.bfloat16), "i: bfloat16 values that int32 cannot hold"),
        (jax.random.key(0), "i: "),
        (1, r"i: shape \(\), the model has \(4,\)"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value, message):
    net = Kinds()
    with pytest.raises(TypeError, match=r'state_dict: str; .* such as weights.load\("net.pt"\)'):
        weights.load_state_dict(net, "net.pt")
    with pytest.raises(ValueError, match=message):
        weights.load_state_dict(net, {"f": np.ones(4), "i": value}, strict=False)
    assert not np.asarray(net.f[...]).any()


def test_arrays_of_every_maker_are_taken():
    net = Kinds()
    state: dict[str, Any] = {
        "f": jnp.arange(4),
        "h": np.arange(4, dtype=ml_dtypes.bfloat16),
        "s": 2.5,
        "i": np.arange(4, dtype=">i8"),
    }
    weights.load_state_dict(net, state, strict=False)
    for name in "fhi":
        np.testing.assert_array_equal(np.asarray(getattr(net, name)[...], np.float32), range(4))
    assert net.s[...] == 2.5


@pytest.mark.torch
def test_tensors_are_taken():
    import torch

    net = Kinds()
    state = {
        "f": torch.arange(4, dtype=torch.bfloat16, requires_grad=False),
        "h": torch.arange(4.0, requires_grad=True),
        "c": torch.tensor([1j, 2, 3, 4]).conj(),
    }
    weights.load_state_dict(net, state, strict=False)
    for name in "fh":
        np.testing.assert_array_equal(np.asarray(getattr(net, name)[...], np.float32), range(4))
    np.testing.assert_array_equal(net.c[...], [-1j, 2, 3, 4])


def test_the_model_keeps_no_hold_of_the_file_s_arrays():
    net = Kinds()
    given = np.ones(4, np.float32)
    weights.load_state_dict(net, {"f": given}, strict=False)
    given[:] = 9
    np.testing.assert_array_equal(net.f[...], np.ones(4))


def test_sharded_parameters_stay_on_their_devices():
    mesh = jax.make_mesh((4,), ("x",))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    net = Kinds()
    net.f.set_value(jax.device_put(net.f[...], sharding))
    weights.load_state_dict(net, {"f": np.arange(4), "h": np.arange(4)}, strict=False)
    assert net.f[...].sharding == sharding
    np.testing.assert_array_equal(net.f[...], np.arange(4))
    assert not net.h[...].committed


@pytest.mark.torch
def test_missing_unexpected_and_missing_counts_as_torch():
    import torch

    theirs = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    state = {"0.weight": torch.ones(2), "1.other": torch.ones(2), "x": torch.ones(2)}
    expected = theirs.load_state_dict(state, strict=False)

    class BatchNorm(nn.Module):
        def __init__(self) -> None:
            self.weight, self.bias = nn.Parameter(jnp.ones(2)), nn.Parameter(jnp.zeros(2))
            self.running_mean, self.running_var = nn.Buffer(jnp.zeros(2)), nn.Buffer(jnp.ones(2))
            self.num_batches_tracked = nn.Buffer(jnp.array(0))

    ours = nn.Sequential(BatchNorm(), nn.Linear(2, 2, rngs=Generator(0)))
    found = weights.load_state_dict(ours, state, strict=False)
    assert found.missing_keys == expected.missing_keys
    assert sorted(found.unexpected_keys) == sorted(expected.unexpected_keys)
    assert found._fields == expected._fields
    weights.load_state_dict(ours, theirs.state_dict())
    theirs.load_state_dict({k: torch.tensor(v) for k, v in weights.state_dict(ours).items()})
