"""weights.load(only="tensors"), files in parts, and `jaxnet weights`"""

import dataclasses
import enum
import json
import pickle
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest

from jaxnet import nn, weights
from jaxnet.__main__ import main
from jaxnet.random import Generator
from tests.weights.test_fuzz import CANARY, HOSTILE, Call, guarded, saved


class Split(enum.Enum):
    TRAIN = 1


@dataclasses.dataclass
class Config:
    lr: float = 0.1
    mean: Any = None


class Word(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Frozen:
    depth: int = 1


class Slots:
    __slots__ = ("name", "w")


class Names(list):
    pass


class Table(dict):
    def __setitem__(self, key, value):  # must not be called by reading
        CANARY.append("__setitem__")


def table(**items):
    made = Table()
    for name, value in items.items():
        dict.__setitem__(made, name, value)
    return made


def with_slots():
    made = Slots()
    made.name, made.w = "a", np.ones(2)
    return made


ONE, TWO = np.arange(3.0), np.arange(4, dtype=np.int64).reshape(2, 2)
OBJECTS = {
    "object": (Config(mean=ONE), {"mean": ONE}),
    "object in a list": ([1, Config(mean=[ONE]), "a"], [None, {"mean": [ONE]}, None]),
    "slots": (with_slots(), {"w": np.ones(2)}),
    "list of a class": (Names([ONE, 2]), {0: ONE}),
    "dict of a class": (table(a=ONE, b="b"), {"a": ONE}),
    "defaultdict": (defaultdict(Config, {"a": ONE}), {"a": ONE}),
    "class itself": ({"class": Config, "a": ONE}, {"a": ONE}),
    "function": ({"call": print, "a": ONE}, {"a": ONE}),
    "enumeration": ({Split.TRAIN: ONE}, {f"{__name__}.Split(1)": ONE}),
    "members of a set": ({"s": {Split.TRAIN}, "f": frozenset([1]), "a": ONE}, {"a": ONE}),
    "texts": ({"names": np.array(["a", "b"]), "a": ONE}, {"a": ONE}),
    "records": ({"r": np.zeros(2, [("x", "i4")]), "a": ONE}, {"a": ONE}),
    "objects": (
        {"o": np.array([ONE, Config()], dtype=object)},
        {"o": {"state": [None, None, None, None, [ONE, None]]}},
    ),
    "one array twice": ([ONE, {"again": ONE}], [ONE, {"again": ONE}]),
    "plain values": ({"epoch": 3, "name": "a"}, {}),
    "nothing": (None, {}),
}


def assert_alike(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif expected is not None:
        assert len(found) == len(expected)
        keys = expected if isinstance(expected, dict) else range(len(expected))
        for key in keys:
            assert_alike(found[key], expected[key])


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_the_arrays_beside_and_within_objects_are_read(tmp_path, name, protocol, form):
    value, expected = OBJECTS[name]
    path = saved(tmp_path / "a.pt", pickle.dumps(value, protocol), form)
    assert_alike(guarded(path, "tensors"), expected)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_not_run(tmp_path, name, protocol):
    value, _ = HOSTILE[name]
    if isinstance(value, bytes):  # a name alone
        path = saved(tmp_path / "a.pt", value, "zip")
        if name == "endless":
            with pytest.raises(weights.FileError, match="a name that does not end"):
                guarded(path, "tensors")
        else:
            assert guarded(path, "tensors") == {}
        return
    path = saved(tmp_path / "a.pt", pickle.dumps({"a": value, "b": ONE}, protocol), "zip")
    assert_alike(guarded(path, "tensors")["b"], ONE)


def test_what_is_refused_names_the_way(tmp_path):
    path = saved(tmp_path / "a.pt", pickle.dumps(Config()), "zip")
    with pytest.raises(weights.FileError, match=r'names .*Config, .*load\(path, only="tensors"\)'):
        weights.load(path)
    with pytest.raises(ValueError, match="only: 'arrays'; accepted are None and \"tensors\""):
        weights.load(path, only="arrays")


def test_a_damaged_tensor_is_an_error_and_not_left_out(tmp_path):
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuK\x02tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00%s\x85K\x01\x85\x89}tR"
    for size, sound in ((b"K\x02", True), (b"K\x03", False)):
        pickled = b"\x80\x02" + tensor % size + b"."
        path = saved(tmp_path / "a.pt", pickled, "zip", **{"data/0": bytes(8)})
        if sound:
            assert_alike(weights.load(path, only="tensors"), np.zeros(2, np.float32))
        else:
            with pytest.raises(weights.FileError, match="reaches element 2 of a storage with 2"):
                weights.load(path, only="tensors")


def test_values_within_values_do_not_unfold(tmp_path):
    value: Any = [ONE]
    for _ in range(60):
        value = [value, value]
    path = saved(tmp_path / "a.pt", pickle.dumps(value), "zip")
    with pytest.raises(weights.FileError, match="unfolds into far more"):
        weights.load(path, only="tensors")
    deep: Any = ONE
    for _ in range(300):
        deep = [deep]
    path = saved(tmp_path / "b.pt", pickle.dumps(deep), "zip")
    with pytest.raises(weights.FileError, match="nested more than 200 deep"):
        weights.load(path, only="tensors")


def test_what_points_back_to_its_owner_is_read_once(tmp_path):
    parent, child = Config(mean=ONE), Config()
    parent.lr, child.mean = child, parent
    circle: Any = [TWO, parent]
    circle.append(circle)
    path = saved(tmp_path / "a.pt", pickle.dumps(circle), "zip")
    assert_alike(guarded(path, "tensors"), [TWO, {"mean": ONE}, None])


def test_two_objects_of_one_name_are_two_keys(tmp_path):
    value = {Word.RED: ONE, Word.BLUE: TWO, Frozen(1): ONE, Frozen(2): TWO, ("a", Word.RED): TWO}
    path = saved(tmp_path / "a.pt", pickle.dumps(value), "zip")
    names = [f"{__name__}.Word(red)", f"{__name__}.Word(blue)"]
    names += [f"{__name__}.Frozen()", f"{__name__}.Frozen() #2", ("a", f"{__name__}.Word(red)")]
    found = guarded(path, "tensors")
    assert list(found) == names
    assert_alike(found, dict(zip(names, value.values(), strict=True)))


def test_arguments_and_members_of_one_key_are_both_read(tmp_path):
    class_of = Call(Names, (ONE,))
    pickled = pickle.dumps(class_of, 2)[:-1] + b"(K\x00e."  # and appends a member
    assert_alike(guarded(saved(tmp_path / "a.pt", pickled, "zip"), "tensors"), {0: [ONE]})
    again = pickle.dumps(Call(Names, ONE, state={0: TWO}), 2)
    found = guarded(saved(tmp_path / "b.pt", again, "zip"), "tensors")
    assert_alike(found, {0: ONE, "0 #2": TWO})


@pytest.mark.torch
@pytest.mark.parametrize("form", [True, False])
def test_a_whole_model_of_torch_gives_its_state_dict(tmp_path, form):
    import torch

    torch.manual_seed(0)
    block = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    model = torch.nn.Sequential(block, torch.nn.ModuleDict({"out": torch.nn.Linear(4, 3)}))
    model[0].register_buffer("passing", torch.ones(2), persistent=False)
    model[1]["out"].weight = torch.nn.Parameter(model[0][0].weight.T)
    checkpoint = {"net": torch.nn.DataParallel(model), "best": model, "epoch": 3}
    torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=form)
    found = guarded(tmp_path / "a.pt", "tensors")
    expected = {name: t.numpy() for name, t in model.state_dict().items()}
    assert list(found) == ["net", "best"]
    assert list(found["best"]) == list(expected)
    assert_alike(found["best"], expected)
    assert_alike(found["net"], {f"module.{name}": a for name, a in expected.items()})


