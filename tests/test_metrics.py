"""jaxnet/metrics"""

import importlib
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxnet import losses, metrics, nn, train
from jaxnet.random import Generator

C = 5


@pytest.fixture(scope="module")
def sklearn():
    """scikit-learn's metrics, for the tests marked so."""
    return importlib.import_module("sklearn.metrics")


def make_data(seed=0, rows=37, absent=None):
    """Scores (rows, C) and classes; class `absent` is in neither."""
    rng = np.random.RandomState(seed)
    scores, targets = rng.standard_normal((rows, C)).astype(np.float32), rng.randint(0, C, rows)
    scores[np.arange(rows), targets] += 1
    if absent is not None:
        targets[targets == absent] = (absent + 1) % C
        scores[:, absent] = -100
    return scores, targets


def in_batches(metric, outputs, targets, size=8):
    """The metric over uneven batches: all whole ones in one scan, then the rest."""

    @jax.jit
    def run(outputs, targets):
        whole = len(targets) // size * size
        batches = jax.tree.map(
            lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), (outputs, targets)
        )
        _, pieces = lax.scan(lambda carry, batch: (carry, metric(*batch)), 0, batches)
        return metrics.total(pieces) + metric(outputs[whole:], targets[whole:])

    return run(jnp.asarray(outputs), jnp.asarray(targets))


@pytest.mark.sklearn
@pytest.mark.parametrize("average", ["macro", "weighted", "micro", None])
@pytest.mark.parametrize("zero_division", [0.0, 1.0, math.nan])
def test_classes_are_scikit_learns(sklearn, average, zero_division):
    """Also where a class is never predicted, and where one does not occur at all."""
    scores, targets = make_data(absent=2)
    scores[:, 4] = -100
    predicted = scores.argmax(1)
    labels = range(C) if average is None else None
    options = {"average": average, "zero_division": zero_division}
    for name in ("precision", "recall", "f1"):
        expected = getattr(sklearn, f"{name}_score")(targets, predicted, labels=labels, **options)
        function = getattr(metrics, name)
        piece = function(scores, targets, **options)
        np.testing.assert_allclose(piece.compute(), expected, rtol=1e-6)
        for other in ("precision", "recall", "f1"):
            theirs = getattr(sklearn, f"{other}_score")(
                targets, predicted, labels=labels, **options
            )
            counts = metrics.confusion(scores, targets).counts()
            np.testing.assert_allclose(getattr(counts, other)(**options), theirs, rtol=1e-6)
            np.testing.assert_allclose(getattr(piece, other)(**options), theirs, rtol=1e-6)


@pytest.mark.sklearn
def test_binary_is_scikit_learns(sklearn):
    rng = np.random.RandomState(3)
    score, targets = rng.standard_normal(30), rng.randint(0, 2, 30)
    for name in ("precision", "recall", "f1"):
        piece = getattr(metrics, name)(score > 0, targets, average="binary", num_classes=2)
        expected = getattr(sklearn, f"{name}_score")(targets, score > 0)
        np.testing.assert_allclose(piece.compute(), expected, rtol=1e-6)


@pytest.mark.sklearn
def test_shares_and_confusion_are_scikit_learns(sklearn):
    scores, targets = make_data(1)
    predicted = scores.argmax(1)
    confusion = metrics.confusion(scores, targets).compute()
    np.testing.assert_array_equal(confusion, sklearn.confusion_matrix(targets, predicted))
    share = metrics.accuracy(scores, targets).compute()
    np.testing.assert_allclose(share, sklearn.accuracy_score(targets, predicted), rtol=1e-6)
    for k in (1, 2, C):
        share = metrics.top_k_accuracy(scores, targets, k).compute()
        expected = (
            sklearn.top_k_accuracy_score(targets, scores, k=k, labels=range(C)) if k < C else 1.0
        )
        np.testing.assert_allclose(share, expected, rtol=1e-6)


