"""How the arrays of a trace are stored: without a copy, and twice in no file."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# The names that safetensors has for the types of arrays.
_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def save(arrays: Mapping[str, np.ndarray], file: Path) -> None:
    """Writes arrays to a safetensors file.

    That package's own function copies each array once more, which takes as long as the writing.

    Args:
        arrays: The arrays by name, in C's order.
        file: The file, which is replaced.

    Raises:
        TypeError: An array has a type that safetensors has not.
    """
    # The file has numbers of this order of bytes alone; an array may have the other.
    arrays = {
        name: array.astype(array.dtype.newbyteorder("<"), copy=False)
        for name, array in arrays.items()
    }
    # As that package does: the widest type first, so that each array lies on a multiple of its own.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header = {}
    end = 0
    for name in names:
        array = arrays[name]
        kind = _type(array.dtype)
        if not kind:
            raise TypeError(f"{name}: {array.dtype}; accepted are {', '.join(_TYPES)}")
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            out.write(arrays[name].reshape(-1).view(np.uint8).data)


@functools.cache  # numpy puts the name together anew each time
def _type(dtype: np.dtype) -> str:
    return _TYPES.get(dtype.name, "")


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are the same to the last bit, not a number among them."""
    if one is other:
        return True
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    # As integers, of which each is equal to itself, and 0 and -0 are two.
    bits = f"i{one.itemsize}" if one.itemsize in (1, 2, 4, 8) else "i1"
    first, second = (np.asarray(x, order="C").reshape(-1).view(bits) for x in (one, other))
    return bool(np.array_equal(first, second))


def more(array: np.ndarray, wide: np.ndarray) -> np.ndarray:
    """What is stored of a float64 value: what it has more than the array, or itself."""
    if array.dtype not in (np.float32, np.complex64):
        return wide
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.subtract(wide, array, out=np.empty_like(array), casting="same_kind")
        if np.isfinite(found.sum()):  # only if all are; it takes a single pass
            return found
        if not np.all(np.isfinite(found)):
            found[wide == array] = 0  # infinite numbers, too
        whole = bool(np.all(np.isfinite(found)))
    return found if whole or array.dtype == np.complex64 else wide
