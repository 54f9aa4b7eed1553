"""jaxnet/nn/_rnn.py, rnn_cell.py, recurrence.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, train, weights
from jaxnet.random import Generator
from tests.rows.nn_rnn import flat
from tests.table import table
from tests.tolerances import distance, tolerance

TestRNN = table("nn_rnn")

KINDS = [nn.RNN, nn.LSTM, nn.GRU]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("RNN", (3, 5, 2), {}),
        ("LSTM", (3, 6, 2), {"bidirectional": True, "proj_size": 2}),
        ("GRU", (7, 5), {"bias": False}),
        ("RNNCell", (3, 5), {}),
        ("LSTMCell", (3, 5), {}),
        ("GRUCell", (3, 5, False), {}),
    ],
)
def test_initial_weights_are_torchs(name, args, kwargs):
    import torch

    for seed in range(100):
        torch.manual_seed(seed)
        theirs = getattr(torch.nn, name)(*args, **kwargs).state_dict()
        ours = weights.state_dict(getattr(nn, name)(*args, **kwargs, rngs=Generator(seed)))
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert np.array_equal(ours[key], value.numpy()), (seed, key)


def test_lstm_gates_stand_in_the_order_i_f_g_o():
    big = 50.0
    lstm = nn.LSTM(1, 1, rngs=Generator(0))
    zero = {"weight_ih_l0": np.zeros((4, 1)), "weight_hh_l0": np.zeros((4, 1))}
    zero |= {"bias_hh_l0": np.zeros(4)}

    def c_n(*bias):
        weights.load_state_dict(lstm, zero | {"bias_ih_l0": np.array(bias)})
        _, (_, c) = lstm(jnp.zeros((1, 1)), (jnp.zeros((1, 1)), jnp.ones((1, 1))))
        return float(c[0, 0])

    assert c_n(-big, big, big, big) == pytest.approx(1)  # input gate shut: c stays
    assert c_n(big, -big, -big, big) == pytest.approx(-1)  # forget gate shut: c = g


def test_gru_resets_behind_the_product_with_two_biases():
    # With W = 0, r shut and b_hn large, n does not feel b_hn; one joint bias would.
    cell = nn.GRUCell(1, 1, rngs=Generator(0))
    zero = np.zeros((3, 1))
    weights.load_state_dict(
        cell,
        {
            "weight_ih": zero,
            "weight_hh": zero,
            "bias_ih": np.array([-50.0, -50.0, 0.0]),
            "bias_hh": np.array([0.0, 0.0, 9.0]),
        },
    )
    assert float(cell(jnp.zeros(1), jnp.ones(1))[0]) == pytest.approx(0)


def test_both_biases_get_gradients_of_their_own():
    structure, params, buffers = train.split(nn.LSTM(2, 3, rngs=Generator(0)))
    grads = jax.grad(
        lambda p: train.merge(structure, p, buffers)(jnp.ones((4, 2)))[0].sum()
    )(params)  # fmt: skip
    assert {"bias_ih_l0", "bias_hh_l0"} < set(grads)
    assert np.array_equal(grads["bias_ih_l0"], grads["bias_hh_l0"])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_reaches_neither_result_nor_gradient(kind):
    layer = kind(2, 3, bidirectional=True, rngs=Generator(0))
    x = jnp.asarray(Generator(1).randn(5, 2, 2))
    spoilt = x.at[3:, 1].set(jnp.nan)

    @jax.jit
    def run(x):
        def total(x):
            leaves = flat(layer(x, lengths=jnp.array([5, 3])))
            return sum(leaf.sum() for leaf in leaves), leaves

        return jax.grad(total, has_aux=True)(x)

    (clean, expected), (gradient, padded) = run(x), run(spoilt)
    assert np.array_equal(gradient, clean)
    assert not gradient[3:, 1].any()
    assert all(map(np.array_equal, padded, expected))
    assert not padded[0][3:, 1].any()
    alone = flat(jax.jit(lambda x: layer(x))(x[:3, 1]))
    assert distance("forward", alone[0], padded[0][:3, 1]) < tolerance("forward", "float32")
    for one, many in zip(alone[1:], padded[1:], strict=True):
        assert distance("forward", one, many[:, 1]) < tolerance("forward", "float32")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_second_derivatives_in_both_modes(kind):
    with jax.enable_x64(True):
        layer = kind(2, 2, rngs=Generator(0), dtype=jnp.float64)
        x, v = (jnp.asarray(Generator(i).randn(3, 1, 2, dtype=np.float64)) for i in (1, 2))
        slope = jax.jit(jax.grad(lambda x: jnp.sin(layer(x)[0]).sum()))
        forward = jax.jit(lambda x: jax.jvp(slope, (x,), (v,))[1])(x)
        reverse = jax.jit(jax.grad(lambda x: (slope(x) * v).sum()))(x)
        measured = (slope(x + 1e-5 * v) - slope(x - 1e-5 * v)) / 2e-5
        assert distance("gradient", reverse, forward) < tolerance("gradient", "float64")
        assert distance("gradient", measured, forward) < 1e-8


def test_an_empty_batch_gives_an_empty_result():
    output, (h_n, c_n) = nn.LSTM(2, 3, proj_size=1, rngs=Generator(0))(jnp.zeros((4, 0, 2)))
    assert (output.shape, h_n.shape, c_n.shape) == ((4, 0, 1), (1, 0, 1), (1, 0, 3))


def test_dropout_stands_between_the_layers_only():
    layer = nn.GRU(2, 3, 2, dropout=1.0, rngs=Generator(0))
    x = jnp.asarray(Generator(1).randn(4, 2, 2))
    output, h_n = layer(x)
    blind, _ = layer(jnp.zeros_like(x))
    assert np.array_equal(output, blind)  # the second layer sees nothing of the input
    assert output.any()  # and its own outputs are not dropped
    assert not np.array_equal(layer.eval()(x)[0], output)
    assert np.array_equal(layer(x)[1][0], h_n[0])


def test_recorded_masks_stand_for_dropout():
    layer = nn.LSTM(2, 3, 2, batch_first=True, dropout=0.5, rngs=Generator(0))
    x = jnp.ones((2, 4, 2))
    with nn.draws([jnp.ones((4, 2, 3))]):
        kept, _ = layer(x)
    state = weights.state_dict(layer)
    weights.load_state_dict(layer, state | {"weight_ih_l1": 2 * state["weight_ih_l1"]})
    np.testing.assert_allclose(kept, layer.eval()(x)[0], rtol=1e-6)
    with pytest.raises(ValueError, match="no random key is at hand"):
        layer.train()(x)


WRONG = [
    ({}, ((5, 2, 4),), r"LSTM\(3, 4\) expects an input of shape \(L, N, 3\) or \(L, 3\); it got"),
    ({"batch_first": True}, ((5,),), r"\(N, L, 3\) or \(L, 3\); it got \(5,\)"),
    ({}, ((0, 2, 3),), r"at least one time step; it got \(0, 2, 3\)"),
    ({}, ((5, 2, 3), (1, 2, 4), (1, 2, 5)), r"hx\[1\] of shape \(1, 2, 4\).* it got \(1, 2, 5\)"),
    ({}, ((5, 3), (1, 2, 4), (1, 2, 4)), r"hx\[0\] of shape \(1, 4\).* it got \(1, 2, 4\)"),
]


@pytest.mark.parametrize(("kwargs", "shapes", "message"), WRONG)
def test_wrong_shape_says_layer_expected_and_given(kwargs, shapes, message):
    layer = nn.LSTM(3, 4, **kwargs, rngs=Generator(0))
    x, *hx = map(jnp.zeros, shapes)
    with pytest.raises(ValueError, match=message):
        layer(x, tuple(hx) or None)


def test_wrong_calls_are_named():
    layer = nn.LSTM(3, 4, rngs=Generator(0))
    x = jnp.zeros((5, 2, 3))
    with pytest.raises(TypeError, match=r"hx as a pair \(h, c\); it got"):
        layer(x, jnp.zeros((1, 2, 4)))
    with pytest.raises(ValueError, match=r"lengths of shape \(2,\).* it got \(3,\)"):
        layer(x, lengths=[1, 2, 3])
    with pytest.raises(ValueError, match="lengths from 1 to 5; they go from 0 to 6"):
        layer(x, lengths=[0, 6])
    with pytest.raises(TypeError, match="integer lengths; it got float32"):
        layer(x, lengths=np.array([1, 2], np.float32))
    with pytest.raises(ValueError, match="float32 parameters; it got an input of int32"):
        layer(x.astype(jnp.int32))
    with pytest.raises(ValueError, match=r"hx\[0\] of bfloat16 with an input of float32"):
        layer(x, (jnp.zeros((1, 2, 4), jnp.bfloat16), jnp.zeros((1, 2, 4))))
    with pytest.raises(TypeError, match="expects hx as an array; it got tuple"):
        nn.GRU(3, 4, rngs=Generator(0))(x, (jnp.zeros((1, 2, 4)),))
    cell = nn.GRUCell(3, 4, rngs=Generator(0))
    with pytest.raises(ValueError, match=r"GRUCell\(3, 4\) expects an input of shape \(N, 3\)"):
        cell(jnp.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"hx of shape \(2, 4\) .* it got \(1, 4\)"):
        cell(jnp.zeros((2, 3)), jnp.zeros((1, 4)))


def test_wrong_arguments_are_named():
    g = Generator(0)
    for kwargs, message in [
        ({"hidden_size": 0}, "hidden_size 0 must be greater than 0"),
        ({"num_layers": 0}, "num_layers 0 must be greater than 0"),
        ({"dropout": 1.5}, "dropout 1.5 is no probability"),
        ({"proj_size": 4}, "proj_size 4; accepted are 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            nn.LSTM(**{"input_size": 3, "hidden_size": 4, **kwargs}, rngs=g)
    for kwargs, message in [
        ({"input_size": 3.0}, "input_size 3.0 is float, not int"),
        ({"bias": 1}, "bias 1 is int, not bool"),
    ]:
        with pytest.raises(TypeError, match=message):
            nn.GRU(**{"input_size": 3, "hidden_size": 4, **kwargs}, rngs=g)
    with pytest.raises(ValueError, match="nonlinearity: 'sigmoid'; accepted are"):
        nn.RNN(3, 4, nonlinearity="sigmoid", rngs=g)
    with pytest.warns(UserWarning, match="does nothing with num_layers=1"):
        nn.RNN(3, 4, dropout=0.5, rngs=g)


CELLS = [nn.RNNCell, nn.LSTMCell, nn.GRUCell]


def by_hand(cell, x, hx):
    outputs = []
    for each in x:
        hx = cell(each, hx)
        outputs.append(hx[0] if isinstance(hx, tuple) else hx)
    return jnp.stack(outputs), hx


@pytest.mark.torch
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("given", [False, True])
def test_scan_cell_is_torchs_loop(kind, given):
    import torch

    cell = kind(3, 4, rngs=Generator(0))
    theirs = getattr(torch.nn, kind.__name__)(3, 4)
    theirs.load_state_dict(
        {k: torch.tensor(np.asarray(v)) for k, v in weights.state_dict(cell).items()}
    )
    rng = np.random.RandomState(0)
    x = rng.standard_normal((7, 2, 3)).astype(np.float32)
    state = tuple(rng.standard_normal((2, 4)).astype(np.float32) for _ in range(2))
    state = state if kind is nn.LSTMCell else state[0]
    in_torch = jax.tree.map(torch.tensor, state) if given else None
    outputs, expected = [], torch.tensor(x, requires_grad=True)
    for each in expected:
        in_torch = theirs(each, in_torch)
        outputs.append(in_torch[0] if kind is nn.LSTMCell else in_torch)
    outputs = torch.stack(outputs)
    (outputs**2).sum().backward()
    structure, params, buffers = train.split(cell)

    def total(params, x, state):
        cell = train.merge(structure, params, buffers)
        outputs, last = nn.scan_cell(cell, x, state)
        return (outputs**2).sum(), (outputs, last)

    slopes, (ours, last) = jax.jit(jax.grad(total, (0, 1), has_aux=True))(
        params, x, state if given else None
    )
    pairs = [(ours, outputs), (slopes[1], expected.grad)]
    pairs += zip(jax.tree.leaves(last), jax.tree.leaves(in_torch), strict=True)
    pairs += [(slopes[0][name], p.grad) for name, p in theirs.named_parameters()]
    for a, b in pairs:
        assert distance("gradient", a, b.detach().numpy()) <= tolerance("gradient", "float32")


@pytest.mark.parametrize("kind", CELLS)
def test_scan_cell_backwards_and_with_the_batch_first(kind):
    cell = kind(3, 4, rngs=Generator(0))
    x = jnp.asarray(np.random.RandomState(1).standard_normal((5, 2, 3)), jnp.float32)
    outputs, last = nn.scan_cell(cell, jnp.swapaxes(x, 0, 1), batch_first=True, reverse=True)
    expected, state = by_hand(cell, x[::-1], None)
    np.testing.assert_allclose(outputs, jnp.swapaxes(expected[::-1], 0, 1), rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    alone, _ = nn.scan_cell(cell, x[:, 0], reverse=True)
    np.testing.assert_allclose(alone, expected[::-1][:, 0], rtol=1e-5, atol=1e-6)
    assert nn.scan_cell(cell, x[:0])[0].shape == (0, 2, 4)


def test_scan_cell_is_compiled_once_for_all_steps():
    cell = nn.LSTMCell(3, 4, rngs=Generator(0))

    def text(steps):
        return jax.jit(lambda x: nn.scan_cell(cell, x)).lower(jnp.ones((steps, 2, 3))).as_text()

    assert len(text(5).splitlines()) == len(text(500).splitlines())


def test_every_step_of_scan_cell_draws_numbers_of_its_own():
    def noisy(x, h):
        return h + x + nn.functional.dropout(jnp.ones_like(h), 0.5)

    x, h = jnp.zeros((6, 50)), jnp.zeros(50)
    with nn.keys(jax.random.key(0)):
        outputs, _ = nn.scan_cell(noisy, x, h)
        again, _ = nn.scan_cell(noisy, x, h)
    drawn = np.diff(np.asarray(outputs), axis=0, prepend=0)
    assert len({row.tobytes() for row in drawn}) == 6
    assert not np.array_equal(outputs, again)
    masks = [np.random.RandomState(i).random_sample(50) < 0.5 for i in range(6)]
    with nn.draws(masks):
        replayed, _ = nn.scan_cell(noisy, x, h)
    np.testing.assert_array_equal(replayed, 2 * np.cumsum(np.stack(masks), 0, dtype=np.float32))
    with pytest.raises(ValueError, match="no random key"):
        nn.scan_cell(noisy, x, h)


def test_recorded_draws_do_not_unroll_a_loop_over_a_cell_that_draws_nothing():
    cell = nn.LSTMCell(3, 4, rngs=Generator(0))

    def text(steps):
        with nn.draws([]):
            return jax.jit(lambda x: nn.scan_cell(cell, x)).lower(jnp.ones((steps, 2, 3))).as_text()

    assert len(text(60).splitlines()) == len(text(2).splitlines())
    with nn.draws([]):
        assert nn.scan_cell(lambda x, h: x + h, jnp.ones((0, 2)), jnp.ones(2))[0].shape == (0, 2)


def test_scan_cell_names_what_it_cannot_do():
    norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="a Buffer from outside"):
        nn.scan_cell(lambda x, h: norm(x) + h, jnp.ones((4, 2, 3)), jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match=r"zeros are known only for RNNCell.*function"):
        nn.scan_cell(lambda x, h: h, jnp.ones((4, 2, 3)))
    cell = nn.GRUCell(3, 4, rngs=Generator(0))
    with pytest.raises(ValueError, match=r"has shape \(4,\); accepted are at least 2 axes"):
        nn.scan_cell(cell, jnp.ones(4), batch_first=True)
    with pytest.raises(ValueError, match=r"GRUCell\(3, 4\) expects"):
        nn.scan_cell(cell, jnp.ones((4, 2, 5)))
    with pytest.raises(TypeError, match="carry"):
        nn.scan_cell(lambda x, h: (h, h), jnp.ones((4, 2, 3)), jnp.zeros((2, 3)))
