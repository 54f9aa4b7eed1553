"""The command line `jaxnet` and the fixture `parity`: what they print, and their exit status."""

import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from jaxnet.__main__ import main
from jaxnet.parity._result import Finding, Report
from jaxnet.parity._sources import sources

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]

COMMANDS = ("check", "diff", "explain", "certificate")


def called(capsys, *words):
    """(exit status, standard output, standard error) of a command."""
    try:
        status = main([str(word) for word in words])
    except SystemExit as stop:  # argparse's way
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def test_help_names_every_command(capsys):
    status, out, _ = called(capsys, "--help")
    assert status == 0
    for command in COMMANDS:
        assert re.search(rf"^ +{command}\s", out, re.MULTILINE), command
    assert called(capsys)[1] == out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_shows_it_in_use(capsys, command):
    status, out, _ = called(capsys, command, "--help")
    assert status == 0
    examples = re.findall(r"^    (jaxnet .*?)(?: +#.*)?$", out, re.MULTILINE)
    assert examples
    for example in examples:
        assert example.split()[1] == command


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


# What is called wrongly: the words, the files that are there, and what the message says.
WRONG = {
    "no such command": ("chek t port:make", {}, "invalid choice: 'chek'"),
    "steps that are none": ("check t port:make --steps 0", {}, "accepted is a whole number from 1"),
    "a program for another command": ("check t p:m -- python main.py", {}, "only `jaxnet record`"),
    "no trace": ("check t port.py:make", {}, "t: there is no trace.json; a trace is the folder"),
    "trace and port exchanged": (
        "check port.py:make t",
        {},
        "the trace comes first: jaxnet check t port.py:make",
    ),
    "a damaged trace": ("check t port.py:make", {"t/trace.json": "{"}, "record the program again"),
    "a trace of a later version": (
        "check t port.py:make",
        {"t/trace.json": '{"format": 99}'},
        "its format is 99, and this version of jaxnet reads 1",
    ),
    "a trace without a step": (
        "check t port.py:make",
        {
            "t/trace.json": '{"format": 1, "steps": 0, "modules": {}, "models": [], '
            '"schedulers": [], "parameters": {}, "buffers": {}, "optimizers": []}'
        },
        "the program ended before its first update",
    ),
    "no certificate": ("certificate t", {}, "there is no certificate.json; `jaxnet check"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "files", "message"), list(WRONG.values()), ids=list(WRONG))
def test_wrong_calls_are_explained(capsys, tmp_path, monkeypatch, words, files, message):
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        write(tmp_path, name, text)
    status, _, err = called(capsys, *words.split())
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err


PORTS = {
    "no function": ("port.py", "", "accepted is FILE.py:FUNCTION or MODULE:FUNCTION"),
    "no file": ("other.py:make", "", "other.py: there is no such file"),
    "no module": ("other:make", "", "a file is given as other.py:make"),
    "another name": ("port.py:mak", "def make(): pass", "its functions are make"),
    "arguments": ("port.py:make", "def make(lr): pass", "missing a required argument: 'lr'"),
    "nothing": ("port.py:make", "def make(): pass", "it returned NoneType; accepted is (model,"),
}


@pytest.mark.parametrize(("port", "text", "message"), list(PORTS.values()), ids=list(PORTS))
def test_ports_that_are_none_are_explained(tmp_path, monkeypatch, port, text, message):
    from jaxnet.parity._port import SubjectError, load_port

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    write(tmp_path, "port.py", text)
    with pytest.raises(SubjectError, match=re.escape(message)):
        load_port(port)


@pytest.mark.parametrize("name", ["port.py:make", "port:make", "sub/port.py:make"])
def test_ports_are_found_with_their_neighbours(tmp_path, monkeypatch, name):
    from jaxnet.parity._port import load_port

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    for folder in (tmp_path, tmp_path / "sub"):
        write(folder, "a_neighbour.py", "model = 1")
        write(folder, "port.py", "import a_neighbour as n\ndef make(): return n.model, 2, 3")
    assert load_port(name) == (1, 2, 3, None, None)


