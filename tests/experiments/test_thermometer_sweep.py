"""The sweep over learning rates: it finds where gradient descent diverges."""

import numpy as np
import pytest

from experiments import thermometer_sweep
from experiments.harness.registry import run
from experiments.thermometer import T_U, T_UN, Config


def run_sweep(tmp_path, text="lr=1e-5:1e-1:40"):
    return run("thermometer", ["--sweep", text, "--epochs", "400", "--out", str(tmp_path)])


def test_training_diverges_where_it_should(tmp_path, capsys):
    assert run_sweep(tmp_path) == 0
    assert capsys.readouterr().out.count(" ok ") == 2
    (folder,) = (tmp_path / "thermometer").iterdir()
    assert {file.name for file in folder.iterdir()} == {"record.json", "sweep.png"}


def test_a_wrong_limit_is_off(tmp_path, capsys, monkeypatch):
    right = thermometer_sweep.limit
    monkeypatch.setattr(thermometer_sweep, "limit", lambda readings: 2 * right(readings))
    assert run_sweep(tmp_path) == 1
    assert capsys.readouterr().out.count(" OFF ") == 2


def test_the_limit_is_that_of_the_second_derivatives():
    for readings in (T_U, T_UN):
        t = readings.astype(np.float64)
        hessian = 2 * np.array([[np.mean(t * t), np.mean(t)], [np.mean(t), 1.0]])
        assert thermometer_sweep.limit(readings) == pytest.approx(
            2 / np.linalg.eigvalsh(hessian)[-1]
        )


@pytest.mark.parametrize(
    "text",
    ["", "lr", "lr=1:2", "lr=1e-1:1e-5:9", "lr=0:1:9", "lr=1:2:2", "decay=1:2:9", "lr=1:inf:9",
     "lr=nan:1:9", "lr=1:2:1e9"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"--sweep: .*accepted is lr=LOW:HIGH:NUMBER"):
        Config(sweep=text).validate()
