"""Hostile and damaged files: an error of ours or plain values, and nothing is ever run."""

import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxnet import weights
from jaxnet.weights._torch_archive import write_archive
from tests.calls import Calls
from tests.golden.weights import FOLDER

CANARY: list[str] = []
_ARMED = False
_EVENTS = ("exec", "compile", "import", "os.", "subprocess.", "pickle.", "socket.", "ctypes.")


def _watch(event: str, arguments: tuple) -> None:
    if _ARMED and event.startswith(_EVENTS):
        CANARY.append(f"{event} {arguments!r:.100}")


sys.addaudithook(_watch)  # stays for the session, asleep but in `guarded`


def guarded(path: Path, only: Any = None) -> Any:
    """Loads a file; fails if anything else than reading happened."""
    global _ARMED
    CANARY.clear()
    _ARMED = True
    try:
        return weights.load(path, only=only)
    finally:
        _ARMED = False
        assert not CANARY, f"reading a file led to {CANARY}"


def saved(path: Path, pickled: bytes, form: str, **entries: bytes) -> Path:
    """A file of either form around a pickle."""
    if form == "zip":
        with open(path, "wb") as file:
            write_archive(file, {"data.pkl": pickled, **entries})
    else:
        head = [0x1950A86A20F9469CFC6C, 1001, {}]
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head) + pickled + b"\x80\x02].")
    return path


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.made


class Sets:
    """Runs code when its state is set."""

    def __setstate__(self, state: Any) -> None:
        CANARY.append("__setstate__")


