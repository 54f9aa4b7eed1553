"""Writes files that `torch.load(..., weights_only=True)` opens, without torch."""

import dataclasses
import pickle
import struct
import sys
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterable, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import as_strided

from jaxnet._arrays import as_numpy, is_array
from jaxnet.weights._torch_archive import write_archive
from jaxnet.weights._torch_types import STORAGES, torch_name

_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
_LEAVES = (type(None), bool, int, float, complex, str, bytes, bytearray, np.dtype)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set)


def write_torch(file: BinaryIO, value: Any) -> None:
    """Writes a zip archive as `torch.save` does.

    Args:
        file: The file, open for writing in binary mode, seekable.
        value: Arrays in nested dicts, OrderedDicts, Counters, lists, tuples and sets, with
            None, bool, int, float, complex, str, bytes, bytearray and dtypes among them.

    Raises:
        TypeError: The value contains something else; the message names the key.
        ValueError: A container contains itself, or an int has more than 255 bytes.
    """
    # Everything is checked before the first byte is written.
    arrays = _collect(value)
    storages, views = _plan(arrays)
    pickled = _Pickler(arrays, views).dump(value)
    entries: dict[str, np.ndarray | bytes] = {
        "data.pkl": pickled,
        "byteorder": sys.byteorder.encode(),
    }
    entries |= {f"data/{i}": storage for i, storage in enumerate(storages)}
    write_archive(file, entries | {"version": b"3\n"})


def _collect(value: Any) -> dict[int, np.ndarray]:
    """Every array in a value as numpy's, by the id of the object that was given.

    Raises:
        TypeError, ValueError: Something in the value cannot be written.
    """
    arrays: dict[int, np.ndarray] = {}
    open_containers: set[int] = set()
    checked: set[int] = set()
    # A list of what is to be visited, instead of recursion, so that deep nesting does not
    # exhaust Python's stack. A path is (path of the container, key). The path None says that
    # all of a container has been visited: met again later, the container is not its own part.
    waiting: list[tuple[Any, Any]] = [(value, ())]
    while waiting:
        item, path = waiting.pop()
        if path is None:
            open_containers.discard(id(item))
        elif type(item) in _CONTAINERS:
            if id(item) in open_containers:
                raise ValueError(f"{_where(path)}: it holds itself; a file cannot")
            if id(item) not in checked:
                checked.add(id(item))
                open_containers.add(id(item))
                waiting.append((item, None))
                waiting.extend((part, (path, key)) for key, part in _parts(item, path))
        elif type(item) in _LEAVES or not is_array(item):
            _check_leaf(item, path)
        elif id(item) not in arrays:
            arrays[id(item)] = _native(item, path)
    return arrays