@pytest.mark.sklearn
@pytest.mark.parametrize("multioutput", ["uniform_average", "variance_weighted", "raw_values"])
def test_regression_is_scikit_learns(sklearn, multioutput):
    rng = np.random.RandomState(0)
    targets = rng.standard_normal((29, 3)).astype(np.float32) * [1, 10, 0]
    outputs = targets + 0.3 * rng.standard_normal((29, 3)).astype(np.float32)
    for y, p in ((targets, outputs), (targets[:, 0], outputs[:, 0]), (targets, targets)):
        expected = sklearn.r2_score(y, p, multioutput=multioutput)
        result = metrics.r2(p, y, multioutput).compute()
        np.testing.assert_allclose(np.ravel(result), np.ravel(expected), rtol=1e-5)
    np.testing.assert_allclose(
        metrics.mae(outputs, targets).compute(),
        sklearn.mean_absolute_error(targets, outputs),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        metrics.mse(outputs, targets).compute(),
        sklearn.mean_squared_error(targets, outputs),
        rtol=1e-6,
    )


METRICS = {
    "accuracy": metrics.accuracy,
    "top 2": partial(metrics.top_k_accuracy, k=2),
    "precision": metrics.precision,
    "recall": partial(metrics.recall, average=None),
    "f1": partial(metrics.f1, average="weighted", zero_division=math.nan),
    "confusion": metrics.confusion,
    "loss": metrics.mean_loss(losses.cross_entropy),
}


@pytest.mark.parametrize("name", METRICS)
def test_uneven_batches_give_what_one_go_gives(name):
    scores, targets = make_data()
    whole, parts = METRICS[name](scores, targets), in_batches(METRICS[name], scores, targets)
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        if jnp.issubdtype(theirs.dtype, jnp.integer):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(parts.compute(), whole.compute(), rtol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_uneven_batches_give_one_r2(mean):
    """A mean that is large against the spread costs no digits of the spread."""
    rng = np.random.RandomState(0)
    targets = (mean + rng.standard_normal((1003, 2))).astype(np.float32)
    outputs = (targets + 0.5 * rng.standard_normal((1003, 2))).astype(np.float32)
    y, p = targets.astype(np.float64), outputs.astype(np.float64)
    expected = (1 - np.square(y - p).sum(0) / np.square(y - y.mean(0)).sum(0)).mean()
    for result in (metrics.r2(outputs, targets), in_batches(metrics.r2, outputs, targets)):
        np.testing.assert_allclose(result.compute(), expected, rtol=1e-5)


@pytest.mark.long
def test_many_small_floats_keep_their_digits():
    """Adding 100000 times 0.1 one by one in float32 would be 1e-4 off."""
    steps = 100_001
    stacked = metrics.Mean(jnp.full(steps, 0.1), jnp.ones(steps, jnp.int32))
    np.testing.assert_allclose(metrics.total(stacked).compute(), 0.1, rtol=3e-7)


def test_goldens_by_hand():
    scores = jnp.array([[3.0, 2.0, 1.0], [0.0, 5.0, 5.0], [0.0, 1.0, 2.0], [9.0, 0.0, 0.0]])
    targets = jnp.array([0, 2, 1, -100])
    # Of the equal scores in row 1 the first, class 1, is taken; row 3 is ignored.
    assert metrics.accuracy(scores, targets) == metrics.Mean(1, 3)
    assert metrics.top_k_accuracy(scores, targets, 2) == metrics.Mean(3, 3)
    np.testing.assert_array_equal(
        metrics.confusion(scores, targets).compute(), [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    )
    np.testing.assert_allclose(metrics.recall(scores, targets).compute(), 1 / 3, rtol=1e-6)
    assert metrics.mae(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])).compute() == 1.5
    assert metrics.mse(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])).compute() == 2.5
    assert metrics.r2(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])).compute() == 1 - 5 / 8
    weighed = metrics.mean_loss(lambda o, t: o.mean())
    batches = weighed(jnp.ones(3), targets[:3]) + weighed(jnp.array([5.0]), targets[:1])
    assert batches.compute() == 2.0


def test_pixels():
    """Scores (N, C, H, W) with classes (N, H, W)."""
    rng = np.random.RandomState(0)
    scores, targets = rng.standard_normal((2, 3, 4, 5)), rng.randint(0, 3, (2, 4, 5))
    flat = scores.transpose(0, 2, 3, 1).reshape(-1, 3)
    for metric in (metrics.accuracy, metrics.confusion, partial(metrics.top_k_accuracy, k=2)):
        ours, theirs = metric(scores, targets), metric(flat, targets.reshape(-1))
        np.testing.assert_array_equal(ours.compute(), theirs.compute())


def test_scores_of_nan_are_no_hits():
    scores = jnp.full((4, C), jnp.nan)
    assert metrics.top_k_accuracy(scores, jnp.arange(4), k=2).compute() == 0


