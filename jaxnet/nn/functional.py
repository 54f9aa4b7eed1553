"""torch.nn.functional: the pure functions of this package under one name."""

from jaxnet.losses import cross_entropy, mse_loss
from jaxnet.nn.activation import relu, tanh
from jaxnet.nn.conv import conv2d
from jaxnet.nn.embedding import embedding, one_hot
from jaxnet.nn.linear import bilinear, linear
from jaxnet.nn.pooling import max_pool2d

__all__ = [
    "bilinear",
    "conv2d",
    "cross_entropy",
    "embedding",
    "linear",
    "max_pool2d",
    "mse_loss",
    "one_hot",
    "relu",
    "tanh",
]
