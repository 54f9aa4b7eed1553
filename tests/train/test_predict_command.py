"""`jaxnet predict`: an exported model on images and tables, without a line of Python."""

import csv
import io
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export as jax_export

from jaxnet import data, nn, optim, train
from jaxnet.__main__ import main
from jaxnet._predict import _PATIENCE
from jaxnet.data.transforms import CenterCrop, Normalize, ToTensor
from jaxnet.nn import functional as F
from jaxnet.random import Generator

pytestmark = pytest.mark.flatbuffers
Image = pytest.importorskip("PIL.Image")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Net(nnx.Module):
    """A small network of images, with `channels` of them and `classes` outputs."""

    def __init__(self, rngs, channels=3, classes=4):
        self.conv = nn.Conv2d(channels, 4, 3, rngs=rngs)
        self.fc = nn.Linear(4, classes, rngs=rngs)

    def __call__(self, x):
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class Probabilities(nnx.Module):
    def __init__(self, rngs):
        self.fc = nn.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        return F.softmax(self.fc(x), 1)


class Centred(nnx.Module):
    """Its outputs for a row depend on the other rows."""

    def __call__(self, x):
        return x - x.mean(0, keepdims=True)


class Both(nnx.Module):
    def __init__(self, rngs):
        self.fc = nn.Linear(3, 2, rngs=rngs)

    def __call__(self, x, places):
        return self.fc(x), places + 1


class Bytes(nnx.Module):
    """Whole numbers without a sign for each class."""

    def __call__(self, x):
        return (x * 10).astype(jnp.uint8)


