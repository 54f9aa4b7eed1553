"""Normalisation with running statistics: BatchNorm, and what InstanceNorm shares with it.

As in torch, the running variance is the unbiased one, `momentum` weighs the new value (in
flax it weighs the old value), and a momentum of None means the plain average over all
batches. In training mode each call of a layer writes new statistics into the layer's buffers,
so a layer that is used n times in one forward pass updates its statistics n times.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxnet import _kernels as kernels
from jaxnet._batch_parts import parts_of
from jaxnet.backend import ROWS, Operation, batch_innermost, tangents_along
from jaxnet.nn._module import Buffer, Module, Parameter, wrong_shape
from jaxnet.nn._moments import moments
from jaxnet.nn._norm import affine, check_sizes, value, working

Statistic = nnx.Variable[Any] | jax.Array | None


def batch_norm(
    input: Float[Array, "N C *size"],
    running_mean: Statistic,
    running_var: Statistic,
    weight: Float[Array, " C"] | None = None,
    bias: Float[Array, " C"] | None = None,
    training: bool = False,
    momentum: float | jax.Array = 0.1,
    eps: float = 1e-5,
) -> Float[Array, "N C *size"]:
    """Computes (x - mean) / sqrt(var + eps) weight + bias for each channel.

    Equivalent of torch.nn.functional.batch_norm.

    Args:
        input: The batch, (N, C, ...), with a float dtype.
        running_mean: The running mean, (C,). In training it is an `nn.Buffer`, which is
            updated as torch updates its tensor, or None. Outside of training it may be an
            array.
        running_var: The running variance, (C,), likewise. It is updated with the unbiased
            variance, while the batch is normalised by its biased variance.
        weight: A factor for each channel, (C,).
        bias: A summand for each channel, (C,).
        training: Whether mean and variance are those of the batch.
        momentum: The weight of the batch's statistics in the new running statistics.
        eps: A small number that is added to the variance.

    Returns:
        The normalised batch, with the shape and dtype of the input.

    Raises:
        ValueError: A shape does not fit, the statistics are missing outside of training, eps
            is negative, or in training eps is 0, a channel has a single value, or the training
            step has `batch_norm_parts` and the rows are not those of its batch.
        TypeError: The input has no float dtype, or in training a running statistic is an
            array, which cannot be updated.
    """
    if input.ndim < 2:
        raise ValueError(f"batch_norm: the input has shape {input.shape}; accepted is (N, C, ...)")
    channels = input.shape[1]
    check_statistics("batch_norm", channels, running_mean, running_var, training)
    check_sizes("batch_norm", (channels,), weight=weight, bias=bias)
    if eps < 0 or (training and eps == 0):
        raise ValueError(f"batch_norm: eps is {eps}; accepted is a positive number")
    x = working("batch_norm", input)
    per_channel = (1, channels) + (1,) * (x.ndim - 2)
    if not training:
        x = by_running(x, per_channel, running_mean, running_var, eps)
        return affine(x, per_channel, weight, bias).astype(input.dtype)

    parts = parts_of("batch_norm", x.shape[0])
    shape = x.shape if parts == 1 else (x.shape[0] // parts, *x.shape[1:])
    count = math.prod(shape) // channels if channels else 0
    if count == 1:
        raise ValueError(
            "batch_norm: Expected more than 1 value per channel when training, "
            f"got input size {shape}"
        )
    if not count:
        return affine(x, per_channel, weight, bias).astype(input.dtype)
    if batch_innermost(x):
        factors = jnp.ones(channels, x.dtype) if weight is None else weight.astype(x.dtype)
        summands = jnp.zeros(channels, x.dtype) if bias is None else bias.astype(x.dtype)
        x, mean, var = _by_parts(partial(_NORMALISE, eps=float(eps)), parts, x, factors, summands)
    else:
        x, mean, var = _by_parts(partial(_normalise, eps=eps), parts, x, weight, bias)
    update_running(running_mean, mean, momentum)
    # torch stores the unbiased variance, though it normalises by the biased one.
    update_running(running_var, var * (count / (count - 1)), momentum)
    return x.astype(input.dtype)


def _by_parts(function, parts, x, weight, bias):
    """`function(x, weight, bias)` for each part of the rows: y, and the first part's mean and var.

    The devices of a mesh that have whole parts compute them by themselves.
    """
    if parts == 1:
        return function(x, weight, bias)
    mesh = jax.sharding.get_abstract_mesh()
    if math.prod(mesh.shape[axis] for axis in mesh.explicit_axes) != 1:
        spec = jax.sharding.PartitionSpec
        return jax.sharding.auto_axes(
            partial(_by_parts, function, parts),
            axes=mesh.explicit_axes,
            out_sharding=(jax.typeof(x).sharding.spec, spec(), spec()),
        )(x, weight, bias)
    devices = mesh.shape[ROWS] if ROWS in mesh.auto_axes else 1
    if devices == 1 or parts % devices:
        return _one_by_one(function, parts, x, weight, bias)

    def on_its_own(x, weight, bias):
        y, *statistics = _one_by_one(function, parts // devices, x, weight, bias)
        # The only numbers that are sent: as torch's DistributedDataParallel sends the first
        # process's buffers to the others.
        first = jnp.where(lax.axis_index(ROWS) == 0, lax.stop_gradient(jnp.stack(statistics)), 0)
        return (y, *lax.psum(first, ROWS))

    cut, whole = jax.sharding.PartitionSpec(ROWS), jax.sharding.PartitionSpec()
    return jax.shard_map(
        on_its_own,
        in_specs=(cut, whole, whole),
        out_specs=(cut, whole, whole),
        axis_names=set(mesh.auto_axes),
    )(x, weight, bias)


def _one_by_one(function, parts, x, weight, bias):
    if parts == 1:
        return tuple(function(x, weight, bias))
    cut = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
    y, mean, var = jax.vmap(function, (0, None, None))(cut, weight, bias)
    return y.reshape(x.shape), mean[0], var[0]


def _normalise(x, weight, bias, eps):
    mean, centred, var = moments(x, (0, *range(2, x.ndim)))
    y = affine(centred * lax.rsqrt(var + eps), _per_channel(x), weight, bias)
    return [y, mean.reshape(-1), var.reshape(-1)]


def _per_channel(x):
    return (1, -1, *(1,) * (x.ndim - 2))


# Batch normalisation of images as a differentiable operation. Its backward pass is the
# kernel's or `_backward`; all other derivatives (forward mode, derivatives of a gradient) are
# those of `_normalise`. The returned mean and variance carry no gradient.


def _by_few_passes(x, weight, bias, eps):
    """`_normalise` with two passes over x for mean and variance instead of three."""
    axes, shape = (0, *range(2, x.ndim)), _per_channel(x)
    rough = x.mean(axes)
    shifted = x - rough.reshape(shape)
    # x.mean is rounded, so `shifted` has a small mean of its own, `rest`. It is so small that
    # E[shifted^2] - rest^2 loses no digits, but for equal numbers rounding may make the
    # difference negative.
    rest = shifted.mean(axes)
    var = jnp.maximum(jnp.square(shifted).mean(axes) - jnp.square(rest), 0)
    centred = shifted - rest.reshape(shape)
    y = affine(centred * lax.rsqrt(var + eps).reshape(shape), shape, weight, bias)
    return [y, rough + rest, var]


def _normalise_jvp(arguments, tangents, eps):
    results = _NORMALISE(*arguments, eps=eps)
    moved = _TANGENTS(arguments, tuple(results[1:]), tuple(tangents), eps=eps)
    return results, [*moved, None, None]


def _only_y(x, weight, bias, eps):
    return _normalise(x, weight, bias, eps)[:1]


def _tangents(inputs, moments, direction, eps):
    return tangents_along(partial(_only_y, eps=eps), inputs, direction)


def _tangents_transpose(arguments, slopes, eps):
    inputs, moments, direction = arguments
    found = _BACKWARD(inputs, moments, slopes[0], eps=eps)
    wanted = zip(found, direction, strict=True)
    return None, None, tuple(None if moves is None else slope for slope, moves in wanted)


def _backward(inputs, moments, dy, eps):
    """The gradients of x, weight and bias, with one pass over x and dy for the sums and one for dx.

    With u = (x - mean) / sqrt(var + eps) and averages over the batch,
    dx = (dy - mean(dy) - u mean(dy u)) weight / sqrt(var + eps).
    """
    (x, weight, _), (mean, var) = inputs, moments
    axes, shape = (0, *range(2, x.ndim)), _per_channel(x)
    inverse = lax.rsqrt(var + eps)
    unit = (x - mean.reshape(shape)) * inverse.reshape(shape)
    dbias, dweight = dy.sum(axes), (dy * unit).sum(axes)
    count = x.size // weight.size
    even, along = ((slope / count).reshape(shape) for slope in (dbias, dweight))
    return [(dy - even - unit * along) * (inverse * weight).reshape(shape), dweight, dbias]


def _whole_backward(inputs, moments, dy, eps):
    """The gradients of `_backward` by JAX's own differentiation, for higher derivatives."""
    return jax.vjp(partial(_only_y, eps=eps), *inputs)[1]([dy])


