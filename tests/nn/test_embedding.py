"""jaxnet/nn/_embedding.py"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import nn, train, weights
from jaxnet.nn._embedding import embedding_renorm
from jaxnet.nn.functional import embedding, one_hot
from jaxnet.random import Generator
from tests.table import table

TestEmbedding = table("nn_embedding")


def layer(**options):
    return nn.Embedding(4, 3, rngs=Generator(0), **options)


@pytest.mark.parametrize("row", [4, -1, 100])
def test_a_row_out_of_range_is_named(row):
    with pytest.raises(IndexError, match=f"row {row} is not in a table of 4 rows"):
        layer()(jnp.array([[0, row]]))


def test_a_row_out_of_range_is_nan_under_jit():
    """JAX alone would give the nearest row, or count a negative one from the end."""
    module = layer(padding_idx=1, scale_grad_by_freq=True)
    out = np.asarray(jax.jit(lambda x: module(x))(jnp.array([3, 4, -1, 1])))
    assert np.isnan(out[1:3]).all()
    assert np.array_equal(out[[0, 3]], np.asarray(module.weight[...])[[3, 1]])


def test_row_numbers_are_integers():
    with pytest.raises(TypeError, match="row numbers of dtype float32; give integers"):
        layer()(jnp.array([1.0]))


def test_a_single_row_number():
    assert layer()(jnp.array(3)).shape == (3,)


def test_the_padding_row_starts_at_zero_and_must_exist():
    assert (np.asarray(layer(padding_idx=-1).weight[...])[3] == 0).all()
    for padding_idx in (4, -5):
        with pytest.raises(ValueError, match=f"padding_idx: {padding_idx} is no row of a table"):
            layer(padding_idx=padding_idx)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_list_of_row_numbers_is_refused(kind):
    with pytest.raises(TypeError, match=r"input: list; .* jnp.asarray\(input\)"):
        kind(4, 3, rngs=Generator(0))([[1, 2]])


def test_sparse_gradients_are_refused():
    with pytest.raises(ValueError, match="JAX has no sparse gradients"):
        layer(sparse=True)


def test_max_norm_changes_the_rows_that_were_looked_up():
    module = layer(max_norm=0.1)
    before = np.asarray(module.weight[...])
    out = np.asarray(module(jnp.array([[2, 0], [0, 0]])))
    after = np.asarray(module.weight[...])
    assert np.array_equal(after[[1, 3]], before[[1, 3]])
    np.testing.assert_allclose(np.linalg.norm(after[[0, 2]], axis=1), 0.1, rtol=1e-5)
    assert np.array_equal(out[0], after[[2, 0]])


def test_max_norm_of_an_array_is_refused():
    with pytest.raises(TypeError, match="changes the weight in place"):
        embedding(jnp.array([1]), jnp.ones((4, 3)), max_norm=1.0)
    renormed = embedding_renorm(jnp.ones((4, 3)), jnp.array([1, -1]), 1.0)
    np.testing.assert_allclose(renormed.sum(1), [3, 3**0.5, 3, 3], rtol=1e-6)


LOOKED_UP = np.array([[0, 1], [2, 2], [1, 0], [1, 2], [2, 0]])
BEFORE = np.arange(9, dtype=np.float64).reshape(3, 3) / 4 - 1


def trained_with_max_norm():
    """The table after five steps of SGD."""
    with jax.enable_x64(True):
        module = nn.Embedding.from_pretrained(jnp.asarray(BEFORE), freeze=False, max_norm=0.8)
        optimizer = optax.sgd(0.1)
        step = train.make_train_step(lambda model, x: (model(x) ** 3).sum(), optimizer)
        state = train.create(module, optimizer)
        for batch in LOOKED_UP:
            state, _ = jax.jit(step)(state, jnp.asarray(batch))
        return np.asarray(state.params["weight"])


def test_training_steps_keep_what_max_norm_changed():
    """The numbers are torch's."""
    theirs = [[-0.7374372, -0.48456305, -0.28426807],
              [-0.31572075, 0.0, 0.20131281],
              [0.21090597, 0.26849444, 0.30412737]]  # fmt: skip
    np.testing.assert_allclose(trained_with_max_norm(), theirs, atol=1e-7)


@pytest.mark.torch
def test_training_steps_with_max_norm_are_torchs():
    import torch

    theirs = torch.nn.Embedding.from_pretrained(torch.tensor(BEFORE), False, max_norm=0.8)
    sgd = torch.optim.SGD(theirs.parameters(), 0.1)
    for batch in LOOKED_UP:
        sgd.zero_grad()
        (theirs(torch.tensor(batch)) ** 3).sum().backward()
        sgd.step()
    expected = theirs.weight.detach().numpy()
    np.testing.assert_allclose(trained_with_max_norm(), expected, atol=1e-12)


def test_from_pretrained_freezes():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    frozen = nn.Embedding.from_pretrained(table, padding_idx=1)
    assert repr(frozen) == "Embedding(4, 3, padding_idx=1)"
    assert np.array_equal(frozen(jnp.array([1, 3])), table[[1, 3]])
    assert list(frozen.parameters()) == []
    assert list(weights.state_dict(frozen)) == ["weight"]
    free = nn.Embedding.from_pretrained(table, freeze=False)
    assert [name for name, _ in free.named_parameters()] == ["weight"]
    with pytest.raises(ValueError, match=r"shape \(3,\); accepted is \(rows, D\)"):
        nn.Embedding.from_pretrained(jnp.zeros(3))


