"""The choice of how attention is computed, under the names of torch.nn.attention."""

from typing import TYPE_CHECKING

from jaxnet._hints import module_getattr
from jaxnet.nn._scaled_dot_product import SDPBackend, sdpa_kernel

__all__ = ["SDPBackend", "sdpa_kernel"]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.nn.attention")
del TYPE_CHECKING, module_getattr
