"""torch.nn on flax.nnx: torch's names, arguments, defaults, parameter names and shapes."""

from jaxnet.nn import functional, init
from jaxnet.nn.activation import ReLU, Tanh
from jaxnet.nn.adaptive_pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
)
from jaxnet.nn.container import Sequential
from jaxnet.nn.conv import Conv1d, Conv2d, Conv3d
from jaxnet.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from jaxnet.nn.linear import Flatten, Identity, Linear
from jaxnet.nn.loss import CrossEntropyLoss, MSELoss
from jaxnet.nn.lp_pooling import LPPool1d, LPPool2d, LPPool3d
from jaxnet.nn.module import Buffer, Module, Parameter
from jaxnet.nn.pooling import AvgPool1d, AvgPool2d, AvgPool3d, MaxPool1d, MaxPool2d, MaxPool3d
from jaxnet.nn.upsample import Upsample, UpsamplingBilinear2d, UpsamplingNearest2d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Buffer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "Flatten",
    "Identity",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "Linear",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Tanh",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "functional",
    "init",
]
