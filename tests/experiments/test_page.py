"""experiments/harness/page.py, runs.py, values.py"""

import html.parser
import json
import re
import shutil
import struct
import zlib

import numpy as np
import pytest

from experiments.harness.page import Entry, save_page
from experiments.harness.record import Run, environment
from experiments.harness.runs import newest_runs, read_run
from experiments.harness.settings import Settings, Training
from experiments.harness.values import flat_values, number
from jaxnet import plots

NASTY = "<script>alert(1)</script>\"'&\x1b[31m\ud800"


class Checker(html.parser.HTMLParser):
    """Collects elements and text, and holds that what opens closes in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def row(figure, verdict, ours="1.5"):
    return {"figure": figure, "documented": "1.5", "ours": ours, "difference": "+0.0e+00",
            "allowed": "5.0e-02", "verdict": verdict, "rule": "half of the last digit"}  # fmt: skip


def leave_run(out, name, metrics, config=None, picture=True):
    with Run(out, name, Settings(out=out)) as run:
        run.metrics |= metrics
        if picture:
            line = plots.Series("net", [1, 2, 3], [4.0, 2.0, 1.0])
            panel = plots.Panel("Loss <of> the net", "epoch", "loss", [line])
            plots.save_panels(run.folder / "curve.png", [panel])
    file = run.folder / "record.json"
    record = json.loads(file.read_text()) | {"config": config or {"seed": 0, "lr": 0.25}}
    file.write_text(json.dumps(record))
    return run.folder


def page(path, *entries):
    save_page(path, entries, "A title", "Once.\n\nTwice.", ["python", "-m", "x y"])
    return Checker(path.read_text())


def test_a_page_of_a_run_that_failed_and_one_that_was_skipped(tmp_path):
    rows = [row("a.loss.1", "ok"), row("a.loss.2", "OFF", "9.5 ± 0.1 (n=5)"), row("a.b", "not run")]
    folder = leave_run(tmp_path, "first", {"ledger": rows, "curve": list(range(100))})
    found = page(
        tmp_path / "page.html",
        Entry("first", "What it shows.\n\nMore.\n\n    the command\n", folder),
        Entry("second", skipped="wine is not here"),
        Entry("third", error="broken: why\n\nTraceback"),
    )
    words = " ".join(found.text.split())
    for part in ("1 of 2", "1 not judged", "1 of 3", "1 skipped, 1 failed", "wine is not here",
                 "broken: why", "What it shows.", "More.", "9.5 ± 0.1 (n=5)", "0.25", "seed",
                 "half of the last digit", "python -m 'x y'", "first 0, last 99",
                 "Each name begins with a."):  # fmt: skip
        assert part in words, part
    for package, version in environment().items():
        assert package in words
        assert str(version) in words
    (image,) = found.all("img")
    assert image["src"].startswith("data:image/png;base64,")
    assert image["alt"] == "Loss <of> the net: loss against epoch. net from 4 to 1."
    assert int(image["width"]) > int(image["height"]) > 100
    headings = [name for name, _ in found.elements if re.fullmatch("h[1-6]", name)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert all(attributes.get("scope") for attributes in found.all("th"))
    assert found.all("html")[0]["lang"] == "en"


def test_a_page_needs_nothing_but_itself(tmp_path):
    folder = leave_run(tmp_path, "first", {"ledger": [row("a", "ok")]})
    found = page(tmp_path / "page.html", Entry("first", "See http://a.b/c.", folder))
    assert not {"script", "link", "iframe", "object"} & {name for name, _ in found.elements}
    ids = {attributes["id"] for _, attributes in found.elements if "id" in attributes}
    for name, attributes in found.elements:
        assert not [key for key in attributes if key.startswith("on")], name
        for key in ("src", "href"):
            target = attributes.get(key, "#all")
            assert target.startswith("data:image/png") or target.removeprefix("#") in ids
    assert "url(" not in (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.glob("*.html*")] == ["page.html"]
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_text_never_becomes_markup(tmp_path):
    metrics = {
        NASTY: {NASTY: NASTY},
        "ledger": [row(NASTY, "ok"), {NASTY: NASTY, "verdict": NASTY}],
    }
    folder = leave_run(tmp_path, "first", metrics, {NASTY: NASTY})
    found = page(
        tmp_path / "page.html",
        Entry(NASTY, f"{NASTY}\n\n{NASTY}", folder),
        Entry(f"{NASTY}2", skipped=NASTY),
        Entry(f"{NASTY}3", error=NASTY),
    )
    assert found.all("script") == []
    assert found.text.count("<script>alert(1)</script>") >= 12
    assert "\x1b" not in found.text


def png_of(side):
    """The start of a picture with more pixels than anybody looks at."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "record.json").unlink(), "record.json: not there"),
        (lambda f: (f / "record.json").write_text('{"name": 1,\n oops'),
         "record.json: damaged, line 2, column 2"),
        (lambda f: (f / "record.json").write_bytes(b'{"a": "\xff"}'), "record.json: damaged: 'utf"),
        (lambda f: (f / "record.json").write_text("[1]"), "[1] instead of an object"),
        (lambda f: (f / "record.json").write_text("[" * 100_000), "record.json: damaged"),
        (lambda f: (f / "record.json").write_text('{"metrics": 3, "config": []}'),
         "'metrics' is 3; left out"),
        (lambda f: (f / "record.json").write_text('{"metrics": {"ledger": [{"figure": 1}]}}'),
         "no rows with a verdict"),
        (lambda f: (f / "curve.png").write_bytes((f / "curve.png").read_bytes()[:2000]),
         "curve.png: damaged"),
        (lambda f: (f / "curve.png").write_text("<svg onload=alert(1)>"), "curve.png: damaged"),
        (lambda f: (f / "record.json").write_text('{"seconds": Infinity}'), "'seconds' is Inf"),
        (lambda f: (f / "record.json").write_text('{"seconds": NaN}'), "'seconds' is NaN"),
        (lambda f: (f / "record.json").write_text('{"seconds": 1' + "0" * 400 + "}"),
         "'seconds' is 1000"),
        (lambda f: (f / "record.json").write_text('{"config": ' + "[" * 900 + "]" * 900 + "}"),
         "record.json: damaged: nested more than 50 deep"),
        (lambda f: (f / "curve.png").write_bytes(png_of(40_000)), "curve.png: damaged: Image size"),
        (shutil.rmtree, "record.json: not there"),
    ],
)  # fmt: skip
def test_what_is_damaged_is_named_and_the_rest_is_shown(tmp_path, damage, says):
    whole = leave_run(tmp_path, "whole", {"ledger": [row("a", "ok")]}, picture=False)
    folder = leave_run(tmp_path, "hurt", {"ledger": [row("a", "ok")]})
    damage(folder)
    found = page(tmp_path / "page.html", Entry("hurt", folder=folder), Entry("b", folder=whole))
    assert says in found.text
    assert "damaged" in found.text
    assert "✓ holds" in found.text


