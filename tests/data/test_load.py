"""jaxnet/data: finding, fetching, decoding, keeping."""

import hashlib
import http.server
import io
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxnet import data
from jaxnet.data import _catalogue as catalogue
from tests.marks import slow_among

DATA = os.environ.get("JAXNET_DATA")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNET_DATA", raising=False)


def batch(rng, n):
    pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
    return {b"data": pixels, b"labels": rng.integers(0, 10, n).tolist()}


def archive(path: Path, members=None) -> list[dict]:
    """A small file in CIFAR-10's own format."""
    rng = np.random.default_rng(0)
    batches = [batch(rng, 4) for _ in range(6)]
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    contents = dict(zip(names, batches, strict=True))
    contents["batches.meta"] = {b"label_names": [b"airplane", b"automobile", b"bird"]}
    contents |= members or {}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            raw = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return batches


def point_at(monkeypatch, name="cifar10", **changes):
    """Changes the first form of the catalogue's entry."""
    entry = catalogue.CATALOGUE[name]
    forms = (replace(entry.forms[0], **changes), *entry.forms[1:])
    monkeypatch.setitem(catalogue.CATALOGUE, name, replace(entry, forms=forms))


@pytest.fixture
def small_entry(tmp_path, monkeypatch):
    """The catalogue's entry, made to point at a small archive on a local server."""
    served = tmp_path / "served"
    served.mkdir()
    batches = archive(served / "cifar-10-python.tar.gz")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((served / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/"
    point_at(monkeypatch, url=url, files={"cifar-10-python.tar.gz": digest})
    yield served, batches
    server.shutdown()
    server.server_close()


def test_fetches_once_and_keeps(small_entry, tmp_path, caplog):
    caplog.set_level(logging.INFO, "jaxnet")
    served, batches = small_entry
    assert data.available("cifar10") is None
    train = data.load("cifar10", split="train")
    assert train.images.shape == (20, 32, 32, 3)
    first = batches[0][b"data"][0].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(train.images[0], first)
    assert train.labels.tolist() == [n for b in batches[:5] for n in b[b"labels"]]
    assert train.classes[:2] == ("airplane", "automobile")
    assert "fetching" in caplog.text
    (served / "cifar-10-python.tar.gz").unlink()
    assert len(data.load("cifar10", split="test")) == 4


def test_a_fetched_file_with_another_hash_is_refused(small_entry, monkeypatch):
    point_at(monkeypatch, files={"cifar-10-python.tar.gz": "0" * 64})
    with pytest.raises(FileNotFoundError, match="fetching failed"):
        data.load("cifar10", split="train")
    assert data.available("cifar10") is None


def test_a_found_archive_is_checked(small_entry, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        data.load("cifar10", split="train", data_dir=tmp_path)


def test_an_archive_that_names_a_function_is_refused(tmp_path):
    evil = b"cos\nsystem\n(S'touch /tmp/jaxnet-was-here'\ntR."
    archive(tmp_path / "a.tar.gz", {"test_batch": evil})
    with pytest.raises(ValueError, match=r"os\.system"):
        catalogue.cifar.read_python(tmp_path / "a.tar.gz", "test")
    assert not Path("/tmp/jaxnet-was-here").exists()


def test_nowhere_names_data_set_folders_and_commands(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.load("cifar10", split="train", data_dir=tmp_path, download=False)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert str(tmp_path / "cache") in text
    assert "curl" in text
    assert "cifar-10-python.tar.gz" in text


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("cifar11", "train", "no data set 'cifar11'"),
        ("cifar10", "val", "split: 'val'"),
        ("wine", "train", "no data set 'wine'"),
    ],
)
def test_unknown_names(name, split, says):
    with pytest.raises(ValueError, match=says):
        data.load(name, split=split)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        data.load("cifar10", split="train", data_dir=tmp_path / "nope")


@pytest.mark.data
def test_prepared_folder_in_canonical_order(monkeypatch):
    test = data.load("cifar10", split="test", data_dir=DATA)
    assert test.images.shape == (10000, 32, 32, 3)
    assert test.images.dtype == np.uint8
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # torchvision's
    assert test.classes[0] == "airplane"
    monkeypatch.setattr(catalogue, "_read", lambda *_: pytest.fail("it is decoded again"))
    again = data.load("cifar10", split="test", data_dir=DATA)
    np.testing.assert_array_equal(again.images, test.images)


@pytest.fixture
def copy_of_test_split(tmp_path):
    folder = tmp_path / "data" / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for path in (Path(str(DATA)) / "tfds" / "cifar10" / "3.0.2").iterdir():
        if "train" not in path.name:
            shutil.copyfile(path, folder / path.name)
    return folder


@pytest.mark.data
@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_damaged_records_are_named(copy_of_test_split, damage, tmp_path):
    (records,) = copy_of_test_split.glob("*test*")
    raw = bytearray(records.read_bytes())
    if damage == "truncated":
        del raw[len(raw) // 2 :]
    elif damage == "flipped":
        raw[5_000_000] ^= 1
    else:
        raw.clear()
    records.write_bytes(raw)
    with pytest.raises(ValueError, match=r"damaged data set: .*copy or prepare it again"):
        data.load("cifar10", split="test", data_dir=tmp_path / "data")
    assert not list((tmp_path / "cache").rglob("*.npz"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": np.zeros(3, np.int32)}, r"labels are int32\[3\] of 20 images"),
        ({"labels": np.zeros(20, np.float32)}, r"labels are float32\[20\]"),
        ({"labels": np.full(20, 10, np.int32)}, "labels 10 to 10 of 3 classes"),
        ({"labels": np.full(20, -1, np.int32)}, "labels -1 to -1 of 3 classes"),
        ({"images": np.zeros((20, 32, 32, 3), np.float32)}, "images are float32"),
        ({"images": np.zeros((20, 9), np.uint8)}, r"images are uint8\[20, 9\]"),
        ({"classes": np.arange(10)}, r"classes are int64\[10\]"),
    ],
)
def test_a_cache_that_holds_other_things_is_decoded_again(
    small_entry, tmp_path, caplog, change, says
):
    good = data.load("cifar10", split="train")
    (kept,) = (tmp_path / "cache" / "decoded").iterdir()
    with np.load(kept) as arrays:
        np.savez(kept, **{**arrays, **change})
    again = data.load("cifar10", split="train")
    np.testing.assert_array_equal(again.images, good.images)
    np.testing.assert_array_equal(again.labels, good.labels)
    assert again.classes == good.classes
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "jaxnet.data._cache"
    assert re.search(f"damaged .*{says}", record.message)


@pytest.mark.slow
@pytest.mark.data
def test_reading_a_prepared_folder_gives_the_root_logger_no_handler(copy_of_test_split, tmp_path):
    """absl would, where there is none: a program's own process, since pytest's has some."""
    program = f"""
import logging
from jaxnet import data
data.load("cifar10", split="test", data_dir={str(tmp_path / "data")!r})
print(logging.getLogger().handlers)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.data
@pytest.mark.parametrize("way", slow_among(["cut", "another", "unknown"], ["cut", "another"]))
def test_a_damaged_cache_is_decoded_again(copy_of_test_split, tmp_path, caplog, way):
    data.load("cifar10", split="test", data_dir=tmp_path / "data")
    (kept,) = (tmp_path / "cache" / "decoded").iterdir()
    whole = kept.read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    at = whole.index(b"PK\1\2") + 10  # the way of packing: one that zipfile does not know
    unknown = whole[:at] + b"\x63\0" + whole[at + 2 :]
    damaged = {"cut": whole[:1_000_000], "another": array.getvalue(), "unknown": unknown}
    kept.write_bytes(damaged[way])
    caplog.clear()
    assert len(data.load("cifar10", split="test", data_dir=tmp_path / "data")) == 10000
    assert "damaged" in caplog.text
