"""jaxnet/precision.py"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, precision, train
from jaxnet.precision import full_float32, set_float32_matmul_precision, unfused_jit
from jaxnet.random import Generator
from tests.marks import slow_among
from tests.table import families, our_gradient


def precisions(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """How each product and convolution multiplies in a program for CUDA, forward and backward."""
    program = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    lines = [line for line in program.as_text().splitlines() if PRODUCT.search(line)]
    found = [re.findall(r"HIGHEST|HIGH|DEFAULT", line.split("precision", 1)[1]) for line in lines]
    assert all(len(set(both)) == 1 for both in found), "\n".join(lines)
    return [both[0] for both in found]


PRODUCT = re.compile(r"stablehlo\.(dot_general|dot|convolution)\b")


def linear() -> tuple[Any, jax.Array]:
    return nn.Linear(3, 2, rngs=Generator(0)), jnp.ones((4, 3))


@pytest.fixture(autouse=True)
def nothing_chosen():
    """Each test begins as a program does, with no precision chosen, and ends so."""
    assert jax.config.values["jax_default_matmul_precision"] is None
    yield
    jax.config.update("jax_default_matmul_precision", None)


WITH_PRODUCTS = {"nn_attention", "nn_conv", "nn_conv_transpose", "nn_linear", "nn_rnn"}


@pytest.mark.parametrize(
    "family",
    slow_among(families(), set(families()) - WITH_PRODUCTS),
)
def test_layers_and_losses_multiply_in_full_float32(family):
    found = []
    for case in families()[family]:
        gradient, _, arguments = our_gradient(case, jnp.float32)
        given = precisions(gradient, *arguments)
        assert set(given) <= {"HIGHEST"}, case
        found += given
    assert found or family not in WITH_PRODUCTS


@pytest.mark.parametrize("form", ["without a batch", "weights", "packed", "causal"])
def test_attention_multiplies_in_full_float32_in_every_form(form):
    layer = nn.MultiheadAttention(4, 2, batch_first=True, rngs=Generator(0))
    x = jnp.ones((3, 4) if form == "without a batch" else (2, 3, 4))
    call = {
        "without a batch": lambda x: layer(x, x, x)[0],
        "weights": lambda x: sum(y.sum() for y in layer(x, x + 1, x + 2)),
        "packed": lambda x: layer(x, x, x, need_weights=False)[0],
        "causal": lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    }[form]
    # Twice differentiated, as a penalty on gradients is.
    found = precisions(jax.grad(lambda x: jax.grad(lambda x: call(x).sum())(x).sum()), x)
    assert len(found) > 4
    assert set(found) == {"HIGHEST"}


def test_recurrent_layers_keep_it_in_forward_and_second_derivatives():
    for layer in (
        nn.LSTM(3, 2, rngs=Generator(0)),
        nn.LSTM(3, 4, proj_size=2, rngs=Generator(0)),
        nn.GRU(3, 2, rngs=Generator(0)),
        nn.RNN(3, 2, bidirectional=True, rngs=Generator(0)),
    ):
        x = jnp.ones((5, 1, 3))
        value = partial(lambda layer, x: layer(x)[0].sum(), layer)
        for function in (
            value,
            jax.jacfwd(value),
            jax.grad(lambda x, f=value: jax.grad(f)(x).sum()),
        ):
            found = precisions(function, x)
            assert found, layer
            assert set(found) == {"HIGHEST"}, layer


@pytest.mark.parametrize(
    "optimizer",
    [optim.Muon(), optim.LBFGS(), optim.LBFGS(line_search_fn="strong_wolfe")],
    ids=["Muon", "LBFGS", "LBFGS with a line search"],
)
def test_optimizers_multiply_in_full_float32(optimizer):
    params = {"w": jnp.ones((3, 2))}
    x = jnp.ones((4, 3))

    def update(params):
        def loss(params):
            return ((x @ params["w"]) ** 2).sum()

        return optimizer.update(params, optimizer.init(params), params, value_fn=loss)

    found = precisions(update, params)
    assert len(found) > 2
    assert set(found) == {"HIGHEST"}


class Products(nn.Module):
    """Products that a user writes, of all kinds that there are."""

    def __init__(self) -> None:
        self.w = nn.Parameter(jnp.ones((3, 3)))

    def __call__(self, x: jax.Array) -> jax.Array:
        w = self.w[...]
        y = jnp.einsum("ni,ij->nj", x @ w, w)
        turned = jax.checkpoint(lambda y: jnp.tanh(y @ w))(y)
        rows, _ = jax.lax.scan(lambda c, row: (c + row @ w, None), jnp.zeros(3), turned)
        kernel = jnp.ones((1, 1, 2))
        return y + rows[None] + jax.lax.conv(y[:, None], kernel, (1,), "SAME")[:, 0]


def steps() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """The steps on `Products`, and their arguments."""
    optimizer = optim.SGD(lr=0.1)
    state = train.create(Products(), optimizer)
    loss = train.supervised(losses.mse_loss)
    batch = jnp.ones((4, 3)), jnp.ones((4, 3))
    return {
        "train": (train.make_train_step(loss, optimizer), (state, batch)),
        "microbatches": (train.make_train_step(loss, optimizer, microbatches=2), (state, batch)),
        "remat": (train.make_train_step(loss, optimizer, remat=True), (state, batch)),
        "eval": (train.make_eval_step(loss), (state, batch)),
        "predict": (train.make_predict(), (state, batch[0])),
    }


@pytest.mark.parametrize("name", steps())
def test_steps_multiply_a_users_own_products_in_full_float32(name):
    step, arguments = steps()[name]
    found = precisions(step, *arguments)
    assert len(found) >= 5
    assert set(found) == {"HIGHEST"}


@pytest.mark.parametrize("name", steps())
def test_what_a_user_chooses_comes_first(name):
    step, arguments = steps()[name]
    with jax.default_matmul_precision("tensorfloat32"):
        assert set(precisions(step, *arguments)) == {"HIGH"}
    set_float32_matmul_precision("medium")
    assert set(precisions(step, *arguments)) == {"DEFAULT"}  # bfloat16 in JAX's words
    jax.config.update("jax_default_matmul_precision", None)
    assert set(precisions(step, *arguments)) == {"HIGHEST"}


def test_a_context_around_layers_comes_first_in_their_gradients_too():
    layers = [
        linear(),
        (nn.Conv2d(3, 2, 3, rngs=Generator(0)), jnp.ones((1, 3, 5, 5))),
        (nn.GRU(3, 2, rngs=Generator(0)), jnp.ones((4, 1, 3))),
    ]
    for layer, x in layers:
        gradient = jax.grad(lambda x, f=layer: sum(y.sum() for y in jax.tree.leaves(f(x))))
        with jax.default_matmul_precision("tensorfloat32"):
            assert set(precisions(gradient, x)) == {"HIGH"}, layer


def test_the_users_other_code_is_left_alone():
    x = jnp.ones((3, 3))
    assert precisions(lambda x: x @ x, x) == ["DEFAULT"]
    layer, _ = linear()
    assert precisions(lambda x: layer(x) @ x[:2], x) == ["HIGHEST", "DEFAULT"]
    assert precisions(full_float32()(lambda x: x @ x), x) == ["HIGHEST"]
    with full_float32():
        assert jax.config.jax_default_matmul_precision == "highest"
    assert jax.config.jax_default_matmul_precision is None


def test_precision_can_be_lowered_and_raised_again():
    layer, x = linear()
    set_float32_matmul_precision("high")
    assert precisions(layer, x) == ["HIGH"]
    set_float32_matmul_precision("highest")
    assert precisions(layer, x) == ["HIGHEST"]
    assert precisions(lambda x: x @ x.T, x) == ["HIGHEST"]
    with pytest.raises(ValueError, match="'full'; accepted are 'highest', 'high', 'medium'"):
        set_float32_matmul_precision("full")


# Run in a process of its own: what it prints is what importing all of jaxnet changed.
IMPORTS = """
import logging, os, random, sys, warnings
import jax, numpy as np
import flax.nnx, optax, orbax.checkpoint, safetensors