def test_no_class_at_all():
    scores, targets = make_data(rows=4)
    targets[1] = C
    for metric in (metrics.f1, metrics.confusion):
        with pytest.raises(
            ValueError, match=r"target 5 predicted as \d; accepted are classes 0 to"
        ):
            metric(scores, targets)
    spoiled, fine = jax.jit(metrics.f1)(scores, targets), metrics.f1(*make_data(1))
    assert jnp.isnan((spoiled + fine).compute())
    assert jnp.isnan((spoiled + fine).precision(None)).all()
    assert (jax.jit(metrics.confusion)(scores, targets).compute() == -1).all()


def test_nothing_to_divide_by():
    scores, targets = make_data(rows=3)
    ignored = np.full_like(targets, -100)
    assert jnp.isnan(metrics.accuracy(scores, ignored).compute())
    assert metrics.f1(scores, ignored).compute() == 0
    assert jnp.isnan(metrics.r2(scores[:1], scores[:1]).compute())
    nothing = metrics.r2(jnp.zeros((0, C)), jnp.zeros((0, C)))
    some = metrics.r2(scores, scores + 0.1)
    np.testing.assert_allclose((nothing + some).compute(), some.compute())


@pytest.mark.long
def test_through_an_epoch_over_seeds():
    """Straight into train.supervised, stacked by make_epoch, and once more by vmap."""
    model = nn.Linear(3, C, rngs=Generator(0))
    loss = train.supervised(
        losses.cross_entropy, metrics={"accuracy": metrics.accuracy, "f1": metrics.f1}
    )
    rng = np.random.RandomState(0)
    data = (
        jnp.asarray(rng.standard_normal((7, 3)), jnp.float32),
        jnp.asarray(rng.randint(0, C, 7)),
    )
    state = train.create(model, optax.set_to_zero())
    epoch = train.make_epoch(train.make_train_step(loss, optax.set_to_zero()), batch_size=3)
    _, stacked = epoch(state, data, jnp.arange(7))
    result = metrics.compute(metrics.total(stacked))
    assert result["loss"].shape == (3,)
    scores = model(data[0])
    assert result["accuracy"] == metrics.accuracy(scores, data[1]).compute()
    assert result["f1"] == metrics.f1(scores, data[1]).compute()
    both = jax.vmap(metrics.f1, in_axes=(0, None))(jnp.stack([scores, -scores]), data[1])
    np.testing.assert_allclose(
        both.compute(), [metrics.f1(s, data[1]).compute() for s in (scores, -scores)], rtol=1e-6
    )


SCORES, TARGETS = jnp.zeros((2, 3)), jnp.array([0, 1])
REFUSED = [
    (metrics.accuracy, (SCORES, TARGETS[:1]), r"accuracy: outputs \(2, 3\) of float32"),
    (metrics.accuracy, (SCORES[:, 0], TARGETS), "predicted classes, integers"),
    (metrics.f1, (TARGETS, TARGETS), "f1: outputs are predicted classes; give num_classes"),
    (metrics.top_k_accuracy, (SCORES, TARGETS, 0), "k 0; it must be at least 1"),
    (metrics.top_k_accuracy, (TARGETS, TARGETS), "it needs scores"),
    (metrics.mae, (SCORES, SCORES[0]), r"mae: outputs \(2, 3\) and targets \(3,\)"),
    (metrics.r2, (SCORES, SCORES, "mean"), "multioutput 'mean'"),
    (lambda: metrics.f1(SCORES, TARGETS, "all").compute(), (), "average: 'all'"),
    (lambda: metrics.f1(SCORES, TARGETS, "binary").compute(), (), "'binary' with 3 classes"),
    (metrics.total, (metrics.accuracy(SCORES, TARGETS),), "at least one step"),
    (lambda: metrics.f1(SCORES, TARGETS) + metrics.f1(SCORES[:, :2], TARGETS), (), "belong"),
]


@pytest.mark.parametrize(("function", "args", "says"), REFUSED)
def test_what_is_refused(function, args, says):
    with pytest.raises(ValueError, match=says):
        function(*args)


def test_other_refusals():
    with pytest.raises(TypeError, match="targets of dtype float32; give class numbers"):
        metrics.accuracy(SCORES, jnp.zeros(2))
    with pytest.raises(TypeError, match="unsupported operand"):
        metrics.accuracy(SCORES, TARGETS) + 1
