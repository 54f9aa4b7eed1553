"""The losses of `jaxnet.losses` as modules: torch.nn's loss classes.

The docstring of each class names the function that a call computes. The constructor takes that
function's options, which it describes. As in torch, weights of classes and positions are
buffers and so part of the state_dict.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxnet import losses
from jaxnet._checks import check_choice
from jaxnet.nn._distance import PairwiseDistance
from jaxnet.nn._module import Buffer, Module


def _buffer(value: ArrayLike | None) -> Buffer | None:
    return None if value is None else Buffer(jnp.asarray(value))


def _array(buffer: Buffer | None) -> jax.Array | None:
    return None if buffer is None else buffer[...]


class MSELoss(Module):
    """The squared error: torch.nn.MSELoss. As in `jaxnet.losses.mse_loss`."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.mse_loss(input, target, self.reduction)


class L1Loss(Module):
    """The absolute error: torch.nn.L1Loss. As in `jaxnet.losses.l1_loss`."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.l1_loss(input, target, self.reduction)


class SmoothL1Loss(Module):
    """The error that is squared below beta and absolute above: torch.nn.SmoothL1Loss.

    As in `jaxnet.losses.smooth_l1_loss`.
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        self.reduction = reduction
        self.beta = beta

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.smooth_l1_loss(input, target, self.reduction, self.beta)


class HuberLoss(Module):
    """The error that is squared below delta and delta times absolute above: torch.nn.HuberLoss.

    As in `jaxnet.losses.huber_loss`.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        self.reduction = reduction
        self.delta = delta

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.huber_loss(input, target, self.reduction, self.delta)


class GaussianNLLLoss(Module):
    """The negative log likelihood of normal numbers: torch.nn.GaussianNLLLoss.

    As in `jaxnet.losses.gaussian_nll_loss`.
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        self.full = full
        self.eps = eps
        self.reduction = reduction

    def __call__(
        self,
        input: Float[Array, "..."],
        target: Float[Array, "..."],
        var: Float[ArrayLike, "..."],
    ) -> Float[Array, "..."]:
        return losses.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)


