"""jaxnet/weights/_files.py and the reader and writer below it"""

import json
import os
import struct
import tempfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from jaxnet import weights
from jaxnet.weights._torch_types import DTYPES
from tests.golden.weights import FOLDER, VALUES

FORMS = ("zip", "legacy")


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Equal in value, type, order and attributes; arrays in dtype and bits."""
    if isinstance(expected, np.ndarray | np.generic):
        expected = np.asarray(expected)
        assert isinstance(found, np.ndarray), where
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), where
        assert found.tobytes() == expected.tobytes(), where
        return
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}[{key!r}]")
        if isinstance(expected, OrderedDict):
            assert_same(vars(found), vars(expected), f"{where}.__dict__")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert struct.pack("d", found) == struct.pack("d", expected), where
    else:
        assert found == expected, where


def to_numpy(value: Any) -> Any:
    """What torch loaded, with arrays for tensors."""
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg()
        dtype = DTYPES[str(value.dtype).removeprefix("torch.")]
        if dtype.isbuiltin != 1:
            raw = torch.uint8 if dtype.itemsize == 1 else torch.int16
            return value.view(raw).numpy().view(dtype)
        return value.numpy()
    if isinstance(value, dict):
        made = type(value)()
        for key, part in value.items():
            made[key] = to_numpy(part)
        if isinstance(value, OrderedDict):
            vars(made).update(vars(value))
        return made
    if isinstance(value, torch.dtype):
        return DTYPES[str(value).removeprefix("torch.")]
    return type(value)(map(to_numpy, value)) if isinstance(value, list | tuple) else value


# reading what torch wrote


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", list(VALUES))
def test_golden_files_read(name, form):
    assert_same(weights.load(FOLDER / f"{name}.{form}.pt"), VALUES[name])


def test_big_endian_file_reads():
    found = weights.load(FOLDER / "dtypes.big.pt")
    assert_same(found, VALUES["dtypes"])
    assert all(array.dtype.isnative for array in found.values())


@pytest.mark.parametrize("form", FORMS)
def test_golden_rest_reads(form):
    found = weights.load(FOLDER / f"rest.{form}.pt")
    expected = {
        "parameter": np.ones(2, np.float32),
        "marked": np.ones(3, np.float32),
        "marked_parameter": np.ones(4, np.float32),
        "conjugate": np.array([1 - 2j, 3 + 4j], np.complex64),
        "negative": np.array([-2, 4], np.float32),
        "size": (2, 3),
        "device": "cuda:1",
        "dtype": np.dtype(ml_dtypes.bfloat16),
        "storage": np.arange(3).view(np.uint8),
        "bytes": bytearray(b"ab"),
    }
    assert_same({**found, "dtype": None}, {**expected, "dtype": None})
    assert found["dtype"] == expected["dtype"]


@pytest.mark.parametrize("form", FORMS)
def test_views_of_one_storage_share_memory(form):
    found = weights.load(FOLDER / f"views.{form}.pt")
    assert found["same"] is not found["half"]
    found["base"][1, 2, 3] = 99
    assert found["same"][1, 2, 3] == found["scalar"] == found["row"][2, 3] == 99
    assert found["transposed"][3, 1, 2] == 99
    assert found["expanded"].strides == (0, 0) or found["expanded"].strides[0] == 0


@pytest.mark.torch
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_torch_reads(tmp_path, form, protocol):
    import torch

    from tests.golden.weights import tensors

    for name, value in VALUES.items():
        made = {"value": tensors(value), "set": {1, "a"}, "long": "x" * 300, "data": b"y" * 300}
        torch.save(
            made,
            tmp_path / "a.pt",
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=form == "zip",
        )
        found = weights.load(tmp_path / "a.pt")
        assert_same(found["value"], value, name)
        assert (found["set"], found["long"], found["data"]) == ({1, "a"}, "x" * 300, b"y" * 300)


@pytest.mark.torch
def test_a_torch_training_run_comes_back_nested(tmp_path):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.PReLU())
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 4])
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    run = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "epoch": 3,
    }
    for form in FORMS:
        torch.save(run, tmp_path / "a.pt", _use_new_zipfile_serialization=form == "zip")
        found = weights.load(tmp_path / "a.pt")
        assert_same(found, to_numpy(run))
        weights.save(tmp_path / "b.pt", found)
        assert_same(to_numpy(torch.load(tmp_path / "b.pt", weights_only=True)), to_numpy(run))
        assert model.load_state_dict(torch.load(tmp_path / "b.pt")["model"])
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(run, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(weights.load(tmp_path / "a.pt"), to_numpy(run))


# writing


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
@pytest.mark.parametrize("name", list(VALUES))
def test_round_trip(tmp_path, name, suffix):
    weights.save(tmp_path / f"a{suffix}", VALUES[name])
    assert_same(weights.load(tmp_path / f"a{suffix}"), VALUES[name])


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
@pytest.mark.parametrize("name", list(VALUES))
def test_torch_reads_what_was_written(tmp_path, name, suffix):
    import torch

    weights.save(tmp_path / f"a{suffix}", VALUES[name])
    loaded = torch.load(tmp_path / f"a{suffix}", weights_only=True)
    assert_same(to_numpy(loaded), VALUES[name])
    mapped = torch.load(tmp_path / f"a{suffix}", weights_only=True, mmap=True)
    assert_same(to_numpy(mapped), VALUES[name])


def test_equal_values_give_equal_files(tmp_path):
    for name in ("a.pt", "b.pth"):
        weights.save(tmp_path / name, VALUES["checkpoint"])
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pth").read_bytes()


def in_one_memory():
    """Arrays of one memory, and a copy."""
    base = np.random.RandomState(0).standard_normal((300, 40))
    return {"a": base, "again": base, "t": base.T, "part": base[5:9, 1:], "other": base.copy()}


def test_arrays_in_one_memory_are_written_once(tmp_path):
    d = in_one_memory()
    weights.save(tmp_path / "a.pt", d)
    assert (tmp_path / "a.pt").stat().st_size < 2.1 * d["a"].nbytes
    found = weights.load(tmp_path / "a.pt")
    assert_same(found, d)
    assert found["a"] is found["again"]
    assert np.shares_memory(found["a"], found["part"])
    assert not np.shares_memory(found["a"], found["other"])


@pytest.mark.torch
def test_arrays_in_one_memory_are_one_storage_in_torch(tmp_path):
    import torch

    weights.save(tmp_path / "a.pt", in_one_memory())
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert len({t.untyped_storage().data_ptr() for t in loaded.values()}) == 2
    assert loaded["t"].stride() == (1, 40)


def test_odd_memory_layouts_are_written_by_value(tmp_path):
    base = np.arange(1000, dtype=np.float32).reshape(10, 100)
    record = np.zeros(3, [("a", "i1"), ("b", "<i4")])
    record["b"] = [1, 2, 3]
    d = {
        "column": base.copy()[:, 3],  # alone: only its own numbers are written
        "backwards": base[::-1],
        "foreign": base.astype(">f4"),
        "crooked": record["b"],
        "fortran": np.asfortranarray(base),
        "wide": np.broadcast_to(np.float32(7), (1000, 1000)),
        "complex": np.arange(6).astype(np.complex128)[::2],
        "bytes": base.view(np.uint8),  # of base's memory, in another dtype
        "base": base,
    }
    weights.save(tmp_path / "a.pt", d)
    assert (tmp_path / "a.pt").stat().st_size < 30_000
    found = weights.load(tmp_path / "a.pt")
    d["foreign"] = base
    assert_same(found, d)


def test_jax_arrays_and_numpy_scalars_are_written_as_arrays(tmp_path):
    d = {"j": jnp.arange(3.0), "b": jnp.ones(2, jnp.bfloat16), "s": np.float64(0.5), "t": np.True_}
    weights.save(tmp_path / "a.pt", d)
    assert_same(weights.load(tmp_path / "a.pt"), {k: np.asarray(v) for k, v in d.items()})


@pytest.mark.torch
def test_torch_tensors_are_written(tmp_path):
    import torch

    wave = torch.tensor([1 + 2j, 3j])
    d = {"w": torch.ones(3, requires_grad=True), "h": torch.ones(2, dtype=torch.bfloat16)}
    d |= {"c": wave.conj(), "p": torch.nn.Parameter(torch.ones(1)), "m": wave.conj().imag}
    weights.save(tmp_path / "a.pt", d)
    assert_same(weights.load(tmp_path / "a.pt"), to_numpy(d))
    weights.save(tmp_path / "a.safetensors", d)
    found = weights.load(tmp_path / "a.safetensors")
    assert_same({name: found[name] for name in d}, to_numpy(d))


def test_a_model_s_state_dict_goes_through_both_forms(tmp_path):
    from jaxnet import nn
    from jaxnet.random import Generator

    def built(seed):
        return nn.Sequential(nn.Linear(3, 4, rngs=Generator(seed)), nn.Tanh())

    model = built(0)
    for name in ("a.pt", "a.safetensors"):
        weights.save(tmp_path / name, weights.state_dict(model))
        other = built(1)
        weights.load_state_dict(other, weights.load(tmp_path / name))
        assert_same(weights.state_dict(other), weights.state_dict(model))


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**100), 2**100)
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=5)
    | st.text(st.characters(categories=["Cs"]), max_size=2)
    | st.binary(max_size=5)
)
KEYS = (
    st.text(max_size=5)
    | st.integers(-(2**70), 2**70)
    | st.tuples(st.integers(0, 3), st.text(max_size=2))
)
ARRAYS = st_numpy.arrays(
    st.sampled_from([d for d in DTYPES.values() if d.isbuiltin == 1]),
    st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
NESTED = st.recursive(
    PLAIN | ARRAYS | st.sets(st.text(max_size=3) | st.integers(), max_size=3).map(set),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict)
        | inner.map(lambda x: [x, x])  # one object twice
    ),
    max_leaves=15,
)


@settings(max_examples=150, deadline=None)
@given(NESTED)
def test_nested_values_come_back(value):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        weights.save(path, value)
        assert_same(weights.load(path), value)


@pytest.mark.torch
@settings(max_examples=150, deadline=None)
@given(NESTED)
def test_torch_reads_nested_values(value):
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        weights.save(path, value)
        assert_same(to_numpy(torch.load(path, weights_only=True)), value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_views_come_back_and_share_as_they_did(data):
    base = np.arange(60, dtype=data.draw(st.sampled_from(["float32", "int16", "complex64"])))
    base = base.reshape(3, 4, 5)
    cuts = st_numpy.basic_indices(base.shape, allow_newaxis=True)
    views = [np.asarray(base[data.draw(cuts)]) for _ in range(3)]
    views[1] = views[1].T
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pt"
        weights.save(path, views)
        found = weights.load(path)
    assert_same(found, views)
    for i in range(3):
        for j in range(i):
            forward = all(s >= 0 for k in (i, j) for s in views[k].strides)
            if forward and views[i].base is not None and views[j].base is not None:
                expected = np.shares_memory(views[i], views[j])
                assert np.shares_memory(found[i], found[j]) == expected


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Odd(), r"d\['m'\]\[1\]\['k'\]: a value of type Odd cannot be written"),
        (print, "a value of type builtin_function_or_method"),
        (np.array([object()]), r"d\['m'\]\[1\]\['k'\]: torch has no dtype object"),
        (np.array(["a"]), "torch has no dtype <U1"),
        (np.ones(1, np.longdouble), "torch has no dtype"),
        (jnp.ones(2, jnp.int4), "torch has no dtype int4"),
        (np.dtype("M8[s]"), "torch has no dtype datetime64"),
        (frozenset(), "a value of type frozenset"),
        (jax.random.key(0), r"d\['m'\]\[1\]\['k'\]: "),
        ({frozenset(): 1}, r"d\['m'\]\[1\]\['k'\]: a key or member of type frozenset"),
        ({(1, (2, 1.5j, frozenset()))}, "a key or member of type frozenset"),
        (type("Named", (tuple,), {})(), "a value of type Named"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, value, message):
    with pytest.raises(TypeError, match=message):
        weights.save(tmp_path / "a.pt", {"m": [1, {"k": value}]})
    assert list(tmp_path.iterdir()) == []


def test_what_holds_itself_is_refused(tmp_path):
    loop: list = [1]
    loop.append({"inner": loop})
    with pytest.raises(ValueError, match=r"d\['a'\]\[1\]\['inner'\]: it holds itself"):
        weights.save(tmp_path / "a.pt", {"a": loop})
    with pytest.raises(ValueError, match=r"d: an int of more than 255 bytes"):
        weights.save(tmp_path / "a.pt", 2**2040)


def test_nesting_has_no_limit(tmp_path):
    for wrap in (lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: OrderedDict(a=x)):
        value: Any = 5
        for _ in range(5_000):
            value = wrap(value)
        weights.save(tmp_path / "a.pt", value)
        found = weights.load(tmp_path / "a.pt")
        depth = 0
        while not isinstance(found, int):
            found = found["a"] if isinstance(found, dict) else found[0]
            depth += 1
        assert (found, depth) == (5, 5_000)


def test_shared_containers_stay_shared(tmp_path):
    inner = [1]
    value: Any = inner
    for _ in range(60):  # 2**60 leaves if it were unfolded
        value = (value, value)
    weights.save(tmp_path / "a.pt", {"v": value, "inner": inner})
    found = weights.load(tmp_path / "a.pt")
    leaf = found["v"]
    while isinstance(leaf, tuple):
        assert leaf[0] is leaf[1]
        leaf = leaf[0]
    assert leaf is found["inner"]


# safetensors


def of_every_dtype():
    d = {k: v for k, v in VALUES["dtypes"].items() if k != "complex128"}
    d |= {"transposed": np.arange(6.0).reshape(2, 3).T, "scalar": np.array(3), "e": np.ones((0, 2))}
    return d | {"jax": jnp.ones(2), "backwards": np.arange(3)[::-1], "number": np.float32(1)}


def test_safetensors_round_trip(tmp_path):
    d = of_every_dtype()
    weights.save(tmp_path / "a.safetensors", d)
    found = weights.load(tmp_path / "a.safetensors")
    assert set(found) == set(d)
    for name, value in d.items():
        assert_same(found[name], np.asarray(value), name)
        found[name][...] = 0  # writeable
    weights.save(tmp_path / "b.safetensors", {"foreign": np.arange(3, dtype=">i4")})
    assert_same(weights.load(tmp_path / "b.safetensors"), {"foreign": np.arange(3, dtype=np.int32)})
    weights.save(tmp_path / "c.safetensors", {})
    assert weights.load(tmp_path / "c.safetensors") == {}


@pytest.mark.torch
def test_safetensors_of_torch_reads_what_was_written(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    d = of_every_dtype()
    del d["float8_e8m0fnu"]  # which its torch side does not read
    weights.save(tmp_path / "a.safetensors", d)
    loaded = load_file(tmp_path / "a.safetensors")
    for name, value in d.items():
        assert_same(to_numpy(loaded[name]), np.asarray(value), name)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("d", "message"),
    [
        ({"a": {"b": np.ones(1)}}, r"d\['a'\]: dict cannot be written; .*; \.pt holds the rest"),
        ({"a": 3}, r"d\['a'\]: int cannot be written"),
        ({3: np.ones(1)}, r"d: key 3 cannot be written"),
        ({"a": np.ones(1, np.complex128)}, r"d\['a'\]: \.safetensors has no dtype complex128"),
        ({"a": np.array([None])}, r"d\['a'\]: \.safetensors has no dtype object"),
        ([np.ones(1)], r"d: list; a \.safetensors file holds a dict of arrays"),
    ],
)
def test_what_safetensors_cannot_hold_is_named(tmp_path, d, message):
    with pytest.raises(TypeError, match=message):
        weights.save(tmp_path / "a.safetensors", d)
    assert list(tmp_path.iterdir()) == []


# files


def test_missing_and_wrong_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.pt"):
        weights.load(tmp_path / "nowhere.pt")
    with pytest.raises(IsADirectoryError, match="is a folder; give a weights file"):
        weights.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        weights.save(tmp_path / "nowhere" / "a.pt", {})
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; give a file in it"):
        weights.save(tmp_path / "folder.pt", {})
    with pytest.raises(ValueError, match=r"suffix '\.bin'; accepted are \.safetensors, \.pt"):
        weights.save(tmp_path / "a.bin", {})


def test_content_says_the_kind_of_a_file(tmp_path):
    weights.save(tmp_path / "a.safetensors", {"a": np.ones(2)})
    (tmp_path / "a.safetensors").rename(tmp_path / "model.pt")
    assert_same(weights.load(tmp_path / "model.pt"), {"a": np.ones(2)})
    (tmp_path / "pytorch_model.bin").write_bytes((FOLDER / "dtypes.zip.pt").read_bytes())
    assert_same(weights.load(str(tmp_path / "pytorch_model.bin")), VALUES["dtypes"])


def test_save_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    weights.save(path, {"a": 1})
    path.chmod(0o640)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            weights.save(path, {"a": np.ones(1000)})
    with pytest.raises(TypeError, match="cannot be written"):
        weights.save(path, {"a": Odd()})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

    link = tmp_path / "link.pt"
    link.symlink_to(path)
    weights.save(link, {"a": 2})
    assert link.is_symlink()
    assert weights.load(path) == {"a": 2}
    assert path.stat().st_mode & 0o777 == 0o640


def test_counter_keeps_its_type(tmp_path):
    weights.save(tmp_path / "a.pt", Counter("abca"))
    found = weights.load(tmp_path / "a.pt")
    assert type(found) is Counter
    assert found == Counter("abca")


@pytest.mark.parametrize("shape", [[1] * 100, [2**63, 0]])
def test_a_shape_that_numpy_has_not_is_refused(tmp_path, shape):
    end = 4 if 0 not in shape else 0
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(end))
    with pytest.raises(weights.FileError, match="tensor 'a'"):
        weights.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(weights.FileError, match="no file but a device, a pipe"):
        weights.load(tmp_path / "pipe.pt")
