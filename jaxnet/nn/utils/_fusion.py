"""Batch normalization folded into the layer before it."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.nn._module import Parameter

M = TypeVar("M", bound=nnx.Module)
Value = jax.Array | nnx.Variable[Any]


def fuse_conv_bn_weights(
    conv_w: Value,
    conv_b: Value | None,
    bn_rm: Value,
    bn_rv: Value,
    bn_eps: float,
    bn_w: Value | None,
    bn_b: Value | None,
    transpose: bool = False,
) -> tuple[Parameter, Parameter]:
    """The weights of a convolution that also normalizes: torch.nn.utils.fuse_conv_bn_weights.

    Args:
        conv_w: The weight of the convolution.
        conv_b: Its bias, (O,), or None.
        bn_rm: The running mean, (O,).
        bn_rv: The running variance, (O,).
        bn_eps: The number that is added to the variance.
        bn_w: The weight of the normalization, (O,), or None.
        bn_b: Its bias, (O,), or None.
        transpose: Whether the convolution is transposed, with the output channels on axis 1.

    Returns:
        The weight and the bias, with the dtypes of those of the convolution.

    Raises:
        ValueError: The running mean has another size than the output channels.
    """
    weight = _array(conv_w)
    bias = None if conv_b is None else _array(conv_b)
    mean, variance = _array(bn_rm), _array(bn_rv)
    channels = weight.shape[1 if transpose else 0]
    if mean.shape not in ((channels,), (1,)):
        raise ValueError(
            f"bn_rm: shape {mean.shape}; accepted is ({channels},), one for each output channel of "
            f"a weight of shape {weight.shape}"
        )
    scale = (1 if bn_w is None else _array(bn_w)) / jnp.sqrt(variance + bn_eps)
    offset = (0 if bias is None else bias) - mean
    shift = offset * scale + (0 if bn_b is None else _array(bn_b))
    shape = [1] * weight.ndim
    shape[1 if transpose else 0] = -1
    fused = (weight * scale.reshape(shape)).astype(weight.dtype)
    return Parameter(fused), Parameter(shift.astype((weight if bias is None else bias).dtype))


def fuse_linear_bn_weights(
    linear_w: Value,
    linear_b: Value | None,
    bn_rm: Value,
    bn_rv: Value,
    bn_eps: float,
    bn_w: Value | None,
    bn_b: Value | None,
) -> tuple[Parameter, Parameter]:
    """The weights of a linear layer that also normalizes: torch.nn.utils.fuse_linear_bn_weights.

    The arguments and results are those of `fuse_conv_bn_weights`.
    """
    return fuse_conv_bn_weights(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)


def fuse_conv_bn_eval(conv: M, bn: Any, transpose: bool = False) -> M:
    """A convolution that does what it and the normalization after it do in evaluation mode.

    This is torch.nn.utils.fuse_conv_bn_eval.

    Args:
        conv: The convolution, in evaluation mode.
        bn: The batch normalization, in evaluation mode.
        transpose: Whether the convolution is transposed.

    Returns:
        A copy of the convolution with other weights, and a bias.

    Raises:
        ValueError: A layer is in training mode, or the normalization has no running statistics.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, rngs=Generator(0)), nn.BatchNorm2d(8)).eval()
    >>> fused = fuse_conv_bn_eval(net[0], net[1])
    >>> x = jnp.ones((1, 3, 5, 5))
    >>> bool(jnp.allclose(fused(x), net(x), atol=1e-5))
    True
    """
    return _fused("fuse_conv_bn_eval", conv, bn, transpose)


def fuse_linear_bn_eval(linear: M, bn: Any) -> M:
    """A linear layer that does what it and the normalization after it do in evaluation mode.

    This is torch.nn.utils.fuse_linear_bn_eval.

    Args:
        linear: The linear layer, in evaluation mode.
        bn: The batch normalization of its features, in evaluation mode.

    Returns:
        A copy of the layer with other weights, and a bias.

    Raises:
        ValueError: A layer is in training mode, or the normalization has no running statistics
            or another number of features.
    """
    features = (linear.out_features, 1)  # type: ignore[attr-defined]
    if bn.num_features not in features:
        raise ValueError(
            f"fuse_linear_bn_eval: bn has {bn.num_features} features; accepted are those of the "
            f"linear layer, {features[0]}, and 1"
        )
    return _fused("fuse_linear_bn_eval", linear, bn, transpose=False)


def _fused(what: str, layer: M, bn: Any, transpose: bool) -> M:
    target: Any = layer
    if target.training or bn.training:
        raise ValueError(f"{what}: a layer is in training mode; call .eval() of both first")
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(f"{what}: bn has no running statistics; it normalizes by each batch")
    weights = fuse_conv_bn_weights(
        target.weight, target.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias,
        transpose,
    )  # fmt: skip
    copy: Any = nnx.clone(layer)
    copy.weight, copy.bias = weights
    return copy


def _array(value: Value) -> jax.Array:
    return value[...]
