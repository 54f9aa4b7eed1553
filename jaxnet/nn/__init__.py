"""PyTorch's layers on flax.nnx, with torch's names, arguments, defaults, parameters and shapes."""

from typing import TYPE_CHECKING

from jaxnet._hints import module_getattr
from jaxnet._intercept import intercept
from jaxnet._keys import draws, keys, next_key
from jaxnet.losses._linear_cross_entropy import LinearCrossEntropyOptions
from jaxnet.nn import attention, functional, init, utils
from jaxnet.nn._activation import (
    CELU,
    ELU,
    GELU,
    SELU,
    LogSigmoid,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
    Tanhshrink,
)
from jaxnet.nn._activations import activations
from jaxnet.nn._adaptive_pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
)
from jaxnet.nn._adaptive_softmax import AdaptiveLogSoftmaxWithLoss
from jaxnet.nn._attention import MultiheadAttention
from jaxnet.nn._avg_pooling import AvgPool1d, AvgPool2d, AvgPool3d
from jaxnet.nn._batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from jaxnet.nn._container import ModuleDict, ModuleList, Sequential
from jaxnet.nn._conv import Conv1d, Conv2d, Conv3d
from jaxnet.nn._conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from jaxnet.nn._distance import CosineSimilarity, PairwiseDistance
from jaxnet.nn._dropout import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
)
from jaxnet.nn._embedding import Embedding
from jaxnet.nn._embedding_bag import EmbeddingBag
from jaxnet.nn._fold import Fold, Unfold
from jaxnet.nn._fractional_pooling import FractionalMaxPool2d, FractionalMaxPool3d
from jaxnet.nn._instancenorm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from jaxnet.nn._linear import Bilinear, Flatten, Identity, Linear, Unflatten
from jaxnet.nn._linear_cross_entropy import LinearCrossEntropyLoss
from jaxnet.nn._loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CosineEmbeddingLoss,
    CrossEntropyLoss,
    CTCLoss,
    GaussianNLLLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MarginRankingLoss,
    MSELoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    PoissonNLLLoss,
    SmoothL1Loss,
    SoftMarginLoss,
    TripletMarginLoss,
    TripletMarginWithDistanceLoss,
)
from jaxnet.nn._lp_pooling import LPPool1d, LPPool2d, LPPool3d
from jaxnet.nn._max_pooling import MaxPool1d, MaxPool2d, MaxPool3d
from jaxnet.nn._module import Buffer, Module, Parameter
from jaxnet.nn._norm import GroupNorm, LayerNorm, LocalResponseNorm, RMSNorm
from jaxnet.nn._pad import (
    CircularPad1d,
    CircularPad2d,
    CircularPad3d,
    ConstantPad1d,
    ConstantPad2d,
    ConstantPad3d,
    ReflectionPad1d,
    ReflectionPad2d,
    ReflectionPad3d,
    ReplicationPad1d,
    ReplicationPad2d,
    ReplicationPad3d,
    ZeroPad1d,
    ZeroPad2d,
    ZeroPad3d,
)
from jaxnet.nn._parameter_container import ParameterDict, ParameterList
from jaxnet.nn._piecewise import (
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    PReLU,
    ReLU6,
    RReLU,
    Softshrink,
    Threshold,
)
from jaxnet.nn._rnn import GRU, LSTM, RNN, RNNBase
from jaxnet.nn._rnn_cell import GRUCell, LSTMCell, RNNCell, RNNCellBase
from jaxnet.nn._scan_cell import scan_cell
from jaxnet.nn._shuffle import ChannelShuffle, PixelShuffle, PixelUnshuffle
from jaxnet.nn._softmax import GLU, LogSoftmax, Softmax, Softmax2d, Softmin
from jaxnet.nn._summary import summary
from jaxnet.nn._sync_batchnorm import SyncBatchNorm
from jaxnet.nn._traces import checkpoint
from jaxnet.nn._transformer import Transformer, TransformerDecoder, TransformerEncoder
from jaxnet.nn._transformer_layer import TransformerDecoderLayer, TransformerEncoderLayer
from jaxnet.nn._unpooling import MaxUnpool1d, MaxUnpool2d, MaxUnpool3d
from jaxnet.nn._upsample import Upsample, UpsamplingBilinear2d, UpsamplingNearest2d

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveLogSoftmaxWithLoss",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AlphaDropout",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Bilinear",
    "Buffer",
    "CTCLoss",
    "ChannelShuffle",
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "Embedding",
    "EmbeddingBag",
    "FeatureAlphaDropout",
    "Flatten",
    "Fold",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "GRUCell",
    "GaussianNLLLoss",
    "GroupNorm",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "Identity",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "KLDivLoss",
    "L1Loss",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LinearCrossEntropyLoss",
    "LinearCrossEntropyOptions",
    "LocalResponseNorm",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "MarginRankingLoss",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Mish",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "MultiheadAttention",
    "NLLLoss",
    "PReLU",
    "PairwiseDistance",
    "Parameter",
    "ParameterDict",
    "ParameterList",
    "PixelShuffle",
    "PixelUnshuffle",
    "PoissonNLLLoss",
    "RMSNorm",
    "RNNBase",
    "RNNCell",
    "RNNCellBase",
    "RReLU",
    "ReLU",
    "ReLU6",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "SyncBatchNorm",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "Unflatten",
    "Unfold",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
    "activations",
    "attention",
    "checkpoint",
    "draws",
    "functional",
    "init",
    "intercept",
    "keys",
    "next_key",
    "scan_cell",
    "summary",
    "utils",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.nn")
del TYPE_CHECKING, module_getattr
