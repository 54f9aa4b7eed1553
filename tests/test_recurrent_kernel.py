"""The recurrent layers in C against the same layers in JAX's operations."""

import functools
import hashlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import _kernels as kernels
from jaxnet import nn, train
from jaxnet.nn import _recurrent as recurrent
from jaxnet.nn._recurrent import Weights, recurrent_layer
from jaxnet.random import Generator
from tests.tolerances import distance, tolerance

needs_compiler = pytest.mark.skipif(not kernels.available(), reason="no C compiler")
GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}
FIRST, LAST = (True, False), (False, True)  # whether input and output have the batch first

# cell, N, L, I, H, and what else the layer is given: tiles whole and cut, one task and
# several, one panel and several, one chunk and block of the weights' gradient and several
LAYERS = [
    ("lstm", 64, 50, 32, 64, {"batch_first": FIRST}),
    ("lstm", 17, 2, 3, 5, {"reverse": True, "lengths": True, "batch_first": LAST}),
    ("lstm", 3, 50, 60, 100, {"lengths": True, "batch_first": (True, True)}),
    ("lstm", 1, 1, 1, 1, {"bias": False}),
    ("gru", 17, 50, 20, 64, {"reverse": True, "lengths": True, "batch_first": LAST}),
    ("gru", 3, 2, 70, 100, {"bias": False, "batch_first": FIRST}),
    ("gru", 64, 1, 4, 5, {"lengths": True}),
    ("tanh", 17, 50, 5, 17, {"reverse": True, "lengths": True, "batch_first": FIRST}),
    ("tanh", 64, 2, 64, 100, {"reverse": True}),
    ("relu", 33, 7, 3, 70, {"bias": False, "lengths": True, "batch_first": (True, True)}),
]


def inputs_of(cell, n, steps, size, hidden, bias=True, lengths=False, batch_first=(False, False)):
    """x, weights, first state, lengths, and slopes for y and the last state."""
    rng = np.random.RandomState(0)

    def draw(*shape, scale=1.0):
        return jax.device_put((scale * rng.standard_normal(shape)).astype(np.float32))

    rows, scale = GATES[cell] * hidden, hidden**-0.5
    weights = Weights(
        draw(rows, size, scale=size**-0.5),
        draw(rows, hidden, scale=scale),
        draw(rows) if bias else None,
        draw(rows) if bias else None,
        None,
    )
    states = range(2 if cell == "lstm" else 1)
    first = tuple(draw(n, hidden) for _ in states)
    x = draw(*((n, steps) if batch_first[0] else (steps, n)), size)
    dy = draw(*((n, steps) if batch_first[1] else (steps, n)), hidden)
    counts = jnp.asarray(rng.randint(1, steps + 1, n)) if lengths else None
    return x, weights, first, counts, (dy, tuple(draw(n, hidden) for _ in states))


def both_ways(cell, x, weights, first, lengths, slopes, reverse=False, batch_first=(False, False)):
    """The results of a layer, and the slopes of its input, weights and first state."""

    def layer(x, weights, first):
        return recurrent_layer(cell, x, weights, first, lengths, reverse, batch_first)

    results, back = jax.vjp(layer, x, weights, first)
    return results, back(slopes)


@pytest.fixture
def any_size(monkeypatch):
    """Small arrays go through the kernel too."""
    monkeypatch.setattr(recurrent, "_for_kernel", lambda x, *_: x.dtype == jnp.float32)


def in_float64(arrays):
    return jax.tree.map(
        lambda a: np.asarray(a, np.float64 if a.dtype == np.float32 else a.dtype), arrays
    )


def close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert distance("gradient", a, b) <= tolerance("gradient", "float32")


def kernels_in(function, *arrays):
    return "jaxnet_recurrent" in jax.jit(function).lower(*arrays).as_text()


@needs_compiler
@pytest.mark.parametrize(("cell", "n", "steps", "size", "hidden", "more"), LAYERS)
def test_the_kernel_gives_what_the_plain_form_gives(any_size, cell, n, steps, size, hidden, more):
    drawn = {key: value for key, value in more.items() if key != "reverse"}
    given = {key: value for key, value in more.items() if key in ("reverse", "batch_first")}
    arrays = inputs_of(cell, n, steps, size, hidden, **drawn)
    run = functools.partial(both_ways, cell, **given)
    assert kernels_in(run, *arrays)
    with jax.enable_x64(True):
        assert not kernels_in(run, *in_float64(arrays))
        exact = jax.jit(run)(*in_float64(arrays))
    close(jax.jit(run)(*arrays), exact)


