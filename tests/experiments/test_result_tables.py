"""experiments/harness/tables.py"""

import pytest

from experiments.harness import tables
from experiments.harness.ledger import Row
from experiments.harness.record import Run
from experiments.harness.settings import Training


def rows():
    return [
        Row("net.loss.1", "0.50", "0.51", "+1.0e-02", "5.0e-03", "OFF", "half of the last digit"),
        Row("net.loss.2", "0.25", "0.25", "+0.0e+00", "5.0e-03", "ok", "half of the last digit"),
        Row("net.shape.0", "3", "3", "+0.0e+00", "0.0e+00", "ok", "equal"),
        Row("net.val.1", "0.9", "-", "-", "-", "not run"),
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_terminal_shows_parts_and_what_is_off(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    tables.show_ledger(rows())
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width
    words = [" ".join(line.split()) for line in lines]
    for line in ("loss 1 of 2 hold", "shape 1 of 1 hold", "val 1 not judged: 1 not run",
                 "These are OFF:", "net.loss.1 0.50 0.51 +1.0e-02 5.0e-03"):  # fmt: skip
        assert line in words
    assert words[-1] == "2 of 3 figures hold; 1 not judged: 1 not run"
    assert "net.loss.2" not in "".join(lines)


def test_long_cells_go_on_below_and_names_stay_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    tables.show(("name", "what"), [("cifar2_variants", "word " * 12), ("a", "[bold]x[/bold]")])
    said = capsys.readouterr().out
    assert said.count("cifar2_variants") == 1
    assert said.count("word") == 12
    assert "[bold]x[/bold]" in said
    assert max(map(len, said.splitlines())) <= 40


@pytest.mark.parametrize("width", [20, 30, 60])
def test_no_cell_is_lost_in_a_narrow_terminal(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    table = [("cifar2_variants", "cifar10: not here", "words " * 9), ("a", "here", "[b]more[/b]")]
    tables.show(("experiment", "data", "what it shows"), table, title="All of them")
    said = capsys.readouterr().out
    lines = [line.rstrip() for line in said.splitlines()]
    assert max(map(len, lines)) <= width
    assert len(lines) < 20  # no column of single letters
    assert said.count("words") == 9
    for word in ("All of them", "cifar2_variants", "cifar10:", "not here", "[b]more[/b]"):
        assert word in " ".join(said.split())


def test_all_rows_stand_in_the_file(tmp_path, capsys):
    with Run(tmp_path, "net", Training(seed=4, out=tmp_path)) as run:
        tables.save_ledger(run, rows(), ["A note."])
    page = (run.folder / "result.md").read_text()
    assert page.startswith("# net\n\n    python -m experiments net --seed 4\n")
    assert "A note." in page
    assert page.count("| ok |") == 2
    assert page.count("\n| net.") == 4
    assert [row["verdict"] for row in run.metrics["ledger"]].count("OFF") == run.failed() == 1
