"""experiments/autograd.py"""

import json

from experiments.harness.registry import run


def test_every_figure_and_check_holds(tmp_path, capsys):
    assert run("autograd", ["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "48 of 48 figures hold" in said
    assert "MmBackward0, as the vjp of dot_general" in said
    (folder,) = (tmp_path / "autograd").iterdir()
    metrics = json.loads((folder / "record.json").read_text())["metrics"]
    assert [check["verdict"] for check in metrics["checks"]] == ["ok"] * 5
    assert {path.name for path in folder.glob("*.png")} == {"descent.png", "graph.png"}
