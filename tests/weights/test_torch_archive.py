"""jaxnet/weights/_torch_archive.py and torch_tensors.py: damaged and hostile archives

Hostile pickles are in test_fuzz.py.
"""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from jaxnet import weights
from tests.golden.weights import FOLDER


def _zip(path: Path, pickled: bytes, entries: dict | None = None, byteorder=b"little") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for name, data in (entries or {}).items():
            archive.writestr(f"archive/{name}", data)
    return path


def _pickled_tensor(
    storage: str, numel: int, offset=0, size=(1,), stride=(1,), dtype: str | None = None, key="0"
) -> bytes:
    """A pickle of one tensor, of which every part can be wrong."""
    out = b"\x80\x02ctorch._utils\n_rebuild_tensor_v" + (b"3\n(" if dtype else b"2\n(")
    module, _, name = storage.partition(" ")
    out += pickle.dumps("storage", 2)[2:-1].replace(b"X", b"(X", 1)
    out += f"c{module}\n{name}\n".encode()
    for part in (key, "cpu", numel):
        out += pickle.dumps(part, 2)[2:-1]
    out += b"tQ"
    for part in (offset, size, stride, False):
        out += pickle.dumps(part, 2)[2:-1]
    out += b"ccollections\nOrderedDict\n)R"
    if dtype:
        out += f"ctorch\n{dtype}\n".encode()
    return out + b"tR."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numel": 3}, "8 bytes for a storage of 3 float32 numbers"),
        ({"numel": -1}, "8 bytes for a storage of -1 float32"),
        ({"numel": 2**62}, "8 bytes for a storage of"),
        ({"size": (3,)}, "reaches element 2 of a storage with 2"),
        ({"size": (2,), "stride": (2**40,)}, "reaches element 1099511627776 of a storage"),
        ({"size": (2, 2), "stride": (1, 1)}, "reaches element 2 of"),
        ({"offset": 2}, "reaches element 2"),
        ({"offset": -1}, "offset is not made of counts"),
        ({"size": (-1,)}, "size is not made of counts"),
        ({"size": (2,), "stride": (-1,)}, "stride is not made of counts"),
        ({"size": (True,)}, "size is not made of counts"),
        ({"size": (1.0,)}, "size is not made of counts"),
        ({"size": [1]}, "size is not made of counts"),
        ({"size": (2**70,)}, "size is not made of counts"),
        ({"size": (2**40, 2**40), "stride": (0, 0)}, r"more than 2\*\*63 bytes"),
        ({"size": (0, 2**62), "stride": (0, 0)}, r"more than 2\*\*63 bytes"),
        ({"size": (1, 1)}, "2 axes with 1 strides"),
        ({"size": (1,) * 65, "stride": (1,) * 65}, "65 axes"),
        ({"key": "1"}, "no entry 'data/1'"),
        ({"key": "../data.pkl"}, r"no entry 'data/\.\./data\.pkl'"),
        ({"key": 0}, r"of kind 'storage', \(str, torch\.FloatStorage, int, str, int\)"),
        ({"storage": "torch QInt8Storage"}, "it names torch.QInt8Storage, which is not in the set"),
        ({"storage": "torch Tensor"}, "a storage of kind torch.Tensor"),
        ({"storage": "torch float32"}, "persistent id"),
    ],
)  # fmt: skip
def test_tensors_must_lie_in_their_storage(tmp_path, changes, message):
    arguments = {"storage": "torch FloatStorage", "numel": 2} | changes
    path = _zip(tmp_path / "a.pt", _pickled_tensor(**arguments), {"data/0": bytes(8)})
    with pytest.raises(weights.FileError, match=message) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_big_endian_storage_with_two_widths_is_refused(tmp_path):
    pickled = _pickled_tensor("torch.storage UntypedStorage", 8, dtype="uint16")
    other = _pickled_tensor("torch.storage UntypedStorage", 8, dtype="uint32")
    both = pickled[:-1] + other[2:-1] + pickle.TUPLE2 + b"."
    path = _zip(tmp_path / "a.pt", both, {"data/0": bytes(range(8))}, byteorder=b"big")
    with pytest.raises(weights.FileError, match="several widths"):
        weights.load(path)
    path = _zip(tmp_path / "b.pt", both, {"data/0": bytes(range(8))})
    assert [a.dtype.name for a in weights.load(path)] == ["uint16", "uint32"]


def test_views_without_memory_of_their_own_read(tmp_path):
    wide = _pickled_tensor("torch FloatStorage", 2, 1, (2**40, 1), (0, 2**62))
    found = weights.load(_zip(tmp_path / "a.pt", wide, {"data/0": bytes(8)}))
    assert found.shape == (2**40, 1)
    assert found[2**39, 0] == 0
    gpu = _pickled_tensor("torch.cuda FloatStorage", 2)
    assert weights.load(_zip(tmp_path / "b.pt", gpu, {"data/0": bytes(8)})).shape == (1,)


def test_bool_storage_holds_only_truths(tmp_path):
    pickled = _pickled_tensor("torch BoolStorage", 2, size=(2,))
    path = _zip(tmp_path / "a.pt", pickled, {"data/0": b"\1\2"})
    with pytest.raises(weights.FileError, match="bytes other than 0 and 1"):
        weights.load(path)


