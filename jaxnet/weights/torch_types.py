"""PyTorch's dtypes and storage classes, and numpy's dtypes for them."""

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "STORAGES", "torch_name"]

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
"""torch.NAME to numpy's dtype."""

STORAGES: dict[str, np.dtype] = {
    "BoolStorage": DTYPES["bool"],
    "ByteStorage": DTYPES["uint8"],
    "CharStorage": DTYPES["int8"],
    "ShortStorage": DTYPES["int16"],
    "IntStorage": DTYPES["int32"],
    "LongStorage": DTYPES["int64"],
    "HalfStorage": DTYPES["float16"],
    "BFloat16Storage": DTYPES["bfloat16"],
    "FloatStorage": DTYPES["float32"],
    "DoubleStorage": DTYPES["float64"],
    "ComplexFloatStorage": DTYPES["complex64"],
    "ComplexDoubleStorage": DTYPES["complex128"],
}
"""torch.NAME of a typed storage to its dtype; the other dtypes lie in untyped storages."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def torch_name(dtype: np.dtype) -> str | None:
    """What torch calls a numpy dtype (of either byte order); None if it has no such dtype."""
    return _NAMES.get(dtype if dtype.isnative else dtype.newbyteorder("="))
