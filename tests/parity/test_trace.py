"""The files of a trace: what is written is read again, and what cannot be read is explained."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxnet.parity._trace import TraceError, TraceWriter, read

CONTENT = {
    "full": True,
    "calls": [],
    "functions": [],
    "draws": [],
    "batches": [],
    "losses": [],
    "groups": [],
    "events": [],
    "single": {},
}
ABOUT = {
    "models": [""],
    "modules": {},
    "parameters": {},
    "buffers": {},
    "optimizers": [],
    "schedulers": [],
    "torch": "2.13.0",
}


def written(path, arrays, doubles=None, steps=1):
    writer = TraceWriter(path)
    for _ in range(steps):
        writer.write_step(CONTENT, arrays, doubles or {})
        writer.write_about(ABOUT)
    return path


WIDE = {
    "third": (np.float32, [1 / 3, -2 / 3, 1e-30]),
    "infinite in both": (np.float32, [np.inf, 1 / 3, -np.inf]),
    "too large for float32": (np.float32, [1e300, 1 / 3]),
    "half": (np.float16, [1 / 3, 7e4]),
    "bfloat16": (ml_dtypes.bfloat16, [1 / 3, 2.0]),
    "complex": (np.complex64, [1 / 3 + 2j / 3]),
    "one number": (np.float32, 1 / 3),
}


@pytest.mark.parametrize("name", WIDE)
def test_the_float64_value_of_an_array_is_read_again(tmp_path, name):
    dtype, value = WIDE[name]
    wide = np.asarray(value)
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    step = read(written(tmp_path / "t", {"forward:#0": array}, {"forward:#0": wide})).steps[0]
    assert step["forward:#0"].dtype == dtype
    assert step["forward:#0"].shape == wide.shape
    assert step.has_double("forward:#0")
    np.testing.assert_allclose(step.double("forward:#0"), wide, rtol=1e-14, atol=0)
    np.testing.assert_array_equal(step["forward:#0"], array)


def test_a_number_that_is_none_only_in_float64_is_not_hidden(tmp_path):
    array, wide = np.float32([1, 2]), np.array([1, np.nan])
    step = read(written(tmp_path / "t", {"loss:0": array}, {"loss:0": wide})).steps[0]
    np.testing.assert_array_equal(step.double("loss:0"), wide)
    np.testing.assert_array_equal(step["loss:0"], array)


def test_an_array_without_a_float64_value_says_so(tmp_path):
    step = read(written(tmp_path / "t", {"loss:0": np.float32(0.1), "n": np.int64(3)})).steps[0]
    assert not step.has_double("loss:0")
    assert step.double("loss:0") == np.float64(np.float32(0.1))
    assert step.double("n").dtype == np.int64


def test_a_step_that_trace_json_does_not_count_is_not_read(tmp_path):
    path = written(tmp_path / "t", {"loss:0": np.float32(1)}, steps=2)
    (path / "step-0002.safetensors").write_bytes(b"cut off")
    assert len(read(path).steps) == 2
    assert not [p for p in path.iterdir() if p.name.endswith(".part")]


def damaged(name):
    def change(path):
        step = path / "step-0000.json"
        if name == "a call is cut":
            step.write_text(json.dumps({**json.loads(step.read_text()), "calls": [{}]}))
        content = json.loads((path / "trace.json").read_text())
        if name == "newer":
            content["format"] += 1
        elif name == "without steps":
            content["steps"] = 0
        elif name == "a step is missing":
            content["steps"] += 1
        elif name == "a field is missing":
            del content["modules"]
        text = json.dumps(content)
        (path / "trace.json").write_text(text[:50] if name == "cut off" else text)

    return change


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("newer", "its format is 2, and this version of jaxnet reads 1"),
        ("without steps", "no whole step"),
        ("a step is missing", "no step-0001.json"),
        ("a field is missing", "trace.json is damaged"),
        ("a call is cut", "step-0000.json: it is damaged"),
        ("cut off", "record the program again"),
    ],
)
def test_a_trace_that_cannot_be_used_is_explained(tmp_path, name, message):
    path = written(tmp_path / "t", {"loss:0": np.float32(1)})
    damaged(name)(path)
    with pytest.raises(TraceError, match=message):
        read(path)


def test_a_folder_without_a_trace_is_explained(tmp_path):
    words = r"parity\.recording writes a trace, and so does `jaxnet record"
    with pytest.raises(TraceError, match=words):
        read(tmp_path)


def test_arrays_that_are_cut_off_are_explained(tmp_path):
    path = written(tmp_path / "t", {"loss:0": np.ones(99, np.float32)})
    file = path / "step-0000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(TraceError, match="record the program again"):
        read(path).steps[0]["loss:0"]


def test_an_array_that_is_missing_is_named(tmp_path):
    path = written(tmp_path / "t", {"loss:0": np.float32(1), "loss:1": np.float32(1)})
    save_file({"loss:1": np.ones(1)}, path / "step-0000.safetensors")
    for _ in range(2):
        with pytest.raises(TraceError, match="it lacks loss:0"):
            read(path).steps[0]["loss:1"]


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="it is not empty; give a new folder"):
        TraceWriter(tmp_path)