def test_the_newest_run_of_each_name(tmp_path):
    for name in ("a/2026-01-02", "a/2026-01-01", "b/2026-01-01", "a/.2027.partial", "c/2026"):
        (tmp_path / name).mkdir(parents=True)
        if name != "c/2026":
            (tmp_path / name / "record.json").write_text("{}")
    found = newest_runs(tmp_path)
    assert found == {"a": tmp_path / "a/2026-01-02", "b": tmp_path / "b/2026-01-01"}
    shutil.copytree(tmp_path / "a/2026-01-01", tmp_path / "a/old")
    assert newest_runs(tmp_path) == found
    with pytest.raises(FileNotFoundError, match="no such folder"):
        newest_runs(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match=r"no runs in it.*record\.json"):
        newest_runs(tmp_path / "a")


def test_pages_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"entries: \[\]; accepted is at least one"):
        save_page(tmp_path / "page.html", [])
    with pytest.raises(ValueError, match="each name once"):
        save_page(tmp_path / "page.html", [Entry("a"), Entry("a")])
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=re.escape("page.html")):
        save_page(tmp_path / "page.html", [Entry("a")])
    assert list(tmp_path.glob(".*")) == []


def test_pictures_say_what_they_show(tmp_path):
    plots.save_bars(tmp_path / "a.png", ["net", "wide"], {"train": [[0.5, 1.0], [0.25]],
                     "val": [[0.5], [0.5]]}, "Accuracy", "fraction")  # fmt: skip
    plots.save_images(tmp_path / "b.png", np.zeros((2, 4, 4, 3), np.uint8), ["dog", "größer"])
    words = [picture.description for picture in read_run(tmp_path).pictures]
    assert words[0].endswith("fraction. net train 0.750, val 0.500; wide train 0.250, val 0.500.")
    assert words[1] == "2 images: dog, größer."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (None, "none"), (0.1 + 0.2, "0.3"), (12, "12"), ("nan", "nan"),
        ([1.0, 2.5], "[1, 2.5]"), (list(range(11)), "[0, 1, 2, 3, 4, 5, 6, 7, … 3 more]"),
        (10**400, "1" + "0" * 296 + "..."), ({"a": [1]}, "a: [1]"), ("x" * 400, "x" * 297 + "..."),
    ],
)  # fmt: skip
def test_values_in_words(value, text):
    assert number(value) == text