@needs_compiler
def test_float32_where_float64_is_allowed(any_size):
    arrays = inputs_of("gru", 5, 3, 2, 4, bias=False)
    run = functools.partial(both_ways, "gru")
    ours = jax.jit(run)(*arrays)
    with jax.enable_x64(True):
        again = jax.jit(run)(*arrays)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(again)))


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_module_with_everything(kind):
    """Two layers in both directions, lengths, a batch first: compiled, eager and exact."""
    layer = kind(3, 5, 2, bidirectional=True, batch_first=True, rngs=Generator(0))
    structure, params, buffers = train.split(layer)
    x = jnp.asarray(Generator(1).randn(20, 9, 3))
    lengths = jnp.asarray(np.arange(20) % 9 + 1)

    def slopes(params, x):
        def loss(params, x):
            output, last = train.merge(structure, params, buffers)(x, lengths=lengths)
            return (output**2).sum() + sum((s**3).sum() for s in jax.tree.leaves(last))

        return jax.value_and_grad(loss, (0, 1))(params, x)

    assert kernels_in(slopes, params, x)
    compiled = jax.jit(slopes)(params, x)
    close(slopes(params, x), compiled)
    with jax.enable_x64(True):
        close(compiled, jax.jit(slopes)(*in_float64((params, x))))


@needs_compiler
@pytest.mark.torch
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_torch_gives_the_same(name):
    import torch

    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(20, 40, 2, batch_first=True, bidirectional=True)
    layer = getattr(nn, name)(20, 40, 2, batch_first=True, bidirectional=True, rngs=Generator(0))
    structure, params, buffers = train.split(layer)
    x = Generator(1).randn(35, 12, 20)

    def loss(params, x):
        output, _ = train.merge(structure, params, buffers)(x)
        return (output**2).sum(), output

    assert kernels_in(loss, params, x)
    (_, output), (slopes, dx) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)
    given = torch.tensor(x, requires_grad=True)
    expected = theirs(given)[0]
    (expected**2).sum().backward()
    assert distance("forward", output, expected.detach()) <= tolerance("forward", "float32")
    close(dx, given.grad.numpy())
    for key, parameter in theirs.named_parameters():
        close(slopes[key], parameter.grad.numpy())


@pytest.mark.slow
@needs_compiler
def test_derivatives_of_every_order_and_mode(any_size):
    x, weights, first, lengths, _ = inputs_of("lstm", 4, 3, 2, 3, lengths=True)
    v, u = (jnp.asarray(Generator(i).randn(*x.shape)) for i in (1, 2))

    def derivatives(x, weights, v, u):
        def total(x, weights):
            y, last = recurrent_layer("lstm", x, weights, first, lengths, True)
            return jnp.sin(y).sum() + sum((s**2).sum() for s in last)

        slope = jax.grad(total, (0, 1))
        along = jax.jvp(lambda x: total(x, weights), (x,), (v,))[1]
        reverse_twice = jax.grad(lambda x, w: (slope(x, w)[0] * v).sum(), (0, 1))(x, weights)
        forward_over = jax.jvp(lambda x: slope(x, weights), (x,), (v,))[1]
        reverse_over = jax.grad(lambda x: jax.jvp(lambda x: total(x, weights), (x,), (v,))[1])(x)
        third = jax.jvp(
            lambda x: jax.grad(lambda x: (slope(x, weights)[0] * v).sum())(x), (x,), (u,)
        )[1]
        return along, reverse_twice, forward_over, reverse_over, third

    ours = jax.jit(derivatives)(x, weights, v, u)
    first = in_float64(first)
    with jax.enable_x64(True):
        close(ours, jax.jit(derivatives)(*in_float64((x, weights, v, u))))


@needs_compiler
def test_only_what_moves_is_differentiated(any_size):
    x, weights, first, _, _ = inputs_of("lstm", 16, 4, 3, 5)

    def total(x, weights, first):
        return (recurrent_layer("lstm", x, weights, first)[0] ** 2).sum()

    some = jax.jit(jax.grad(total, 1))(x, weights, first)
    compiled = jax.jit(jax.grad(total, 1)).lower(x, weights, first).compile().as_text()
    assert "f32[0,0,0]" in compiled  # no room for the slopes of x: they are not worked out
    whole = jax.jit(jax.grad(total, (0, 1, 2)))(x, weights, first)
    assert all(map(np.array_equal, jax.tree.leaves(some), jax.tree.leaves(whole[1])))
    close(jax.jit(jax.grad(total, 2))(x, weights, first), whole[2])


@pytest.mark.long
@needs_compiler
def test_vmap_inside_and_outside_of_grad(any_size):
    one = inputs_of("gru", 5, 3, 2, 4)[:3]
    sets = [one, jax.tree.map(lambda a: a[::-1] * 0.5, one)]
    many = jax.tree.map(lambda *a: jnp.stack(a), *sets)

    def total(x, weights, first):
        return (recurrent_layer("gru", x, weights, first)[0] ** 2).sum()

    def sum_of(axes):
        return lambda *arrays: jax.vmap(total, axes)(*arrays).sum()

    slopes = jax.jit(jax.grad(total, (0, 1, 2)))
    alone = jax.tree.map(lambda *a: jnp.stack(a), *(slopes(*each) for each in sets))
    each = jax.jit(jax.vmap(jax.grad(total, (0, 1, 2))))(*many)
    assert all(map(np.array_equal, jax.tree.leaves(each), jax.tree.leaves(alone)))
    close(jax.jit(jax.grad(sum_of(0), (0, 1, 2)))(*many), alone)
    x, weights, first = many[0], one[1], many[2]
    shared = jax.jit(jax.grad(sum_of((0, None, 0)), (0, 1)))(x, weights, first)
    first_two = [slopes(x[i], weights, (first[0][i],)) for i in range(2)]
    close(shared[0], jnp.stack([dx for dx, *_ in first_two]))
    close(shared[1], jax.tree.map(jnp.add, *(dw for _, dw, _ in first_two)))


