"""jaxnet/data/_cifar.py, idx.py, places.py, and MNIST's order in prepared folders."""

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxnet import data
from jaxnet.data import _catalogue as catalogue
from jaxnet.data import _cifar as cifar
from jaxnet.data import _idx as idx
from jaxnet.data import _prepared as prepared

DATA = os.environ.get("JAXNET_DATA")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXNET_DATA", raising=False)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as out:
        for name, raw in members.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = len(raw)
            out.addfile(info, io.BytesIO(raw))
    return path


def write_idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


def mnist_files(folder: Path, starts: dict, n: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    images = {}
    for part, split in (("train", "train"), ("t10k", "test")):
        images[split] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = np.array([*starts[split], 1, 2])[:n]
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images[split])
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return images


@pytest.mark.parametrize("classes", [10, 100])
def test_python_and_binary_archives_agree(tmp_path, classes):
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (6, 3072), dtype=np.uint8), [1, 0, 2, 2, 9, classes - 1]
    coarse = np.full((6, 1), 7, np.uint8)
    names = [f"class_{i}" for i in range(classes)]
    if classes == 10:
        pickled = {"test_batch": {b"data": pixels, b"labels": labels}}
        pickled["batches.meta"] = {b"label_names": [n.encode() for n in names]}
        rows = np.hstack([np.array(labels, np.uint8)[:, None], pixels])
        plain = {"test_batch.bin": rows.tobytes(), "batches.meta.txt": "\n".join(names).encode()}
    else:
        pickled = {"test": {b"data": pixels, b"fine_labels": labels, b"coarse_labels": [7] * 6}}
        pickled["meta"] = {b"fine_label_names": [n.encode() for n in names]}
        rows = np.hstack([coarse, np.array(labels, np.uint8)[:, None], pixels])
        plain = {"test.bin": rows.tobytes(), "fine_label_names.txt": "\n".join(names).encode()}
    pickles = {name: pickle.dumps(value, protocol=2) for name, value in pickled.items()}
    a = cifar.read_python(tar(tmp_path / "a.tar.gz", pickles), "test", classes)
    b = cifar.read_binary(tar(tmp_path / "b.tar.gz", plain), "test", classes)
    for images, read_labels, read_names in (a, b):
        np.testing.assert_array_equal(images[3, :, :, 1].ravel(), pixels[3, 1024:2048])
        assert read_labels.tolist() == labels
        assert read_labels.dtype == np.int32
        assert read_names == tuple(names)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({}, "test_batch.bin is missing"),
        ({"test_batch.bin": b"x" * 3000, "batches.meta.txt": b"a"}, "cannot reshape"),
        ({"test_batch.bin": b"\x0b" * 3073, "batches.meta.txt": b"a"}, "labels from 11 to 11"),
    ],
)
def test_damaged_cifar_archives(tmp_path, members, says):
    path = tar(tmp_path / "cifar-10-binary.tar.gz", members)
    with pytest.raises(ValueError, match=f"cifar-10-binary.*damaged CIFAR-10 archive.*{says}"):
        cifar.read_binary(path, "test")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="damaged CIFAR-10 archive"):
        cifar.read_binary(path, "test")


@pytest.mark.parametrize("where", ["mnist", "MNIST/raw", "."])
def test_mnist_is_found_in_its_folders(tmp_path, where):
    home = tmp_path / "data"
    images = mnist_files(home / where, catalogue.CATALOGUE["mnist"].starts)
    test = data.load("mnist", split="test", data_dir=home)
    assert test.images.shape == (12, 28, 28, 1)
    np.testing.assert_array_equal(test.images[..., 0], images["test"])
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert test.canonical
    assert test.classes == tuple("0123456789")
    assert data.available("mnist", home) == home / where
    assert data.available("fashion_mnist", tmp_path) is None


@pytest.mark.parametrize("where", ["mnist", "MNIST/raw", "."])
def test_mnist_is_found_unzipped(tmp_path, where):
    images = mnist_files(tmp_path / where, catalogue.CATALOGUE["mnist"].starts)
    zipped = sorted((tmp_path / where).glob("*.gz"))
    for file in zipped[1:]:  # and one of them still zipped
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    test = data.load("mnist", split="test", data_dir=tmp_path, download=False)
    np.testing.assert_array_equal(test.images[..., 0], images["test"])
    zipped[2].with_suffix("").unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {zipped[2].name}"):
        data.load("mnist", split="test", data_dir=tmp_path, download=False)


