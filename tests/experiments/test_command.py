"""python -m experiments, as a user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.__main__ import main
from jaxnet import weights
from tests import forked

ROOT = Path(__file__).parents[2]


def experiments(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if k != "JAXNET_DATA"} | environment
    return forked.run("-m", "experiments", *map(str, arguments), env=variables)


@pytest.fixture(scope="module")
def thermometer(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, experiments("thermometer", "--out", out)


def test_alone_lists_every_experiment_on_one_line():
    done = experiments(JAXNET_CACHE="/nonexistent")
    assert done.returncode == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "embedded data" in lines["thermometer"]
    assert "cifar10: not here" in lines["cifar2_net"]
    assert "autograd" in lines


@pytest.mark.long
def test_thermometer_holds_every_figure(thermometer):
    _, done = thermometer
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "151 of 151 figures hold" in done.stdout
    assert "15 not judged: 15 without power" in done.stdout
    assert "OFF" not in done.stdout


def test_thermometer_leaves_record_and_plot(thermometer):
    out, _ = thermometer
    (folder,) = (out / "thermometer").iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert record["config"]["epochs"] == 5000
    assert record["environment"]["jax"]
    assert len(record["metrics"]["ledger"]) == 166
    assert record["metrics"]["manual_diverging"]["loss"][-1] == "nan"
    assert [check["verdict"] for check in record["metrics"]["checks"]] == ["ok"] * 2
    grads = [row for row in record["metrics"]["ledger"] if "hidden_grad" in row["figure"]]
    assert [row["verdict"] for row in grads] == ["no power"] * 8
    assert (folder / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_help_shows_the_settings(capsys):
    with pytest.raises(SystemExit) as left:
        main(["cifar2_net", "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    for flag in ("--seed", "--epochs", "--data-dir", "--out", "--lr", "--form"):
        assert flag in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["thermomter"], "did you mean thermometer"),
        (["thermometer", "--epochs", 0], "--epochs: 0; at least 1"),
        (["thermometer", "--seed", -1], "--seed: -1; accepted is"),
        (["cifar2_net", "--lr", "nan"], "--lr: nan; a finite number"),
        (["ct_scan", "--window", "-inf", "400"], "--window: (-inf, 400.0); a finite number"),
        (["autograd", "--lr", "1e30"], "--lr: at 1e+30 the loss is not finite; lower it"),
        (["cifar2_net", "--lr", "-1"], "--lr: -1.0; a positive number"),
        (["cifar2_net", "--data-dir", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["autograd", "--out", "/dev/null/runs"], "/dev/null/runs"),
    ],
)
def test_bad_input_gives_one_line_and_fails(arguments, says, monkeypatch, capsys):
    monkeypatch.delenv("JAXNET_DATA", raising=False)
    assert main([str(word) for word in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert says in lines[0]


def test_bad_input_is_the_exit_code_of_the_process():
    done = experiments("autograd", "--out", "/dev/null/runs")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "/dev/null/runs" in done.stderr


def in_steady(program: str, *redirected: str, **variables: str) -> subprocess.CompletedProcess:
    """A small program in the console that every command has."""
    program = f"""
import os, signal, shutil, sys
from pathlib import Path
from experiments.harness.console import steady
with steady():
    {program}
"""
    shell = " ".join(["exec", '"$0"', "-c", '"$1"', *redirected])
    environment = os.environ | variables
    return subprocess.run(
        ["sh", "-c", shell, sys.executable, program],
        cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


CONSOLES = {
    "nobody reads": ("| head -c 1",),
    "closed": (">&-",),
    "both closed": (">&-", "2>&-"),
    "full": (">/dev/full",),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize("how", list(CONSOLES))
def test_a_run_outlives_its_console(how, tmp_path):
    program = f"""
    for _ in range(20):
        print("x" * 10000, flush=True)
        print("y", file=sys.stderr)
    Path({str(tmp_path / "done")!r}).touch()
    sys.exit(3)
"""
    done = in_steady(program.strip(), *CONSOLES[how])
    assert (tmp_path / "done").exists()
    assert done.returncode == (0 if "head" in CONSOLES[how][0] else 3)
    lost = "error: output was lost: No space left on device; records and results are in"
    assert (lost in done.stderr) == (how == "full")
    assert done.stderr.lower().count("error") == (how == "full")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize("end", ["pass", "sys.exit()", "sys.exit(0)"])
def test_a_command_whose_output_is_lost_does_not_succeed(end):
    done = in_steady(f'print("x"); {end}', ">/dev/full")
    assert done.returncode == 2
    assert done.stderr.count("output was lost") == len(done.stderr.splitlines()) == 1


def test_characters_that_the_console_lacks_are_escaped():
    done = in_steady('print("\u2713 \u00fc")', PYTHONIOENCODING="ascii")
    assert (done.stdout, done.returncode) == ("\\u2713 \\xfc\n", 0)


@pytest.mark.parametrize(("columns", "seen"), [("1", 20), ("5", 20), ("37", 37)])
def test_a_console_has_room_for_words(columns, seen):
    done = in_steady("print(shutil.get_terminal_size().columns)", COLUMNS=columns)
    assert done.stdout == f"{seen}\n"


@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
def test_a_stopped_command_leaves_no_folder(tmp_path):
    program = f"""
    from jaxnet import _files as files
    with files.filling(Path({str(tmp_path / "half")!r})):
        os.kill(os.getpid(), signal.SIGTERM)
"""
    assert in_steady(program.strip()).returncode == 143
    assert not list(tmp_path.iterdir())


def test_a_failed_run_leaves_nothing(tmp_path):
    done = experiments("cifar2_net", "--out", tmp_path, "--data-dir", tmp_path,
                       JAXNET_CACHE=str(tmp_path / "cache"))  # fmt: skip
    assert done.returncode == 2
    assert "cifar10: not found" in done.stderr
    assert list((tmp_path / "cifar2_net").iterdir()) == []


@pytest.mark.data
def test_cifar2_net_smoke(tmp_path):
    done = experiments(
        "cifar2_net", "--epochs", 2, "--out", tmp_path, JAXNET_DATA=os.environ["JAXNET_DATA"]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10000 training and 2000 validation images" in done.stdout
    (folder,) = (tmp_path / "cifar2_net").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == [
        "birds_vs_airplanes.pt", "curves.png", "filters.png", "images.png", "record.json",
        "result.md",
    ]  # fmt: skip
    assert weights.load(folder / "birds_vs_airplanes.pt")["fc2.weight"].shape == (2, 32)
    curves = json.loads((folder / "record.json").read_text())["metrics"]["runs"]["0"]
    assert curves["train_loss"]["2"] < curves["train_loss"]["1"] < np.log(2)
    assert curves["val_accuracy"]["2"] > 0.7
