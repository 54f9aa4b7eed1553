"""The command line `jaxnet` and the fixture `parity`: what they print, and their exit status."""

import contextlib
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import jax
import pytest

from jaxnet.__main__ import main
from jaxnet._pytest import Parity
from jaxnet.parity._result import Finding, Report
from jaxnet.parity._sources import sources

ROOT = Path(__file__).parents[2]
pytest_plugins = ["pytester"]

COMMANDS = ("record", "check", "compare", "diff", "explain", "certificate")


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


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


# What is called wrongly: the words, the files that are there, and what the message says.
WRONG = {
    "no such command": ("chek t port:make", {}, "invalid choice: 'chek'"),
    "steps that are none": ("check t port:make --steps 0", {}, "accepted is a whole number from 1"),
    "a program for another command": ("check t p:m -- python main.py", {}, "only `jaxnet record`"),
    "no trace": ("check t port.py:make", {}, "t: there is no trace.json; parity.recording"),
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
    "a trace that was cut off": (
        "check t port.py:make",
        {
            "t/trace.json": '{"format": 1, "steps": 1, "modules": {}, "models": []}',
            "t/step-0000.json": "{}",
        },
        "t: the arrays of step 0 are missing (step-0000.safetensors): the trace was cut off",
    ),
    "a folder that cannot be written": (
        "check t port.py:make --save file/report",
        {"file": ""},
        "--save file/report: Not a directory; give a folder that can be written",
    ),
    "no program": ("record t", {}, "no program: jaxnet record TRACE -- python main.py"),
    "a port as the reference": (
        "compare port.py:make port.py:make",
        {"port.py": "def make(): return 1, 2, 3"},
        "accepted is a function that returns (model, loss, optimizer, batches)",
    ),
    "no certificate": ("certificate t", {}, "there is no certificate.json; `jaxnet check"),
}  # fmt: skip
RECORD = "record t -- python main.py"
WRONG_OF_TORCH = {
    "no script": (RECORD, {}, "main.py: there is no such script in"),
    "a full folder": (RECORD, {"main.py": "", "t/x": ""}, "t: it is not empty; give a new folder"),
    "no training": (RECORD, {"main.py": ""}, "no model was called with gradients switched on"),
    "a program that ends": (
        RECORD,
        {"main.py": "import sys; sys.exit(3)"},
        "(the program ended itself with status 3)",
    ),
    "no script but text": ("record t -- python -c 1", {}, "accepted are a script and -m MODULE"),
    "no module": ("record t -- python -m", {}, "the name of the module is missing"),
}


@pytest.mark.parametrize(("words", "files", "message"), list(WRONG.values()), ids=list(WRONG))
def test_wrong_calls_are_explained(capsys, project, words, files, message):
    for name, text in files.items():
        write(project, name, text)
    status, _, err = called(capsys, *words.split())
    assert status == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert "sys.exit" not in err


@pytest.mark.torch
@pytest.mark.parametrize(
    ("words", "files", "message"), list(WRONG_OF_TORCH.values()), ids=list(WRONG_OF_TORCH)
)
def test_wrong_recordings_are_explained(capsys, project, words, files, message):
    test_wrong_calls_are_explained(capsys, project, words, files, message)


