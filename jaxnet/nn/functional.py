"""torch.nn.functional: the pure functions of this package under one name."""

from jaxnet.losses import cross_entropy, mse_loss
from jaxnet.nn.activation import relu, tanh
from jaxnet.nn.conv import conv1d, conv2d, conv3d
from jaxnet.nn.conv_transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from jaxnet.nn.linear import linear
from jaxnet.nn.pooling import max_pool2d

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "linear",
    "max_pool2d",
    "mse_loss",
    "relu",
    "tanh",
]
