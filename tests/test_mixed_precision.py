"""jaxnet/_mixed_precision.py; what a training step makes of it is tested with the step."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn
from jaxnet._mixed_precision import computing_in
from jaxnet.random import Generator

X = jnp.ones((4, 3))


def net():
    return nn.Sequential(nn.Linear(3, 3, rngs=Generator(0)), nn.BatchNorm1d(3))


def test_the_model_is_itself_after_half_precision():
    model = net()
    before = model[0].weight[...]
    with computing_in(model, jnp.bfloat16):
        assert type(model) is nn.Sequential
        assert model[0].weight.dtype == jnp.bfloat16
        assert model[1].running_mean.dtype == jnp.float32
        assert model(X).dtype == jnp.float32
    assert model[0].weight[...] is before


def test_only_the_models_own_inputs_and_outputs_are_cast():
    model = net()
    dtypes = {}

    def note(call, proceed):
        output = proceed(*call.args)
        dtypes[call.name] = call.args[0].dtype, output.dtype
        return output

    with computing_in(model, jnp.bfloat16), nn.intercept(model, note):
        model(X)
    assert dtypes[""] == (jnp.float32, jnp.float32)
    assert dtypes["0"] == (jnp.bfloat16, jnp.bfloat16)


def test_an_error_inside_leaves_the_model_as_it_was():
    model = net()
    before = model[0].weight[...]
    with pytest.raises(ValueError, match="expects an input"), computing_in(model, jnp.bfloat16):
        model(jnp.ones((4, 5)))
    assert model[0].weight[...] is before
    assert model(X).dtype == jnp.float32


def test_what_a_layer_writes_into_its_parameter_stays():
    model = nn.Embedding(3, 2, max_norm=0.1, rngs=Generator(0))
    before = np.asarray(model.weight[...])
    with computing_in(model, jnp.bfloat16):
        model(jnp.array([0]))
    after = np.asarray(model.weight[...])
    assert after.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(after[0]), 0.1, rtol=0.01)
    np.testing.assert_array_equal(after[1:], before[1:])


def test_dtypes():
    model = net()
    with computing_in(model, None):
        assert model[0].weight.dtype == jnp.float32
    with (
        pytest.raises(ValueError, match="compute_dtype: int32; accepted is a floating dtype"),
        computing_in(model, jnp.int32),
    ):
        pass