def _backward_in_c(inputs, moments, dy, eps):
    x, weight, _ = inputs
    return kernels.batch_norm_gradient(x, dy, weight, *moments, eps)


_NORMALISE = Operation(
    "batch_norm",
    native=_by_few_passes,
    kernel=kernels.batch_norm,
    shapes=lambda x, weight, bias, eps: [x.shape, weight.shape, weight.shape],
    jvp=_normalise_jvp,
)
_TANGENTS = Operation(
    "batch_norm_tangents",
    native=_tangents,
    shapes=lambda inputs, moments, direction, eps: [inputs[0].shape],
    transpose=_tangents_transpose,
)
_BACKWARD = Operation(
    "batch_norm_gradient",
    native=_backward,
    kernel=_backward_in_c,
    shapes=lambda inputs, moments, dy, eps: [part.shape for part in inputs],
    derivative=_whole_backward,
)


def check_statistics(
    name: str, channels: int, mean: Statistic, var: Statistic, training: bool
) -> None:
    if (mean is None) != (var is None):
        raise ValueError(
            f"{name}: running_mean and running_var must either both be None or neither be None"
        )
    if mean is None and not training:
        raise ValueError(f"{name}: running_mean and running_var are needed outside of training")
    for argument, array in (("running_mean", mean), ("running_var", var)):
        if array is not None and array.shape != (channels,):
            raise ValueError(
                f"{name}: {argument} has shape {array.shape}; the input has {channels} channels"
            )
        if training and array is not None and not isinstance(array, nnx.Variable):
            raise TypeError(
                f"{name}: {argument} would be updated, but an array cannot change; "
                "give a nn.Buffer, or None to keep no statistics"
            )


