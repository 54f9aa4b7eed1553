"""A report as files: the JSON, the page, what makes them stale, and the program that repeats it."""

import contextlib
import html.parser
import importlib
import json
import re
import runpy
import sys
import types
from xml.etree import ElementTree

import jax
import numpy as np
import pytest

from jaxnet.parity import _certificate, _provenance, _sources, _trace
from jaxnet.parity._judgement import Judgement, rms
from jaxnet.parity._result import Alternative, Coverage, Finding, Horizon, Report, SiteResult

SOURCE = """
from flax import nnx
from jaxnet import nn, losses
from a_neighbour import scale


class Unused:
    pass


class Net(nn.Module):
    def __init__(self, *, rngs):
        self.norm = nn.LayerNorm(4, eps=1e-6, rngs=rngs)

    def __call__(self, x):
        return self.norm(x)


def loss(model, batch):
    from a_package.late import weight

    return weight() * losses.mse_loss(model(batch), batch)
"""


def normed(x, eps):
    x = x.astype(np.float64)
    variance = np.var(x, axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + eps) * 2 + 1


@pytest.fixture
def port(tmp_path, monkeypatch):
    """The user's program as a module of its own."""
    (tmp_path / "the_port.py").write_text(SOURCE)
    (tmp_path / "a_neighbour.py").write_text("def scale(x):\n    return 2 * x\n")
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "__init__.py").write_text("")
    late = "def weight():\n    from . import later\n\n    return later.one()\n"
    (tmp_path / "a_package" / "late.py").write_text(late)
    (tmp_path / "a_package" / "later.py").write_text("def one():\n    return 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    the_port = importlib.import_module("the_port")
    the_port.loss(np.ones_like, np.ones((1, 4), np.float32))  # which imports the rest
    yield the_port
    for name in set(sys.modules) - before:
        if name.startswith(("the_port", "a_")):
            del sys.modules[name]


@pytest.fixture
def trace(tmp_path):
    """One step of torch's LayerNorm(4) with the model's own line in main.py."""
    (tmp_path / "main.py").write_text("class Model:\n    norm = 1\n\n\nModel()\n")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    writer = _trace.TraceWriter(tmp_path / "trace")
    call = _trace.Call(
        "norm", 0, None, True, {"dict": {"0": {"array": "input:norm#0.0"}}},
        {"array": "forward:norm#0"}, "main.py:2",
    )  # fmt: skip
    double = normed(x, 1e-5)
    arrays = {
        "batch:0": x,
        "before:norm.weight": np.full(4, 2, np.float32),
        "before:norm.bias": np.ones(4, np.float32),
        "input:norm#0.0": x,
        "forward:norm#0": double.astype(np.float32),
    }
    content = {
        "full": True, "calls": [call], "functions": [], "draws": [], "losses": [], "groups": [],
        "batches": [{"array": "batch:0"}], "events": ["forward"],
    }  # fmt: skip
    writer.write_step(content, arrays, {"forward:norm#0": double})
    norm = _trace.Module(
        "LayerNorm", "torch.nn.modules.normalization.LayerNorm",
        {"normalized_shape": [4], "eps": 1e-5, "elementwise_affine": True}, "", "", "", True,
    )  # fmt: skip
    main = types.ModuleType("main")
    main.__file__ = str(tmp_path / "main.py")
    parameters = {f"norm.{name}": {"shape": [4], "dtype": "float32"} for name in ("weight", "bias")}
    about = {"models": [""], "modules": {"norm": norm}, "parameters": parameters, "buffers": {},
             "optimizers": [], "schedulers": [], "torch": "2.13.0", "threads": 3, "seed": 517,
             "program": ["python", "main.py", "--epochs", "1"],
             "notes": ["main.py:5: item() reads a float32 number"],
             "self_check": {"verdict": "different", "words": "it is not deterministic"},
             "sources": _sources.sources([main])}  # fmt: skip
    writer.write_about(about)
    return _trace.read(tmp_path / "trace")


@pytest.fixture
def report(trace, port):
    """What a check of a port with another epsilon says."""
    from jaxnet.random import Generator

    torch, ours = trace.steps[0].double("forward:norm#0"), normed(trace.steps[0].batch(), 1e-6)
    different = Judgement("different", 6e-8, 6e-8, rms(torch - ours), 1e-6, rms(torch))
    results = [
        SiteResult(0, "forward:norm#0", "layer", different, "norm"),
        SiteResult(0, "grad:norm#0", "layer", Judgement("same", 0.0, 0.0, 0.0, 0.0, 1.0)),
        SiteResult(0, "loss:0", "layer", Judgement("different", *[float("nan")] * 5)),
        SiteResult(0, "forward:norm#0", "chain", different, "norm"),
    ]
    finding = Finding(
        "forward:norm#0", 0, "layer", "different", "the output of <norm> is another",
        cause="epsilon is 1e-6", results=results[:1], tried=3, jax64=ours,
    )  # fmt: skip
    return Report(
        "different",
        findings=[finding],
        results=results,
        notes=["a note", *_provenance.notes(trace)],
        exclusions=["dropout: its draws"],
        coverage={"modules": Coverage(("norm",), {"head": "not called"})},
        power=[
            Alternative("norm", "eps is 1e-3", True, 1e9),
            Alternative("norm", "flipped", False),
        ],
        horizon=Horizon((1e-8, 2e-8), (1e-8, 2e-8), (1e-8, float("inf")), (1e-3, 2e-3), 1, None),
        environment=_provenance.environment(trace),
        subject=_provenance.subject(trace, [port.Net(rngs=Generator(0)), jax.jit(port.loss)]),
    )


def test_the_json_is_strict_and_has_all(report, tmp_path):
    report.save(tmp_path / "out")

    def refuse(word):
        raise ValueError(word)

    text = (tmp_path / "out" / "certificate.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert content["verdict"] == "different"
    assert content["exit_status"] == 1
    assert content["text"] == str(report)
    assert content["line"].startswith("parity: DIFFERENT  1 difference, 1 of 3 arrays same")
    assert len(content["results"]) == len(report.results)
    assert content["results"][2]["judgement"]["double"] == "nan"
    assert (
        content["notes"]
        == report.notes
        == [
            "a note",
            "the recording: main.py:5: item() reads a float32 number",
            "the recording: it is not deterministic",
        ]
    )
    assert content["horizon"]["plain"] == [1e-8, "inf"]
    assert content["coverage"]["modules"]["missing"] == {"head": "not called"}
    claims = {each["claim"]: (each["same"], each["arrays"]) for each in content["claims"]}
    assert claims == {
        "forward": (0, 1), "gradient": (1, 1), "loss": (0, 1),
        "all layers, one after the other": (0, 1),
    }  # fmt: skip


class Page(html.parser.HTMLParser):
    """What a page refers to, its text, and that every tag is closed in its order."""

    VOID = ("meta", "line", "circle", "path")

    def __init__(self, text):
        super().__init__()
        self.open, self.outside, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_and_says_all(report, tmp_path):
    report.save(tmp_path / "out")
    text = (tmp_path / "out" / "certificate.html").read_text()
    page = Page(text)
    assert page.outside == []
    assert "url(" not in text
    for words in (
        "The two programs are different", "the output of <norm> is another", "epsilon is 1e-6",
        "a note", "dropout: its draws", "head", "flipped", "2.13.0", "python repro.py",
        "the_port.py", "python main.py --epochs 1", "517",
        # What the recording noted.
        "item() reads a float32 number", "it is not deterministic",
    ):  # fmt: skip
        assert words in page.text, words
    plots = re.findall(r"<svg.*?</svg>", text)
    assert len(plots) == 2
    for plot in plots:
        numbers = [float(n) for e in ElementTree.fromstring(plot).iter()
                   for n in re.findall(r"-?\d+\.\d+", e.get("d") or "")]  # fmt: skip
        assert numbers
        assert all(0 <= n <= 760 for n in numbers)


def test_a_report_without_numbers_has_a_page_too(tmp_path):
    Report("not comparable", notes=["no float64"]).save(tmp_path / "out")
    assert "could not be compared" in Page((tmp_path / "out" / "certificate.html").read_text()).text


def test_subject(report, tmp_path):
    # The user's own files: of the model's class, of a loss inside jax.jit, what they import, and
    # what their functions import.
    names = {"", "Unused", "Net", "loss"}
    found = {file: set(names) for file, names in report.subject["jax"].items()}
    assert found == {
        str(tmp_path / "the_port.py"): names,
        str(tmp_path / "a_neighbour.py"): {"", "scale"},
        str(tmp_path / "a_package/__init__.py"): {""},
        str(tmp_path / "a_package/late.py"): {"", "weight"},
        str(tmp_path / "a_package/later.py"): {"", "one"},
    }
    assert set(report.subject["torch"]) == {str(tmp_path / "main.py")}
    assert report.subject["batch"] == 3


def append(path, text):
    path.write_text(path.read_text() + text)


def replace(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


CHANGES = {
    "nothing": (lambda folder: None, None),
    "empty lines and comments between classes": (
        lambda folder: replace(folder / "the_port.py", "\n\nclass Unused", "\n\n\n#\nclass Unused"),
        None,
    ),
    "the port's class": (
        lambda folder: replace(folder / "the_port.py", "eps=1e-6", "eps=1e-5"),
        "jax: FOLDER/the_port.py: Net is another",
    ),
    "the port's loss": (
        lambda folder: replace(folder / "the_port.py", "mse_loss(", "l1_loss("),
        "jax: FOLDER/the_port.py: loss is another",
    ),
    "a new function": (
        lambda folder: append(folder / "the_port.py", "def f(): pass"),
        "jax: FOLDER/the_port.py: f is new",
    ),
    "a name of the port's": (
        lambda folder: replace(folder / "the_port.py", "Unused", "Used"),
        "jax: FOLDER/the_port.py: Unused is gone",
    ),
    "the port's imports": (
        lambda folder: replace(folder / "the_port.py", "import nn, losses", "import losses, nn"),
        "jax: FOLDER/the_port.py: what stands outside of classes and functions is another",
    ),
    "what the port imports": (
        lambda folder: replace(folder / "a_neighbour.py", "2", "3"),
        "jax: FOLDER/a_neighbour.py: scale is another",
    ),
    "what a function of the port imports": (
        lambda folder: replace(folder / "a_package" / "late.py", "one()", "one() / 2"),
        "jax: FOLDER/a_package/late.py: weight is another",
    ),
    "what a function imports from its own package": (
        lambda folder: replace(folder / "a_package" / "later.py", "1", "2"),
        "jax: FOLDER/a_package/later.py: one is another",
    ),
    "the port's file": (
        lambda folder: (folder / "the_port.py").unlink(),
        "jax: FOLDER/the_port.py is not there or is no Python",
    ),
    "torch's class": (
        lambda folder: replace(folder / "main.py", "norm = 1", "norm = 2"),
        "torch: FOLDER/main.py: Model is another",
    ),
    "torch's program": (
        lambda folder: replace(folder / "main.py", "Model()", "Model(); Model()"),
        "torch: FOLDER/main.py: what stands outside of classes and functions is another",
    ),
    "the trace": (
        lambda folder: append(folder / "trace" / "trace.json", " "),
        "trace: FOLDER/trace is another",
    ),
}


@pytest.mark.parametrize(("change", "words"), list(CHANGES.values()), ids=list(CHANGES))
def test_changes_make_a_certificate_stale(report, tmp_path, change, words):
    report.save(tmp_path / "out")
    change(tmp_path)
    found = _certificate.stale(_certificate.read(tmp_path / "out"))
    if words is None:
        assert found == []
    else:
        assert found[0] == words.replace("FOLDER", str(tmp_path))


def test_a_certificate_is_true_in_another_checkout(report, tmp_path):
    report.save(tmp_path / "out")
    for file in ("certificate.json", "certificate.html"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text()
    there = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    content = _certificate.read(there / "out")
    assert (_certificate.stale(content), _certificate.unchecked(content)) == ([], [])
    replace(there / "the_port.py", "eps=1e-6", "eps=1e-5")
    (there / "main.py").unlink()  # torch's program may be elsewhere
    content = _certificate.read(there / "out")
    assert _certificate.stale(content) == [f"jax: {there / 'the_port.py'}: Net is another"]
    assert _certificate.unchecked(content) == [f"torch: {there / 'main.py'} is not there"]


def test_sources_that_never_were_there_are_said_to_be_unchecked(report, trace, tmp_path):
    (tmp_path / "main.py").unlink()
    report.subject = _provenance.subject(trace)
    del report.subject["trace"]
    report.save(tmp_path / "out")
    assert _certificate.unchecked(_certificate.read(tmp_path / "out")) == [
        "torch: the certificate has no sources, which were not there when it was made",
        "jax: the certificate has no sources",
        "trace: the certificate has none",
    ]


@pytest.mark.parametrize("name", ["jaxnet", "jax", "jaxlib", "flax", "numpy"])
def test_other_versions_make_a_certificate_stale(report, tmp_path, name):
    now = _provenance.versions()[name]
    report.environment["jax"][name] = "0.0.1"
    report.save(tmp_path / "out")
    found = _certificate.stale(_certificate.read(tmp_path / "out"))
    assert found == [f"{name}: {now} is installed, and it was 0.0.1"]


def test_half_a_character_leaves_no_half_certificate(report, tmp_path):
    report.notes.append("weights of caf\udce9")
    report.findings[0].cause = report.findings[0].message = "another caf\udce9"
    report.save(tmp_path / "out")
    assert "note: weights of caf?" in _certificate.read(tmp_path / "out")["text"]
    for file in ("certificate.html", "repro.py"):
        assert "another caf?" in (tmp_path / "out" / file).read_text()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "there is no certificate.json; `jaxnet check"),
        ("{", "Expecting property name"),
        ("{}", "no certificate of format 1"),
        ("[]", "no certificate of format 1"),
    ],
)
def test_what_is_no_certificate(tmp_path, text, match):
    if text is not None:
        (tmp_path / "certificate.json").write_text(text)
    with pytest.raises(_certificate.CertificateError, match=match):
        _certificate.read(tmp_path)


@contextlib.contextmanager
def settings_put_back():
    before = jax.config.jax_enable_x64
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def test_the_program_repeats_the_difference_without_the_users_code(report, tmp_path, capsys):
    report.save(tmp_path / "out")
    (tmp_path / "the_port.py").unlink()
    program = tmp_path / "out" / "repro.py"
    assert len(program.read_text().splitlines()) <= 25
    with settings_put_back():
        runpy.run_path(str(program))
    said = dict(re.findall(r"(\w+) program to torch's LayerNorm: (\S+)", capsys.readouterr().out))
    # A trace has twice the digits of float32: 2^-48 of numbers up to 4.
    assert float(said["torch"]) < 4 * 2**-48
    expected = report.results[0].judgement.double
    assert float(said["checked"]) == pytest.approx(expected, rel=0.05)


def test_an_earlier_program_goes(report, tmp_path):
    report.save(tmp_path / "out")
    assert (tmp_path / "out" / "repro.py").exists()
    Report("same").save(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "certificate.html", "certificate.json"
    }  # fmt: skip