@pytest.mark.torch
def test_a_program_of_torchscript_says_the_way_out(tmp_path):
    import torch

    with pytest.warns(DeprecationWarning, match="script"):
        torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "a.pt")
    for only in (None, "tensors"):
        with pytest.raises(weights.FileError, match=r"TorchScript .*jit.load.*state_dict\(\)"):
            weights.load(tmp_path / "a.pt", only=only)


# files in parts


@pytest.fixture
def parts(tmp_path):
    """An index with two files, one of each kind."""
    weights.save(tmp_path / "one.safetensors", {"a": ONE, "c": TWO})
    weights.save(tmp_path / "two.bin.pt", {"b": TWO})
    names = {"a": "one.safetensors", "b": "two.bin.pt", "c": "one.safetensors"}
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}, indent=2))
    return path


def test_files_of_an_index_are_read_in_its_order(parts):
    found = weights.load(parts)
    assert list(found) == ["a", "b", "c"]
    assert_alike(found, {"a": ONE, "b": TWO, "c": TWO})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d": "one.safetensors"}, "one.safetensors has other names than it says: 'd' is missing"),
        ({"c": None}, "'c' is unexpected"),
        ({"d": "three.pt"}, "names three.pt, which is not beside it; fetch all"),
        ({"d": "../one.safetensors"}, "accepted are files in its own folder"),
        ({"d": "model.safetensors.index.json"}, "which is no weights file"),
        ({"d": 3}, "without a weight_map"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(parts, changes, says):
    content = json.loads(parts.read_text())
    content["weight_map"] |= changes
    content["weight_map"] = {n: f for n, f in content["weight_map"].items() if f is not None}
    parts.write_text(json.dumps(content))
    with pytest.raises(weights.FileError, match=says):
        weights.load(parts)


def test_a_header_whose_length_reads_as_a_space_and_a_bracket_is_no_json(tmp_path):
    size, path = int.from_bytes(b" {", "little"), tmp_path / "a.safetensors"
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a": tensor}).encode().ljust(size)
    path.write_bytes(size.to_bytes(8, "little") + header + np.float32([3]).tobytes())
    assert_alike(weights.load(path), {"a": np.float32([3])})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(weights.FileError, match=r"no sound \.safetensors file"):
        weights.load(path)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "{}  ", '{"weight_map": []}'])
