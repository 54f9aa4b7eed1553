"""Rows of the catalogue about losses, planted in plain flax and optax programs."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.parity.architectures import LENGTH, WORDS, layer
from tests.parity.flax_programs import (
    Program,
    classes,
    in_tokens,
    in_vectors,
    planted,
    squares,
    words,
)
from tests.parity.plants import Plant

Array = jax.Array


def _loss(name: str, torch: Any, ours: Any, tokens: bool = False, **options: Any) -> Program:
    given = {"loss": torch if isinstance(torch, tuple) else (torch, {}), "place": "loss", **options}
    host = in_tokens if tokens else in_vectors
    return host(name, layer("Tanh"), jnp.tanh, ours, **given)


def _functional(name: str, **options: Any) -> Any:
    """A loss of torch's whose weights are lists."""

    def loss(outputs: Any, targets: Any) -> Any:
        import torch

        given = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in options.items()}
        return getattr(torch.nn.functional, name)(outputs, targets, **given)

    return loss


def _of(change: str, loss: Any) -> Any:
    """A loss of torch's of a function of the outputs."""

    def value(outputs: Any, targets: Any) -> Any:

        outputs = outputs.sigmoid() if change == "sigmoid" else outputs.log_softmax(-1)
        return loss(outputs, targets)

    return value


def _divergence(outputs: Any, targets: Any) -> Any:
    import torch

    given = outputs.log_softmax(-1), targets.softmax(-1)
    return torch.nn.functional.kl_div(*given, reduction="batchmean")


def _sequences(outputs: Any, targets: Any) -> Any:
    import torch

    scores = outputs.reshape(-1, LENGTH, WORDS).transpose(1, 2)
    return torch.nn.functional.cross_entropy(scores, targets.reshape(-1, LENGTH))