def settings():
    found = {f"jax {name}": value for name, value in jax.config.values.items()}
    found |= {f"numpy print {name}": v for name, v in np.get_printoptions().items()}
    found |= {f"numpy error {name}": v for name, v in np.geterr().items()}
    found |= {f"variable {name}": v for name, v in os.environ.items()}
    found["numpy random"] = str(np.random.get_state())
    found["random"] = random.getstate()
    found["root logger"] = logging.root.level, list(logging.root.handlers), logging.root.disabled
    found["logging"] = logging.getLoggerClass(), logging.root.manager.disable
    found["warnings"] = list(warnings.filters)
    found["hooks"] = sys.excepthook, sys.displayhook, sys.getswitchinterval()
    return found

before = settings()
import jaxnet
from jaxnet import checkpoint, data, losses, metrics, nn, optim, precision, train, weights
after = settings()
print({k: (before.get(k), after.get(k)) for k in before | after if before.get(k) != after.get(k)})
print(jax.config.jax_default_matmul_precision)
"""


@pytest.mark.parametrize("chosen", [None, "tensorfloat32"])
def test_importing_changes_no_setting(chosen):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DEFAULT_MATMUL_PRECISION"}
    if chosen:
        environment["JAX_DEFAULT_MATMUL_PRECISION"] = chosen
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["{}", str(chosen)], done.stderr


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