def test_torch_is_asked_for_where_a_program_of_its_is_to_run(capsys, project, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    message = "install it (pip install torch), or record where it is and copy the trace"
    test_wrong_calls_are_explained(capsys, project, RECORD, {"main.py": ""}, message)


ONCE = """
import sys
from pathlib import Path

if Path("done").exists():  # without a recording it trains nothing
    sys.exit()
Path("done").touch()
import torch

net = torch.nn.Linear(2, 1)
net(torch.ones(3, 2)).sum().backward()
torch.optim.SGD(net.parameters(), 0.1).step()
"""


@pytest.mark.torch
def test_a_recording_with_other_bits_than_the_program_alone_failed(capsys, project):
    write(project, "main.py", ONCE)
    status, out, _ = called(capsys, "record", "t", "--steps", "1", "--", "main.py")
    assert status == 1
    assert "the same bits without recording: different; " in out


def test_an_error_of_the_program_is_shown_with_its_place_and_is_no_difference(capsys, project):
    write(project, "port.py", "def make():\n    return 1 / 0")
    words = ("compare", "port.py:make", "port.py:make")
    status, _, err = called(capsys, *words)
    assert status == 2
    assert re.search(r'port.py", line 2, in make\n.*\nZeroDivisionError', err, re.DOTALL)
    assert err.splitlines()[0].endswith("line 2, in make")
    assert 'run it alone first: python -c "from port import make; make()"' in err


def test_a_port_that_ends_the_process_is_not_the_same(capsys, project):
    write(project, "port.py", "import sys\nsys.exit(0)")
    status, _, err = called(capsys, "compare", "port.py:make", "port.py:make")
    assert status == 2
    assert "ended by sys.exit(0) before anything was compared" in err


COMPLEX = """
import jax.numpy as jnp
from jaxnet import nn, optim


class Wave(nn.Module):
    def __init__(self):
        self.weight = nn.Parameter(jnp.ones((1, 2), complex))

    def __call__(self, x):
        return (x * self.weight[...]).real


def make():
    return Wave(), lambda model, batch: model(batch[0]).sum(), optim.SGD(lr=0.1)
"""


@pytest.mark.torch
def test_what_jaxnet_refuses_is_said_without_its_own_lines(capsys, project):
    write(project, "main.py", STOPPED.format(stop=-1))
    write(project, "port.py", COMPLEX)
    assert called(capsys, "record", "t", "--steps", "1", "--", "main.py")[0] < 2
    status, _, err = called(capsys, "check", "t", "port.py:make")
    assert status == 2
    (line,) = err.splitlines()
    assert line.startswith("error: SGD: parameter 'weight' is of dtype complex")


ENDED = """
import os
import sys
import torch
torch.manual_seed(0)
os.makedirs("other", exist_ok=True)
os.chdir("other")
layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
for _ in range(2):
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
sys.exit(3)
"""


@pytest.mark.torch
def test_a_program_that_goes_elsewhere_and_ends_early_is_recorded_and_said(capsys, project):
    write(project, "main.py", ENDED)
    status, out, _ = called(capsys, "record", "t", "--steps", "4", "--", "main.py")
    assert status == 0, out
    assert "recorded: t, 2 steps of 4, " in out
    assert "the same bits without recording: same; " in out
    assert "note: the program ended itself with status 3" in out
    assert (project / "t" / "step-0001.json").exists()


STOPPED = """
import torch
layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
for number in range(4):
    if number == {stop}:
        raise KeyboardInterrupt
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
"""


@pytest.mark.torch
@pytest.mark.parametrize(
    ("stop", "steps", "message"),
    [
        (0, 0, "stopped; no whole step was recorded. Record it again: jaxnet record t --"),
        (2, 2, "stopped; the steps that were whole are in t, which can be checked"),
    ],
)
def test_a_recording_that_is_stopped_keeps_its_steps(capsys, project, stop, steps, message):
    from jaxnet.parity._trace import read

    write(project, "main.py", STOPPED.format(stop=stop))
    status, _, err = called(capsys, *RECORD.split())
    assert status == 130
    assert message in err
    if steps:
        assert len(read(project / "t").steps) == steps


PORTS = {
    "no function": ("port.py", "", "accepted is FILE.py:FUNCTION or MODULE:FUNCTION"),
    "no file": ("other.py:make", "", "other.py: there is no such file"),
    "no module": ("other:make", "", "a file is given as other.py:make"),
    "another name": ("port.py:mak", "def make(): pass", "its functions are make"),
    "arguments": ("port.py:make", "def make(lr): pass", "missing a required argument: 'lr'"),
    "a model alone": (
        "port.py:make",
        "from jaxnet import nn\ndef make(): return nn.ReLU()",
        "it returned a ReLU; accepted are (model, loss, optimizer)",
    ),
    "nothing": (
        "port.py:make",
        "def make(): pass",
        "it returned nothing (is a `return` missing?)",
    ),
}


@pytest.mark.parametrize(("port", "text", "message"), list(PORTS.values()), ids=list(PORTS))
def test_ports_that_are_none_are_explained(project, port, text, message):
    from jaxnet.parity._port import SubjectError, load_port

    write(project, "port.py", text)
    with pytest.raises(SubjectError, match=re.escape(message)):
        load_port(port)


@pytest.mark.parametrize("name", ["port.py:make", "port:make", "sub/port.py:make"])
def test_ports_are_found_with_their_neighbours(project, name):
    from jaxnet.parity._port import load_port

    for folder in (project, project / "sub"):
        write(folder, "a_neighbour.py", "model = 1")
        write(folder, "port.py", "import a_neighbour as n\ndef make(): return n.model, 2, 3")
    assert load_port(name) == {"model": 1, "loss": 2, "optimizer": 3}


CRITERION = """
from flax import nnx
from jaxnet import nn

def make():
    return nnx.Linear(2, 1, rngs=nnx.Rngs(0)), nn.CrossEntropyLoss(){optimizer}
"""


def test_a_criterion_that_is_a_module_is_the_loss(project):
    from jaxnet.parity._port import load_port

    write(project, "port.py", CRITERION.format(optimizer=", 3"))
    assert load_port("port.py:make").keys() == {"model", "loss", "optimizer"}


def test_a_comparison_needs_an_optimizer(capsys, project):
    write(project, "reference.py", "def make(): return 1, 2, 3, 4")
    write(project, "port.py", CRITERION.format(optimizer=""))
    status, _, err = called(capsys, "compare", "reference.py:make", "port.py:make")
    assert status == 2
    assert "accepted is (model, loss, optimizer)" in err


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
    assert (status, "verified: nothing that it names has changed" in out) == (0, True)
    assert "not verified: trace: the certificate has none" in out
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
    return pytester.runpytest_inprocess("-rP", "-p", "jaxnet._pytest", "-p", "no:cacheprovider")


def test_the_fixture_verifies_certificates(pytester, saved, tmp_path):
    call = f"parity.verify({str(tmp_path / 'out')!r})"
    saved("same")
    result = outcomes(pytester, call)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["not verified: trace: the certificate has none"])
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


