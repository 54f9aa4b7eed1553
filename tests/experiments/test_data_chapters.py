"""The experiments on the documents' data: images, ct_scan, wine, bikes, austen, cifar10_stats."""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from experiments import wine_regression
from experiments.baseline import beats_line
from experiments.harness.registry import names, run

DATA = os.environ.get("JAXNET_DATA")
FIGURES = {
    "austen": 46,
    "bikes": 50,
    "cifar10_stats": 11,
    "ct_scan": 8,
    "images": 10,
    "wine": 45,
}


SHORT = {"ct_scan": " --epochs 1"}  # its net is not judged, its figures are


@pytest.mark.data
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_holds(name, tmp_path, capsys):
    short = SHORT.get(name, "")
    assert run(name, ["--out", str(tmp_path), *short.split()]) == 0
    assert f"{FIGURES[name]} of {FIGURES[name]} figures hold" in capsys.readouterr().out
    (folder,) = (tmp_path / name).iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert len(record["metrics"]["ledger"]) == FIGURES[name]
    checks = record["metrics"].get("checks", [])
    assert {check["verdict"] for check in checks} == ({"ok"} if checks else set())
    assert bool(checks) == (name in ("ct_scan", "images"))
    assert [path for path in folder.iterdir() if path.suffix == ".png"]
    table = (folder / "result.md").read_text()
    assert f"    python -m experiments {name}{short}\n" in table
    assert table.count("| ok |") == FIGURES[name]


@pytest.mark.parametrize("name", sorted(FIGURES.keys() - {"cifar10_stats"}))
def test_missing_data_gives_one_error_and_leaves_nothing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("JAXNET_DATA", raising=False)
    monkeypatch.setenv("JAXNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    arguments = ["--out", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")]
    assert name in names()
    assert run(name, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"in any of\n  {tmp_path / 'data'}" in error
    assert list((tmp_path / "runs" / name).iterdir()) == []
    assert importlib.import_module(f"experiments.{name}").DATA


@pytest.mark.data
def test_another_threshold_is_held_against_nothing(tmp_path, capsys):
    assert run("wine", ["--out", str(tmp_path), "--threshold", "0"]) == 0
    assert "figures are for 141.83" in capsys.readouterr().out


def test_damaged_data_is_one_error(tmp_path, capsys):
    file = tmp_path / "winequality-white.csv"
    file.write_text("fixed acidity;quality\n7;good\n")
    arguments = ["--out", str(tmp_path / "runs"), "--data-dir", str(tmp_path)]
    assert run("wine", arguments) == 2
    assert "line 2, column 'quality': 'good' is no number" in capsys.readouterr().err


NAMES = {
    "wine": "tabular-wine/winequality-white.csv",
    "bikes": "bike-sharing-dataset/hour-fixed.csv",
    "austen": "jane-austen/1342-0.txt",
}


def line(number, old, new):
    """Changes the line of a text that has this number, from 1 on."""

    def change(text):
        lines = text.split("\n")
        assert old in lines[number - 1]
        return "\n".join(
            [*lines[: number - 1], lines[number - 1].replace(old, new), *lines[number:]]
        )

    return change


def few(text):
    return "".join(text.splitlines(keepends=True)[:5])


def no_bikes(text):
    names, *rows = text.strip().split("\n")
    return "\n".join([names, *(row.rsplit(",", 1)[0] + ",0" for row in rows)])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file", "damage", "says"),
    [
        ("wine", "wine", line(51, ";5", ";12"), "line 51, column 'quality': 12; a quality is"),
        ("wine", "wine", line(2, ";6", ";6.9"), "line 2, column 'quality': 6.9; a quality is"),
        ("wine", "wine", few, "white.csv: classes: 'bad' has no rows"),
        ("wine_regression", "wine", few, "white.csv: 4 wines; a fifth is held out: give 20"),
        ("bikes", "bikes", line(9, ",1,0.2,", ",7,0.2,"), "line 9, column 'weathersit': 7"),
        ("bike_forecast", "bikes", no_bikes, "hour-fixed.csv: column 'cnt': no bikes in the first"),
        ("austen", "austen", lambda text: "\n" * 300, "1342-0.txt, line 201: no words"),
    ],
)
def test_odd_data_is_one_error_with_its_place(name, file, damage, says, tmp_path, capsys):
    source = Path(str(DATA)) / NAMES[file]
    (tmp_path / source.name).write_text(damage(source.read_text()))
    assert run(name, ["--out", str(tmp_path / "runs"), "--data-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert error.count("\n") == 0
    assert list((tmp_path / "runs" / name).iterdir()) == []


@pytest.mark.slow
@pytest.mark.data
def test_a_forecast_from_few_days_or_too_many_hours(tmp_path, capsys):
    source = Path(str(DATA)) / NAMES["bikes"]
    month = source.read_text().splitlines(keepends=True)[: 1 + 24 * 30]
    (tmp_path / source.name).write_text("".join(month))
    short = ["--epochs", "1", "--seeds", "1"]
    given = ["--out", str(tmp_path / "runs"), "--data-dir", str(tmp_path)]
    assert run("bike_forecast", given + short) == 0
    assert run("bike_forecast", [*given, "--past", "719"]) == 2
    assert "--past: 719;" in capsys.readouterr().err


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "epochs"),
    [("wine_regression", 30), pytest.param("bike_forecast", 16, marks=pytest.mark.slow)],
)
def test_nets_beat_the_line_in_a_short_run(name, epochs, tmp_path, capsys):
    settings = ["--out", str(tmp_path), "--seeds", "1", "--epochs", str(epochs)]
    assert run(name, settings) == 0
    said = capsys.readouterr().out
    assert said.count("is better than the line; not judged with another --epochs") == 2
    assert run(name, ["--out", str(tmp_path), "--lr", "0"]) == 2
    assert "--lr: 0.0; a positive number" in capsys.readouterr().err
    (folder,) = (tmp_path / name).iterdir()
    claims = json.loads((folder / "record.json").read_text())["metrics"]["claims"]
    assert len(claims) == 2
    for claim in claims:
        assert float(claim["net"].split()[0]) < float(claim["line"])
        assert claim["verdict"] == "not run"


@pytest.mark.parametrize(
    ("settings", "error", "verdict"),
    [
        ({}, 1.0, "ok"),
        ({}, 2.0, "OFF"),
        ({"seeds": 2, "seed": 7}, 3.0, "OFF"),
        ({"epochs": 1}, 3.0, "not run"),
        ({"lr": 1.0}, 1.0, "not run"),
    ],
)
def test_the_claim_is_judged_for_its_own_settings(settings, error, verdict):
    config = wine_regression.Config(**settings)
    errors = np.array([error - 0.1, error + 0.1])
    claim = beats_line("the net", errors, 2.0, config)
    assert claim["verdict"] == verdict
    assert claim["net"].endswith("± 0.1414 (n=2)")
    one = beats_line("the net", errors[:1], 2.0, config)
    assert one["net"] == f"{errors[0]:.4f} (n=1)"  # one run has no spread