def by_running(
    x: jax.Array, shape: tuple[int, ...], mean: Statistic, var: Statistic, eps: float
) -> jax.Array:
    at, spread = (s[...].reshape(shape).astype(x.dtype) for s in (mean, var))  # type: ignore[index]
    return (x - at) * lax.rsqrt(spread + eps)


def update_running(running: Statistic, new: jax.Array, momentum: float | jax.Array) -> None:
    if isinstance(running, nnx.Variable):
        # As in torch no gradient passes through the running statistics.
        new = lax.stop_gradient(new).astype(running.dtype)
        running[...] = momentum * new + (1 - momentum) * running[...]


class RunningNorm(Module):
    """The parameters, buffers and printed form of BatchNorm and InstanceNorm."""

    _axes: tuple[int, ...] = ()
    _layouts = ""
    weight: Any  # a Parameter, or None without affine
    bias: Any

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
        dtype: DTypeLike,
    ) -> None:
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        shape, tracked = (num_features,), track_running_stats
        self.weight = Parameter(jnp.ones(shape, dtype)) if affine else None
        self.bias = Parameter(jnp.zeros(shape, dtype)) if affine and bias else None
        self.running_mean = Buffer(jnp.zeros(shape, dtype)) if tracked else None
        self.running_var = Buffer(jnp.ones(shape, dtype)) if tracked else None
        # `int` is int64 under jax.enable_x64 and int32 otherwise.
        self.num_batches_tracked = Buffer(jnp.zeros((), int)) if tracked else None

    def _wrong_shape(self, input: jax.Array) -> ValueError:
        return wrong_shape(self, self._layouts.replace("C", str(self.num_features)), input)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def __call__(self, input: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        counted = self.affine or self.track_running_stats
        if input.ndim not in self._axes or (counted and input.shape[1] != self.num_features):
            raise self._wrong_shape(input)
        momentum: float | jax.Array = 0.0 if self.momentum is None else self.momentum
        # As in torch, the batches are counted before the average of all batches is formed.
        count = None
        if self.training and self.num_batches_tracked is not None:
            count = self.num_batches_tracked[...] + 1
            if self.momentum is None:
                momentum = 1 / count.astype(self.running_mean.dtype)  # type: ignore[union-attr]
        output = batch_norm(
            input,
            self.running_mean,
            self.running_var,
            value(self.weight),
            value(self.bias),
            self.training or self.running_mean is None,
            momentum,
            self.eps,
        )
        if count is not None:  # last, so that a batch that is refused does not count
            self.num_batches_tracked[...] = count  # type: ignore[index]
        return output


class BatchNorm1d(_BatchNorm):
    """Normalises each channel over the batch: torch.nn.BatchNorm1d.

    The input is (N, C) or (N, C, L), and so is the output. The layer has the parameters
    `weight` (C,), initially ones, and `bias` (C,), initially zeros, and the buffers
    `running_mean` (C,), `running_var` (C,) and `num_batches_tracked`, an int32, or an int64
    as in torch under jax.enable_x64.

    In a training step over a sharded batch the statistics are those of the whole batch, as in
    torch.nn.SyncBatchNorm, unless `train.make_train_step(..., batch_norm_parts=)` asks for those
    of each part of it.

    Args:
        num_features: The number of channels C. As in torch it is not checked if the layer has
            neither parameters nor statistics.
        eps: A small number that is added to the variance.
        momentum: The weight of the batch's statistics in the running statistics (flax's
            momentum weighs the old statistics instead); None for the average of all batches.
        affine: Whether the layer has a weight and a bias.
        track_running_stats: Whether the layer has running statistics for evaluation mode.
            Without them evaluation mode also uses the statistics of the batch.
        bias: Whether an affine layer has a bias beside the weight.
        dtype: The dtype of the parameters and statistics.

    >>> from jaxnet import nn
    >>> norm = nn.BatchNorm1d(2)
    >>> norm(jnp.array([[1.0, 10.0], [3.0, 30.0]])).round(3).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> norm.running_mean[...]
    Array([0.2, 2. ], dtype=float32)
    """

    _axes = (2, 3)
    _layouts = "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of (N, C, H, W): torch.nn.BatchNorm2d. As in `BatchNorm1d`."""

    _axes = (4,)
    _layouts = "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    """Normalises each channel of (N, C, D, H, W): torch.nn.BatchNorm3d. As in `BatchNorm1d`."""

    _axes = (5,)
    _layouts = "(N, C, D, H, W)"