class PoissonNLLLoss(Module):
    """The negative log likelihood of counts: torch.nn.PoissonNLLLoss.

    As in `jaxnet.losses.poisson_nll_loss`.
    """

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        eps: float = 1e-8,
        reduction: str = "mean",
    ) -> None:
        self.log_input = log_input
        self.full = full
        self.eps = eps
        self.reduction = reduction

    def __call__(
        self, log_input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.poisson_nll_loss(
            log_input, target, self.log_input, self.full, self.eps, self.reduction
        )


class NLLLoss(Module):
    """The negative log likelihood of classes: torch.nn.NLLLoss. As in `jaxnet.losses.nll_loss`."""

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        self.weight = _buffer(weight)
        self.ignore_index = ignore_index
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.nll_loss(
            input, target, _array(self.weight), self.ignore_index, self.reduction
        )


class CrossEntropyLoss(Module):
    """The negative log likelihood of a softmax: torch.nn.CrossEntropyLoss.

    As in `jaxnet.losses.cross_entropy`.
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.weight = _buffer(weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.cross_entropy(
            input,
            target,
            _array(self.weight),
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
        )


class KLDivLoss(Module):
    """The Kullback-Leibler divergence: torch.nn.KLDivLoss. As in `jaxnet.losses.kl_div`."""

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        self.reduction = reduction
        self.log_target = log_target

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.kl_div(input, target, self.reduction, self.log_target)


class BCELoss(Module):
    """The binary cross entropy of probabilities: torch.nn.BCELoss.

    As in `jaxnet.losses.binary_cross_entropy`.
    """

    def __init__(self, weight: ArrayLike | None = None, reduction: str = "mean") -> None:
        self.weight = _buffer(weight)
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.binary_cross_entropy(input, target, _array(self.weight), self.reduction)


class BCEWithLogitsLoss(Module):
    """The binary cross entropy of a sigmoid: torch.nn.BCEWithLogitsLoss.

    As in `jaxnet.losses.binary_cross_entropy_with_logits`.
    """

    def __init__(
        self,
        weight: ArrayLike | None = None,
        reduction: str = "mean",
        pos_weight: ArrayLike | None = None,
    ) -> None:
        self.weight = _buffer(weight)
        self.pos_weight = _buffer(pos_weight)
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.binary_cross_entropy_with_logits(
            input, target, _array(self.weight), self.reduction, _array(self.pos_weight)
        )


class CTCLoss(Module):
    """Connectionist temporal classification: torch.nn.CTCLoss.

    As in `jaxnet.losses.ctc_loss`.
    """

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        self.blank = blank
        self.reduction = reduction
        self.zero_infinity = zero_infinity

    def __call__(
        self,
        log_probs: Float[Array, "T *N C"],
        targets: Shaped[Array, "..."],
        input_lengths: ArrayLike,
        target_lengths: ArrayLike,
    ) -> jax.Array:
        return losses.ctc_loss(
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            self.blank,
            self.reduction,
            self.zero_infinity,
        )


class HingeEmbeddingLoss(Module):
    """The hinge loss of distances of like and unlike pairs: torch.nn.HingeEmbeddingLoss.

    As in `jaxnet.losses.hinge_embedding_loss`.
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        self.margin = margin
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.hinge_embedding_loss(input, target, self.margin, self.reduction)


class SoftMarginLoss(Module):
    """The logistic loss of scores: torch.nn.SoftMarginLoss.

    As in `jaxnet.losses.soft_margin_loss`.
    """

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.soft_margin_loss(input, target, self.reduction)


class MultiMarginLoss(Module):
    """The hinge loss of one class for each row: torch.nn.MultiMarginLoss.

    As in `jaxnet.losses.multi_margin_loss`.
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: ArrayLike | None = None,
        reduction: str = "mean",
    ) -> None:
        check_choice("MultiMarginLoss: p", p, (1, 2))
        if weight is not None and jnp.ndim(weight) != 1:
            raise ValueError(f"MultiMarginLoss: weight {jnp.shape(weight)}; it has one axis, (C,)")
        self.p = p
        self.margin = margin
        self.weight = _buffer(weight)
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.multi_margin_loss(
            input, target, self.p, self.margin, _array(self.weight), self.reduction
        )


class MultiLabelMarginLoss(Module):
    """The hinge loss of several classes for each row: torch.nn.MultiLabelMarginLoss.

    As in `jaxnet.losses.multilabel_margin_loss`.
    """

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.multilabel_margin_loss(input, target, self.reduction)


class MultiLabelSoftMarginLoss(Module):
    """The logistic loss of several classes for each row: torch.nn.MultiLabelSoftMarginLoss.

    As in `jaxnet.losses.multilabel_soft_margin_loss`.
    """

    def __init__(self, weight: ArrayLike | None = None, reduction: str = "mean") -> None:
        self.weight = _buffer(weight)
        self.reduction = reduction

    def __call__(
        self, input: Float[Array, "..."], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        return losses.multilabel_soft_margin_loss(
            input, target, _array(self.weight), self.reduction
        )


class CosineEmbeddingLoss(Module):
    """The loss of cosines of like and unlike pairs: torch.nn.CosineEmbeddingLoss.

    As in `jaxnet.losses.cosine_embedding_loss`.
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        self.margin = margin
        self.reduction = reduction

    def __call__(self, input1: jax.Array, input2: jax.Array, target: jax.Array) -> jax.Array:
        return losses.cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


class MarginRankingLoss(Module):
    """The hinge loss of the order of two scores: torch.nn.MarginRankingLoss.

    As in `jaxnet.losses.margin_ranking_loss`.
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        self.margin = margin
        self.reduction = reduction

    def __call__(self, input1: jax.Array, input2: jax.Array, target: jax.Array) -> jax.Array:
        return losses.margin_ranking_loss(input1, input2, target, self.margin, self.reduction)


class TripletMarginLoss(Module):
    """The hinge loss of an anchor's distances to a positive and a negative example.

    Equivalent of torch.nn.TripletMarginLoss. As in `jaxnet.losses.triplet_margin_loss`.
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        if not margin > 0:
            raise ValueError(f"TripletMarginLoss: margin {margin}; it must be above 0")
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap
        self.reduction = reduction

    def __call__(self, anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
        return losses.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction
        )


class TripletMarginWithDistanceLoss(Module):
    """The triplet loss with any distance function: torch.nn.TripletMarginWithDistanceLoss.

    As in `jaxnet.losses.triplet_margin_with_distance_loss`.
    """

    def __init__(
        self,
        *,
        distance_function: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        if not margin > 0:
            raise ValueError(f"TripletMarginWithDistanceLoss: margin {margin}; it must be above 0")
        self.distance_function = distance_function or PairwiseDistance()
        self.margin = margin
        self.swap = swap
        self.reduction = reduction

    def __call__(self, anchor: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
        return losses.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )
