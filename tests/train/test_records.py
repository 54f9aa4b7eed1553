"""jaxnet/train/_records.py"""

import csv
import json

import pytest

from jaxnet.train import Records

LINES = [
    {"epoch": 1, "step": 10, "loss": 0.5, "val_loss": 0.75},
    {"epoch": 2, "step": 20, "loss": 0.25, "val_loss": 0.5},
]


def write(records: Records, lines=LINES, resume=False, epoch=0, step=0) -> None:
    records.open(epoch, step, resume)
    for line in lines:
        records.epoch(line)
    records.close()


def jsonl(folder) -> list[dict]:
    return [json.loads(text) for text in (folder / "history.jsonl").read_text().splitlines()]


def test_one_line_an_epoch(tmp_path):
    write(Records(tmp_path, "csv"))
    assert jsonl(tmp_path) == LINES
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["0.5", "0.25"]
    assert list(rows[0]) == ["epoch", "step", "loss", "val_loss"]


def test_a_resumed_run_has_no_line_twice_and_half_a_line_is_dropped(tmp_path):
    write(Records(tmp_path, "csv"))
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')
    write(Records(tmp_path, "csv"), [LINES[1]], resume=True, epoch=1, step=10)
    assert jsonl(tmp_path) == LINES
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3


def test_steps_only_when_asked(tmp_path):
    for every_step, folder in ((False, tmp_path / "a"), (True, tmp_path / "b")):
        records = Records(folder, every_step=every_step)
        records.open(0, 0)
        records.steps([{"step": 1, "in_epoch": 1, "loss": 1.0}])
        records.close()
        assert len(jsonl(folder)) == every_step


def test_nan_is_written_as_text(tmp_path):
    write(Records(tmp_path), [{"epoch": 1, "step": 1, "loss": float("nan")}])
    assert jsonl(tmp_path)[0]["loss"] == "nan"


def test_another_runs_folder_and_unknown_names_are_refused(tmp_path):
    write(Records(tmp_path))
    with pytest.raises(ValueError, match="holds another run"):
        Records(tmp_path).open(0, 0)
    assert jsonl(tmp_path) == LINES
    with pytest.raises(ValueError, match="'wandb'; accepted are 'csv', 'tensorboard'"):
        Records(tmp_path, "wandb")


@pytest.mark.tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(Records(tmp_path, "tensorboard"))
    seen = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in seen.Scalars("epoch/loss")] == [(10, 0.5), (20, 0.25)]