MARK = Path("/tmp/jaxnet-canary")
GLOBAL = b"\x80\x02c%s\n%s\n."
HOSTILE = {
    "system": (Call(os.system, f"touch {MARK}"), f"{os.system.__module__}.system"),
    "eval": (Call(eval, f"open('{MARK}', 'w')"), "builtins.eval"),
    "exec": (Call(exec, "import os"), "builtins.exec"),
    "getattr": (Call(getattr, "", "format"), "builtins.getattr"),
    "import": (Call(__import__, "os"), "builtins.__import__"),
    "open": (Call(open, MARK, "w"), "io.open|_io.open"),
    "partial": (partial(os.system, "true"), "functools.partial"),
    "objects": (np.array([Call(os.system, "true")]), "calls numpy.dtype"),
    "texts": (np.array(["a"]), "calls numpy.dtype|numpy array"),
    "records": (np.zeros(2, [("a", "i4")]), "calls numpy.dtype|numpy array"),
    "class": (Sets(), r"copyreg._reconstructor|tests.weights.test_fuzz.Sets"),
    "class in a list": ([1, {"a": Call(Sets)}], "tests.weights.test_fuzz.Sets"),
    "deep": ({"model": OrderedDict(a=Call(print))}, "builtins.print"),
    "frozenset": (Call(frozenset, [1]), "builtins.frozenset"),
    "list": (Call(list, "ab"), "builtins.list"),
    "torch": (GLOBAL % (b"torch.hub", b"load"), "torch.hub.load"),
    "sparse": (GLOBAL % (b"torch._utils", b"_rebuild_sparse_tensor"), "_rebuild_sparse_tensor"),
    "dotted": (GLOBAL % (b"torch", b"Size.__class__"), r"torch\.Size\.__class__"),
    "blank": (GLOBAL % (b"", b""), r"names \.,"),
    "control": (GLOBAL % (b"a\x1b[2J", b"b"), r"names a\\x1b\[2J\.b,"),
    "endless": (b"\x80\x02c" + b"a" * 10**6, "a name that does not end"),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_pickle_is_refused_by_name(tmp_path, name, protocol, form):
    value, named = HOSTILE[name]
    pickled = value if isinstance(value, bytes) else pickle.dumps(value, protocol)
    path = saved(tmp_path / "a.pt", pickled, form)
    with pytest.raises(weights.FileError, match=named) as caught:
        guarded(path)
    assert str(path) in str(caught.value)
    assert not MARK.exists()


@pytest.mark.parametrize("name", ["system", "eval", "class"])
def test_hostile_pickle_without_torchs_frame_is_refused_by_name(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(HOSTILE[name][0], 4))
    with pytest.raises(weights.FileError, match=HOSTILE[name][1]):
        guarded(tmp_path / "a.pkl")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


ORDERED = b"ccollections\nOrderedDict\n"
STORAGE = text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x02"
DTYPE = b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R"
BLANK = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
MALFORMED = {
    "build on a list": (b"]}b.", "fills list as if it were OrderedDict"),
    "build on a name": (ORDERED + b"}b.", "fills collections.OrderedDict as if"),
    "build with a method": (
        ORDERED + b")R}" + text("items") + b"K\x01sb.",
        "sets up an OrderedDict in a way",
    ),
    "build with __class__": (ORDERED + b")R}" + text("__class__") + b"Nsb.", "in a way"),
    "build with a tuple": (ORDERED + b")RN}\x86b.", "in a way"),
    "build with a number as name": (ORDERED + b")R}K\x01K\x01sb.", "in a way"),
    "call a value": (b"K\x01)R.", "calls int, which is not to be called"),
    "call a class": (b"ctorch\nTensor\n)R.", "calls torch.Tensor, which is not"),
    "call a dtype": (b"ctorch\nfloat32\n)R.", "calls Float32DType, which is not"),
    "call without a tuple": (ORDERED + b"]R.", "which is not to be called"),
    "wrong arguments": (ORDERED + b"K\x01\x85R.", r"calls OrderedDict with \(int\)"),
    "torn pairs": (ORDERED + b"](K\x01K\x02e\x85R.", r"calls OrderedDict with \(list\)"),
    "bytearray of a size": (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", r"with \(int\)"),
    "bytes of a size": (b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", r"calls bytes with \(int\)"),
    "encode by another codec": (
        b"c_codecs\nencode\n" + text("a") + text("zip") + b"\x86R.",
        r"calls _codecs.encode with \(str, str\)",
    ),
    "encode beyond latin1": (
        b"c_codecs\nencode\n" + text("a").replace(b"\1\0\0\0a", b"\2\0\0\0\xd0\xaf")
        + text("latin1") + b"\x86R.",
        "bytes above 255",
    ),
    "complex of text": (b"cbuiltins\ncomplex\n" + text("1") + b"\x85R.", r"complex with \(str\)"),
    "size of texts": (b"ctorch\nSize\n" + text("1") + b"\x85\x85R.", r"Size with \(tuple\)"),
    "device of a list": (b"ctorch\ndevice\n]\x85R.", r"torch.device with \(list\)"),
    "new object": (ORDERED + b")\x81.", "makes a new collections.OrderedDict, which is not"),
    "new object with arguments": (
        b"cargparse\nNamespace\nK\x01\x85\x81.", r"Namespace with \(int\)"
    ),
    "new object of nothing": (b"N)\x81.", "makes a new NoneType"),
    "build with a special name": (
        b"cargparse\nNamespace\n)\x81}" + text("__class__") + b"Nsb.",
        "sets up an Namespace in a way"
    ),
    "stray name in a namespace": (
        b"ctypes\nSimpleNamespace\n)R}" + text("a") + ORDERED + b"sb.", "OrderedDict itself"
    ),
    "factory": (b"ccollections\ndefaultdict\ncos\nsystem\n\x85R.", "names os.system"),
    "factory of ours": (
        b"ccollections\ndefaultdict\n" + ORDERED + b"\x85R.", r"defaultdict with \(collections"
    ),
    "type of a factory called": (b"cbuiltins\nlist\n)R.", "calls builtins.list, which is not"),
    "path of numbers": (b"cpathlib\nPosixPath\nK\x01\x85R.", r"a path with \(int\)"),
    "dtype of objects": (b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R.", "calls numpy.dtype"),
    "dtype with fields": (
        DTYPE + b"(K\x03" + text("<") + text("a") + b"NNK\x08K\x01K\x00tb.",
        "sets up an .*DType in a way"
    ),
    "state of torch's dtype": (
        b"ctorch\nfloat32\n(K\x03" + text(">") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
        "fills Float32DType as if"
    ),
    "number with too many bytes": (
        b"cnumpy._core.multiarray\nscalar\n" + DTYPE + b"C\x03abc\x86R.",
        "calls a numpy number with"
    ),
    "array of another class": (
        b"cnumpy._core.multiarray\n_reconstruct\n" + ORDERED + b"K\x00\x85C\x01b\x87R.",
        "calls a numpy array with"
    ),
    "array with too few bytes": (
        BLANK + b"(K\x01K\x02\x85" + DTYPE + b"\x89C\x03abctb.", "3 bytes for"
    ),
    "array of no counts": (
        BLANK + b"(K\x01N\x85" + DTYPE + b"\x89C\x03abctb.", "not made of counts"
    ),
    "array beyond memory": (
        BLANK + b"(K\x01K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x86" + DTYPE + b"\x89C\x00tb.",
        "more than 2"
    ),
    "array set up as an object": (BLANK + b"}b.", "sets up an ndarray in a way"),
    "array set up twice": (
        BLANK + (b"(K\x01K\x00\x85" + DTYPE + b"\x89C\x00tb") * 2 + b".", "fills ndarray as if"
    ),
    "bools of twos": (
        b"cnumpy._core.numeric\n_frombuffer\n(C\x01\x02" + DTYPE.replace(b"f4", b"b1")
        + b"K\x01\x85" + text("C") + b"tR.", "bytes other than 0 and 1"
    ),
    "instance": (b"(ios\nsystem\n.", "opcode b'i'"),
    "extension": (b"\x82\x01.", r"opcode b'\\x82'"),
    "persistent text": (b"Pabc\n.", "opcode b'P'"),
    "persistent number": (b"K\x01Q.", "persistent id of kind int"),
    "persistent module": (
        text("module") + ORDERED + b"NN(" + text("module") + ORDERED + b"NNtQ.",
        "persistent id of kind 'module'",
    ),
    "persistent nothing": (b")Q.", r"persistent id, \(\), which is no storage"),
    "storage in a list": (b"]Q.", "persistent id of kind list"),
    "stray name": (b"}" + text("a") + ORDERED + b"s.", "holds collections.OrderedDict itself"),
    "stray name in an attribute": (
        ORDERED + b")R}" + text("_metadata") + ORDERED + b"sb.",
        "holds collections.OrderedDict itself",
    ),
    "name as key": (b"}" + ORDERED + b"K\x01s.", "a key or member of kind collections.OrderedDict"),
    "list as key": (b"}]K\x01s.", "a key or member of kind list"),
    "list in a tuple as key": (b"}]\x85K\x01s.", "a key or member of kind list"),
    "dict as member": (b"cbuiltins\nset\n](}e\x85R.", "a key or member of kind dict"),
    "key without value": (b"}(K\x01u.", "a key without a value"),
    "append to a tuple": (b")K\x01a.", "fills tuple as if it were list"),
    "append to nothing": (b"K\x01a.", "fills nothing as if it were list"),
    "set an item of a list": (b"]K\x01K\x01s.", "fills list as if it were dict"),
    "nothing": (b".", "does not end in one value"),
    "two values": (b"NN.", "does not end in one value"),
    "open mark": (b"N(N.", "does not end in one value"),
    "pop of nothing": (b"0.", "takes a value where there is none"),
    "mark of nothing": (b"t.", "takes values where there are none"),
    "put of nothing": (b"q\x00.", "remembers a value where there is none"),
    "unknown memo": (b"j\xff\xff\xff\xff.", "recalls value 4294967295"),
    "text that is none": (b"X\x01\0\0\0\xff.", "a text that is not UTF-8"),
    "endless text": (b"X\xff\xff\xff\xffabc.", "cut short"),
    "endless bytes": (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "cut short"),
    "endless frame": (b"\x95" + b"\xff" * 7, "cut short"),
    "future": (b"\x80\x06N.", "protocol 6"),
    "tensor over nothing": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89)tR.",
        "a tensor over NoneType, which is no storage",
    ),
    "tensor with too little": (b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00tR.", "builds a tensor"),
    "tensor of no dtype": (
        b"ctorch._utils\n_rebuild_tensor_v3\n(NK\x00))\x89)NtR.", r"builds a tensor from"
    ),
    "parameter of a list": (b"ctorch._utils\n_rebuild_parameter\n(]\x89)tR.", "builds a parameter"),
    "tensor by another call": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + ORDERED + b"ctorch\nTensor\n)}tR.",
        "builds a tensor from",
    ),
    "name that is no text": (b"K\x01K\x02\x93.", "a name that is no text"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_pickle_is_refused_with_its_fault(tmp_path, name):
    body, message = MALFORMED[name]
    with pytest.raises(weights.FileError, match=message):
        guarded(saved(tmp_path / "a.pt", b"\x80\x02" + body, "zip"))


_CALLS_A_BYTE = 20  # at most; a load has a thousand times as many to start with


def _fits_in(path: Path, mebibytes: float) -> str:
    """Loads, and gives the error's text; fails if it took more memory or work."""
    tracemalloc.start()
    try:
        with Calls() as calls:
            guarded(path)
        return ""
    except weights.FileError as error:
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert calls.count < _CALLS_A_BYTE * (1000 + path.stat().st_size)
        assert peak < mebibytes * 2**20, f"{peak / 2**20:.0f} MiB"


def test_shared_values_do_not_unfold(tmp_path):
    # "Billion laughs": 60 times a pair of the last value twice.
    laughs = b"\x80\x02)q\x000" + b"h\x00h\x00\x86q\x000" * 60 + b"h\x00"
    assert _fits_in(saved(tmp_path / "a.pt", laughs + b".", "zip"), 1) == ""
    as_key = b"\x80\x02}" + laughs[2:] + b"K\x01s."  # to hash it would take 2**60 steps
    assert "key or member" in _fits_in(saved(tmp_path / "b.pt", as_key, "zip"), 1)
    as_name = laughs + b"h\x00\x93."
    assert "name that is no text" in _fits_in(saved(tmp_path / "c.pt", as_name, "zip"), 1)
    as_call = laughs + b"h\x00R."
    assert "not to be called" in _fits_in(saved(tmp_path / "d.pt", as_call, "zip"), 1)


@pytest.mark.parametrize(
    "copy",
    [
        b"cbuiltins\nset\nh\x00\x85R0",
        b"c_codecs\nencode\nh\x01" + text("latin1") + b"\x86R0",
        b"cbuiltins\nbytearray\nh\x01" + text("latin1") + b"\x86R0",
        b"ccollections\nCounter\nh\x02\x85R0",
        b"ccollections\nOrderedDict\nh\x03\x85R0",
        b"cnumpy._core.numeric\n_frombuffer\n(h\x04"
        + DTYPE
        + b"M\xf4\x01\x85"
        + text("C")
        + b"tR0",
    ],
)
def test_one_long_value_is_not_copied_again_and_again(tmp_path, copy):
    items = b"".join(b"M" + struct.pack("<H", i) for i in range(500))
    long = b"\x80\x02](" + items + b"eq\x000" + text("x" * 2000) + b"q\x010"
    long += b"}(" + items + items[: 500 * 3] + b"uq\x020](" + b"NN\x86" * 500 + b"eq\x030"
    long += b"B" + struct.pack("<I", 2000) + bytes(2000) + b"q\x040"
    path = saved(tmp_path / "a.pt", long + copy * 1000 + b"N.", "zip")
    assert "unfolds into far more" in _fits_in(path, 2)
    path = saved(tmp_path / "b.pt", long + copy + b"N.", "zip")
    assert _fits_in(path, 2) == ""


def test_sets_take_no_more_memory_than_python_writes(tmp_path):
    path = saved(tmp_path / "a.pt", b"\x80\x02](" + b"\x8f" * 50_000 + b"e.", "zip")
    assert "unfolds into far more" in _fits_in(path, 7)
    many = saved(tmp_path / "b.pt", pickle.dumps([set() for _ in range(1000)], 4), "zip")
    assert weights.load(many) == [set()] * 1000


def test_keys_of_one_hash_are_refused(tmp_path):
    # Every one of these hashes to 0, so that each new key is compared with all before.
    n = 2**61 - 1
    keys = b"".join(pickle.dumps(i * n, 2)[2:-1] + b"N" for i in range(1, 20000))
    path = saved(tmp_path / "a.pt", b"\x80\x02}(" + keys + b"u.", "zip")
    assert "more keys with one hash" in _fits_in(path, 20)


def test_storages_hold_no_more_than_the_file(tmp_path):
    many = b"\x80\x02" + b"".join(
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(i)) + text("cpu")
        + b"J\xff\xff\xff\x7fNtQ0" for i in range(5)
    ) + b"N."  # fmt: skip
    path = saved(tmp_path / "a.pt", many, "legacy")
    assert "storages are to hold more than the file" in _fits_in(path, 1)
    conj = pickle.dumps({"conj": True}, 2)[2:-1]
    storage = b"(" + STORAGE.replace(b"Float", b"ComplexFloat") + b"tQ"
    copies = b"\x80\x02" + (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00J\xff\xff\xff\x7f\x85K\x00\x85"
        b"\x89)" + conj + b"tR."
    )
    path = saved(tmp_path / "b.pt", copies, "zip", **{"data/0": bytes(16)})
    assert "unfold into far more" in _fits_in(path, 1)


def foreign_objects() -> dict[str, Any]:
    """What checkpoints contain beside tensors and plain values."""
    state = np.random.RandomState(0).get_state()
    return {
        "args": Namespace(lr=0.1, sizes=[np.int64(3)], out=Path("runs") / "a"),
        "config": SimpleNamespace(depth=2),
        "best": np.float64(0.5),
        "flag": np.True_,
        "mean": np.arange(3, dtype=np.float32),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "foreign": np.arange(2, dtype=">i2"),
        "none": np.zeros((0, 3)),
        "dtype": np.dtype("f4"),
        "history": defaultdict(list, {"loss": [np.float32(1)]}),
        "counts": defaultdict(int),
        "generator": state,
    }


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_foreign_objects_come_back_though_nothing_is_run(tmp_path, protocol, form):
    pickled = pickle.dumps(foreign_objects(), protocol)
    found, expected = guarded(saved(tmp_path / "a.pt", pickled, form)), pickle.loads(pickled)
    np.testing.assert_equal(found, expected)
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}
    assert type(found["args"].sizes[0]) is np.int64
    for name in ("mean", "columns", "foreign"):
        array, other = found[name], expected[name]
        assert (array.dtype, array.strides) == (other.dtype, other.strides)
        assert array.flags.writeable
    found["history"]["accuracy"].append(1)
    assert found["history"]["accuracy"] == [1]


# mutated files


def _parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


_NUMBERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def _mutated(data: bytes, others: list[bytes], rng: np.random.RandomState, near_end: bool) -> bytes:
    """Bit flips, cuts, splices and odd numbers; anywhere or in a zip's directory."""
    out = bytearray(data)

    def place(room: int = 1) -> int:
        low = max(0, len(out) - 600) if near_end else 0
        return int(rng.randint(low, max(low + 1, len(out) - room + 1)))

    for _ in range(rng.randint(1, 4)):
        if len(out) < 16:
            break
        match rng.randint(7):
            case 0 | 1:
                out[place()] ^= 1 << rng.randint(8)
            case 2:
                out[place()] = rng.randint(256)
            case 3:
                del out[place() :]
            case 4:
                layout = ("<H", "<I", "<Q")[rng.randint(3)]
                size = struct.calcsize(layout)
                number = _NUMBERS[rng.randint(len(_NUMBERS))] & (2 ** (8 * size) - 1)
                at = place(size)
                out[at : at + size] = struct.pack(layout, number)
            case 5:
                other = others[rng.randint(len(others))]
                start = rng.randint(len(other))
                at = place()
                out[at : at + rng.randint(30)] = other[start : start + rng.randint(200)]
            case _:
                at, end = place(), place()
                out[at : at + rng.randint(40)] = out[end : end + rng.randint(40)]
    return bytes(out)


def _assert_plain(value: Any) -> None:
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if type(part) in (dict, OrderedDict, Counter, defaultdict):
            waiting += [*part, *part.values(), *getattr(part, "__dict__", {}).values()]
        elif type(part) in (Namespace, SimpleNamespace):
            waiting += vars(part).values()
        elif type(part) in (list, tuple, set):
            waiting += part
        elif isinstance(part, np.ndarray):
            assert part.dtype.kind in "biufcV"
            assert not part.dtype.hasobject
            if part.size:  # its corners can be read
                part[(0,) * part.ndim], part[(-1,) * part.ndim]
        else:
            plain = (int, float, complex, str, bytes, bytearray, bool, type(None), np.dtype)
            plain += (np.number, np.bool_, Path)
            assert isinstance(part, plain), type(part)


@pytest.mark.parametrize("count", [250, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_files_give_our_error_or_plain_values(tmp_path, count):
    rng = np.random.RandomState(0)
    files = [path.read_bytes() for path in sorted(FOLDER.glob("*.pt"))]
    weights.save(tmp_path / "a.safetensors", {"a": np.ones(3), "b": np.zeros((2, 2), np.float16)})
    weights.save(tmp_path / "b.pt", [{"hidden": "cos\nsystem\nX\x04\0\0\0true\x85R."}, np.ones(2)])
    files += [(tmp_path / name).read_bytes() for name in ("a.safetensors", "b.pt")]
    for protocol in (2, 5):
        path = saved(tmp_path / "foreign.pt", pickle.dumps(foreign_objects(), protocol), "zip")
        files.append(path.read_bytes())
    archives = [_parts(data) for data in files if data[:2] == b"PK"]
    pickles = [parts["data.pkl"] for parts in archives]

    def mutant(i: int) -> bytes:
        if i % 2 and i % 5:  # the pickle alone, in a sound archive: flips get past checksums
            chosen = rng.randint(len(archives))
            parts = dict(archives[chosen])
            parts["data.pkl"] = _mutated(pickles[chosen], pickles, rng, near_end=False)
            file = io.BytesIO()
            write_archive(file, parts)
            return file.getvalue()
        data = files[rng.randint(len(files))]
        return _mutated(data, files, rng, near_end=bool(i % 4 == 0 and data[:2] == b"PK"))

    mutants = [mutant(i) for i in range(count)]
    path = tmp_path / "mutant.pt"
    for data in files:  # whatever is imported late is imported now
        path.write_bytes(data)
        weights.load(path)
    errors, busiest, largest = 0, 0.0, 0
    tracemalloc.start()
    for i, data in enumerate(mutants):
        path.write_bytes(data)
        only = "tensors" if i % 3 == 2 else None
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            with Calls() as calls:
                found = guarded(path, only)
        except weights.FileError:
            errors += 1
        except Exception as error:
            (tmp_path / "culprit.pt").write_bytes(data)
            pytest.fail(f"mutant {i} ({tmp_path / 'culprit.pt'}): {type(error).__name__}: {error}")
        else:
            _assert_plain(found)
        busiest = max(busiest, calls.count / (1000 + len(data)))
        largest = max(largest, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert busiest < _CALLS_A_BYTE
    assert largest < 4 * 2**20
    assert count * 0.5 < errors < count * 0.99  # both outcomes are met
