"""experiments/harness/all.py: python -m experiments all, python -m experiments report"""

import dataclasses
import types

import pytest

from experiments.harness import all as every
from experiments.harness import registry
from experiments.harness.settings import Seed, Settings
from tests.experiments.test_command import experiments


@pytest.mark.slow
def test_all_with_a_report(tmp_path):
    done = experiments(
        "all", "--report", "--epochs", 3, "--out", tmp_path, JAXNET_CACHE=str(tmp_path / "none")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("autograd", "tensors", "thermometer"):
        assert len(list((tmp_path / name).iterdir())) == 1
    assert "skipped: wine is not here" in done.stdout
    assert "120 not judged: 120 not run" in done.stdout  # the thermometer's, in so few epochs
    assert "wine is not here" in (tmp_path / "report.html").read_text()


def test_some_with_a_report_and_the_report_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "names", lambda: ["autograd", "wine"])
    for variable in ("JAXNET_DATA", "JAXNET_CACHE"):
        monkeypatch.setenv(variable, "/nonexistent")
    assert every.COMMANDS["all"](["--report", "--out", str(tmp_path)]) == 0
    assert "wine is not here" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    for words in ("48 of 48", "wine is not here", "data:image/png;base64,"):
        assert words in page
    again = tmp_path / "new" / "again.html"
    assert every.COMMANDS["report"]([str(tmp_path), "--page", str(again)]) == 0
    assert "48 of 48" in again.read_text()


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of the experiments below."""

    seed: Seed = 0


def experiment(main, data=()):
    return types.SimpleNamespace(__doc__="A claim.", DATA=data, Config=Config, main=main)


def good(config, run):
    run.metrics["ledger"] = [{"figure": "a", "ours": "1", "verdict": "ok"}]


def off(config, run):
    run.metrics["ledger"] = [{"figure": "a", "ours": "2", "verdict": "OFF"}]


def bad_data(config, run):
    raise ValueError("table.csv, line 3: <b>broken</b>\nlook there")


def faulty(config, run):
    return 1 // 0


def stopped(config, run):
    raise KeyboardInterrupt


@pytest.fixture
def given(monkeypatch):
    def give(**mains):
        modules = {name: experiment(main) for name, main in mains.items()}
        modules["none"] = experiment(good, data=("wine",))
        monkeypatch.setattr(registry, "names", lambda: list(modules))
        monkeypatch.setattr(registry, "load", modules.__getitem__)
        monkeypatch.setenv("JAXNET_DATA", "/nonexistent")
        monkeypatch.setenv("JAXNET_CACHE", "/nonexistent")
        return every.COMMANDS["all"]

    return give


def test_one_that_fails_is_not_the_end_of_the_others(given, tmp_path, capsys):
    command = given(bad_data=bad_data, faulty=faulty, off=off, good=good)
    assert command(["--report", "--out", str(tmp_path), "--seed", "5"]) == 2
    said = capsys.readouterr()
    assert [" ".join(line.split()) for line in said.out.splitlines()[-6:]] == [
        "bad_data error: table.csv, line 3: <b>broken</b>",
        "faulty error: ZeroDivisionError: integer division or modulo by zero",
        "off a figure is off",
        "good ok",
        "none skipped: wine is not here",
        f"page: {tmp_path / 'report.html'}",
    ]
    assert "in faulty" in said.err
    page = (tmp_path / "report.html").read_text()
    for words in ("&lt;b&gt;broken&lt;/b&gt;\nlook there", "ZeroDivisionError", "in faulty",
                  "1 of 2", "wine is not here", "1 skipped, 2 failed"):  # fmt: skip
        assert words in page
    (folder,) = (tmp_path / "good").iterdir()
    assert '"seed": 5' in (folder / "record.json").read_text()


def test_a_figure_that_is_off_and_none(given, tmp_path):
    assert given(off=off, good=good)(["--out", str(tmp_path)]) == 1
    assert given(good=good)(["--out", str(tmp_path)]) == 0
    assert not (tmp_path / "report.html").exists()


def test_stopping_ends_all_and_leaves_the_page(given, tmp_path, capsys):
    command = given(good=good, stopped=stopped, later=good)
    assert command(["--report", "--out", str(tmp_path)]) == 130
    page = (tmp_path / "report.html").read_text()
    assert page.count("Skipped: stopped.") == 3
    assert "1 of 1" in page
    assert "later" not in capsys.readouterr().out


def test_a_stopped_command_goes_on_with_what_is_left(given, tmp_path, capsys):
    ran = []

    def counted(name, main=good):
        def run(config, run):
            ran.append(name)
            main(config, run)

        return run

    def all_of(middle, *words):
        mains = {"first": counted("first", off), "middle": middle, "last": counted("last")}
        return given(**mains)(["--report", "--out", str(tmp_path), *words])

    assert all_of(stopped) == 130
    assert all_of(stopped, "--seed", "1") == 130  # another command: everything anew
    assert ran == ["first", "first"]
    assert all_of(stopped, "--seed", "1") == 130
    assert all_of(counted("middle"), "--seed", "1") == 1  # first's figure is off, as before
    assert ran == ["first", "first", "middle", "last"]
    assert "finished before this command was stopped" in capsys.readouterr().out
    assert "2 of 3" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "unfinished_all.json").exists()
    assert all_of(counted("middle"), "--seed", "1") == 1  # it was done; now all run again
    assert ran[4:] == ["first", "middle", "last"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1, "done": {}}'])
def test_a_damaged_list_of_finished_experiments_is_none(damage, given, tmp_path):
    (tmp_path / "unfinished_all.json").write_text(damage)
    assert given(good=good)(["--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--device", "cpu"], None, "device: cpu:0"),
        (["--device", "cpu:1"], None, "device: cpu:1"),
        (["--device", "tpu"], "--device: tpu; JAX finds none here, only cpu", None),
        (["--device", "cpu:99"], "--device: cpu:99; there are 8, numbered from 0", None),
        (["--device", "cpu:x"], "--device: 'cpu:x'; accepted is a kind of device", None),
        (["--device", ":1"], "--device: ':1'; accepted is a kind of device", None),
    ],
)
def test_the_device_is_chosen_and_said(arguments, error, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "load", lambda name: experiment(good))
    code = registry.run("good", [*arguments, "--out", str(tmp_path)])
    said = capsys.readouterr()
    assert code == (2 if error else 0)
    assert error in said.err if error else says in said.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--lr", "1"],
            "--lr: not a setting of `all`, which takes --data-dir, --out, --device",
        ),
        (["--seeds=3"], "--seeds: not a setting of `all`"),
        (["--lr", "1"], "give --lr to one experiment (activations, autograd, "),
        (["wine"], "one experiment alone: python -m experiments wine"),
        (["--epochs", "0"], "--epochs: 0; at least 1"),
        (["--data-dir", "/no/such"], "--data-dir: there is no folder /no/such"),
        (["--out", "/dev/null/runs"], "/dev/null/runs"),
    ],
)
def test_bad_settings_stop_before_anything_runs(arguments, says, capsys):
    assert every.COMMANDS["all"](arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert says in said.err


def test_help_teaches(capsys):
    for name, words in (("all", ("--report", "--data-dir", "Exits with 0", "skipped")),
                        ("report", ("RUNS", "--page"))):  # fmt: skip
        with pytest.raises(SystemExit, match="0"):
            every.COMMANDS[name](["--help"])
        said = capsys.readouterr().out
        for word in words:
            assert word in said


def test_a_report_of_nothing(tmp_path, capsys):
    assert every.COMMANDS["report"]([str(tmp_path)]) == 2
    assert "no runs in it" in capsys.readouterr().err
