"""What torch.nn.utils has for models: computed weights, packed sequences, pruning, fusion."""

from typing import TYPE_CHECKING

from jaxnet._hints import module_getattr
from jaxnet.nn.utils import parametrizations, parametrize, prune, rnn
from jaxnet.nn.utils._fusion import (
    fuse_conv_bn_eval,
    fuse_conv_bn_weights,
    fuse_linear_bn_eval,
    fuse_linear_bn_weights,
)
from jaxnet.nn.utils._spectral_norm import remove_spectral_norm, spectral_norm
from jaxnet.nn.utils._vectors import parameters_to_vector, vector_to_parameters
from jaxnet.nn.utils._weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "fuse_conv_bn_eval",
    "fuse_conv_bn_weights",
    "fuse_linear_bn_eval",
    "fuse_linear_bn_weights",
    "parameters_to_vector",
    "parametrizations",
    "parametrize",
    "prune",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "spectral_norm",
    "vector_to_parameters",
    "weight_norm",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.nn.utils")
del TYPE_CHECKING, module_getattr
