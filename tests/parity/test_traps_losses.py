"""Planted faults of losses are found and named; torch's own losses are the reference."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet.parity._attribute import attribute
from jaxnet.parity._evidence import Evidence
from jaxnet.parity._losses import ARGUMENTS, Loss, LossRecord

pytestmark = pytest.mark.torch

RNG = np.random.default_rng(0)
# Two batches each: scores of 7 samples and 5 classes, of 3 sequences of 4 words, probabilities.
SCORES = RNG.normal(size=(2, 7, 5)) * 2
CLASSES = np.array([[0, 1, 2, -100, 4, 3, 1], [2, -100, -100, 0, 1, 1, 3]])
WORDS = RNG.normal(size=(2, 3, 5, 4)) * 2
TEXT = np.array(
    [
        [[1, 2, 3, 0], [4, 1, -100, -100], [0, -100, -100, -100]],
        [[1, 1, 2, 2], [3, 0, 4, -100], [2, -100, -100, -100]],
    ]
)
FLAGS = RNG.integers(0, 2, (2, 6, 3)).astype(float)
RAW = RNG.normal(size=(2, 6, 3)) * 3
SHARES = 1 / (1 + np.exp(-RAW))
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
TARGETS = RNG.normal(size=(2, 6, 3))
DISTRIBUTION = np.exp(TARGETS) / np.exp(TARGETS).sum(-1, keepdims=True)


def log_softmax(x: Any, axis: int = 1) -> Any:
    return jax.nn.log_softmax(x, axis)


def picked(x: Any, t: Any) -> Any:
    """-log p of each target, 0 where it is ignored; classes along axis 1."""
    some = jnp.where(t == -100, 0, t)
    values = -jnp.take_along_axis(log_softmax(x), jnp.expand_dims(some, 1), 1).squeeze(1)
    return jnp.where(t == -100, 0.0, values)


def counted(t: Any) -> Any:
    return jnp.sum(t != -100)


def smooth(x: Any, t: Any, share: float, wrong: float) -> Any:
    """Targets of 1 - share for the right class and `wrong` for the others."""
    hot = jax.nn.one_hot(t, 5) * (1 - share - wrong) + wrong
    return jnp.where(t == -100, 0.0, -(log_softmax(x) * hot).sum(-1))


def bernoulli(p: Any, t: Any, eps: float = 0.0) -> Any:
    return -(t * jnp.log(p + eps) + (1 - t) * jnp.log(1 - p + eps))


CE: tuple[str, Any, Any] = ("cross_entropy", SCORES, CLASSES)
SEQUENCES: tuple[str, Any, Any] = ("cross_entropy", WORDS, TEXT)
BCE: tuple[str, Any, Any] = ("binary_cross_entropy", SHARES, FLAGS)
LOGITS: tuple[str, Any, Any] = ("binary_cross_entropy_with_logits", RAW, FLAGS)
MSE: tuple[str, Any, Any] = ("mse_loss", RAW, TARGETS)
NLL: tuple[str, Any, Any] = ("nll_loss", np.asarray(log_softmax(SCORES, 2)), CLASSES)
KL: tuple[str, Any, Any] = ("kl_div", np.log(SHARES), DISTRIBUTION)

# The name, torch's loss and its arguments, the planted loss of (input, target), the row.
PLANTS: list[tuple[str, tuple[str, Any, Any], dict[str, Any], Any, str]] = [
    ("sum", CE, {}, lambda x, t: picked(x, t).sum(), "loss-reduction"),
    ("mean", MSE, {"reduction": "sum"}, lambda x, t: ((x - t) ** 2).mean(), "loss-reduction"),
    ("rows", MSE, {}, lambda x, t: ((x - t) ** 2).sum(1).mean(), "loss-per-sample"),
    (
        "elements",
        KL,
        {"reduction": "batchmean"},
        lambda x, t: (t * (jnp.log(t) - x)).mean(),
        "loss-reduction",
    ),
    ("ignored counted", CE, {}, lambda x, t: picked(x, t).mean(), "loss-ignored-counted"),
    (
        "ignored kept",
        CE,
        {},
        lambda x, t: optax.softmax_cross_entropy_with_integer_labels(x, jnp.maximum(t, 0)).mean(),
        "loss-ignored-kept",
    ),
    (
        "not ignored",
        ("cross_entropy", SCORES, np.maximum(CLASSES, 0)),
        {"ignore_index": 0},
        lambda x, t: picked(x, t).mean(),
        "loss-not-ignored",
    ),
    (
        "weights not in the mean",
        CE,
        {"weight": WEIGHTS},
        lambda x, t: (picked(x, t) * jnp.asarray(WEIGHTS)[jnp.maximum(t, 0)]).sum() / counted(t),
        "loss-weights-not-in-mean",
    ),
    (
        "no weights",
        CE,
        {"weight": WEIGHTS},
        lambda x, t: picked(x, t).sum() / counted(t),
        "loss-weights-missing",
    ),
    (
        "no smoothing",
        CE,
        {"label_smoothing": 0.1},
        lambda x, t: picked(x, t).sum() / counted(t),
        "loss-smoothing-missing",
    ),
    (
        "smoothing of others",
        CE,
        {"label_smoothing": 0.1},
        lambda x, t: smooth(x, t, 0.1, 0.1 / 4).sum() / counted(t),
        "loss-smoothing-of-others",
    ),
    (
        "other smoothing",
        CE,
        {"label_smoothing": 0.1},
        lambda x, t: smooth(x, t, 0.2 - 0.04, 0.04).sum() / counted(t),
        "loss-smoothing-value",
    ),
    (
        "softmax twice",
        CE,
        {},
        lambda x, t: picked(jax.nn.softmax(x, 1), t).sum() / counted(t),
        "loss-of-softmax",
    ),
    (
        "log(p + eps)",
        CE,
        {},
        lambda x, t: (
            -jnp.where(
                t == -100,
                0,
                jnp.log(
                    jnp.take_along_axis(jax.nn.softmax(x, 1), jnp.maximum(t, 0)[:, None], 1)[:, 0]
                    + 1e-6
                ),
            ).sum()
            / counted(t)
        ),
        "loss-epsilon",
    ),
    (
        "sequences",
        SEQUENCES,
        {},
        lambda x, t: (picked(x, t).sum(1) / (t != -100).sum(1)).mean(),
        "loss-per-sequence",
    ),
    (
        "axis",
        SEQUENCES,
        {},
        lambda x, t: (
            -jnp.where(
                t == -100,
                0,
                jnp.take_along_axis(log_softmax(x, 2), jnp.maximum(t, 0)[:, None], 1).squeeze(1),
            ).sum()
            / counted(t)
        ),
        "loss-axis",
    ),
    (
        "probabilities",
        NLL,
        {},
        lambda x, t: (
            -jnp.where(
                t == -100, 0, jnp.take_along_axis(jnp.exp(x), jnp.maximum(t, 0)[:, None], 1)[:, 0]
            ).sum()
            / counted(t)
        ),
        "loss-without-logarithm",
    ),
    ("log(p + eps) of two", BCE, {}, lambda p, t: bernoulli(p, t, 1e-7).mean(), "loss-epsilon"),
    (
        "clipped",
        BCE,
        {},
        lambda p, t: bernoulli(jnp.clip(p, 1e-2, 1 - 1e-2), t).mean(),
        "loss-clipped",
    ),
    (
        "sigmoid twice",
        LOGITS,
        {},
        lambda x, t: optax.sigmoid_binary_cross_entropy(jax.nn.sigmoid(x), t).mean(),
        "loss-of-probabilities",
    ),
    (
        "sigmoid again",
        BCE,
        {},
        lambda p, t: bernoulli(jax.nn.sigmoid(p), t).mean(),
        "loss-scores-as-probabilities",
    ),
    (
        "no pos_weight",
        LOGITS,
        {"pos_weight": np.array([2.0, 3.0, 0.5])},
        lambda x, t: optax.sigmoid_binary_cross_entropy(x, t).mean(),
        "loss-pos-weight-missing",
    ),
    (
        "all pairs",
        MSE,
        {},
        lambda x, t: ((x[:, None] - t[None]) ** 2).mean(),
        "loss-all-pairs",
    ),
    ("half", MSE, {}, lambda x, t: optax.l2_loss(x, t).mean(), "loss-half"),
    ("root", MSE, {}, lambda x, t: jnp.sqrt(((x - t) ** 2).mean()), "loss-root"),
    (
        "delta",
        ("huber_loss", RAW, TARGETS),
        {},
        lambda x, t: optax.huber_loss(x, t, delta=0.4).mean(),
        "loss-delta",
    ),
    (
        "beta",
        ("smooth_l1_loss", RAW, TARGETS),
        {},
        lambda x, t: optax.huber_loss(x, t, delta=0.5).mean() / 0.5,
        "loss-beta",
    ),
    (
        "huber",
        ("smooth_l1_loss", RAW, TARGETS),
        {"beta": 0.5},
        lambda x, t: optax.huber_loss(x, t, delta=0.5).mean(),
        "loss-huber-scale",
    ),
    (
        "logarithms as targets",
        KL,
        {"reduction": "sum"},
        lambda x, t: (jnp.exp(t) * (t - x)).sum(),
        "loss-log-target",
    ),
    ("factor", MSE, {}, lambda x, t: 0.7 * ((x - t) ** 2).mean(), "loss-factor"),
]


def references(kind: str, inputs: Any, targets: Any, options: dict[str, Any]) -> Loss:
    records = [
        LossRecord(k, {"input": x, "target": t, **options})
        for k, (x, t) in enumerate(zip(inputs, targets, strict=True))
    ]
    return Loss(kind, tuple(records))


def evidence(loss: Loss, planted: Any, dtype: Any = np.float64) -> Evidence:
    """torch's losses in both precisions, and the planted ones."""
    import torch

    runs: list[dict[str, np.ndarray]] = []
    for wide in (False, True):
        theirs, ours = {}, {}
        for record in loss.records:
            given = {
                k: torch.tensor(v)
                if isinstance(v, np.ndarray) and v.dtype.kind in "iu"
                else torch.tensor(v, dtype=torch.float64 if wide else torch.float32)
                if isinstance(v, np.ndarray)
                else v
                for k, v in record.arguments.items()
            }
            function = getattr(torch.nn.functional, loss.kind)
            theirs[f"{record.step}:loss"] = function(**given).numpy().astype(float)
            with jax.enable_x64(wide), jax.numpy_dtype_promotion("standard"):
                kind = jnp.float64 if wide else jnp.float32
                x = jnp.asarray(record.arguments["input"], kind)
                t = jnp.asarray(record.arguments["target"])
                ours[f"{record.step}:loss"] = np.asarray(planted(x, t), float)
        runs += [theirs, ours]
    return Evidence(runs[0], runs[2], runs[1], runs[3])