def _entries(*names_and_data, method=zipfile.ZIP_STORED, comment=b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        for name, data in names_and_data:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


_GOOD = ("archive/data.pkl", b"\x80\x02}.")


def _patched(data: bytes, old: bytes, new: bytes, which: int = 0) -> bytes:
    """With the nth appearance of `old` replaced, counted from the end if negative."""
    places = [i for i in range(len(data)) if data.startswith(old, i)]
    at = places[which]
    return data[:at] + new + data[at + len(old) :]


ZIPS = {
    "nothing": (b"", "it is empty"),
    "one byte": (b"P", "neither a file of torch.save nor"),
    "text": (b"hello world, this is text", "neither a file of torch.save nor"),
    "only a head": (b"PK\3\4" + bytes(30), "no zip directory at its end"),
    "empty archive": (_entries(), "not below one folder"),
    "no data.pkl": (_entries(("archive/version", b"3")), "no entry 'data.pkl'"),
    "two folders": (_entries(_GOOD, ("other/a", b"")), "not below one folder"),
    "no folder": (_entries(("data.pkl", b"")), "not below one folder"),
    "cut short": (_entries(_GOOD)[:-1], "no zip directory at its end"),
    "bytes behind": (_entries(_GOOD) + b"x", "no zip directory at its end"),
    "comment": (_entries(_GOOD, comment=b"c"), "no zip directory at its end"),
    "bytes before": (b"PK\3\4" + _entries(_GOOD), "does not lie where its end says"),
    "compressed": (
        _entries(("archive/data.pkl", bytes(10**6)), method=zipfile.ZIP_DEFLATED),
        "entry 'archive/data.pkl' is compressed",
    ),
    "bomb": (
        _patched(_entries(_GOOD), struct.pack("<II", 4, 4), struct.pack("<II", 2**31, 2**31), 1),
        "reaches into what follows",
    ),
    "sizes differ": (
        _patched(_entries(_GOOD), struct.pack("<II", 4, 4), struct.pack("<II", 4, 2**31), 1),
        "sizes that contradict",
    ),
    "overlap": (
        _patched(
            _entries(_GOOD, ("archive/data/0", bytes(64))),
            struct.pack("<II", 4, 4),
            struct.pack("<II", 60, 60),
            1,
        ),
        "reaches into what follows",
    ),
    "one place twice": (
        _patched(_entries(_GOOD, ("archive/data/0", b"")), b"archive/data/0", b"archive/data/1", 1),
        "header that contradicts",
    ),
    "encrypted": (
        _patched(_entries(_GOOD), b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),
        "is encrypted",
    ),
    "encrypted in its header": (
        _patched(_entries(_GOOD), b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0"),
        "header that contradicts",
    ),
    "checksum": (_patched(_entries(_GOOD), b"\x80\x02}.", b"\x80\x02]."), "match its checksum"),
    "header elsewhere": (
        _patched(_entries(_GOOD), bytes(4) + b"archive", b"\7\0\0\0archive", -1),
        "no header where the directory says",
    ),
    "repeated": (
        _patched(
            _patched(_entries(_GOOD, ("archive/data.pkm", b"")), b"data.pkm", b"data.pkl"),
            b"data.pkm",
            b"data.pkl",
        ),
        "is there twice",
    ),
    "up": (_entries(_GOOD, ("archive/../../etc/x", b"")), "leaves the archive"),
    "root": (_entries(_GOOD, ("/etc/x", b"")), "leaves the archive"),
    "slash": (_entries(_GOOD, ("archive/a", b"")).replace(b"/a", b"\\a"), "leaves the archive"),
    "drive": (_entries(_GOOD, ("archive/c:x", b"")), "leaves the archive"),
    "not UTF-8": (_entries(_GOOD, ("archive/q", b"")).replace(b"/q", b"/\xff"), "not UTF-8"),
    "several disks": (
        _patched(_entries(_GOOD), b"PK\5\6\0\0", b"PK\5\6\1\0"),
        "one part of a zip file in several",
    ),
    "byte order": (_entries(_GOOD, ("archive/byteorder", b"middle")), "byte order is b'middle'"),
    "future": (_entries(_GOOD, ("archive/version", b"11\n")), "version b'11'; known are 1 to 10"),
    "script": (_entries(_GOOD, ("archive/constants.pkl", b"")), "TorchScript"),
    "tar": (bytes(257) + b"ustar" + bytes(300), "a tar file"),
    "foreign pickle": (pickle.dumps({"a": 1}), "torch's magic number"),
    "safetensors": (struct.pack("<Q", 2**40) + b"{" + bytes(90), "no sound .safetensors file"),
    "cut pickle": (_entries(("archive/data.pkl", b"\x80\x02}")), "pickle is cut short"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ZIPS))
def test_damaged_file_is_refused_with_its_name_and_fault(tmp_path, name):
    data, message = ZIPS[name]
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(weights.FileError, match=message) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert isinstance(caught.value, ValueError)


def test_sound_zip_reads(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(_entries(_GOOD, ("archive/data/", b"")))
    assert weights.load(path) == {}


@pytest.mark.parametrize("cut", [30, 200, 600, -1])
def test_legacy_file_cut_short(tmp_path, cut):
    path = tmp_path / "a.pt"
    path.write_bytes((FOLDER / "views.legacy.pt").read_bytes()[:cut])
    with pytest.raises(weights.FileError, match="cut short"):
        weights.load(path)
    path.write_bytes((FOLDER / "views.legacy.pt").read_bytes() + b"xy")
    with pytest.raises(weights.FileError, match="2 bytes behind its end"):
        weights.load(path)
