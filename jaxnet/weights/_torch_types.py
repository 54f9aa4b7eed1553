"""What the names in a file of PyTorch mean: dtypes, storage classes, and functions."""

import dataclasses
from collections.abc import Callable
from typing import Any

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


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """The meaning of a name that is accepted in a pickle.

    Attributes:
        name: The module and name, as the pickle gives them.
        call: The function that builds the value of a call from its tuple of arguments.
        dtype: The dtype, if the name is that of a storage class.
    """

    name: str
    call: Callable[[tuple[Any, ...]], Any] | None = None
    dtype: np.dtype | None = None


def kind(value: Any) -> str:
    """The type of a value in words, without its content, which can be endless."""
    return value.name if isinstance(value, Global) else type(value).__name__
