"""Arrays of numpy, JAX and PyTorch as numpy arrays, without importing PyTorch."""

from typing import Any

import jax
import ml_dtypes
import numpy as np

_BY_NUMPY = (
    *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_BY_ML_DTYPES = (
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)

DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in _BY_NUMPY},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _BY_ML_DTYPES},
}
"""numpy's dtype for each of torch's names: "float32" for torch.float32, and so on."""


def is_array(value: Any) -> bool:
    """Whether a value is a numpy array or scalar, a JAX array or a torch tensor."""
    return isinstance(value, np.ndarray | np.generic | jax.Array) or _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return any(t.__module__ == "torch" and t.__name__ == "Tensor" for t in type(value).__mro__)


def as_numpy(value: Any) -> np.ndarray:
    """An array of numpy, JAX or PyTorch as numpy's, without a copy where possible.

    Args:
        value: A value for which `is_array` is True.

    Raises:
        TypeError: numpy and ml_dtypes have no such numbers: random keys of JAX, or a tensor
            that is sparse or quantized.
    """
    if _is_tensor(value):
        name = str(value.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise TypeError(f"a torch tensor of {name}, which numpy does not have")
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        # Tensors of bfloat16 and float8 have no numpy(); float32 represents them exactly.
        if DTYPES[name].isbuiltin != 1:
            return tensor.float().numpy().astype(DTYPES[name])
        return tensor.numpy()
    return np.asarray(value)