def test_json_that_is_no_index_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(weights.FileError, match=r"a\.json: it is (no sound JSON|JSON without)"):
        weights.load(tmp_path / "a.json")


def test_a_folder_says_what_is_in_it(parts):
    with pytest.raises(IsADirectoryError, match=r"model\.safetensors\.index\.json, one\.safe"):
        weights.load(parts.parent)


# the command


def called(capsys, *words):
    try:
        status = main(["weights", *map(str, words)])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint with an object, whose weights have DataParallel's names."""
    model = nn.Linear(3, 2, rngs=Generator(0))
    state = OrderedDict((f"module.{n}", a) for n, a in weights.state_dict(model).items())
    value = {"args": Config(), "model": state, "best": {"acc": np.float64(0.5), "at": TWO}}
    return saved(tmp_path / "checkpoint.pt", pickle.dumps(value, 2), "zip"), model


def test_show(capsys, checkpoint, tmp_path):
    path, model = checkpoint
    status, out, _ = called(capsys, "show", path)
    assert status == 0
    (line,) = [line.split() for line in out.splitlines() if line.startswith("best.at")]
    assert line == ["best.at", "2", "x", "2", "int64", "1.5", "1.118", "0", "3"]
    assert "3 arrays, 12 numbers" in out
    status, out, _ = called(capsys, "show", path, "--key", "model")
    assert "all names begin with 'module.': --strip module. takes it away" in out
    kernel = np.asarray(model.weight[...])
    assert f"{kernel.min():.4g}" in out
    twice = {f"module._orig_mod.{n}": a for n, a in weights.state_dict(model).items()}
    weights.save(tmp_path / "twice.pt", twice)
    _, out, _ = called(capsys, "show", tmp_path / "twice.pt")
    assert "all names begin with 'module._orig_mod.': --strip module._orig_mod. takes" in out
    status, _, err = called(capsys, "show", path, "--key", "net")
    assert (status, err.count("\n")) == (2, 1)
    assert "--key net: " in err
    assert "it has best, model" in err