def state_of(model):
    return train.create(model, optim.SGD(lr=0.1))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The files of some models, and their states."""
    folder, g = tmp_path_factory.mktemp("models"), Generator(0)
    image, row = np.zeros((1, 3, 16, 16), np.float32), np.zeros((1, 3), np.float32)
    made = {
        "net": (Net(g), image, None),
        "grey": (Net(g, channels=1), image[:, :1], None),
        "wide": (Net(g), np.zeros((1, 3, 16, 20), np.float32), None),
        "table": (nn.Linear(3, 4, rngs=g), row, None),
        "sure": (Probabilities(g), row, None),
        "three": (nn.Linear(3, 4, rngs=g), row, 3),
        "centred": (Centred(), row, 3),
        "both": (Both(g), (row, np.zeros((1,), np.int32)), None),
        "bytes": (Bytes(), row, None),
        "whole": (nn.Embedding(10, 2, rngs=g), np.zeros((1, 3), np.int32), None),
    }
    files, states = {}, {}
    for name, (model, example, rows) in made.items():
        states[name], files[name] = state_of(model), folder / f"{name}.jaxexport"
        train.export(states[name], example, files[name], batch_size=rows, platforms=["cpu"])
    return files, states


@pytest.fixture
def called(models, capsys, tmp_path, monkeypatch):
    """The command in an empty folder: its status, what it printed, and its errors."""
    monkeypatch.chdir(tmp_path)

    def call(model, *words):
        file = models[0].get(model, model)
        try:
            status = main(["predict", str(file), *map(str, words)])
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def read(text):
    head, *rows = csv.reader(io.StringIO(text))
    return head, rows


def numbers(rows, start):
    return np.array([row[start:] for row in rows], np.float32)


def picture(path, height, width, seed=0, mode="RGB", **saving):
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    pixels = np.asarray(Generator(seed).rand(height, width, channels) * 255).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode).save(path, **saving)
    return pixels


def test_images_as_torchvision_evaluates(called, models, tmp_path):
    """The transform is done here a second time: Pillow's resize, and the library's others."""
    (tmp_path / "folder").mkdir()
    sizes = {"a.png": (40, 27), "folder/b.png": (18, 33), "folder/c.png": (18, 18)}
    images = []
    for seed, (name, (h, w)) in enumerate(sizes.items()):
        pixels = picture(name, h, w, seed)
        short = min(h, w)
        new = (int(18 * w / short), 18) if h < w else (18, int(18 * h / short))
        shrunk = np.asarray(Image.fromarray(pixels).resize(new, Image.Resampling.BILINEAR))
        key = jax.random.key(0)
        image = CenterCrop(16)(key, ToTensor()(key, shrunk[None]))
        images.append(np.asarray(Normalize(MEAN, STD)(key, image)))
    wanted = train.predict(models[1]["net"], np.concatenate(images), batch_size=3, quiet=True)
    words = ["--resize", 18, "--mean", ",".join(map(str, MEAN)), "--std", ",".join(map(str, STD))]
    for size in (1, 2, 32):
        status, out, err = called("net", "a.png", "folder", *words, "-o", "-", "--batch-size", size)
        assert status == 0, err
        head, rows = read(out)
        assert head == ["file", "output_0", "output_1", "output_2", "output_3"]
        assert [row[0] for row in rows] == list(sizes)
        np.testing.assert_allclose(numbers(rows, 1), wanted, rtol=1e-5, atol=1e-6)
    assert "resized to 18 pixels at the shorter side, the middle 16 x 16, in [0, 1], mean" in err


def test_classes_and_their_probabilities(called, models, tmp_path):
    x = np.asarray(Generator(1).randn(5, 3))
    np.save("x.npy", x)
    (tmp_path / "labels.txt").write_text("cat\ndog\nred fox\n\u00f6tter\n", encoding="utf-8")
    logits = train.predict(models[1]["table"], x, batch_size=5, quiet=True)
    wanted = np.asarray(jax.nn.softmax(logits, 1))
    names = np.array(["cat", "dog", "red fox", "\u00f6tter"])
    status, out, err = called("table", "x.npy", "--classes", "labels.txt", "-o", "-")
    assert status == 0
    assert "probability: the softmax of the model's outputs" in err
    head, rows = read(out)
    assert head == ["file", "row", "class", "probability"]
    assert [row[1] for row in rows] == list("01234")
    assert [row[2] for row in rows] == names[wanted.argmax(1)].tolist()
    np.testing.assert_allclose(numbers(rows, 3)[:, 0], wanted.max(1), rtol=1e-5)
    status, out, _ = called("table", "x.npy", "--classes", "labels.txt", "--top", 4, "-o", "-")
    head, rows = read(out)
    assert head[2:] == [f"{w}_{i}" for i in (1, 2, 3, 4) for w in ("class", "probability")]
    order = np.argsort(-wanted, 1)
    assert [row[2::2] for row in rows] == names[order].tolist()
    status, out, _ = called("table", "x.npy", "--top", 2, "-o", "-")
    assert [row[2::2] for row in read(out)[1]] == order[:, :2].astype(str).tolist()
    status, out, _ = called("table", "x.npy", "--softmax", "-o", "-")
    head, rows = read(out)
    assert head[2:] == [f"probability_{i}" for i in range(4)]
    np.testing.assert_allclose(numbers(rows, 2), wanted, rtol=1e-5)
    status, out, _ = called("table", "x.npy", "--no-softmax", "--top", 1, "-o", "-")
    head, rows = read(out)
    assert head[2:] == ["class", "output"]
    np.testing.assert_allclose(numbers(rows, 3)[:, 0], logits.max(1), rtol=1e-5)


def test_outputs_that_are_probabilities_get_no_second_softmax(called, models):
    x = np.asarray(Generator(1).randn(5, 3))
    np.save("x.npy", x)
    status, out, err = called("sure", "x.npy", "--top", 1, "-o", "-")
    assert (status, out) == (2, "")
    assert "its outputs are probabilities already" in err
    status, out, _ = called("sure", "x.npy", "--top", 1, "--no-softmax", "-o", "-")
    wanted = train.predict(models[1]["sure"], x, batch_size=5, quiet=True)
    head, rows = read(out)
    assert head[2:] == ["class", "probability"]
    np.testing.assert_allclose(numbers(rows, 3)[:, 0], wanted.max(1), rtol=1e-5)


def test_a_table_and_its_columns(called, models, tmp_path):
    x = np.asarray(Generator(2).randn(4, 3))
    lines = [f"{i},{a!s},{b!s},{c!s},word" for i, (a, b, c) in enumerate(x)]
    (tmp_path / "x.csv").write_text("\n".join(["id,a,b,c,note", *lines]))
    status, _, err = called("table", "x.csv", "-o", "out.csv", "--columns", "c,a,b")
    assert status == 0
    assert "written: out.csv, 4 rows" in err
    head, rows = read((tmp_path / "out.csv").read_text())
    assert head == ["file", "row", "output_0", "output_1", "output_2", "output_3"]
    moved = x[:, [2, 0, 1]]
    wanted = train.predict(models[1]["table"], moved, batch_size=4, quiet=True)
    np.testing.assert_allclose(numbers(rows, 2), wanted, rtol=1e-5, atol=1e-6)
    scaled = ["--mean=-1,0,0.5", "--std", "2,3,4"]
    status, out, _ = called("table", "x.csv", "--columns", "c,a,b", *scaled, "-o", "-")
    moved = ((moved - np.float32([-1, 0, 0.5])) / np.float32([2, 3, 4])).astype(np.float32)
    wanted = train.predict(models[1]["table"], moved, batch_size=4, quiet=True)
    np.testing.assert_allclose(numbers(read(out)[1], 2), wanted, rtol=1e-5, atol=1e-6)
    for words, what in (
        ([], "column 'note': 'word' is no number; --columns a,b takes"),
        (["--columns", "a,b"], "2 columns (a, b); but "),
        (["--columns", "a,b,z"], "no column 'z'"),
        (["--columns", "a,b,c", "--mean", "1,2", "--std", "1"], "--mean has 2 numbers"),
    ):
        status, out, err = called("table", "x.csv", *words, "-o", "-")
        assert (status, out) == (2, "")
        assert what in err


def test_several_inputs_and_outputs_and_whole_numbers(called, models, tmp_path):
    x, places = np.asarray(Generator(2).randn(4, 3)), np.arange(4)
    np.savez("x.npz", x, places)
    _, out, _ = called("both", "x.npz", "-o", "-", "--batch-size", 3)
    head, rows = read(out)
    assert head == ["file", "row", "output_0_0", "output_0_1", "output_1"]
    wanted, _ = train.predict(
        models[1]["both"], (x, places.astype(np.int32)), batch_size=4, quiet=True
    )
    np.testing.assert_allclose(numbers(rows, 2)[:, :2], wanted, rtol=1e-5, atol=1e-6)
    assert [row[4] for row in rows] == ["1", "2", "3", "4"]
    np.savez("x.npz", x)
    assert "it holds (4, 3) float32; but " in called("both", "x.npz")[2]
    (tmp_path / "n.csv").write_text("a,b,c\n1,2,3\n9,0,1\n")
    _, out, _ = called("whole", "n.csv", "-o", "-")
    wanted = models[1]["whole"].model()(np.array([[1, 2, 3], [9, 0, 1]]))
    np.testing.assert_allclose(numbers(read(out)[1], 2), np.asarray(wanted).reshape(2, 6))
    (tmp_path / "n.csv").write_text("a,b,c\n1,2.5,3\n")
    assert "and it has other numbers" in called("whole", "n.csv")[2]
    np.save("n.npy", np.array([[1, 2, 2**40]]))
    assert "n.npy: 1099511627776 does not fit int32" in called("whole", "n.npy")[2]


def test_a_model_with_one_number_of_rows(called, models):
    x = np.array(Generator(3).randn(7, 3))
    np.save("x.npy", x)
    status, out, _ = called("three", "x.npy", "-o", "-")
    assert status == 0
    wanted = np.asarray(models[1]["three"].model()(x))
    np.testing.assert_allclose(numbers(read(out)[1], 2), wanted, rtol=1e-5, atol=1e-6)
    status, out, err = called("three", "x.npy", "-o", "-", "--batch-size", 2)
    assert (status, out) == (2, "")
    assert "--batch-size 2: " in err
    assert "three.jaxexport takes (rows, 3) float32, 3 rows at a time" in err
    status, out, err = called("centred", "x.npy", "-o", "-")
    assert (status, out) == (2, "")
    assert "the outputs of a row depend on the other rows" in err
    for number in (0.0, 1.0):  # which rows that fill up are not to repeat
        x[6] = number
        np.save("x.npy", x)
        assert called("centred", "x.npy", "-o", "-")[:2] == (2, "")
    np.save("x.npy", x[:6])
    assert called("centred", "x.npy", "-o", "-")[0] == 0


def test_classes_of_numbers_without_a_sign_are_in_their_order(called):
    np.save("x.npy", np.array([[0, 5, 20]], np.float32))
    status, out, _ = called("bytes", "x.npy", "--top", 3, "--no-softmax", "-o", "-")
    assert status == 0
    head, (row,) = read(out)
    assert [row[head.index(f"class_{i}")] for i in (1, 2, 3)] == ["2", "1", "0"]


def test_a_number_that_is_too_large_is_refused_when_it_is_scaled_too(called):
    Path("t.csv").write_text("a,b,c\n1,2,3\n1e300,2,3\n", encoding="utf-8")
    for words in ([], ["--mean", "0,0,0", "--std", "1,1,1"]):
        status, out, err = called("table", "t.csv", "-o", "-", *words)
        assert (status, out) == (2, "")
        assert "does not fit float32" in err


def test_images_are_turned_upright_and_have_the_channels_of_the_model(called, models, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    pixels = picture("turned.png", 16, 16, exif=exif)
    upright = np.rot90(pixels, -1)
    np.testing.assert_array_equal(data.read_image("turned.png"), pixels)
    np.testing.assert_array_equal(data.read_image("turned.png", upright=True), upright)
    Image.fromarray(upright).save("upright.png")
    rgba = np.concatenate([upright, np.full((16, 16, 1), 9, np.uint8)], 2)
    Image.fromarray(rgba).save("alpha.png")
    _, out, _ = called("net", "turned.png", "upright.png", "alpha.png", "-o", "-")
    first, second, third = (row[1:] for row in read(out)[1])
    assert first == second == third
    _, out, err = called("net", "turned.png", "--as-stored", "-o", "-")
    assert "as stored" in err
    assert read(out)[1][0][1:] != first
    grey = picture("grey.png", 16, 16, mode="L")
    Image.fromarray(grey[..., 0]).convert("RGB").save("rgb.png")
    for model in ("grey", "net"):
        _, out, _ = called(model, "grey.png", "rgb.png", "-o", "-")
        first, second = (row[1:] for row in read(out)[1])
        assert first == second
    wanted = np.asarray(models[1]["grey"].model()(grey.transpose(2, 0, 1)[None] / np.float32(255)))
    _, out, _ = called("grey", "grey.png", "-o", "-")
    np.testing.assert_allclose(numbers(read(out)[1], 1), wanted, rtol=1e-5, atol=1e-6)


def test_bad_files_among_good_ones_are_named(called, tmp_path):
    for i in range(3):
        picture(f"{i}.png", 20, 20, i)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    files = ["0.png", "1.png", "2.png", "notes.txt", "nowhere.png", "empty"]
    for size in (1, 32):
        status, out, err = called("net", *files, "-o", "-", "--batch-size", size)
        assert status == 1
        assert [row[0] for row in read(out)[1]] == ["0.png", "2.png"]
        named = [line.split(": ")[1] for line in err.splitlines() if line.startswith("error: ")]
        assert sorted(named) == ["1.png", "empty", "notes.txt", "nowhere.png"]
    status, out, err = called("net", "1.png", "-o", "out.csv")
    assert status == 2
    assert "nothing was predicted" in err
    assert not (tmp_path / "out.csv").exists()
    np.save("a.npy", np.ones((2, 3), np.float32))
    np.save("b.npy", np.ones((2, 4), np.float32))
    (tmp_path / "c.npz").write_bytes(b"PK no zip")
    np.save("d.npy", np.array([{}]), allow_pickle=True)
    np.save("e.npy", np.ones((2, 3), np.uint8))
    np.save("f.npy", np.ones((0, 3), np.float32))
    np.save("g.npy", np.full((1, 3), 1e300))
    status, out, err = called("table", *[f"{n}.npy" for n in "abdefg"], "c.npz", "-o", "-")
    assert status == 1
    assert [row[0] for row in read(out)[1]] == ["a.npy", "a.npy"]
    for words in (
        "error: b.npy: it holds (2, 4) float32; but ",
        "error: c.npz: no sound file of numpy",
        "error: d.npy: no sound file of numpy",
        "error: e.npy: it holds uint8; but ",
        "error: f.npy: it holds no rows",
        "error: g.npy: 1e+300 does not fit float32",
    ):
        assert words in err


def test_outputs_that_are_not_finite_have_no_class(called):
    np.save("x.npy", np.array([[0, 1, 2], [np.nan, 0, 0]], np.float32))
    status, out, err = called("table", "x.npy", "--top", 1, "-o", "-")
    assert status == 1
    assert read(out)[1][1] == ["x.npy", "1", "", ""]
    assert "error: x.npy 1: the outputs are not finite" in err


def test_a_header_of_numbers_is_refused(called, tmp_path):
    (tmp_path / "x.csv").write_text("1,2,3\n4,5,6\n")
    status, _, err = called("table", "x.csv")
    assert status == 2
    assert "its first line is 1, 2, 3, which would be lost" in err


REFUSED = {
    "size": (["a.png", "--size", 32], "--size 32: images of 32 x 32 pixels; but "),
    "size_word": (["a.png", "--size", "big"], "'big'; accepted is a whole number from 1"),
    "resize": (["a.png", "--resize", 12], "--resize 12: less than the 16 pixels"),
    "resize_both": (["a.png", "--resize", "12,20"], "--resize 12,20: less than the 16 x 16"),
    "mean": (["a.png", "--mean", "0.5"], "--mean, --std: one without the other"),
    "channels": (["a.png", "--mean", "0.5,0.5", "--std", "1"], "2 numbers; the model takes 3"),
    "bytes": (["a.png", "--mean", "123.7", "--std", "1"], "divide numbers of 0 to 255 by 255"),
    "zero": (["a.png", "--mean", "0", "--std", "0"], "pixels are in [0, 1] here"),
    "columns": (["a.png", "--columns", "a"], "--columns: it is for tables"),
    "mixed": (["a.png", "x.npy"], "tables and images; give them to two commands"),
    "resize_table": (["x.npy", "--resize", 20], "--resize: it is for images"),
    "not_csv": (["x.npy", "--columns", "a"], "--columns: they are for a .csv, and x.npy is none"),
    "classes": (["a.png", "--classes", "two.txt"], "it names 2 classes, and the model"),
    "no_classes": (["a.png", "--classes", "none.txt"], "--classes none.txt: No such file"),
    "gap": (["a.png", "--classes", "gap.txt"], "--classes gap.txt, line 2: it is empty"),
    "top": (["a.png", "--top", 5], "--top 5: the model gives 4 classes"),
    "suffix": (["a.png", "-o", "out.txt"], "--output out.txt: what is written is a .csv"),
    "folder": (["a.png", "-o", "nowhere/out.csv"], "there is no folder nowhere"),
    "read": (["x.csv", "-o", "x.csv"], "--output x.csv: this file is read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_error(called, tmp_path, name):
    picture("a.png", 20, 20)
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "gap.txt").write_text("a\n\nb\nc\n")
    (tmp_path / "x.csv").write_text("a,b,c\n1,2,3\n")
    before = sorted(tmp_path.iterdir())
    words, what = REFUSED[name]
    status, out, err = called("net", *words)
    assert (status, out) == (2, "")
    assert what in err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


def test_models_that_take_something_else(called, models, tmp_path):
    picture("a.png", 20, 20)
    _, _, err = called("table", "a.png")
    assert "a.png: an image is (rows, 3, height, width), or 1 for grey, of floats; but" in err
    assert "table.jaxexport takes (rows, 3) float32, any number of rows" in err
    assert "--resize: the model takes 16 x 20 pixels" in called("wide", "a.png")[2]
    assert called("wide", "a.png", "--resize", "16,20")[0] == 0
    assert "--top, --softmax: the model" in called("whole", "a.npy", "--top", 1)[2]
    content = models[0]["net"].read_bytes()
    (tmp_path / "cut").write_bytes(content[:2000])
    (tmp_path / "text").write_text("this is no model at all")
    (tmp_path / "empty").write_text("")
    for name in ("cut", "text", "empty"):
        status, _, err = called(name, "a.png")
        assert status == 2
        assert f"error: {name}: no sound file of train.export" in err
    assert "error: nowhere: No such file" in called("nowhere", "a.png")[2]

    def program(f, *shapes, **more):
        arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
        exported = jax_export.export(jax.jit(f), platforms=["cpu"])(*arguments, **more)
        (tmp_path / "own").write_bytes(bytes(exported.serialize()))

    program(lambda x, y: x @ y, (4, 3), (3, 2))
    assert "a model with the rows along axis 0 of each" in called("own", "x.npy")[2]
    program(lambda x: x.sum(), (4, 3))
    assert "a model with the rows along axis 0 of each" in called("own", "x.npy")[2]
    program(lambda x, y: x + y, (4, 3), y=jax.ShapeDtypeStruct((4, 3), np.float32))
    assert "accepted is a model whose inputs are arrays" in called("own", "x.npy")[2]


def test_a_model_of_float64(called, tmp_path):
    with jax.enable_x64(True):
        shape = jax.ShapeDtypeStruct((2, 3), np.float64)
        exported = jax_export.export(jax.jit(lambda x: x * 3), platforms=["cpu"])(shape)
    (tmp_path / "float64").write_bytes(bytes(exported.serialize()))
    x = np.asarray(Generator(0).rand(5, 3), np.float64)
    np.save("x.npy", x)
    status, out, err = called("float64", "x.npy", "-o", "-")
    assert status == 0, err
    found = np.array([row[2:] for row in read(out)[1]], np.float64)
    np.testing.assert_array_equal(found, x * 3)
    assert not jax.config.read("jax_enable_x64")


def test_the_terminal_shows_the_first_rows(called):
    np.save("x.npy", np.ones((30, 3), np.float32))
    status, out, _ = called("table", "x.npy")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["file", "row", "output_0", "output_1", "output_2", "output_3"]
    assert len(lines) == 22
    assert lines[-1] == "10 more rows: -o predictions.csv writes all"


def test_a_name_with_a_comma_and_one_that_is_no_text(called, tmp_path):
    picture("a,b.png", 20, 20)
    odd = b"\xff.png".decode("utf-8", "surrogateescape")
    picture(odd, 20, 20)
    assert called("net", "a,b.png", odd, "-o", "out.csv")[0] == 0
    text = (tmp_path / "out.csv").read_bytes()
    assert text.splitlines()[1].startswith(b'"a,b.png",')
    assert text.splitlines()[2].startswith(b"\xff.png,")


def test_a_bar_after_two_seconds(called, monkeypatch):
    np.save("x.npy", np.ones((6, 3), np.float32))
    shown = []

    class Shown:
        def start(self, total, done):
            shown.append(("start", total, done))

        def advance(self, rows, what, metrics):
            shown.append(("advance", rows))

        def close(self):
            shown.append("close")

    monkeypatch.setattr("jaxnet.train._progress.Progress", Shown)
    clock = iter([0, 0.5, _PATIENCE + 1, _PATIENCE + 2])
    timer = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("jaxnet._predict.time", timer)
    assert called("table", "x.npy", "--batch-size", 2)[0] == 0
    assert shown == [
        ("start", 6, 2), ("advance", 2), ("start", 6, 4), ("advance", 2), "close",
    ]  # fmt: skip


def test_help_teaches(called):
    status, out, _ = called("--help")
    assert status == 0
    for words in ("--classes labels.txt --top 5", "pip install flatbuffers pillow", "--no-softmax"):
        assert words in out
