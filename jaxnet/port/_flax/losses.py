"""Losses, with PyTorch's reductions."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def reduced(values: jax.Array, reduction: str) -> jax.Array:
    """The mean, the sum, or all of some losses."""
    if reduction == "mean":
        return jnp.mean(values)
    return jnp.sum(values) if reduction == "sum" else values


def mse_loss(x: jax.Array, target: jax.Array, reduction: str = "mean") -> jax.Array:
    return reduced((x - target) ** 2, reduction)


def l1_loss(x: jax.Array, target: jax.Array, reduction: str = "mean") -> jax.Array:
    return reduced(jnp.abs(x - target), reduction)


def smooth_l1_loss(
    x: jax.Array, target: jax.Array, reduction: str = "mean", beta: float = 1.0
) -> jax.Array:
    if beta == 0:
        return l1_loss(x, target, reduction)
    away = jnp.abs(x - target)
    return reduced(jnp.where(away < beta, 0.5 * away**2 / beta, away - 0.5 * beta), reduction)


def huber_loss(
    x: jax.Array, target: jax.Array, reduction: str = "mean", delta: float = 1.0
) -> jax.Array:
    away = jnp.abs(x - target)
    losses = jnp.where(away <= delta, 0.5 * away**2, delta * (away - 0.5 * delta))
    return reduced(losses, reduction)


def nll_loss(
    x: jax.Array, target: jax.Array, weight: Any = None, ignore_index: int = -100,
    reduction: str = "mean",
) -> jax.Array:  # fmt: skip
    """The negative of the logarithms at the targets, (N, C, ...) and (N, ...)."""
    axis = 0 if x.ndim == 1 else 1
    counts = target != ignore_index
    classes = jnp.where(counts, target, 0)
    losses = -jnp.take_along_axis(x, jnp.expand_dims(classes, axis), axis=axis).squeeze(axis)
    weights = counts.astype(x.dtype) * (1 if weight is None else weight[classes])
    if reduction == "mean":
        return jnp.sum(losses * weights) / jnp.sum(weights)
    return reduced(losses * weights, reduction)


def cross_entropy(
    x: jax.Array, target: jax.Array, weight: Any = None, ignore_index: int = -100,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> jax.Array:  # fmt: skip
    """The cross entropy of (N, C, ...) with classes (N, ...), or with probabilities."""
    axis = 0 if x.ndim == 1 else 1
    logs, count = jax.nn.log_softmax(x, axis=axis), x.shape[axis]
    shape = tuple(-1 if i == axis else 1 for i in range(x.ndim))
    each = 1 if weight is None else weight.reshape(shape)
    if target.shape == x.shape:
        target = target * (1 - label_smoothing) + label_smoothing / count
        losses = -jnp.sum(logs * target * each, axis=axis)
        if reduction == "mean":
            return jnp.sum(losses) / (losses.size or 1)
        return reduced(losses, reduction)
    plain = nll_loss(logs, target, weight, ignore_index, reduction)
    if label_smoothing == 0:
        return plain
    counts = target != ignore_index
    smooth = jnp.where(counts, -jnp.sum(logs * each, axis=axis), 0)
    if reduction == "mean":
        classes = jnp.where(counts, target, 0)
        weights = counts.astype(x.dtype) * (1 if weight is None else weight[classes])
        smooth = jnp.sum(smooth) / jnp.sum(weights)
    else:
        smooth = reduced(smooth, reduction)
    return (1 - label_smoothing) * plain + label_smoothing / count * smooth


def binary_cross_entropy(
    x: jax.Array, target: jax.Array, weight: Any = None, reduction: str = "mean"
) -> jax.Array:
    """The cross entropy of probabilities; a logarithm is at least -100, as in PyTorch.

    So is the gradient, which divides by 1e-12 at least and has a direction at 0 and at 1 too.
    """
    none = jax.custom_derivatives.SymbolicZero

    @jax.custom_jvp
    def terms(x: jax.Array, target: jax.Array) -> jax.Array:
        yes, no = jnp.maximum(jnp.log(x), -100), jnp.maximum(jnp.log1p(-x), -100)
        return -(target * yes + (1 - target) * no)

    def derivative(primals: Any, tangents: Any) -> Any:
        (x, target), (of_x, of_target) = primals, tangents
        total, least = jnp.zeros_like(x), jnp.float32(1e-12).astype(x.dtype)
        if not isinstance(of_x, none):
            total += (x - target) / jnp.maximum((1 - x) * x, least) * of_x
        if not isinstance(of_target, none):
            total += (jnp.log1p(-x) - jnp.log(x)) * of_target
        return terms(x, target), total

    terms.defjvp(derivative, symbolic_zeros=True)
    losses = terms(x, target.astype(x.dtype))
    return reduced(losses if weight is None else losses * weight, reduction)


def binary_cross_entropy_with_logits(
    x: jax.Array, target: jax.Array, weight: Any = None, reduction: str = "mean",
    pos_weight: Any = None,
) -> jax.Array:  # fmt: skip
    yes, no = jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x)
    losses = -(target * yes * (1 if pos_weight is None else pos_weight) + (1 - target) * no)
    return reduced(losses if weight is None else losses * weight, reduction)


def kl_div(
    x: jax.Array, target: jax.Array, reduction: str = "mean", log_target: bool = False
) -> jax.Array:
    """The divergence from logarithms of probabilities; 0 log 0 is 0."""
    if log_target:
        losses = jnp.exp(target) * (target - x)
    else:
        positive = target > 0
        logs = jnp.log(jnp.where(positive, target, 1))
        losses = jnp.where(positive, target * logs, 0) - target * x
    if reduction == "batchmean":
        return jnp.sum(losses) / x.shape[0]
    return reduced(losses, reduction)


class LossLayer(nnx.Module):
    """A loss whose arguments are kept."""

    function: Any = None

    def __init__(self, reduction: str = "mean", *, rngs: nnx.Rngs | None = None) -> None:
        self.reduction = reduction

    def __call__(self, x: jax.Array, target: jax.Array) -> jax.Array:
        return type(self).function(x, target, reduction=self.reduction)


class MSELoss(LossLayer):
    function = staticmethod(mse_loss)


class L1Loss(LossLayer):
    function = staticmethod(l1_loss)


class CrossEntropyLoss(nnx.Module):
    """The cross entropy with classes, or with probabilities."""

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
        label_smoothing: float = 0.0, *, rngs: nnx.Rngs | None = None,
    ) -> None:  # fmt: skip
        self.weight = nnx.data(weight)
        self.ignore_index, self.reduction = ignore_index, reduction
        self.label_smoothing = label_smoothing

    def __call__(self, x: jax.Array, target: jax.Array) -> jax.Array:
        return cross_entropy(
            x, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(nnx.Module):
    """The negative of the logarithms at the targets."""

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
        *, rngs: nnx.Rngs | None = None,
    ) -> None:  # fmt: skip
        self.weight = nnx.data(weight)
        self.ignore_index, self.reduction = ignore_index, reduction

    def __call__(self, x: jax.Array, target: jax.Array) -> jax.Array:
        return nll_loss(x, target, self.weight, self.ignore_index, self.reduction)


class BCEWithLogitsLoss(nnx.Module):
    """The cross entropy with two classes, of logits."""

    def __init__(
        self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None,
        *, rngs: nnx.Rngs | None = None,
    ) -> None:  # fmt: skip
        self.weight, self.pos_weight = nnx.data(weight), nnx.data(pos_weight)
        self.reduction = reduction

    def __call__(self, x: jax.Array, target: jax.Array) -> jax.Array:
        return binary_cross_entropy_with_logits(
            x, target, self.weight, self.reduction, self.pos_weight
        )