def test_mnist_under_the_name_of_fashion_is_refused(tmp_path):
    mnist_files(tmp_path / "fashion_mnist", catalogue.CATALOGUE["mnist"].starts)
    with pytest.raises(ValueError, match="not the test labels of fashion_mnist"):
        data.load("fashion_mnist", split="test", data_dir=tmp_path)


def test_mnist_at_the_root_does_not_hide_fashion(tmp_path, monkeypatch):
    mnist_files(tmp_path / "a", catalogue.CATALOGUE["mnist"].starts)
    mnist_files(tmp_path / "b", catalogue.CATALOGUE["fashion_mnist"].starts)
    monkeypatch.setenv("JAXNET_DATA", str(tmp_path / "b"))
    assert data.available("fashion_mnist", tmp_path / "a") == tmp_path / "b"
    assert data.available("mnist", tmp_path / "a") == tmp_path / "a"
    (tmp_path / "b" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError) as raised:
        data.load("fashion_mnist", split="test", data_dir=tmp_path / "a", download=False)
    assert f"{tmp_path / 'b'} lacks t10k-labels-idx1-ubyte.gz" in str(raised.value)


def test_fashion_has_its_names(tmp_path):
    mnist_files(tmp_path / "fashion_mnist", catalogue.CATALOGUE["fashion_mnist"].starts)
    assert data.load("fashion_mnist", split="train", data_dir=tmp_path).classes[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: gzip.compress(raw)[:-20], "images-idx3-ubyte.gz: damaged file"),
        (lambda raw: gzip.compress(raw[:500]), "500 bytes, but the header"),
        (lambda raw: gzip.compress(raw[:9]), "the header is cut short"),
        (lambda raw: b"<html>", "does not begin as an idx file"),
        (lambda raw: b"", "does not begin as an idx file"),
        (lambda raw: gzip.compress(b"\0\0\x08\x01\0\0\0\x02ab"), "are no images"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, damage, says):
    mnist_files(tmp_path / "mnist", catalogue.CATALOGUE["mnist"].starts)
    file = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(gzip.decompress(file.read_bytes())))
    with pytest.raises(ValueError, match=says):
        data.load("mnist", split="test", data_dir=tmp_path)
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_labels_that_do_not_fit(tmp_path):
    mnist_files(tmp_path, catalogue.CATALOGUE["mnist"].starts)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(11))
    with pytest.raises(ValueError, match=r"\(11,\) labels for 12 images"):
        idx.read_split(tmp_path, "test", 10)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.arange(12))
    with pytest.raises(ValueError, match="label 10 at row 10; there are 10"):
        idx.read_split(tmp_path, "test", 10)


def test_idx_holds_other_types(tmp_path):
    values = np.array([[1.5, -2.0]], ">f4")
    head = struct.pack(">BBBBII", 0, 0, 13, 2, 1, 2)
    (tmp_path / "a").write_bytes(head + values.tobytes())
    read = idx.read_idx(tmp_path / "a")
    assert read.dtype == np.float32
    assert read.tolist() == [[1.5, -2.0]]


def test_mnist_is_fetched_file_by_file(tmp_path, monkeypatch):
    import http.server
    import threading

    served = tmp_path / "served"
    mnist_files(served, catalogue.CATALOGUE["mnist"].starts)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(served))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    entry = catalogue.CATALOGUE["mnist"]
    hashes = {
        f: hashlib.sha256((served / f).read_bytes()).hexdigest() for f in entry.forms[0].files
    }
    form = replace(entry.forms[0], url=f"http://127.0.0.1:{server.server_port}/", files=hashes)
    monkeypatch.setitem(catalogue.CATALOGUE, "mnist", replace(entry, forms=(form,)))
    try:
        assert len(data.load("mnist", split="train")) == 12
    finally:
        server.shutdown()
        server.server_close()
    assert data.available("mnist") == tmp_path / "cache" / "mnist"
    assert len(data.load("mnist", split="test")) == 12


class Records(list):
    """What tensorflow-datasets hands out for a prepared folder."""


def prepared_records(monkeypatch, folder: Path, records: list[dict]) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "array_record"}))
    (folder / "label.labels.txt").write_text("T-shirt/top\n" * 9 + "Ankle boot\n")
    monkeypatch.setattr(prepared, "open_split", lambda folder, split: Records(records))


