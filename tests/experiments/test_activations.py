"""experiments/activations.py"""

import json

import pytest

from experiments.harness.registry import run


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.long  # trains three nets
def test_a_short_run_judges_the_functions_but_not_the_speed(tmp_path):
    settings = ["--out", str(tmp_path), "--seeds", "1", "--epochs", "1", "--images", "2000"]
    assert run("activations", settings) == 0
    (folder,) = (tmp_path / "activations").iterdir()
    metrics = json.loads((folder / "record.json").read_text())["metrics"]
    assert [check["verdict"] for check in metrics["checks"]] == ["ok"] * 15
    assert set(metrics["loss"]) == {"relu", "tanh", "sigmoid"}
    assert {path.name for path in folder.glob("*.png")} == {"activations.png", "training.png"}
