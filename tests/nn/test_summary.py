"""jaxnet/nn/_summary.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import nn, train, weights
from jaxnet.random import Generator


def linear(i, o, **options):
    return nn.Linear(i, o, rngs=Generator(0), **options)


class Noisy(nn.Module):
    """Refuses to run in training mode, as dropout without a key does."""

    def __init__(self):
        self.register_buffer("calls", jnp.zeros((), jnp.int32))

    def __call__(self, x):
        if self.training:
            raise ValueError("no key")
        self.calls[...] += 1
        return x


class Net(nn.Module):
    """A block used three times, a head that borrows a weight, a pair as output."""

    def __init__(self):
        block = nn.Sequential(linear(4, 4), nn.Tanh())
        self.body = nn.Sequential(*(3 * [block]))
        self.noisy = Noisy()
        self.head = linear(4, 4, bias=False)
        self.head.weight = block[0].weight
        self.gain = nn.Parameter(jnp.ones((2, 3)))
        self.unused = linear(2, 2)

    def __call__(self, x, *, scale=1):
        x = self.noisy(self.noisy(self.body(x))) * scale
        return {"score": self.head(x), "features": (x, x.sum(-1))}


def test_rows():
    net = Net()
    before = weights.state_dict(net)
    table = nn.summary(net, (5, 4), scale=2)
    rows = {row.name: row for row in table.rows}
    assert list(rows) == [
        "", "body", "body.0", "body.0.0", "body.0.1", "body.1", "body.1.0", "body.1.1",
        "body.2", "body.2.0", "body.2.1", "noisy", "head", "unused",
    ]  # fmt: skip
    assert rows[""].output_shape == {"score": (5, 4), "features": ((5, 4), (5,))}
    assert rows[""].parameters == 6
    assert [rows[f"body.{i}.0"].parameters for i in range(3)] == [20, 0, 0]
    assert [rows[f"body.{i}.0"].shared_with for i in range(3)] == [None, "body.0.0", "body.0.0"]
    assert rows["body.2.0"].output_shape == (5, 4)
    assert (rows["body.0"].calls, rows["noisy"].calls, rows["head"].calls) == (3, 2, 1)
    assert (rows["head"].parameters, rows["head"].shared_with) == (0, "body.0.0")
    assert (rows["unused"].output_shape, rows["unused"].calls) == (None, 0)
    assert table.parameters == net.num_parameters == sum(row.parameters for row in table.rows) == 32
    assert (table.parameter_bytes, table.buffers, table.buffer_bytes) == (128, 1, 4)
    # The model is as it was: in training mode, nothing counted, no class changed.
    assert net.training
    assert all(np.array_equal(v, before[k]) for k, v in weights.state_dict(net).items())
    assert nn.Tanh.__call__.__qualname__ == "Tanh.__call__"
    assert "__wrapped__" not in vars(nn.Linear.__call__)


def test_each_name_of_a_shared_module_has_its_own_shape():
    pool = nn.MaxPool2d(2)
    table = nn.summary(nn.Sequential(pool, pool), (1, 8, 8))
    assert [row.output_shape for row in table.rows] == [(1, 2, 2), (1, 4, 4), (1, 2, 2)]


def test_printed():
    net = nn.Sequential(linear(1, 1000), nn.Tanh(), nn.Sequential(*(2 * [linear(1000, 1000)])))
    assert str(nn.summary(net, jax.ShapeDtypeStruct((5, 1), jnp.float32))) == "\n".join(
        [
            "layer  class       output shape   parameters",
            "--------------------------------------------",
            "       Sequential  (5, 1000)               -",
            "0      Linear      (5, 1000)           2,000",
            "1      Tanh        (5, 1000)               -",
            "2      Sequential  (5, 1000)               -",
            "2.0    Linear      (5, 1000) x 2   1,001,000",
            "2.1    Linear      (5, 1000) x 2      as 2.0",
            "--------------------------------------------",
            "trainable parameters: 1,003,000 (4,012,000 bytes)",
            "buffers: 0 (0 bytes)",
            "total: 1,003,000 (4,012,000 bytes)",
        ]
    )


def test_nothing_is_computed():
    huge = jax.ShapeDtypeStruct((10**6, 10**6), jnp.float32)
    table = nn.summary(nn.Sequential(nn.Tanh(), nn.Flatten(0)), huge)
    assert table.rows[0].output_shape == (10**12,)


def test_takes_integers_arrays_and_models_that_were_put_together_again():
    model = nn.Sequential(nn.Embedding(7, 3, rngs=Generator(0)), nn.Flatten())
    again = train.merge(*train.split(model))
    table = nn.summary(again, np.zeros((2, 5), np.int32))
    assert table.rows[0].output_shape == (2, 15)
    assert table.rows == nn.summary(model, jnp.zeros((2, 5), int)).rows


def test_takes_models_of_plain_flax():
    model = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    table = nn.summary(model, (2, 3))
    assert table.rows[0].output_shape == (2, 4)
    assert (table.parameters, table.buffers) == (16, 0)


def test_a_failing_call_leaves_the_classes_as_they_were():
    with pytest.raises(ValueError, match=r"expects an input of shape \(\.\.\., 3\); it got"):
        nn.summary(nn.Sequential(linear(3, 2)), (5, 4))
    assert "__wrapped__" not in vars(nn.Linear.__call__)
    assert "__call__" not in vars(nn.ModuleList)
