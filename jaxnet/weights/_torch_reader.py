"""Files of `torch.save`, read without torch: the zip archive, and the older format of pickles."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnet.weights._errors import FileError
from jaxnet.weights._torch_archive import SCRIPT, Archive
from jaxnet.weights._torch_tensors import Tensors
from jaxnet.weights._torch_types import Global, kind
from jaxnet.weights._torch_unpickler import Unpickler

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_NEWEST_ZIP_VERSION = 10


def read_zip(file: io.BufferedReader, reader: type[Unpickler] = Unpickler) -> Any:
    """The value in a zip archive of `torch.save` (torch 1.6 and later).

    Args:
        file: The file, open for reading in binary mode, seekable.
        reader: The class that reads the value's pickle.

    Raises:
        FileError: The archive or its pickle is damaged or not acceptable.
    """
    archive = Archive(file)
    if "constants.pkl" in archive:
        raise FileError(SCRIPT)
    version = archive.read("version").tobytes().strip() if "version" in archive else b"1"
    if not version.isdigit() or not 1 <= int(version[:9]) <= _NEWEST_ZIP_VERSION:
        raise FileError(f"its format is version {version[:20]!r}; known are 1 to 10")
    order = archive.read("byteorder").tobytes() if "byteorder" in archive else b"little"
    if order not in (b"little", b"big"):
        raise FileError(f"its byte order is {order[:20]!r}; known are little and big")
    tensors = Tensors(swap=order.decode() != sys.byteorder, copy_bytes=4 * archive.size)
    # Each entry is read once and each storage made once, so that tensors that shared a
    # storage share memory again.
    raws: dict[str, np.ndarray] = {}
    storages: dict[tuple[Any, ...], np.ndarray] = {}

    def load_storage(identity: tuple[Any, ...]) -> np.ndarray:
        match identity:
            case (str("storage"), Global() as of, str(key), _, int(numel)):
                pass
            case _:
                raise _no_storage(identity)
        if (key, of, numel) not in storages:
            if key not in raws:
                raws[key] = archive.read(f"data/{key}")
            storages[key, of, numel] = tensors.storage(raws[key], of, numel)
        return storages[key, of, numel]

    data = archive.read("data.pkl")
    stream = io.BytesIO(data.tobytes())
    result = reader(stream, data.size, tensors.known(), load_storage).load()
    tensors.finish()
    return result


def read_legacy(file: io.BufferedReader, reader: type[Unpickler] = Unpickler) -> Any:
    """The value in a file of pickles followed by the storages (before torch 1.6).

    The data of the storages is little-endian, whatever machine wrote it.

    Args:
        file: The file, open for reading in binary mode, seekable.
        reader: The class that reads the value's pickle.

    Raises:
        FileError: The pickles or storages are damaged or not acceptable.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    tensors = Tensors(swap=sys.byteorder != "little", copy_bytes=4 * size)
    known = tensors.known()
    raws: dict[str | int, tuple[np.ndarray, int]] = {}
    storages: dict[tuple[Any, ...], np.ndarray] = {}
    bytes_left = size

    def load_storage(identity: tuple[Any, ...]) -> np.ndarray:
        nonlocal bytes_left
        match identity:
            case (str("storage"), Global() as of, str() | int() as key, _, int(numel), view) if (
                of.dtype is not None
            ):
                width = of.dtype.itemsize
            case _:
                raise _no_storage(identity)
        # The data comes after the pickles, so a storage is empty memory until the pickles
        # are read. All of them together may not be larger than the file.
        if key not in raws:
            bytes_left -= numel * width
            if numel < 0 or bytes_left < 0:
                raise FileError("its storages are to hold more than the file does")
            raws[key] = np.empty(numel * width, np.uint8), width
        if (key, of, numel) not in storages:
            storages[key, of, numel] = tensors.storage(raws[key][0], of, numel)
        if view is None:
            return storages[key, of, numel]
        match view:
            case (_, int(offset), int(count)) if offset >= 0 and 0 <= count <= numel - offset:
                return tensors.storage(raws[key][0], of, count, offset * width)
        raise _no_storage(identity)

    def next_value(
        load: Callable[[tuple[Any, ...]], np.ndarray] | None = None,
        reader: type[Unpickler] = Unpickler,
    ) -> Any:
        return reader(file, size - file.tell(), known, load).load()

    if next_value() != _MAGIC:
        raise FileError("it does not begin with torch's magic number")
    version = next_value()
    if version != _LEGACY_VERSION:
        raise FileError(f"its format is not version {_LEGACY_VERSION}")
    next_value()  # what torch noted of the machine that wrote the file; not needed
    result = next_value(load_storage, reader)
    keys = next_value()
    if type(keys) is not list or any(type(key) not in (str, int) for key in keys):
        raise FileError("its list of storages is no list of keys")
    if len(keys) != len(raws) or set(keys) != set(raws):
        raise FileError("its list of storages is not that of its tensors")
    for key in keys:
        raw, width = raws[key]
        count = file.read(8)
        if len(count) != 8:
            raise FileError("it is cut short between its storages")
        if int.from_bytes(count, "little") * width != raw.size:
            raise FileError("a storage is not of the size that its tensors say")
        if file.readinto(raw.data) != raw.size:
            raise FileError("it is cut short inside a storage")
    if file.tell() != size:
        raise FileError(f"it has {size - file.tell()} bytes behind its end")
    tensors.finish()
    return result


def _no_storage(identity: tuple[Any, ...]) -> FileError:
    given = ", ".join(kind(part) for part in identity[:8])
    what = f" of kind {identity[0][:80]!a}" if identity and type(identity[0]) is str else ""
    return FileError(f"its pickle has a persistent id{what}, ({given}), which is no storage")
