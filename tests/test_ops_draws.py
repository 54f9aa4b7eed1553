"""jaxnet/ops/_draws.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, ops
from jaxnet.random import Generator

# One program for both libraries: `t` is torch or jaxnet.ops, and g a generator of seed 3.
DRAWS = [
    "t.rand(2, 3, generator=g)",
    "t.rand((20,), generator=g)",
    "t.randn(2, 3, generator=g)",
    "t.randn((40,), generator=g)",
    "t.randint(10, (5,), generator=g)",
    "t.randint(-3, 4, (2, 3), generator=g)",
    "t.randint(0, 9, (4,), generator=g, dtype=t.uint8)",
    "t.randperm(9, generator=g)",
    "t.normal(1.0, 2.0, (3, 4), generator=g)",
    "t.normal(p, 2.0, generator=g)",
    "t.normal(0.5, p, generator=g)",
    "t.normal(p, p, generator=g)",
    "t.bernoulli(p, generator=g)",
    "t.multinomial(p, 6, True, generator=g)",
    "t.multinomial(p[0], 3, replacement=True, generator=g)",
]
P = np.array([[0.2, 0.5, 0.125], [0.75, 0.0, 1.0]], np.float32)


@pytest.mark.torch
@pytest.mark.parametrize("row", DRAWS)
def test_a_generator_gives_torchs_numbers(row):
    import torch

    theirs = eval(row, {"t": torch, "g": torch.Generator().manual_seed(3), "p": torch.tensor(P)})
    ours = eval(row, {"t": ops, "g": Generator(3), "p": jnp.asarray(P)})
    assert ours.shape == tuple(theirs.shape)
    assert ours.dtype.name.replace("32", "64") == str(theirs.dtype).partition(".")[2].replace(
        "32", "64"
    )
    np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=1e-6, atol=1e-6)


def test_without_a_generator_the_open_key_draws_compiled():
    x = jnp.zeros((500, 2))
    weights = jnp.asarray([0.1, 0.0, 0.6, 0.3])

    @jax.jit
    def draw(key):
        with nn.keys(key):
            return {
                "rand": ops.rand_like(x),
                "again": ops.rand(500, 2),
                "randn": ops.randn_like(x),
                "normal": ops.normal(3.0, 0.5, (1000,)),
                "means": ops.normal(x + 2, 0.0),
                "randint": ops.randint_like(x, 2, 5),
                "bernoulli": ops.bernoulli(x, 0.25),
                "probabilities": ops.bernoulli(x + 0.75),
                "uniform": ops.uniform(x, -1, 3),
                "exponential": ops.exponential(x, 2.0),
                "perm": ops.randperm(50),
                "replaced": ops.multinomial(weights, 1000, True),
                "different": ops.multinomial(jnp.tile(weights, (200, 1)), 2),
            }

    drawn = {name: np.asarray(v) for name, v in draw(jax.random.key(0)).items()}
    for name, mean in {
        "rand": 0.5, "again": 0.5, "randn": 0.0, "normal": 3.0, "means": 2.0, "randint": 3.0,
        "bernoulli": 0.25, "probabilities": 0.75, "uniform": 1.0, "exponential": 0.5,
    }.items():  # fmt: skip
        error = 5 * drawn[name].std() / drawn[name].size ** 0.5
        assert abs(drawn[name].mean() - mean) <= error, name
    assert not np.array_equal(drawn["rand"], drawn["again"])
    assert sorted(drawn["perm"].tolist()) == list(range(50))
    shares = np.bincount(drawn["replaced"], minlength=4) / 1000
    np.testing.assert_allclose(shares, weights, atol=0.08)
    assert (drawn["different"][:, 0] != drawn["different"][:, 1]).all()
    assert 1 not in drawn["different"]
    # An index of weight w comes first with probability w.
    np.testing.assert_allclose((drawn["different"][:, 0] == 2).mean(), 0.6, atol=0.15)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: ops.rand(3), ValueError, "no random key is at hand"),
        (lambda: ops.rand(3, generator=0), TypeError, r"generator: int; accepted is jaxnet.random"),
        (lambda: ops.rand(3, dtype=jnp.int32), ValueError, "dtype: int32; accepted are floats"),
        (lambda: ops.exponential(P, generator=Generator(0)), ValueError, "vendor library"),
        (lambda: ops.bernoulli(P, 0.5, generator=Generator(0)), ValueError, "vendor library"),
        (lambda: ops.multinomial(P, 1, generator=Generator(0)), ValueError, "vendor library"),
        (lambda: ops.multinomial(P, 3), ValueError, "fewer weights above 0"),
        (lambda: ops.multinomial(-P, 1), ValueError, "finite weights of at least 0"),
        (lambda: ops.randint(3, 3, (2,), generator=Generator(0)), ValueError, "is empty"),
        (lambda: ops.randint(3), TypeError, r"give randint\(high, size\)"),
        (lambda: ops.normal(0.0, -1.0, (2,)), ValueError, r"std: -1.0"),
        (
            lambda: jax.jit(lambda: ops.rand(3, generator=Generator(0)))(),
            ValueError,
            "every call would repeat the numbers",
        ),
    ],
)
def test_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