def test_a_module_of_the_name_of_the_file_stays(tmp_path):
    from jaxnet.parity._port import load

    write(tmp_path, "json.py", "def make(): return 7")
    before = sys.modules["json"]
    try:
        assert load(f"{tmp_path / 'json.py'}:make") == 7
        assert sys.modules["json"] is before
    finally:
        sys.path.remove(str(tmp_path))


def test_the_start_of_both_imports_little():
    code = """
import sys, contextlib, io
import jaxnet._pytest, jaxnet.__main__
with contextlib.redirect_stdout(io.StringIO()):
    assert jaxnet.__main__.main([]) == 0
print([m for m in ("jax", "flax", "torch", "jinja2", "rich") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    # pytest imports rich where it is installed.
    assert done.stdout.strip() in ("[]", "['rich']"), done.stdout + done.stderr


def test_the_package_names_both():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"jaxnet": "jaxnet.__main__:main"}
    assert project["entry-points"]["pytest11"] == {"jaxnet": "jaxnet._pytest"}


# -- certificates


@pytest.fixture
def saved(tmp_path):
    """A certificate of a port in a file of its own."""
    write(tmp_path, "port.py", "def make():\n    return 1\n")
    module = types.ModuleType("port")
    module.__file__ = str(tmp_path / "port.py")
    subject = {"jax": sources([module]), "commands": ["jaxnet check trace port.py:make"]}

    def save(verdict, findings=()):
        return Report(verdict, findings=list(findings), subject=subject).save(tmp_path / "out")

    return save


@pytest.mark.parametrize(
    ("verdict", "expected"), [("same", 0), ("different", 1), ("not comparable", 2)]
)
def test_a_certificate_is_read(capsys, saved, verdict, expected):
    folder = saved(verdict)
    status, out, _ = called(capsys, "certificate", folder)
    assert status == expected
    assert out.startswith(f"parity: {verdict.upper()}")
    assert "not compared: nothing" in out
    status, out, _ = called(capsys, "certificate", folder, "--line")
    assert status == expected
    assert out == f"parity: {verdict.upper()}\n"


def test_a_certificate_of_changed_sources_is_stale(capsys, saved, tmp_path):
    folder = saved("same")
    status, out, _ = called(capsys, "certificate", folder, "--verify")
    assert (status, "verified" in out) == (0, True)
    write(tmp_path, "port.py", "def make():\n    return 2\n")
    status, out, _ = called(capsys, "certificate", folder, "--verify")
    assert status == 2
    assert f"jax: {tmp_path / 'port.py'}: make is another" in out
    assert f"make it again: jaxnet check trace port.py:make --save {folder}" in out
    assert called(capsys, "certificate", folder)[0] == 0  # what it says is as it was


# -- the fixture


def outcomes(pytester, body):
    """What pytest says of a user's test with this body."""
    pytester.makepyfile(f"def test_port(parity):\n    {body}\n")
    return pytester.runpytest_inprocess("-p", "jaxnet._pytest", "-p", "no:cacheprovider")


def test_the_fixture_verifies_certificates(pytester, saved, tmp_path):
    call = f"parity.verify({str(tmp_path / 'out')!r})"
    saved("same")
    outcomes(pytester, call).assert_outcomes(passed=1)
    finding = Finding("forward:fc#0", 0, "layer", "different", "the output differs")
    saved("different", [finding])
    result = outcomes(pytester, call)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["parity: DIFFERENT  1 difference*", "*the output differs"])
    saved("same")
    write(tmp_path, "port.py", "def make():\n    return 2\n")
    result = outcomes(pytester, call)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the certificate is stale:", "jax: */port.py: make is another"])
    result.stdout.no_fnmatch_line("*Traceback*")