def test_series_are_told_by_their_ends_and_range():
    huge = flat_values({"n": [*range(9), 10**400]})
    assert huge[0][1].startswith("[0, 1, 2")
    metrics = {"loss": {str(i): 2.0**-i for i in range(20)}, "bad": [1.0] * 9 + ["nan"], "e": []}
    assert flat_values(metrics) == [
        ("loss", "20 values: first 1, last 1.907349e-06, between 1.907349e-06 and 1"),
        ("bad", "10 values: first 1, last nan, between 1 and 1, 1 not finite"),
        ("e", "none"),
    ]
    many = flat_values({str(i): {"a": 1} for i in range(100)})
    assert many[-1] == ("…", "20 more are in record.json")


def test_what_judged_little_does_not_hold_but_is_partly_judged(tmp_path):
    rows = [row("a", "ok"), row("b", "not run"), row("c", "not run")]
    part = leave_run(tmp_path, "part", {"ledger": rows})
    whole = leave_run(tmp_path, "whole", {"ledger": rows[:1]})
    found = page(tmp_path / "p.html", Entry("part", folder=part), Entry("whole", folder=whole))
    assert found.text.count("◐ partly judged 1/3") == 2  # in the summary and at its head
    assert found.text.count("✓ holds") == 2 + 2  # and at its rows


def test_results_captions_and_changed_settings_are_in_words(tmp_path):
    config = Training(epochs=2, out=tmp_path)
    with Run(tmp_path, "first", config) as run:
        run.result = "accuracy 0.83"
        line = plots.Series("net", [1, 2], [2.0, 1.0])
        plots.save_panels(run.folder / "curves.png", [plots.Panel("Loss", "x", "y", [line])])
    about = "A claim.\n\nSee `torch.manual_seed(1)`.\n\nResult: 0.9 after 100 epochs."
    text = tmp_path / "page.html"
    found = page(text, Entry("first", about, run.folder))
    words = " ".join(found.text.split())
    assert words.count("accuracy 0.83") == 2
    assert "this run had epochs 2" in words
    assert "Loss curves.png" in words
    assert "<code>torch.manual_seed(1)</code>" in text.read_text()
    assert "`" not in found.text.split("Loss")[0].split("</style>")[-1].split("A claim.", 1)[1]


def test_figures_that_are_equal_are_counted_apart(tmp_path):
    rows = [row("a", "ok"), {**row("b", "ok"), "rule": "equal"}]
    folder = leave_run(tmp_path, "first", {"ledger": rows})
    assert (
        "1 of them shapes, counts and texts"
        in page(tmp_path / "page.html", Entry("first", folder=folder)).text
    )