@pytest.mark.long
@needs_compiler
def test_recomputed_inside_a_scan(any_size):
    """Inside jax.checkpoint and lax.scan, as a training epoch has it."""
    x, weights, first, _, _ = inputs_of("lstm", 4, 3, 5, 5)

    def total(weights, wrapped):
        def body(carry, _):
            y, last = recurrent_layer("lstm", carry, weights, first)
            return y, sum(s.sum() for s in last)

        y, sums = jax.lax.scan(jax.checkpoint(body) if wrapped else body, x, length=3)
        return (y**2).sum() + sums.sum()

    slopes = jax.jit(jax.grad(total), static_argnums=1)
    ours = slopes(weights, True)
    close(ours, slopes(weights, False))
    with jax.enable_x64(True):
        x, weights, first = in_float64((x, weights, first))
        close(ours, jax.jit(jax.grad(total), static_argnums=1)(weights, False))


@needs_compiler
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_sigmoid_and_tanh_to_the_last_digits(any_size, name):
    """tanh by an RNN of one unit, sigmoid by an LSTM whose c is its input gate."""
    spread = np.concatenate([np.linspace(-20, 20, 20001), np.logspace(-30, 1, 5000)])
    x = np.concatenate([spread, [0, 1e30, -1e30, np.inf, -np.inf, np.nan]]).astype(np.float32)
    zero = jnp.zeros((x.size, 1))
    if name == "tanh":
        weights = Weights(jnp.ones((1, 1)), jnp.zeros((1, 1)), None, None, None)
        _, (ours,) = recurrent_layer("tanh", x[None, :, None], weights, (zero,))
        exact = np.tanh(x.astype(np.float64))
    else:
        inputs, bias = jnp.array([[1.0], [0], [0], [0]]), jnp.array([0.0, 0, 50, 0])
        weights = Weights(inputs, jnp.zeros((4, 1)), bias, 0 * bias, None)
        x = x[np.isfinite(x)]  # the other gates see 0 times x
        _, (_, ours) = recurrent_layer(
            "lstm", x[None, :, None], weights, (zero[: x.size], zero[: x.size])
        )
        exact = 1 / (1 + np.exp(-x.astype(np.float64).clip(-700)))
    ours, normal = np.asarray(ours)[:, 0].astype(np.float64), np.abs(exact) > 1e-37
    assert np.array_equal(np.isnan(ours), np.isnan(exact))
    ulp = np.spacing(np.abs(exact[normal]).astype(np.float32)).astype(np.float64)
    assert (np.abs(ours - exact)[normal] / ulp).max() <= 3
    rest = ~normal & ~np.isnan(exact)
    assert np.abs(ours - exact)[rest].max() < 1e-37


BITS = """
import os, sys
if sys.argv[1:]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax
from tests.test_recurrent_kernel import bits
print(bits())
"""


def bits():
    """A digest of the results and slopes of a layer whose work falls into many tasks."""
    arrays = inputs_of("lstm", 70, 9, 60, 100, lengths=True)
    found = jax.jit(functools.partial(both_ways, "lstm"))(*arrays)
    whole = b"".join(np.asarray(a).tobytes() for a in jax.tree.leaves(found))
    return hashlib.sha256(whole).hexdigest()


@pytest.mark.long
@needs_compiler
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_the_same_bits_with_one_thread_and_with_many():
    many = bits()
    assert all(bits() == many for _ in range(5))
    command = [sys.executable, "-c", BITS, "one"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == many


def test_without_a_compiler_the_plain_form_runs(monkeypatch):
    arrays = inputs_of("lstm", 32, 5, 3, 4)
    run = functools.partial(both_ways, "lstm")
    compiled = kernels_in(run, *arrays)
    assert compiled == kernels.available()
    ours = jax.jit(run)(*arrays)
    monkeypatch.setattr(kernels, "available", lambda: False)
    plain = functools.partial(both_ways, "lstm")
    assert not kernels_in(plain, *arrays)
    close(ours, jax.jit(plain)(*arrays))


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (9, 9)])
def test_few_rows_take_the_plain_form(shape):
    arrays = inputs_of("gru", shape[1], shape[0], 3, 4)
    assert not kernels_in(functools.partial(both_ways, "gru"), *arrays)
