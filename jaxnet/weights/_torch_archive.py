"""The zip archive of `torch.save`, read with suspicion, and written.

torch never compresses, so the bytes of every entry stand in the file as they are, and no
entry can grow when it is read. Every other feature of zip files is refused.
"""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from jaxnet.weights._errors import FileError

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIBED, _UTF8 = 0x8, 0x800  # flags that torch sets: sizes follow the data; names are UTF-8
_ALIGNMENT = 64  # bytes to which torch aligns each entry's data, for mmap

SCRIPT = (
    "it is a TorchScript program, not weights. Where torch is installed, write its weights: "
    'torch.save(torch.jit.load("the file").state_dict(), "weights.pt")'
)
"""What a file of `torch.jit.save` is answered with."""


class Archive:
    """The entries of an open zip file, by their names below its one top folder.

    Args:
        file: The file, open for reading in binary mode, seekable.

    Attributes:
        size: The size of the file in bytes.

    Raises:
        FileError: The directory is damaged, or an entry is compressed, encrypted,
            repeated, overlaps another, leaves the archive or lies outside the file.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        directory = self._directory()
        # In the order of the file, each entry has to end before the next one begins.
        # Overlapping entries would let a small file unfold into a large value.
        entries = sorted(directory.items(), key=lambda item: item[1][0])
        self._entries: dict[str, tuple[int, int, int]] = {}
        for i, (name, (start, size, crc)) in enumerate(entries):
            limit = entries[i + 1][1][0] if i + 1 < len(entries) else self._directory_start
            offset = self._data_offset(name, start)
            if offset + size > limit:
                raise FileError(f"entry {name!r} reaches into what follows it")
            if not name.endswith("/"):
                self._entries[name] = (offset, size, crc)
        tops = {name.split("/", 1)[0] for name in self._entries}
        if len(tops) != 1 or any("/" not in name for name in self._entries):
            raise FileError("its entries are not below one folder, as torch.save writes them")
        cut = len(tops.pop()) + 1
        self._entries = {name[cut:]: entry for name, entry in self._entries.items()}
        # torch.serialization.set_crc32_options(False) leaves every checksum zero.
        self._has_checksums = any(crc for _, _, crc in self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str) -> np.ndarray:
        """The bytes of an entry as a uint8 array.

        Raises:
            FileError: There is no such entry, or its bytes do not match its checksum.
        """
        if name not in self._entries:
            raise FileError(f"it has no entry {name!r}")
        offset, size, crc = self._entries[name]
        data = np.empty(size, np.uint8)
        self._file.seek(offset)
        if self._file.readinto(data.data) != size:
            raise FileError(f"entry {name!r} is cut short")
        if self._has_checksums and zlib.crc32(data.data) != crc:
            raise FileError(f"entry {name!r} does not match its checksum")
        return data

    def _find(self, offset: int, layout: struct.Struct, signature: bytes) -> tuple[Any, ...] | None:
        """The fields that follow a signature at an offset; None if it is not there."""
        if 0 <= offset <= self.size - layout.size:
            self._file.seek(offset)
            fields = layout.unpack(self._file.read(layout.size))
            if fields[0] == signature:
                return fields[1:]
        return None

    def _directory(self) -> dict[str, tuple[int, int, int]]:
        """For each entry's name the offset of its header, its size and its checksum."""
        end = self.size - _END.size
        fields = self._find(end, _END, b"PK\5\6")
        if fields is None:
            raise FileError("it has no zip directory at its end; it is cut short or damaged")
        locator = self._find(end - _END64_LOCATOR.size, _END64_LOCATOR, b"PK\6\7")
        if locator is not None:
            end = locator[1]
            wide = self._find(end, _END64, b"PK\6\6")
            if wide is None:
                raise FileError("its zip64 record is not where it should be")
            fields = wide[3:]
        disk, first_disk, here, count, size, start = fields[:6]
        if disk or first_disk or here != count:
            raise FileError("it is one part of a zip file in several")
        if start + size != end or count * _ENTRY.size > size:
            raise FileError("its zip directory does not lie where its end says")
        self._directory_start = start
        self._file.seek(start)
        data = self._file.read(size)
        found: dict[str, tuple[int, int, int]] = {}
        position = 0
        for _ in range(count):
            position = _add_entry(found, data, position)
        if position != size:
            raise FileError("its zip directory does not end where it says")
        return found

    def _data_offset(self, name: str, start: int) -> int:
        # The header in front of the data repeats the directory's fields. A file whose two
        # versions differ reads differently in different programs, so it is refused.
        fields = self._find(start, _LOCAL, b"PK\3\4")
        if fields is None:
            raise FileError(f"entry {name!r} has no header where the directory says")
        flags, method, name_size, extra_size = fields[1], fields[2], fields[8], fields[9]
        if flags & ~(_DESCRIBED | _UTF8) or method or self._file.read(name_size) != name.encode():
            raise FileError(f"entry {name!r} has a header that contradicts the directory")
        return start + _LOCAL.size + name_size + extra_size


