"""The pure functions of `jaxnet.nn` and `jaxnet.losses` under torch.nn.functional's names."""

from typing import TYPE_CHECKING

from jaxnet._hints import module_getattr
from jaxnet.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_embedding_loss,
    cross_entropy,
    ctc_loss,
    gaussian_nll_loss,
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    linear_cross_entropy,
    margin_ranking_loss,
    mse_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    nll_loss,
    pairwise_distance,
    poisson_nll_loss,
    smooth_l1_loss,
    soft_margin_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from jaxnet.nn._activation import (
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
from jaxnet.nn._adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)
from jaxnet.nn._attention_forward import multi_head_attention_forward
from jaxnet.nn._avg_pooling import avg_pool1d, avg_pool2d, avg_pool3d
from jaxnet.nn._batchnorm import batch_norm
from jaxnet.nn._conv import conv1d, conv2d, conv3d
from jaxnet.nn._conv_transpose import conv_transpose1d, conv_transpose2d, conv_transpose3d
from jaxnet.nn._distance import cosine_similarity, normalize, pdist
from jaxnet.nn._dropout import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from jaxnet.nn._embedding import embedding, one_hot
from jaxnet.nn._embedding_bag import embedding_bag
from jaxnet.nn._fold import fold, unfold
from jaxnet.nn._fractional_pooling import fractional_max_pool2d, fractional_max_pool3d
from jaxnet.nn._grid_sample import affine_grid, grid_sample
from jaxnet.nn._instancenorm import instance_norm
from jaxnet.nn._linear import bilinear, linear
from jaxnet.nn._lp_pooling import lp_pool1d, lp_pool2d, lp_pool3d
from jaxnet.nn._max_pooling import max_pool1d, max_pool2d, max_pool3d
from jaxnet.nn._norm import group_norm, layer_norm, local_response_norm, rms_norm
from jaxnet.nn._pad import pad
from jaxnet.nn._piecewise import (
    hardshrink,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    prelu,
    relu6,
    rrelu,
    softshrink,
    threshold,
)
from jaxnet.nn._products import conv_tbc, grouped_mm
from jaxnet.nn._scaled_dot_product import scaled_dot_product_attention
from jaxnet.nn._shuffle import (
    channel_shuffle,
    native_channel_shuffle,
    pixel_shuffle,
    pixel_unshuffle,
)
from jaxnet.nn._softmax import glu, gumbel_softmax, log_softmax, softmax, softmin
from jaxnet.nn._unpooling import max_unpool1d, max_unpool2d, max_unpool3d
from jaxnet.nn._upsample import interpolate

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "affine_grid",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "bilinear",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "celu",
    "channel_shuffle",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_tbc",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "embedding",
    "embedding_bag",
    "feature_alpha_dropout",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "gaussian_nll_loss",
    "gelu",
    "glu",
    "grid_sample",
    "group_norm",
    "grouped_mm",
    "gumbel_softmax",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_cross_entropy",
    "local_response_norm",
    "log_softmax",
    "logsigmoid",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mish",
    "mse_loss",
    "multi_head_attention_forward",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "native_channel_shuffle",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "pdist",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "prelu",
    "relu",
    "relu6",
    "rms_norm",
    "rrelu",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "unfold",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.nn.functional")
del TYPE_CHECKING, module_getattr
