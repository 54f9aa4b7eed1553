"""torch.nn on flax.nnx: torch's names, arguments, defaults, parameter names and shapes."""

from jaxnet.nn import functional, init
from jaxnet.nn.activation import ReLU, Tanh
from jaxnet.nn.container import Sequential
from jaxnet.nn.conv import Conv1d, Conv2d, Conv3d
from jaxnet.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from jaxnet.nn.linear import Flatten, Identity, Linear
from jaxnet.nn.loss import CrossEntropyLoss, MSELoss
from jaxnet.nn.module import Buffer, Module, Parameter
from jaxnet.nn.pooling import MaxPool2d

__all__ = [
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
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Tanh",
    "functional",
    "init",
]
