"""torch.nn on flax.nnx: torch's names, arguments, defaults, parameter names and shapes."""

from jaxnet.nn import functional, init
from jaxnet.nn.activation import ReLU, Tanh
from jaxnet.nn.container import ModuleDict, ModuleList, Sequential
from jaxnet.nn.conv import Conv2d
from jaxnet.nn.embedding import Embedding
from jaxnet.nn.linear import Bilinear, Flatten, Identity, Linear, Unflatten
from jaxnet.nn.loss import CrossEntropyLoss, MSELoss
from jaxnet.nn.module import Buffer, Module, Parameter
from jaxnet.nn.pooling import MaxPool2d
from jaxnet.nn.summary import summary

__all__ = [
    "Bilinear",
    "Buffer",
    "Conv2d",
    "CrossEntropyLoss",
    "Embedding",
    "Flatten",
    "Identity",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Tanh",
    "Unflatten",
    "functional",
    "init",
    "summary",
]
