"""Data: numpy in, batches out."""

from jaxnet.data import transforms
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
from jaxnet.data.series import (
    days,
    read_bikes,
    scale_ordinal,
    scale_to_unit,
    weather_one_hot,
    windows,
    with_channels,
)
from jaxnet.data.sharded import ShardedIterator, ShardedReader
from jaxnet.data.tables import Statistics, Table, class_means, one_hot, read_table, standardize
from jaxnet.data.text import (
    clean_words,
    letters_one_hot,
    read_text,
    vocabulary,
    word_indices,
    words_one_hot,
)
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
    "class_means",
    "clean_words",
    "days",
    "default_collate",
    "default_convert",
    "epoch_order",
    "fetchable",
    "find",
    "letters_one_hot",
    "load",
    "normalize",
    "one_hot",
    "random_split",
    "read_bikes",
    "read_image",
    "read_images",
    "read_table",
    "read_text",
    "read_volume",
    "scale_ordinal",
    "scale_to_unit",
    "standardize",
    "to_tensor",
    "transforms",
    "vocabulary",
    "weather_one_hot",
    "windows",
    "with_channels",
    "word_indices",
    "words_one_hot",
]