def _without_padding(outputs: Any, targets: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(outputs, targets.clamp(min=0), ignore_index=0)


def each_class(outputs: Array, targets: Array) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def _known(outputs: Array, targets: Array, padding: int = 0) -> Array:
    targets = jnp.maximum(targets, 0)
    known = targets != padding
    return jnp.where(known, each_class(outputs, targets), 0).sum() / known.sum()


def _picked(logs: Array, targets: Array) -> Array:
    return jnp.take_along_axis(logs, targets[..., None], -1)[..., 0]


def _smoothed(outputs: Array, targets: Array, share: float = 0.1, others: bool = False) -> Array:
    one_hot = jax.nn.one_hot(targets, 3, dtype=outputs.dtype)
    soft = optax.smooth_labels(one_hot, share)
    if others:
        soft = (1 - share) * one_hot + share / 2 * (1 - one_hot)
    return optax.softmax_cross_entropy(outputs, soft).mean()


_WEIGHTS = [0.5, 2.0, 1.5]


def _weighted(outputs: Array, targets: Array, over: str = "weights") -> Array:
    weight = jnp.asarray(_WEIGHTS, outputs.dtype)[targets]
    total = (weight * each_class(outputs, targets)).sum()
    return total / (weight.sum() if over == "weights" else targets.size)


def binary(outputs: Array, targets: Array, positive: float = 1.0) -> Array:
    yes, no = nnx.log_sigmoid(outputs), nnx.log_sigmoid(-outputs)
    return -(positive * targets * yes + (1 - targets) * no).mean()


def of_probabilities(p: Array, targets: Array) -> Array:
    yes, no = (jnp.maximum(jnp.log(each), -100) for each in (p, 1 - p))
    return -(targets * yes + (1 - targets) * no).mean()


def _after_sigmoid(outputs: Array, targets: Array) -> Array:
    return of_probabilities(nnx.sigmoid(outputs), targets)


def _smooth_l1(outputs: Array, targets: Array, beta: float = 0.7) -> Array:
    return optax.huber_loss(outputs, targets, delta=beta).mean() / beta


def kl(outputs: Array, targets: Array) -> Array:
    logs = nnx.log_softmax(outputs)
    return optax.kl_divergence(logs, nnx.softmax(targets)).mean()


MSE = _loss("mean squares", "mse_loss", squares)
CLASSES = _loss("classes", "cross_entropy", classes, kind="classes")
POSITIONS = _loss("positions", "cross_entropy", words, tokens=True)
PADDED = _loss("padded positions", _without_padding, _known, tokens=True)
SEQUENCES = _loss("sequences", _sequences, words, tokens=True)
SMOOTHED = _loss("smoothed classes", ("cross_entropy", {"label_smoothing": 0.1}), _smoothed,
    kind="classes")  # fmt: skip
WEIGHTED = _loss("weighted classes", _functional("cross_entropy", weight=_WEIGHTS), _weighted,
    kind="classes")  # fmt: skip
LOGS = _loss("nll_loss", _of("log_softmax", _functional("nll_loss")), lambda o, t: -_picked(
    nnx.log_softmax(o), t).mean(), kind="classes")  # fmt: skip
SCORES = _loss("nll_loss of scores", "nll_loss", lambda o, t: -_picked(o, t).mean(),
    kind="classes")  # fmt: skip
BINARY = _loss("binary", "binary_cross_entropy_with_logits", binary, kind="binary")
POSITIVE = _loss("binary, weighted", _functional("binary_cross_entropy_with_logits",
    pos_weight=[3.0]), lambda o, t: binary(o, t, 3.0), kind="binary")  # fmt: skip
CHANCES = _loss("probabilities", _of("sigmoid", _functional("binary_cross_entropy")),
    _after_sigmoid, kind="binary")  # fmt: skip
SMOOTH = _loss("smooth_l1_loss", ("smooth_l1_loss", {"beta": 0.7}), _smooth_l1)
HUBER = _loss("huber_loss", "huber_loss", lambda o, t: optax.huber_loss(o, t).mean())
KL = _loss("kl_div", _divergence, kl)
MEAN = _loss("mean by hand", lambda o, t: ((o - t) ** 2).mean(), squares)

LOSSES: list[Plant] = [
    planted("loss-reduction", MSE, loss=lambda o, t: ((o - t) ** 2).sum(), reduction="sum"),
    planted("loss-mean-or-sum", MEAN, loss=lambda o, t: ((o - t) ** 2).sum(), reduction="sum"),
    planted("loss-per-sample", MSE, loss=lambda o, t: ((o - t) ** 2).sum(-1).mean()),
    planted("loss-per-element", KL, loss=lambda o, t: kl(o, t) / 3),
    planted("loss-ignored-counted", POSITIONS, loss=lambda o, t: jnp.where(t != -100, each_class(
        o, jnp.maximum(t, 0)), 0).mean()),
    planted("loss-ignored-kept", POSITIONS, loss=lambda o, t: each_class(
        o, jnp.maximum(t, 0)).mean()),
    planted("loss-not-ignored", PADDED, loss=lambda o, t: each_class(o, jnp.maximum(t, 0)).mean()),
    planted("loss-ignore-index", PADDED, loss=lambda o, t: _known(o, t, 1), ignore_index=1),
    planted("loss-weights-not-in-mean", WEIGHTED, loss=lambda o, t: _weighted(o, t, "rows")),
    planted("loss-weights-missing", WEIGHTED, loss=classes),
    planted("loss-pos-weight-missing", POSITIVE, loss=binary),
    planted("loss-per-sequence", SEQUENCES, loss=lambda o, t: (jnp.where(t != -100, each_class(
        o, jnp.maximum(t, 0)), 0).sum(1) / (t != -100).sum(1)).mean()),
    planted("loss-smoothing-missing", SMOOTHED, loss=classes),
    planted("loss-smoothing-of-others", SMOOTHED, loss=lambda o, t: _smoothed(o, t, others=True)),
    planted("loss-smoothing-value", SMOOTHED, loss=lambda o, t: _smoothed(o, t, 0.2),
        label_smoothing=0.2),
    planted("loss-of-probabilities", BINARY, loss=lambda o, t: binary(nnx.sigmoid(o), t)),
    planted("loss-of-softmax", CLASSES, loss=lambda o, t: classes(nnx.softmax(o), t)),
    planted("loss-without-logarithm", LOGS, loss=lambda o, t: -_picked(nnx.softmax(o), t).mean()),
    planted("loss-with-softmax", SCORES, loss=classes),
    planted("loss-scores-as-probabilities", CHANCES, loss=lambda o, t: binary(nnx.sigmoid(o), t)),
    planted("loss-axis", CLASSES, loss=lambda o, t: -_picked(nnx.log_softmax(o, 0), t).mean(),
        axis=0),
    planted("loss-epsilon", CLASSES, loss=lambda o, t: -jnp.log(_picked(nnx.softmax(o), t)
        + 1e-8).mean(), epsilon=1e-8),
    planted("loss-clipped", BINARY, loss=lambda o, t: of_probabilities(jnp.clip(nnx.sigmoid(o),
        0.4, 0.6), t), clip=0.4),
    planted("loss-all-pairs", MSE, loss=lambda o, t: squares(o[:, None], t)),
    planted("loss-half", MSE, loss=lambda o, t: optax.l2_loss(o, t).mean()),
    planted("loss-root", MSE, loss=lambda o, t: jnp.sqrt(squares(o, t))),
    planted("loss-beta", SMOOTH, loss=lambda o, t: _smooth_l1(o, t, 1.0), beta=1.0),
    planted("loss-delta", HUBER, loss=lambda o, t: optax.huber_loss(o, t, delta=0.5).mean(),
        delta=0.5),
    planted("loss-huber-scale", SMOOTH, loss=lambda o, t: optax.huber_loss(o, t, delta=0.7).mean()),
    planted("loss-log-target", KL, loss=lambda o, t: optax.losses.kl_divergence_with_log_targets(
        nnx.log_softmax(o), nnx.softmax(t)).mean()),
    planted("loss-arguments-swapped", CHANCES, loss=lambda o, t: of_probabilities(
        t, nnx.sigmoid(o))),
    planted("loss-factor", CLASSES, loss=lambda o, t: 0.25 * classes(o, t), scale=0.25),
]  # fmt: skip

PROGRAMS = [one for one in globals().values() if isinstance(one, Program)]
