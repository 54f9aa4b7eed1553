"""Normalisation of each channel of each example: InstanceNorm."""

import math
import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet._batch_parts import parts_of
from jaxnet.nn._batchnorm import (
    RunningNorm,
    Statistic,
    by_running,
    check_statistics,
    update_running,
)
from jaxnet.nn._moments import moments
from jaxnet.nn._norm import affine, check_sizes, value, working


def instance_norm(
    input: Float[Array, "N C *size"],
    running_mean: Statistic = None,
    running_var: Statistic = None,
    weight: Float[Array, " C"] | None = None,
    bias: Float[Array, " C"] | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Array, "N C *size"]:
    """Normalises each channel of each example: torch.nn.functional.instance_norm.

    Args:
        input: The batch, (N, C, ...), with at least three axes and a float dtype.
        running_mean: The running mean, (C,), as in `batch_norm`. It is updated with the mean
            over the examples.
        running_var: The running variance, (C,), likewise.
        weight: A factor for each channel, (C,).
        bias: A summand for each channel, (C,).
        use_input_stats: Whether mean and variance are those of the input.
        momentum: The weight of the input's statistics in the new running statistics.
        eps: A small number that is added to the variance.

    Returns:
        The normalised batch, with the shape and dtype of the input.

    Raises:
        ValueError: A shape does not fit, the statistics are missing, a channel of an example
            has a single value, or running statistics are updated in a training step with
            `batch_norm_parts` and the rows are not those of its batch.
        TypeError: The input has no float dtype, or a running statistic that would be updated
            is an array.
    """
    if input.ndim < 2:
        raise ValueError(
            f"instance_norm: the input has shape {input.shape}; accepted is (N, C, ...)"
        )
    channels = input.shape[1]
    check_statistics("instance_norm", channels, running_mean, running_var, use_input_stats)
    check_sizes("instance_norm", (channels,), weight=weight, bias=bias)
    x = working("instance_norm", input)
    per_channel = (1, channels) + (1,) * (x.ndim - 2)
    if not use_input_stats:
        x = by_running(x, per_channel, running_mean, running_var, eps)
        return affine(x, per_channel, weight, bias).astype(input.dtype)

    count = math.prod(x.shape[2:])
    if count == 1:
        raise ValueError(
            "instance_norm: Expected more than 1 spatial element when training, "
            f"got input size {input.shape}"
        )
    if input.size:
        mean, x, var = moments(x, tuple(range(2, x.ndim)))
        if running_mean is not None:
            at, spread = (_mean_of_first_part(each.reshape(x.shape[:2])) for each in (mean, var))
            update_running(running_mean, at, momentum)
            update_running(running_var, spread * (count / (count - 1)), momentum)
        x = x * lax.rsqrt(var + eps)
    return affine(x, per_channel, weight, bias).astype(input.dtype)


def _mean_of_first_part(x: jax.Array) -> jax.Array:
    """The mean over the rows of the batch's first part, which is the whole batch by default."""
    rows = x.shape[0]
    parts = parts_of("instance_norm", rows)
    if parts == 1:
        return x.mean(0)
    # A choice instead of a slice, which the devices that have the rows could not make alone.
    first = jnp.arange(rows)[:, None] < rows // parts
    return jnp.where(first, x, 0).sum(0) / (rows // parts)


class _InstanceNorm(RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if input.ndim not in self._axes:
            raise self._wrong_shape(input)
        batched = input.ndim == self._axes[-1]
        channels = input.shape[1 if batched else 0]
        if channels != self.num_features:
            if self.affine or self.track_running_stats:
                raise self._wrong_shape(input)
            warnings.warn(
                f"{self!r}: the input has {channels} channels; it is normalised all the same, "
                "because num_features is not used without affine",
                stacklevel=2,
            )
        output = instance_norm(
            input if batched else input[None],
            self.running_mean,
            self.running_var,
            value(self.weight),
            value(self.bias),
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return output if batched else output[0]


class InstanceNorm1d(_InstanceNorm):
    """Normalises each channel of each example: torch.nn.InstanceNorm1d.

    The input is (N, C, L) or (C, L), and so is the output.

    Args:
        num_features: The number of channels C.
        eps: A small number that is added to the variance.
        momentum: The weight of the input's statistics in the running statistics. As in torch,
            None leaves the statistics unchanged, and `num_batches_tracked` stays 0.
        affine: Whether the layer has a weight and a bias.
        track_running_stats: Whether the layer has running statistics, which it uses in
            evaluation mode.
        bias: Whether an affine layer has a bias beside the weight.
        dtype: The dtype of the parameters and statistics.
    """

    _axes = (2, 3)
    _layouts = "(C, L) or (N, C, L)"


class InstanceNorm2d(_InstanceNorm):
    """Normalises (N, C, H, W) or (C, H, W): torch.nn.InstanceNorm2d. As in `InstanceNorm1d`."""

    _axes = (3, 4)
    _layouts = "(C, H, W) or (N, C, H, W)"


class InstanceNorm3d(_InstanceNorm):
    """Normalises (N, C, D, H, W) or (C, D, H, W): torch.nn.InstanceNorm3d.

    As in `InstanceNorm1d`.
    """

    _axes = (4, 5)
    _layouts = "(C, D, H, W) or (N, C, D, H, W)"
