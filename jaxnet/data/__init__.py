"""Data: numpy in, batches out."""

from jaxnet.data.catalogue import Labelled, available, fetchable, find, load
from jaxnet.data.collate import default_collate, default_convert
from jaxnet.data.dataset import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from jaxnet.data.images import normalize, to_tensor
from jaxnet.data.loader import DataLoader
from jaxnet.data.sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    epoch_order,
)

__all__ = [
    "BatchSampler",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "IterableDataset",
    "Labelled",
    "RandomSampler",
    "SequentialSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "available",
    "default_collate",
    "default_convert",
    "epoch_order",
    "fetchable",
    "find",
    "load",
    "normalize",
    "random_split",
    "to_tensor",
]