def test_one_hot():
    assert one_hot(jnp.array([[2], [0]])).tolist() == [[[0, 0, 1]], [[1, 0, 0]]]
    assert one_hot(jnp.array(1), 3).tolist() == [0, 1, 0]
    assert one_hot(jnp.array([], int), 3).shape == (0, 3)
    row = one_hot(jnp.array([44], jnp.uint8), 300)  # 300 is 44 in eight bits
    assert jnp.issubdtype(row.dtype, jnp.integer)
    assert np.flatnonzero(row).tolist() == [44]


@pytest.mark.parametrize(
    ("classes", "num_classes", "message"),
    [([3], 3, "class 3; accepted is 0 to 2"), ([-1], 3, "class -1"), ([], -1, "are empty"),
     ([], 0, "num_classes=0"), ([1], -2, "num_classes=-2")],
)  # fmt: skip
def test_one_hot_says_what_it_takes(classes, num_classes, message):
    with pytest.raises(ValueError, match=message):
        one_hot(jnp.array(classes, int), num_classes)


def test_one_hot_under_jit():
    rows = jax.jit(lambda x: one_hot(x, 2))(jnp.array([1, 2, -1]))
    assert rows[0].tolist() == [0, 1]
    assert (rows[1:] < -1000).all()
    with pytest.raises(ValueError, match="not known under"):
        jax.jit(one_hot)(jnp.array([1]))
    with pytest.raises(TypeError, match="classes of dtype float32"):
        one_hot(jnp.array([1.0]))


# EmbeddingBag


def bag(input, offsets=None, table=4, **options):
    offsets = None if offsets is None else jnp.array(offsets)
    return nn.functional.embedding_bag(jnp.array(input), jnp.ones((table, 3)), offsets, **options)


@pytest.mark.parametrize(
    ("input", "offsets", "options", "message"),
    [
        ([0, 1], None, {}, r"input \(2,\) with offsets None"),
        ([[0, 1]], [0], {}, r"input \(1, 2\) with offsets \(1,\)"),
        ([[[0, 1]]], None, {}, r"\(1, 1, 2\)"),
        ([0, 1], [1], {}, r"offsets \[1\]; accepted are numbers that begin with 0"),
        ([0, 1], [0, 3], {}, "none is above 2"),
        ([0, 1, 2], [0, 2, 1], {}, "do not decrease"),
        ([0, 1, 2], [0, 2], {"include_last_offset": True}, "the last is 3"),
        ([[0, 1]], None, {"mode": "min"}, "mode: 'min'; accepted are 'sum', 'mean' and 'max'"),
        ([[0, 1]], None, {"mode": "max", "scale_grad_by_freq": True}, "mode 'max'"),
        ([[0, 1]], None, {"per_sample_weights": jnp.ones((1, 2))}, "accepted is 'sum'"),
        ([[0, 1]], None, {"mode": "sum", "per_sample_weights": jnp.ones(2)}, r"input, \(1, 2\)"),
        ([[0, 1]], None, {"padding_idx": 4}, "padding_idx: 4 is no row"),
        ([[0, 1]], None, {"sparse": True}, "no sparse gradients"),
    ],
)
def test_bags_that_do_not_fit(input, offsets, options, message):
    with pytest.raises(ValueError, match=message):
        bag(input, offsets, **options)


@pytest.mark.parametrize(("offsets", "last"), [([1], False), ([0, 3], False), ([0, 1], True)])
def test_offsets_that_do_not_fit_give_nan_under_jit(offsets, last):
    for mode in ("sum", "max"):
        run = jax.jit(lambda o, mode=mode: bag([0, 1], o, mode=mode, include_last_offset=last))
        assert np.isnan(run(jnp.array(offsets))).all()


def test_a_bag_with_a_row_out_of_range():
    with pytest.raises(IndexError, match="embedding_bag: row 4 is not in a table of 4 rows"):
        bag([[0, 4]])
    for mode in ("sum", "mean", "max"):
        for given in (([[0, 1], [4, 0]],), ([0, 1, 0, 4], [0, 2])):
            out = jax.jit(lambda x, *o, mode=mode: bag(x, *o, mode=mode))(*map(jnp.array, given))
            assert out[0].tolist() == [2.0 if mode == "sum" else 1.0] * 3
            assert np.isnan(out[1]).all()


def test_empty_bags_are_zeros():
    assert bag([0, 1], [0, 0, 2]).tolist() == [[0] * 3, [1] * 3, [0] * 3]
    for mode in ("sum", "mean", "max"):
        assert bag(np.zeros((2, 0), int), mode=mode).tolist() == [[0] * 3] * 2
        assert bag(np.zeros(0, int), [0, 0], mode=mode).tolist() == [[0] * 3] * 2
        assert bag([[1, 1]], mode=mode, padding_idx=1).tolist() == [[0] * 3]
    assert bag([0, 1], np.zeros(0, int)).shape == (0, 3)


def test_long_bags_of_half_precision_are_summed_in_float32():
    table = jnp.ones((4, 3), jnp.bfloat16)
    for mode, expected in (("sum", 1024), ("mean", 1), ("max", 1)):
        for given in ((jnp.zeros((1, 1024), int),), (jnp.zeros(1024, int), jnp.array([0]))):
            out = nn.functional.embedding_bag(given[0], table, *given[1:], mode=mode)
            assert out.dtype == jnp.bfloat16
            assert out.tolist() == [[expected] * 3]


def test_bags_of_a_given_table():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    frozen = nn.EmbeddingBag.from_pretrained(table, mode="max", padding_idx=0)
    assert repr(frozen) == "EmbeddingBag(4, 3, mode='max', padding_idx=0)"
    assert frozen(jnp.array([[0, 1]])).tolist() == [[3, 4, 5]]
    assert list(frozen.parameters()) == []
    free = nn.EmbeddingBag.from_pretrained(table, freeze=False)
    assert [name for name, _ in free.named_parameters()] == ["weight"]
