"""What torch.nn.utils has for models: weights that are computed, packed sequences, pruning."""

from jaxnet.nn.utils import parametrizations, parametrize, rnn
from jaxnet.nn.utils._spectral_norm import remove_spectral_norm, spectral_norm
from jaxnet.nn.utils._weight_norm import remove_weight_norm, weight_norm

__all__ = [
    "parametrizations",
    "parametrize",
    "remove_spectral_norm",
    "remove_weight_norm",
    "rnn",
    "spectral_norm",
    "weight_norm",
]