@pytest.mark.parametrize(
    ("name", "torch", "options", "planted", "row"), PLANTS, ids=[plant[0] for plant in PLANTS]
)
def test_a_planted_loss_is_named(
    name: str, torch: Any, options: Any, planted: Any, row: str
) -> None:
    loss = references(*torch, options)
    cause = attribute(loss, evidence(loss, planted))
    assert cause.proven, cause
    assert [h.trap.name for h in cause.proven[0]] == [row], cause.words


# Numbers that every loss of two or three arrays takes, in two batches.
GENERAL: dict[str, Any] = {
    "multi_margin_loss": (SCORES, np.maximum(CLASSES, 0)),
    "cross_entropy": (SCORES, CLASSES),
    "nll_loss": (SCORES, CLASSES),
    "multilabel_margin_loss": (SCORES, np.tile([2, 0, -1, -1, -1], (2, 7, 1))),
    "multilabel_soft_margin_loss": (RAW, FLAGS),
    "cosine_embedding_loss": (RAW, TARGETS, 2 * FLAGS[..., 0] - 1),
    "margin_ranking_loss": (RAW, TARGETS, 2 * FLAGS - 1),
    "triplet_margin_loss": (RAW, TARGETS, FLAGS),
    "gaussian_nll_loss": (RAW, TARGETS, SHARES),
    "mean": (RAW,),
    "sum": (RAW,),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_factor_of_any_loss_is_named(kind: str) -> None:
    given = GENERAL.get(kind, (SHARES, FLAGS))
    records = [
        LossRecord(k, dict(zip(ARGUMENTS[kind], (array[k] for array in given), strict=False)))
        for k in range(2)
    ]
    loss = Loss(kind, tuple(records))
    theirs = loss.observe()
    ours = {name: 2.7 * value for name, value in theirs.items()}
    cause = attribute(loss, Evidence(theirs, theirs, ours, ours))
    assert "loss-factor" in [h.trap.name for each in cause.proven for h in each]


def test_batches_that_are_averaged_in_place_of_added() -> None:
    loss = dataclasses.replace(references(*MSE, {}), batches=2)
    cause = attribute(loss, evidence(loss, lambda x, t: ((x - t) ** 2).mean() / 2))
    assert "loss-accumulated" in [h.trap.name for each in cause.proven for h in each]


def test_as_many_constants_as_numbers_prove_nothing() -> None:
    loss = references("mse_loss", RAW[:1], TARGETS[:1], {})
    cause = attribute(loss, evidence(loss, lambda x, t: ((x - t) ** 2).mean() ** 0.777))
    assert cause.trusted
    assert not cause.proven


@pytest.mark.parametrize("torch", [CE, SEQUENCES, BCE, LOGITS, MSE, NLL])
def test_the_same_loss_has_no_cause(torch: Any) -> None:
    from jaxnet import losses

    loss = references(*torch, {})
    cause = attribute(loss, evidence(loss, getattr(losses, torch[0])))
    assert cause.trusted
    assert not cause.proven
