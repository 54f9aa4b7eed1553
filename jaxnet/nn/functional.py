"""torch.nn.functional: the pure functions of this package under one name."""

from jaxnet.losses import cross_entropy, mse_loss
from jaxnet.nn.activation import relu, tanh
from jaxnet.nn.adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)
from jaxnet.nn.conv import conv1d, conv2d, conv3d
from jaxnet.nn.conv_transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from jaxnet.nn.linear import linear
from jaxnet.nn.lp_pooling import lp_pool1d, lp_pool2d, lp_pool3d
from jaxnet.nn.pooling import avg_pool1d, avg_pool2d, avg_pool3d, max_pool1d, max_pool2d, max_pool3d
from jaxnet.nn.upsample import interpolate

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "interpolate",
    "linear",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "relu",
    "tanh",
]
