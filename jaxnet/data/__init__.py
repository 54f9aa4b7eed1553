"""Data: numpy in, batches out."""

from jaxnet.data.catalogue import Labelled, available, fetchable, find, load
from jaxnet.data.images import normalize, to_tensor
from jaxnet.data.sampler import epoch_order

__all__ = [
    "Labelled",
    "available",
    "epoch_order",
    "fetchable",
    "find",
    "load",
    "normalize",
    "to_tensor",
]