def test_show_counts_what_is_not_finite_and_names_what_is_shared(capsys, tmp_path):
    a = np.float32([1, np.nan, np.inf, 3])
    weights.save(
        tmp_path / "a.pt", {"a": a, "tied": a, "none": np.zeros((0, 2)), "z": np.ones(1) * 1j}
    )
    _, out, _ = called(capsys, "show", tmp_path / "a.pt")
    (line,) = [line.split() for line in out.splitlines() if line.startswith("a ")]
    assert line[3:] == ["2", "1", "1", "3", "(2", "nan", "or", "inf)"]
    assert "the same memory: a = tied" in out


def test_convert(capsys, checkpoint, tmp_path):
    path, model = checkpoint
    target = tmp_path / "net.safetensors"
    words = ("convert", path, target, "--key", "model", "--strip", "module.")
    status, out, _ = called(capsys, *words)
    assert status == 0
    assert f"written: {target}, 2 arrays" in out
    other = nn.Linear(3, 2, rngs=Generator(1))
    weights.load_state_dict(other, weights.load(target))
    np.testing.assert_array_equal(other.weight[...], model.weight[...])
    status, _, err = called(capsys, *words)
    assert status == 2
    assert err.splitlines()[-1].endswith("is there; --force replaces it")
    half = tmp_path / "half.pt"
    assert called(capsys, "convert", target, half, "--dtype", "float16")[0] == 0
    assert weights.load(half)["weight"].dtype == np.float16


def test_convert_refuses_and_writes_nothing(capsys, checkpoint, tmp_path):
    path, _ = checkpoint
    weights.save(tmp_path / "large.pt", {"a": np.float32([1e30])})
    for words, says in (
        ((path, "--strip", "module."), "--strip module.: not all names begin with it: "),
        ((tmp_path / "large.pt", "--dtype", "float16"), "1 numbers of a are too large"),
        ((tmp_path / "none.pt",), "there is no file"),
    ):
        target = tmp_path / "new.safetensors"
        status, _, err = called(capsys, "convert", words[0], target, *words[1:])
        assert (status, says in err) == (2, True), err
        assert not target.exists()


def test_diff(capsys, checkpoint, tmp_path):
    path, model = checkpoint
    state = weights.state_dict(model)
    weights.save(tmp_path / "a.safetensors", state)
    status, out, _ = called(capsys, "diff", path, tmp_path / "a.safetensors", "--key", "model")
    assert (status, out.splitlines()[-1]) == (0, "SAME  2 of 2 arrays same")
    assert out.startswith("compared without 'module.', with which all names of ")
    changed = {"weight": state["weight"] + np.float32(1e-3), "more": TWO}
    changed["bias"] = state["bias"].astype(np.float64)
    weights.save(tmp_path / "b.pt", changed)
    status, out, _ = called(capsys, "diff", tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert status == 1
    assert "weight: 6 of 6 numbers differ, at most by 0.001, " in out
    assert "bias: dtype float32 and float64, equal numbers" in out
    assert f"more: only in {tmp_path / 'b.pt'}" in out
    assert "DIFFERENT  0 of 3 arrays same" in out


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (np.float32([np.nan, 1]), np.float32([np.nan, 1]), ""),
        (np.float32([np.nan, 1]), np.float32([2, 1]), "1 of 2 numbers differ, at most by inf"),
        (np.int64([2**62]), np.int64([2**62 + 1]), "1 of 1 numbers differ, at most by"),
        (np.ones((2, 1)), np.ones((1, 2)), "shape (2, 1) and (1, 2)"),
        (np.array([True]), np.array([False]), "1 of 1 numbers differ, at most by 1"),
        (np.array([1j]), np.array([2j]), "1 of 1 numbers differ, at most by 1"),
    ],
)
def test_differences_of_all_kinds_of_numbers(capsys, tmp_path, a, b, says):
    weights.save(tmp_path / "a.pt", {"x": a})
    weights.save(tmp_path / "b.pt", {"x": b})
    status, out, _ = called(capsys, "diff", tmp_path / "a.pt", tmp_path / "b.pt")
    assert status == int(bool(says))
    assert says in out


def test_calls_of_unknown_functions_keep_their_arguments(tmp_path):
    path = saved(tmp_path / "a.pt", pickle.dumps(Call(print, ONE, state={"b": TWO}), 2), "zip")
    assert_alike(guarded(path, "tensors"), {0: ONE, "b": TWO})
