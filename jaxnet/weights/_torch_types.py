"""PyTorch's dtypes and storage classes, and numpy's dtypes for them."""

import numpy as np

from jaxnet._arrays import DTYPES

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
"""The dtype of each typed storage class of torch; other dtypes are saved in untyped storages."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def torch_name(dtype: np.dtype) -> str | None:
    """The name that torch has for a numpy dtype (of either byte order), or None."""
    return _NAMES.get(dtype if dtype.isnative else dtype.newbyteorder("="))
