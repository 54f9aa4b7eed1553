"""jaxnet/precision.py"""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, precision
from jaxnet.precision import set_float32_matmul_precision, unfused_jit
from jaxnet.random import Generator


def lowered(model, *shape: int) -> str:
    return jax.jit(lambda x: model(x)).lower(jnp.ones(shape)).as_text()


def layers():
    g = Generator(0)
    return [
        (nn.Linear(3, 2, rngs=g), (4, 3)),
        (nn.Conv2d(3, 2, 3, rngs=g), (1, 3, 5, 5)),
        (nn.ConvTranspose2d(3, 2, 3, rngs=g), (1, 3, 5, 5)),
        (nn.LSTM(3, 2, rngs=g), (4, 1, 3)),
    ]


def test_products_are_full_float32_as_in_torch():
    for layer, shape in layers():
        text = lowered(layer, *shape)
        assert "HIGHEST" in text, layer
        assert "DEFAULT" not in text, layer


def test_precision_can_be_lowered_and_raised_again():
    layer, shape = layers()[0]
    try:
        set_float32_matmul_precision("high")
        assert "HIGHEST" not in lowered(layer, *shape)
    finally:
        set_float32_matmul_precision("highest")
    assert "HIGHEST" in lowered(layer, *shape)
    with pytest.raises(ValueError, match="'full'; accepted are 'highest', 'high', 'medium'"):
        set_float32_matmul_precision("full")


def test_a_choice_made_for_jax_is_kept():
    code = "import jax, jaxnet; print(jax.config.jax_default_matmul_precision)"
    variables = {**os.environ, "JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True
    )
    assert done.stdout.strip() == "tensorfloat32", done.stderr


def test_unfused_jit_rounds_after_every_operation():
    rng = np.random.RandomState(0)
    a, b, c = (rng.standard_normal(1000).astype(np.float32) for _ in range(3))
    np.testing.assert_array_equal(unfused_jit(lambda a, b, c: a * b + c)(a, b, c), a * b + c)


@pytest.mark.parametrize("shape", [(21, 4, 2), (64, 10), (16, 64)])
def test_amax_and_amin_keep_a_nan_where_xla_loses_it(shape):
    for ours, numpys in ((precision.amax, np.max), (precision.amin, np.min)):
        for axis in (0, -1, None):
            compiled = jax.jit(lambda x, f=ours, a=axis: f(x, a))
            for place in range(shape[1]):
                x = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
                x[3, place] = np.nan
                assert np.array_equal(compiled(x), numpys(x, axis), equal_nan=True)
    assert precision.amax(jnp.array([3, 5])) == 5
