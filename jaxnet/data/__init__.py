"""Data sets, files and batches, all in numpy.

`load` reads CIFAR and MNIST. `read_image`, `read_table`, `read_text` and `read_volume` read files.
`DataLoader` and its samplers give the batches of torch's. `ShardedReader` reads data sets that are
larger than the memory. `transforms` augments images on the device.
"""

from typing import TYPE_CHECKING

from jaxnet._hints import module_getattr
from jaxnet.data import transforms
from jaxnet.data._catalogue import Labelled, available, fetchable, load
from jaxnet.data._collate import default_collate, default_convert
from jaxnet.data._dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from jaxnet.data._image_files import channel_statistics, read_image, read_images
from jaxnet.data._images import normalize, to_tensor
from jaxnet.data._loader import DataLoader
from jaxnet.data._sampler import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    epoch_order,
)
from jaxnet.data._series import windows
from jaxnet.data._sharded import ShardedIterator, ShardedReader
from jaxnet.data._tables import Statistics, Table, one_hot, read_table, standardize
from jaxnet.data._text import read_text
from jaxnet.data._volumes import Volume, read_volume
from jaxnet.data._worker import get_worker_info

__all__ = [
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "IterableDataset",
    "Labelled",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "ShardedIterator",
    "ShardedReader",
    "StackDataset",
    "Statistics",
    "Subset",
    "SubsetRandomSampler",
    "Table",
    "TensorDataset",
    "Volume",
    "WeightedRandomSampler",
    "available",
    "channel_statistics",
    "default_collate",
    "default_convert",
    "epoch_order",
    "fetchable",
    "get_worker_info",
    "load",
    "normalize",
    "one_hot",
    "random_split",
    "read_image",
    "read_images",
    "read_table",
    "read_text",
    "read_volume",
    "standardize",
    "to_tensor",
    "transforms",
    "windows",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.data")
del TYPE_CHECKING, module_getattr
