"""torch.nn on flax.nnx: torch's names, arguments, defaults, parameter names and shapes."""

from jaxnet.nn import functional, init
from jaxnet.nn.activation import ReLU, Tanh
from jaxnet.nn.container import Sequential
from jaxnet.nn.conv import Conv2d
from jaxnet.nn.linear import Flatten, Identity, Linear
from jaxnet.nn.loss import CrossEntropyLoss, MSELoss
from jaxnet.nn.module import Buffer, Module, Parameter
from jaxnet.nn.pooling import MaxPool2d
from jaxnet.nn.rnn import GRU, LSTM, RNN
from jaxnet.nn.rnn_cell import GRUCell, LSTMCell, RNNCell

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Buffer",
    "Conv2d",
    "CrossEntropyLoss",
    "Flatten",
    "GRUCell",
    "Identity",
    "LSTMCell",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Parameter",
    "RNNCell",
    "ReLU",
    "Sequential",
    "Tanh",
    "functional",
    "init",
]
