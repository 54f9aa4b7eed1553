"""The cross entropy of an affine layer's scores as a module."""

import math

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxnet import losses
from jaxnet.losses._linear_cross_entropy import LinearCrossEntropyOptions
from jaxnet.nn._linear import Linear
from jaxnet.nn._module import Buffer, Module
from jaxnet.nn.init import Rngs


class LinearCrossEntropyLoss(Module):
    """The cross entropy of the scores of an affine layer: torch.nn.LinearCrossEntropyLoss.

    The layer `linear` is part of the loss. As in `jaxnet.losses.linear_cross_entropy`.

    Args:
        in_features: The number of features of a row.
        num_classes: The number of classes C.
        out_features: The sizes (d1, ...) of scores (N, C, d1, ...).
        bias: Whether the layer has a bias.
        reduction: The reduction, "mean", "sum" or "none".
        weight: The weights of the classes, (C,).
        ignore_index: The class number whose targets are ignored; None is -100.
        label_smoothing: The share of each target that is spread over all classes.
        options: How the batch is divided; None computes all scores at once.
        rngs: The source of the initial weights, those of `Linear`.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: The class weights are not (C,), or label_smoothing is outside [0, 1].
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        reduction: str = "mean",
        weight: ArrayLike | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        if weight is not None and jnp.shape(weight) != (num_classes,):
            raise ValueError(
                f"LinearCrossEntropyLoss: weight of shape {jnp.shape(weight)}; it needs one a "
                f"class, ({num_classes},)"
            )
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"LinearCrossEntropyLoss: label_smoothing {label_smoothing}; accepted is [0, 1]"
            )
        self.weight = None if weight is None else Buffer(jnp.asarray(weight))
        self.reduction = reduction
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        rows = math.prod(out_features, start=num_classes)
        self.linear = Linear(in_features, rows, bias, rngs=rngs, dtype=dtype)
        self.options = options

    def __call__(
        self, input: Float[Array, "*N in_features"], target: Shaped[Array, "..."]
    ) -> Float[Array, "..."]:
        classes = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return losses.linear_cross_entropy(
            input,
            self.linear.weight[...].reshape(*classes, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias[...].reshape(classes),
            weight=None if self.weight is None else self.weight[...],
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )

    def extra_repr(self) -> str:
        names = ("out_features", "reduction", "ignore_index", "label_smoothing", "options")
        own = {name: getattr(self, name) for name in names}
        first = f"in_features={self.linear.in_features}, num_classes={self.num_classes}"
        return (
            f"{first}, out_features={own.pop('out_features')}, "
            f"bias={self.linear.bias is not None}, "
            + ", ".join(f"{name}={value}" for name, value in own.items())
        )
