"""Data sets, files and batches, all in numpy.

`load` reads CIFAR and MNIST, `read_image`, `read_table`, `read_text` and `read_volume` read files
of one's own; `DataLoader` and its samplers are torch's; `ShardedReader` reads what is larger than
memory; `transforms` augment images on the device.
"""

from jaxnet.data import transforms
from jaxnet.data.catalogue import Labelled, available, fetchable, load
from jaxnet.data.collate import default_collate, default_convert
from jaxnet.data.dataset import (
    ConcatDataset,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    random_split,
)
from jaxnet.data.image_files import channel_statistics, read_image, read_images
from jaxnet.data.images import normalize, to_tensor
from jaxnet.data.loader import DataLoader
from jaxnet.data.sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    epoch_order,
)
from jaxnet.data.series import windows
from jaxnet.data.sharded import ShardedIterator, ShardedReader
from jaxnet.data.tables import Statistics, Table, one_hot, read_table, standardize
from jaxnet.data.text import read_text
from jaxnet.data.volumes import Volume, read_volume

__all__ = [
    "BatchSampler",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "IterableDataset",
    "Labelled",
    "RandomSampler",
    "SequentialSampler",
    "ShardedIterator",
    "ShardedReader",
    "Statistics",
    "Subset",
    "SubsetRandomSampler",
    "Table",
    "TensorDataset",
    "Volume",
    "available",
    "channel_statistics",
    "default_collate",
    "default_convert",
    "epoch_order",
    "fetchable",
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
