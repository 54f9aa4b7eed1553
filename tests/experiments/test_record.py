"""experiments/harness/record.py"""

import dataclasses
import json

import numpy as np
import pytest

import jaxnet
from experiments.harness.record import Run, environment
from experiments.harness.settings import Settings, Training


@dataclasses.dataclass(frozen=True)
class Rate(Settings):
    """Settings with a learning rate."""

    lr: float = 0.0


def test_run_folder_appears_whole(tmp_path):
    with Run(tmp_path, "name", Rate(lr=0.1)) as run:
        run.metrics["loss"] = np.array([1.0, np.nan])
        assert [p.name[0] for p in (tmp_path / "name").iterdir()] == ["."]
    (folder,) = (tmp_path / "name").iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert record["metrics"] == {"loss": [1.0, "nan"]}
    assert record["config"]["lr"] == 0.1
    assert record["environment"]["backend"] == "cpu"


def test_failed_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), Run(tmp_path, "name", Training()):
        raise KeyboardInterrupt
    assert list((tmp_path / "name").iterdir()) == []


def test_two_runs_in_one_second_keep_apart(tmp_path):
    for _ in range(3):
        with Run(tmp_path, "name", Training()):
            pass
    assert len(list((tmp_path / "name").iterdir())) == 3


def test_a_record_says_what_was_asked_for_and_where_it_ran(tmp_path):
    with Run(tmp_path, "name", Training(seed=3, out=tmp_path)) as run:
        run.result = "fine"
    record = json.loads((run.folder / "record.json").read_text())
    assert record["changed"] == {"seed": 3}
    assert record["config"]["epochs"] == 1
    assert record["result"] == "fine"
    assert record["environment"]["jaxnet"] == jaxnet.__version__


def test_the_commit_is_named_in_a_checkout_only(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # without git
    assert "commit" not in environment()


def test_figures_that_are_off_are_counted_in_all_tables(tmp_path):
    run = Run(tmp_path, "name", Training())
    run.metrics = {
        "ledger": [{"figure": "a", "verdict": "OFF"}, {"figure": "b", "verdict": "ok"}],
        "checks": [{"check": "c", "verdict": "OFF"}],
        "words": ["OFF"],
        "curve": {"verdict": "OFF"},
    }
    assert run.failed() == 2


def test_checkpoints_go_when_the_record_is_there_and_stay_when_it_is_stopped(tmp_path):
    def stopped():
        with Run(tmp_path, "name", Training()) as run:
            run.unfinished.folder("net").mkdir(parents=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="goes on from"):
        stopped()
    assert [path.name for path in (tmp_path / "name").iterdir()] == ["unfinished"]
    with Run(tmp_path, "name", Training()) as run:
        run.unfinished.folder("net")
    assert list((tmp_path / "name").iterdir()) == [run.folder]
