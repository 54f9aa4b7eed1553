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
"""torch.NAME of a typed storage to its dtype; the other dtypes lie in untyped storages."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def torch_name(dtype: np.dtype) -> str | None:
    """What torch calls a numpy dtype (of either byte order); None if it has no such dtype."""
    return _NAMES.get(dtype if dtype.isnative else dtype.newbyteorder("="))