def _parts(container: Any, path: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(container, dict):
        for key in container:
            _check_key(key, path)
        yield from container.items()
        if isinstance(container, OrderedDict):
            for name, attribute in vars(container).items():
                yield f".{name}", attribute
    elif isinstance(container, set):
        for item in container:
            _check_key(item, path)
    else:
        yield from enumerate(container)


def _check_leaf(item: Any, path: Any) -> None:
    if isinstance(item, np.dtype) and torch_name(item) is None:
        raise TypeError(f"{_where(path)}: torch has no dtype {item}")
    if type(item) not in _LEAVES and not isinstance(item, np.dtype):
        raise TypeError(
            f"{_where(path)}: a value of type {type(item).__name__} cannot be written; accepted "
            "are arrays, dict, OrderedDict, Counter, list, tuple, set, None, bool, int, float, "
            "complex, str, bytes, bytearray and dtypes"
        )
    if type(item) is int and _bytes_of(item) > 255:
        raise ValueError(f"{_where(path)}: an int of more than 255 bytes cannot be written")


def _check_key(key: Any, path: Any) -> None:
    parts, seen = [key], 0
    while parts:
        part = parts.pop()
        seen += 1
        if type(part) is tuple and len(part) <= 64 and seen <= 64:
            parts.extend(part)
        elif type(part) not in _LEAVES[:7]:
            raise TypeError(
                f"{_where(path)}: a key or member of type {type(part).__name__} cannot be written"
            )
        else:
            _check_leaf(part, path)


def _where(path: Any) -> str:
    keys: list[str] = []
    while path and len(keys) < 20:
        path, key = path
        keys.append(key if isinstance(key, str) and key[:1] == "." else f"[{key!r}]")
    return "d" + ("[...]" if path else "") + "".join(reversed(keys))


def _native(item: Any, path: Any) -> np.ndarray:
    try:
        array = as_numpy(item)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{_where(path)}: {error}") from None
    if torch_name(array.dtype) is None:
        raise TypeError(f"{_where(path)}: torch has no dtype {array.dtype}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


# storages


@dataclasses.dataclass(frozen=True)
class _View:
    """The position of an array in a storage, counted in elements."""

    storage: int
    length: int
    offset: int
    stride: tuple[int, ...]


def _plan(arrays: Mapping[int, np.ndarray]) -> tuple[list[np.ndarray], dict[int, _View]]:
    """The bytes of each storage, and the view of it that each array is."""
    # Arrays of one dtype whose memory overlaps become views of one storage, as in torch, so
    # that shared weights are written once and are shared again when they are loaded. Sorted
    # by address, an array overlaps its group if it begins before the group's end.
    spans = {i: byte_bounds(array) for i, array in arrays.items() if _fits_storage(array)}
    groups: list[list[int]] = []
    reached = 0
    for i in sorted(spans, key=lambda i: (arrays[i].dtype.name, spans[i])):
        first = groups[-1][0] if groups else i
        joined = arrays[first].dtype == arrays[i].dtype and spans[i][0] < reached
        if not joined or (spans[i][0] - spans[first][0]) % arrays[i].itemsize:
            groups.append([])
            reached = 0
        groups[-1].append(i)
        reached = max(reached, spans[i][1])
    group_of = {i: group for group in groups for i in group}

    storages: list[np.ndarray] = []
    views: dict[int, _View] = {}
    for i, array in arrays.items():
        group = group_of.get(i, [])
        if i in views:
            continue
        start = min((spans[j][0] for j in group), default=0)
        length = (max((spans[j][1] for j in group), default=0) - start) // array.itemsize
        if len(group) > 1 or 0 < length <= array.size:
            for j in group:
                stride = tuple(step // array.itemsize for step in arrays[j].strides)
                offset = (spans[j][0] - start) // array.itemsize
                views[j] = _View(len(storages), length, offset, stride)
            # as_strided does not take float8, so the elements go in as opaque bytes.
            opaque = arrays[group[0]].view(f"V{array.itemsize}")
            storage = as_strided(opaque, (length,), (array.itemsize,))
        else:  # an array with gaps or negative strides that shares nothing: written compactly
            views[i] = _View(len(storages), array.size, 0, _row_major(array.shape))
            storage = np.array(array, order="C").reshape(-1)
        storages.append(storage.view(np.uint8))
    return storages, views


def _fits_storage(array: np.ndarray) -> bool:
    """Whether torch can represent the array with its present strides."""
    return array.size > 0 and all(
        step >= 0 and step % array.itemsize == 0 for step in array.strides
    )


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * max(n, 1))
    return tuple(reversed(strides)) if shape else ()


# pickle


class _Pickler:
    """Writes protocol 2 with the opcodes that torch's restricted unpickler knows.

    The methods for containers are generators. Each yields the parts of its container, which
    `dump` writes, and adds the opcodes between them, so that nesting is bounded by memory
    and not by Python's stack.
    """

    def __init__(self, arrays: Mapping[int, np.ndarray], views: Mapping[int, _View]) -> None:
        self._arrays = arrays
        self._views = views
        self._out = bytearray(pickle.PROTO + b"\x02")
        self._memo: dict[Any, int] = {}

    def dump(self, value: Any) -> bytes:
        """The pickle of a value."""
        waiting = [iter((value,))]
        while waiting:
            for part in waiting[-1]:
                if (inner := self._write(part)) is not None:
                    waiting.append(inner)
                    break
            else:
                waiting.pop()
        return bytes(self._out + pickle.STOP)

    def _write(self, value: Any) -> Generator[Any, Any, Any] | None:
        """Writes a value without parts, or starts one with parts."""
        # Equal strings share an entry of the memo, other objects only with themselves.
        key = value if type(value) is str else id(value)
        if key in self._memo:
            self._recall(key)
            return None
        if id(value) in self._arrays:
            self._array(value)
        elif type(value) in (dict, OrderedDict, Counter):
            return self._dict(value)
        elif type(value) is list:
            return self._list(value, value)
        elif type(value) is tuple:
            return self._tuple(value)
        elif type(value) is set:
            return self._set(value)
        else:
            self._leaf(value)
        return None

    def _remember(self, key: Any) -> None:
        index = self._memo[key] = len(self._memo)
        self._indexed(pickle.BINPUT, pickle.LONG_BINPUT, index)

    def _recall(self, key: Any) -> None:
        self._indexed(pickle.BINGET, pickle.LONG_BINGET, self._memo[key])

    def _indexed(self, short: bytes, long: bytes, index: int) -> None:
        self._out += short + bytes([index]) if index < 256 else long + struct.pack("<I", index)

    def _global(self, module: str, name: str) -> None:
        if ("global", module, name) in self._memo:
            return self._recall(("global", module, name))
        self._out += pickle.GLOBAL + f"{module}\n{name}\n".encode()
        self._remember(("global", module, name))

    def _leaf(self, value: Any) -> None:
        if value is None:
            self._out += pickle.NONE
        elif value is True or value is False:
            self._out += pickle.NEWTRUE if value else pickle.NEWFALSE
        elif isinstance(value, int):
            self._int(value)
        elif isinstance(value, float):
            self._out += pickle.BINFLOAT + struct.pack(">d", value)
        elif isinstance(value, str):
            data = value.encode("utf-8", "surrogatepass")
            self._out += pickle.BINUNICODE + struct.pack("<I", len(data)) + data
            self._remember(value)
        elif isinstance(value, complex):
            self._global("__builtin__", "complex")
            self._leaf(value.real)
            self._leaf(value.imag)
            self._out += pickle.TUPLE2 + pickle.REDUCE
        elif isinstance(value, bytearray):
            self._global("__builtin__", "bytearray")
            self._leaf(bytes(value))
            self._out += pickle.TUPLE1 + pickle.REDUCE
        elif isinstance(value, bytes):
            self._global("_codecs", "encode")
            self._write(value.decode("latin1"))
            self._write("latin1")
            self._out += pickle.TUPLE2 + pickle.REDUCE
        else:
            self._global("torch", torch_name(value) or "")

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self._out += pickle.BININT1 + bytes([value])
        elif -(2**31) <= value < 2**31:
            self._out += pickle.BININT + struct.pack("<i", value)
        else:
            data = value.to_bytes(_bytes_of(value), "little", signed=True)
            self._out += pickle.LONG1 + bytes([len(data)]) + data

    def _ints(self, values: tuple[int, ...]) -> None:
        self._out += pickle.MARK
        for value in values:
            self._int(value)
        self._out += pickle.TUPLE

    def _array(self, value: Any) -> None:
        array, view = self._arrays[id(value)], self._views[id(value)]
        typed = _STORAGE_NAMES.get(array.dtype)
        self._global("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self._out += pickle.MARK + pickle.MARK
        self._write("storage")
        self._global(*(("torch", typed) if typed else ("torch.storage", "UntypedStorage")))
        self._write(str(view.storage))
        self._write("cpu")
        self._int(view.length * (1 if typed else array.itemsize))
        self._out += pickle.TUPLE + pickle.BINPERSID
        self._int(view.offset)
        self._ints(array.shape)
        self._ints(view.stride)
        self._out += pickle.NEWFALSE
        self._global("collections", "OrderedDict")
        self._out += pickle.EMPTY_TUPLE + pickle.REDUCE
        if not typed:
            self._leaf(array.dtype)
        self._out += pickle.TUPLE + pickle.REDUCE
        self._remember(id(value))

    def _dict(self, value: dict[Any, Any]) -> Generator[Any, Any, Any]:
        if type(value) is dict:
            self._out += pickle.EMPTY_DICT
        else:
            self._global("collections", type(value).__name__)
            self._out += pickle.EMPTY_TUPLE + pickle.REDUCE
        self._remember(id(value))
        for key, part in value.items():
            yield key
            yield part
            self._out += pickle.SETITEM
        if isinstance(value, OrderedDict) and vars(value):
            yield vars(value)
            self._out += pickle.BUILD

    def _list(self, value: Iterable[Any], owner: Any) -> Generator[Any, Any, Any]:
        self._out += pickle.EMPTY_LIST
        if owner is not None:
            self._remember(id(owner))
        for part in value:
            yield part
            self._out += pickle.APPEND

    def _tuple(self, value: tuple[Any, ...]) -> Generator[Any, Any, Any]:
        self._out += pickle.MARK
        yield from value
        self._out += pickle.TUPLE
        self._remember(id(value))

    def _set(self, value: set[Any]) -> Generator[Any, Any, Any]:
        self._global("__builtin__", "set")
        yield from self._list(value, None)
        self._out += pickle.TUPLE1 + pickle.REDUCE
        self._remember(id(value))


def _bytes_of(value: int) -> int:
    return value.bit_length() // 8 + 1
