"""torch.nn.functional: the pure functions of this package under one name."""

from jaxnet.losses import cross_entropy, mse_loss
from jaxnet.nn.activation import (
    celu,
    elu,
    gelu,
    logsigmoid,
    mish,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
    tanhshrink,
)
from jaxnet.nn.attention import scaled_dot_product_attention
from jaxnet.nn.batchnorm import batch_norm, instance_norm
from jaxnet.nn.conv import conv2d
from jaxnet.nn.dropout import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from jaxnet.nn.linear import linear
from jaxnet.nn.norm import group_norm, layer_norm, local_response_norm, rms_norm
from jaxnet.nn.piecewise import (
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    prelu,
    relu6,
    softshrink,
    threshold,
)
from jaxnet.nn.pooling import max_pool2d
from jaxnet.nn.softmax import glu, log_softmax, softmax, softmin

__all__ = [
    "alpha_dropout",
    "batch_norm",
    "celu",
    "conv2d",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "feature_alpha_dropout",
    "gelu",
    "glu",
    "group_norm",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "instance_norm",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "logsigmoid",
    "max_pool2d",
    "mish",
    "mse_loss",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
]