def test_a_shuffle_without_ids_is_undone_or_owned_up_to(tmp_path, monkeypatch, caplog):
    starts = (9, 2, 1, 1, 6, 1, 4, 6, 5, 7)
    order = sorted(range(10), key=lambda i: hashlib.md5(f"test{i}".encode()).hexdigest())
    assert order != list(range(10))
    records = [{"image": np.full((1, 1, 1), i, np.uint8), "label": starts[i]} for i in order]
    folder = tmp_path / "fashion_mnist" / "3.0.1"
    prepared_records(monkeypatch, folder, records)
    images, labels, classes = prepared.read(folder, "test", starts)
    assert images.ravel().tolist() == list(range(10))
    assert labels.tolist() == list(starts)
    assert classes[-2:] == ("T-shirt/top", "Ankle boot")

    monkeypatch.setattr(prepared, "open_split", lambda folder, split: Records(records[::-1]))
    loaded = data.load("fashion_mnist", split="test", data_dir=tmp_path)
    assert loaded.images.ravel().tolist() == order[::-1]
    assert not loaded.canonical
    assert "own order, not torchvision's" in caplog.text


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([{"image": np.zeros((1, 1, 1), np.uint8), "label": 10}], "record 0 has label 10; .* 10"),
        (
            [{"image": np.zeros((i, 1, 1), np.uint8), "label": 0} for i in (1, 2)],
            r"image 1 of test is \(2, 1, 1\), the first one \(1, 1, 1\)",
        ),
    ],
)
def test_a_damaged_prepared_folder(tmp_path, monkeypatch, records, says):
    folder = tmp_path / "fashion_mnist" / "3.0.1"
    prepared_records(monkeypatch, folder, records)
    with pytest.raises(ValueError, match=f"3.0.1: damaged data set: {says}"):
        prepared.read(folder, "test", (9, 2))


def test_records_without_ids_or_known_labels_are_refused(tmp_path, monkeypatch):
    """Nothing would tell that they come in another order."""
    folder = tmp_path / "cifar10" / "3.0.2"
    prepared_records(monkeypatch, folder, [{"image": np.zeros((1, 1, 1), np.uint8), "label": 0}])
    with pytest.raises(ValueError, match="the ids of test are not 0 to 0"):
        prepared.read(folder, "test")


@pytest.mark.parametrize("text", ['{"fileFormat": "arr', "[]", '{"fileFormat": "array_record"}'])
def test_a_damaged_description_is_named(tmp_path, text):
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged data set: dataset_info\.json"):
        prepared.open_split(tmp_path, "test")


@pytest.mark.slow
@pytest.mark.data
def test_the_prepared_mnist_comes_in_torchvisions_order(tmp_path):
    folder = Path(str(DATA)) / "tfds" / "mnist" / "3.0.1"
    archive = data.load("mnist", split="test", data_dir=DATA)
    images, labels, _ = prepared.read(folder, "test", archive.labels[:10].tolist())
    np.testing.assert_array_equal(labels, archive.labels)
    np.testing.assert_array_equal(images, archive.images)


def test_what_can_be_fetched():
    assert data.fetchable("mnist")
    assert not data.fetchable("wine")


@pytest.mark.parametrize(
    "content",
    [
        {"pythonClassName": "antigravity.Feature"},
        {"featuresDict": {"features": {"a": {"python_class_name": "os.path"}}}},
        {"type": "tests.data.evil.Feature", "content": [{}]},
        {"a": [{"pythonClassName": "tensorflow_datasets.core.features_dict.x"}]},
    ],
)
def test_features_that_would_import_code_of_others_are_refused(tmp_path, content):
    info = {"fileFormat": "array_record", "splits": [{"name": "test", "shardLengths": ["1"]}]}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "features.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"damaged data set: features\.json names '"):
        prepared.open_split(tmp_path, "test")


class Wrong:
    """Pickles as what crashes numpy, or makes objects of bytes."""

    def __init__(self, *made):
        self.made = made

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    "pixels",
    [
        np.array([{}, []], object),
        np.zeros((1, 3072), np.float32),
        np.zeros(1, [("a", "u1")]),
        Wrong(np.dtype, ("O",), (3, "|", None, None, None, -1, -1, 63)),
        Wrong(np.ndarray, ((2**40,), np.dtype("O"))),
        Wrong(np._core.multiarray._reconstruct, (np.ndarray, (2**62,), b"O")),
        Wrong(np._core.multiarray._reconstruct, (np.dtype, (0,), b"b"), (1, (9,), np.dtype("u1"))),
    ],
)
def test_a_cifar_pickle_does_not_reach_numpys_constructors(tmp_path, pixels):
    pickled = {
        "test_batch": {b"data": pixels, b"labels": [1]},
        "batches.meta": {b"label_names": [b"a"] * 10},
    }
    pickles = {name: pickle.dumps(value, protocol=2) for name, value in pickled.items()}
    with pytest.raises(ValueError, match="damaged CIFAR-10 archive"):
        cifar.read_python(tar(tmp_path / "a.tar.gz", pickles), "test", 10)
