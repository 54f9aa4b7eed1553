"""jaxnet/nn/linear.py"""

import jax.numpy as jnp
import pytest

from jaxnet import nn
from jaxnet.random import Generator
from tests.table import Case, table

CASES = [
    Case("Linear", (3, 2), inputs=[(5, 3)]),
    Case("Linear", (3, 2), {"bias": False}, inputs=[(4, 5, 3)]),
    Case("Linear", (1, 1), inputs=[(1,)]),
    Case("Flatten", (), inputs=[(2, 3, 4, 5)]),
    Case("Flatten", (0, 2), inputs=[(2, 3, 4, 5)]),
    Case("Identity", (), inputs=[(2, 3)]),
]
TestLinear = table("nn_linear", CASES)


def test_wrong_shape_says_layer_expected_and_given():
    layer = nn.Linear(3, 2, rngs=Generator(0))
    with pytest.raises(
        ValueError, match=r"Linear\(in_features=3.*shape \(\.\.\., 3\); it got \(5, 4\)"
    ):
        layer(jnp.zeros((5, 4)))
