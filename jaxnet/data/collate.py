"""From samples to batches: torch.utils.data.default_collate, in numpy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["default_collate", "default_convert"]


def default_collate(batch: Sequence[Any]) -> Any:
    """Stacks samples along a new axis 0, whatever they are made of.

    Arrays (numpy, JAX, torch) become numpy arrays with one more axis, numbers
    become an array as numpy makes it of them (int64, float64, bool), texts stay a
    list; dictionaries, tuples and lists are gone into. A tuple stays a tuple,
    where torch makes it a list.

    >>> default_collate([(np.zeros(2), 1), (np.ones(2), 0)])
    (array([[0., 0.],
           [1., 1.]]), array([1, 0]))

    Raises:
        ValueError: the samples do not have one shape or one structure.
        TypeError: something that cannot be stacked.
    """
    first = batch[0]
    if is_array(first):
        shapes = [tuple(sample.shape) for sample in batch]
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(
                f"batch: samples 0 and {odd} have the shapes {shapes[0]} and {shapes[odd]}; "
                "samples of one shape are stacked, others need a collate_fn of their own"
            )
        return np.stack([as_numpy(sample) for sample in batch])
    if isinstance(first, (bool, int, float, complex, np.generic)):
        return np.array(batch)
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([sample[key] for sample in batch]) for key in first}
    if isinstance(first, Sequence):
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


def default_convert(value: Any) -> Any:
    """Torch's tensors become numpy arrays, wherever they are; all else stays as it is."""
    if is_array(value):
        return as_numpy(value) if hasattr(value, "detach") else value
    if isinstance(value, Mapping):
        return {key: default_convert(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return _like(value, [default_convert(item) for item in value])
    return value


def is_array(value: Any) -> bool:
    """Whether it is an array of numpy, JAX or torch (numpy's single numbers are none)."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def as_numpy(value: Any) -> np.ndarray:
    """The same numbers in numpy; torch is not imported for its tensors."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind in "OSU":
        raise TypeError(f"batch: an array of {array.dtype}; accepted are arrays of numbers")
    return array


def _like(model: Any, parts: list[Any]) -> Any:
    if hasattr(model, "_fields"):  # a named tuple
        return type(model)(*parts)
    return tuple(parts) if isinstance(model, tuple) else parts
