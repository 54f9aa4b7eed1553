"""Arrays of numpy, JAX and PyTorch as numpy arrays, without importing PyTorch."""

from typing import Any

import jax
import numpy as np

from jaxnet.weights.torch_types import DTYPES

__all__ = ["as_numpy", "is_array"]


def is_array(value: Any) -> bool:
    """Whether a value is a numpy array or scalar, a JAX array or a torch tensor."""
    return isinstance(value, np.ndarray | np.generic | jax.Array) or _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return any(t.__module__ == "torch" and t.__name__ == "Tensor" for t in type(value).__mro__)


def as_numpy(value: Any) -> np.ndarray:
    """The numbers of an array that `is_array`, without a copy where possible.

    Raises:
        TypeError: they are none that numpy or ml_dtypes has, such as random keys of JAX,
            or a tensor that is sparse or quantized.
    """
    if _is_tensor(value):
        name = str(value.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise TypeError(f"a torch tensor of {name}, which numpy does not have")
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        if DTYPES[name].isbuiltin != 1:  # float32 holds bfloat16 and float8
            return tensor.float().numpy().astype(DTYPES[name])
        return tensor.numpy()
    return np.asarray(value)
