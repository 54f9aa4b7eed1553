"""The checks of arguments and batches that the transforms share."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._checks import check_choice


def pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """A number twice, or a tuple unchanged."""
    return size if isinstance(size, tuple) else (size, size)


def freeze(transform: object, *names: str) -> None:
    """Makes tuples of lists and arrays in fields, because jax.jit hashes a transform."""
    for name in names:
        value = getattr(transform, name)
        if isinstance(value, (list, np.ndarray, jax.Array)):
            object.__setattr__(transform, name, tuple(np.ravel(np.asarray(value)).tolist()))


def check_number(name: str, value: object) -> None:
    if not isinstance(value, (int, float, np.number)):
        raise ValueError(f"{name}: {value!r}; accepted is one number, for all channels")


def check_size(size: int | tuple[int, ...]) -> None:
    if len(pair(size)) != 2 or min(pair(size)) < 1:
        raise ValueError(f"size: {size}; accepted is a number or two, at least 1")


def check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p: {p}; accepted is a probability, 0 to 1")


def check_range(
    name: str, value: Any, least: float = -np.inf, most: float = np.inf, above: bool = False
) -> None:
    """Refuses what is not (low, high) within bounds."""
    fine = isinstance(value, Sequence) and len(value) == 2
    if not fine or not least <= value[0] <= value[1] <= most or (above and value[0] == least):
        bounds = f" above {least:g}" if above else ("" if least == -np.inf else f" from {least:g}")
        upper = "" if most == np.inf else f" to {most:g}"
        raise ValueError(f"{name}: {value}; accepted is (low, high){bounds}{upper}")


def check_interpolation(value: Any) -> str:
    """torchvision's interpolation as a word: its enumeration's values are words too."""
    word = getattr(value, "value", value)
    check_choice("interpolation", word, ("nearest", "bilinear"))
    return word


def check_batch(name: str, batch: jax.Array, channels: int | None = None) -> None:
    """Refuses batches that are not floats (N, C, H, W), or have other channels."""
    floating = jnp.issubdtype(batch.dtype, jnp.floating)
    if batch.ndim != 4 or not floating or channels not in (None, batch.shape[1]):
        wanted = "C" if channels is None else channels
        raise ValueError(
            f"{name}: {batch.dtype} of shape {batch.shape}; accepted is float (N, {wanted}, H, W), "
            "as ToTensor gives it"
        )