# -- the tutorial

PAGE = (ROOT / "docs" / "pages" / "parity.md").read_text(encoding="utf-8")
TUTORIAL, FLAX = (
    PAGE.partition(f"\n## {head}")[2].partition("\n## ")[0]
    for head in ("From a PyTorch program", "A plain Flax model")
)


def without_numbers(text):
    """Versions, sizes and distances are those of the machine; counts, which have no point, stay."""
    return re.sub(r"\d[\w+-]*\.[\w.+-]*", "N", text).split()


def followed(capsys, project, section):
    """Writes a section's files and runs its commands, which must print what it shows.

    Returns:
        The names of the commands, with their statuses.
    """
    printed, err, file, ran = "", "", "", []
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        if kind == "python":
            file = text.splitlines()[0].removeprefix("# ")
            write(project, file, text)
        elif kind == "diff":
            old, new = (line[1:] for line in text.splitlines())
            write(project, file, (project / file).read_text().replace(old, new))
            sys.modules.pop(file.removesuffix(".py"))  # a command is a new process
        elif kind == "bash":
            for line in text.splitlines():
                status, printed, err = called(capsys, *line.split("#")[0].split()[1:])
                ran.append((line.split()[1], status))
        elif kind == "text":
            # The recorded program prints too.
            lines = [without_numbers(line) for line in printed.splitlines()]
            for line in text.splitlines():
                assert without_numbers(line) in lines, printed + err
    return ran


PORTING = (ROOT / "docs" / "pages" / "port.md").read_text(encoding="utf-8")


@pytest.mark.libcst
@pytest.mark.torch
@pytest.mark.slow
def test_the_tutorial_of_porting(capsys, project):
    """A program is recorded, its model ported and checked, and what is printed is what it shows."""
    section = PORTING.partition("\n## Is it right?")[2]
    # The arithmetic of a port is a user's, under the settings that JAX has by itself.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert followed(capsys, project, section) == [("record", 0), ("port", 0)]
    certificate = "model_jax.certificate"
    assert called(capsys, "certificate", certificate, "--verify")[0] == 0
    commands = re.findall(r"`jaxnet (check trace/ model_jax.py [^`]*)`", section)
    assert commands == ["check trace/ model_jax.py --save model_jax.certificate"]


@pytest.mark.torch
@pytest.mark.long
def test_the_tutorial(capsys, project):
    """Its files are written, its commands run, and what they print is what it shows.

    It takes long since it is all of it: a program is recorded, run again, and checked five times.
    """
    assert followed(capsys, project, TUTORIAL) == [
        ("record", 0), ("check", 1), ("check", 0), ("certificate", 0), ("certificate", 0)
    ]  # fmt: skip
    # flax and optax do not run under the strictness of these tests.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert followed(capsys, project, FLAX) == [("check", 1), ("check", 0)]

    parity = Parity(project)
    parity.verify("report")
    write(project, "another.py", (project / "port.py").read_text().replace('"sum"', '"mean"'))
    message = "reduced by 'mean'; torch's reduction is"
    # Paths begin at the test file's folder, from where pytest may be called as it likes.
    with contextlib.chdir("/"), pytest.raises(pytest.fail.Exception, match=message):
        parity.check("trace", "another.py:make", steps=1)

    # What the page says of sources that change.
    write(project, "main.py", (project / "main.py").read_text().replace("lr=1e-3", "lr=1e-2"))
    status, printed, _ = called(capsys, "certificate", "report", "--verify")
    assert status == 2
    assert f"torch: {project / 'main.py'}: what stands outside" in printed

    # A port that starts with other weights, and a trace with a note of the recording's.
    write(project, "other.py", (project / "another.py").read_text().replace("(1)", "(2)"))
    about = (project / "trace" / "trace.json").read_text()
    write(project, "trace/trace.json", about.replace('"notes": []', '"notes": ["it is noisy"]'))
    words = ("explain", "trace", "other.py:make", "--at", "fc1", "--weights", "copy")
    status, printed, _ = called(capsys, *words)
    assert status == 1
    assert printed.splitlines()[-3:-1] == [
        "fc1: differs only since something before it does", "note: the recording: it is noisy"
    ]  # fmt: skip
    assert printed.splitlines()[-1].startswith("note: since the trace was recorded, ")
    assert called(capsys, "diff", "trace", "trace")[0] == 0
