"""Making batches of samples: torch.utils.data.default_collate in numpy."""

import collections
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnet import _arrays as arrays


def default_collate(batch: Sequence[Any]) -> Any:
    """Stacks samples along a new axis 0: torch.utils.data.default_collate.

    Arrays (of numpy, JAX or torch) become numpy arrays with one more axis. Numbers become a
    numpy array (int64, float64 or bool). Texts become a list. The samples may be
    dictionaries, tuples and lists of these. A tuple stays a tuple, where torch makes it a
    list.

    Args:
        batch: The samples.

    Returns:
        The batch, in the structure of one sample.

    Raises:
        ValueError: The samples have different shapes or structures.
        TypeError: A sample contains something else, which cannot be stacked.

    >>> default_collate([(np.zeros(2), 1), (np.ones(2), 0)])
    (array([[0., 0.],
           [1., 1.]]), array([1, 0]))
    """
    first = batch[0]
    if isinstance(first, (str, bytes)):
        return list(batch)
    if is_array(first):
        _all(batch, is_array, "no array")
        shapes = [tuple(sample.shape) for sample in batch]
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(
                f"batch: samples 0 and {odd} have the shapes {shapes[0]} and {shapes[odd]}; "
                "samples of one shape are stacked, others need a collate_fn of their own"
            )
        return np.stack([as_numpy(sample) for sample in batch])
    if isinstance(first, (bool, int, float, complex, np.generic)):
        return _numbers(batch)
    if isinstance(first, Mapping):
        _all(batch, lambda sample: isinstance(sample, Mapping), "no dictionary")
        for key in first:
            _all(batch, functools.partial(_has, key), f"without the key {key!r}")
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
        _all(batch, lambda sample: isinstance(sample, Sequence), "no tuple or list")
        if any(len(sample) != len(first) for sample in batch):
            raise ValueError(
                f"batch: samples of {sorted({len(sample) for sample in batch})} parts; every "
                "sample needs the same number"
            )
        return _like(first, [default_collate(part) for part in zip(*batch, strict=True)])
    raise TypeError(
        f"batch: samples of {type(first).__name__}; accepted are arrays, numbers, texts, and "
        "dictionaries, tuples and lists of them"
    )


def _all(batch: Sequence[Any], fits: Callable[[Any], bool], what: str) -> None:
    """Refuses a batch with a sample that does not fit; `what` describes such a sample."""
    for i, sample in enumerate(batch):
        if not fits(sample):
            raise ValueError(
                f"batch: sample 0 is a {type(batch[0]).__name__}, but sample {i} is "
                f"{what} ({type(sample).__name__}); samples of one structure are stacked"
            )


def _has(key: Any, sample: Mapping[Any, Any]) -> bool:
    return key in sample


def _numbers(batch: Sequence[Any]) -> np.ndarray:
    """An array of numbers, (N,)."""
    kinds = (bool, int, float, complex, np.generic)
    _all(batch, lambda x: isinstance(x, kinds) and not isinstance(x, (str, bytes)), "no number")
    numbers = np.array(batch)
    # Integers that do not fit int64 are an error, as in torch; numpy would make them uint64, floats
    # or objects.
    whole = all(isinstance(number, int) for number in batch)
    if numbers.dtype.kind in "OSU" or (whole and numbers.dtype.kind not in "bi"):
        raise ValueError(f"batch: {list(batch)[:4]} do not fit int64 as numbers")
    return numbers


def default_convert(value: Any) -> Any:
    """Converts torch tensors to numpy arrays: torch.utils.data.default_convert.

    Args:
        value: A tensor, or a dictionary, tuple or list with tensors in it, at any depth.

    Returns:
        The same structure; all other values are unchanged.
    """
    return each(lambda x: as_numpy(x) if hasattr(x, "detach") else x, value)


def own_copy(value: Any) -> Any:
    """Copies the numpy arrays in a value.

    A data set may fill the same array again for its next row.
    """
    return each(lambda x: x.copy() if isinstance(x, np.ndarray) else x, value)


def each(function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to everything in dictionaries, tuples and lists, at any depth.

    JAX's tree functions do not serve: they sort the keys of dictionaries, and do not look
    into dictionaries of other classes.
    """
    if isinstance(value, Mapping):
        parts = {key: each(function, item) for key, item in value.items()}
        if type(value) is dict or not isinstance(value, (dict, collections.UserDict)):
            return parts
        same = copy.copy(value)  # A dictionary of another class keeps its attributes.
        for key, part in parts.items():
            same[key] = part
        return same
    if isinstance(value, (tuple, list)):
        return _like(value, [each(function, item) for item in value])
    return function(value)


def is_array(value: Any) -> bool:
    """Whether a value is an array of numpy, JAX or torch (but no scalar of numpy)."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def as_numpy(value: Any) -> np.ndarray:
    """The numbers of an array in numpy; torch is not imported."""
    array = arrays.as_numpy(value)
    if array.dtype.kind in "OSU":
        raise TypeError(f"batch: an array of {array.dtype}; accepted are arrays of numbers")
    return array


def _like(model: Any, parts: list[Any]) -> Any:
    """The parts as a tuple, named tuple or list, as the model is."""
    if hasattr(model, "_fields"):  # A named tuple.
        return type(model)(*parts)
    return tuple(parts) if isinstance(model, tuple) else parts