def _add_entry(found: dict[str, tuple[int, int, int]], data: bytes, position: int) -> int:
    """Reads one entry of the directory; returns where the next begins."""
    if position + _ENTRY.size > len(data):
        raise FileError("its zip directory is cut short")
    fields = _ENTRY.unpack_from(data, position)
    signature, _, _, flags, method, _, _, crc, packed, size = fields[:10]
    name_size, extra_size, comment_size, disk, _, _, start = fields[10:]
    name_end = position + _ENTRY.size + name_size
    end = name_end + extra_size + comment_size
    if signature != b"PK\1\2" or end > len(data) or disk not in (0, 0xFFFF):
        raise FileError("its zip directory is damaged")
    try:
        name = data[name_end - name_size : name_end].decode()
    except UnicodeDecodeError:
        raise FileError("an entry's name is not UTF-8") from None
    shown = repr(name[:80])
    if flags & 0x2041:
        raise FileError(f"entry {shown} is encrypted")
    if method != 0:
        if "/code/" in name:
            raise FileError(SCRIPT)
        raise FileError(f"entry {shown} is compressed, which torch.save never does")
    if flags & ~(_DESCRIBED | _UTF8):
        raise FileError(f"entry {shown} has unknown flags {flags:#x}")
    parts = name.removesuffix("/").split("/")
    if any(part in ("", ".", "..") for part in parts) or set(name) & set("\\:\0"):
        raise FileError(f"entry {shown} leaves the archive")
    if name in found:
        raise FileError(f"entry {shown} is there twice")
    # A field of 0xFFFFFFFF says that its number is in the zip64 field, in this order.
    wide = _wide_fields(data[name_end : name_end + extra_size])
    size, packed, start = (
        next(wide, -1) if field == 0xFFFFFFFF else field for field in (size, packed, start)
    )
    if size != packed or min(size, start) < 0:
        raise FileError(f"entry {shown} has sizes that contradict each other")
    found[name] = (start, size, crc)
    return end


def _wide_fields(extra: bytes) -> Iterator[int]:
    """The 64-bit numbers in the zip64 field of an entry, in order."""
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            body = extra[position + 4 : position + 4 + size]
            for i in range(len(body) // 8):
                yield int.from_bytes(body[8 * i : 8 * i + 8], "little")
            return
        position += 4 + size


def write_archive(file: BinaryIO, entries: dict[str, np.ndarray | bytes]) -> None:
    """Writes a zip archive as torch does: one top folder, no compression, aligned data.

    Args:
        file: The file, open for writing in binary mode, seekable.
        entries: The content of each entry, by the name below the top folder "archive".
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            content = data.data if isinstance(data, np.ndarray) else memoryview(data)
            # A ZipInfo is dated 1980, so that equal values give equal files.
            info = zipfile.ZipInfo(f"archive/{name}")
            info.external_attr = 0o600 << 16
            info.file_size = content.nbytes
            wide = content.nbytes >= 2**30  # zipfile itself widens a little below 2**31
            head = file.tell() + _LOCAL.size + len(info.filename.encode()) + 20 * wide
            padding = -(head + 4) % _ALIGNMENT
            info.extra = struct.pack("<2H", 0x4246, padding) + bytes(padding)  # "FB", torch's own
            with archive.open(info, "w", force_zip64=wide) as entry:
                entry.write(content)
