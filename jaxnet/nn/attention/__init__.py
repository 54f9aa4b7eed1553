"""The choice of how attention is computed, under the names of torch.nn.attention."""

from jaxnet.nn._scaled_dot_product import SDPBackend, sdpa_kernel

__all__ = ["SDPBackend", "sdpa_kernel"]
