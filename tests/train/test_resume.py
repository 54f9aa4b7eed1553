"""jaxnet/train/_resume.py: what a run that goes on says when it is given other arguments."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data, losses, nn, optim, train
from jaxnet.checkpoint import Checkpoints
from jaxnet.random import Generator

SGD = optim.SGD(lr=0.1, momentum=0.9)
LOSS = train.supervised(losses.cross_entropy)
X = np.random.RandomState(0).standard_normal((24, 3)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.int32)


def run(folder, optimizer=SGD, seed=0, dtype=None, parts=1, **options):
    """A run of some epochs, and the line that says what differs."""
    lines: list[str] = []
    state = train.create(nn.Linear(3, 2, rngs=Generator(1)), optimizer, seed=seed)
    step = train.make_train_step(LOSS, optimizer, compute_dtype=dtype, batch_norm_parts=parts)
    options = {"data": (X, Y), "epochs": 1, "batch_size": 8, "compilation_cache": False} | options
    result = train.fit(state, step, checkpoint=folder, log=lines.append, quiet=True, **options)
    said = [line for line in lines if "other arguments" in line]
    assert len(said) <= 1
    return result, "".join(said)


NESTEROV = optim.SGD(lr=0.1, momentum=0.9, nesterov=True)
EVAL = {"validation": (X, Y), "eval_step": train.make_eval_step(LOSS), "monitor": "loss"}


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ({}, {}, ""),
        ({}, {"optimizer": optim.SGD(lr=0.5, momentum=0.9)}, "lr: 0.1 before, 0.5 now (the check"),
        ({}, {"optimizer": optim.SGD(lr=0.1, momentum=0.5)}, "momentum: 0.9 before, 0.5 now"),
        ({}, {"optimizer": NESTEROV}, "nesterov: False before, True now (the new one holds)"),
        ({}, {"dtype": jnp.bfloat16}, "compute_dtype: 'float32' before, 'bfloat16' now (the new"),
        ({}, {"parts": 2}, "batch_norm_parts: None before, 2 now (the new one holds)"),
        ({"parts": 4}, {}, "batch_norm_parts: 4 before, None now (the new one holds)"),
        ({"config": {"a": 1}}, {"config": {"a": 2}}, "config: {'a': 1} before, {'a': 2} now"),
        ({}, {"data": (X * 2, Y)}, "data (checksum): "),
        ({}, {"data": (X, 1 - Y)}, "data (checksum): "),
        (EVAL, EVAL | {"validation": (-X, Y)}, "validation (checksum): "),
        ({}, {"generator": Generator(7)}, "generator (checksum): "),
        ({}, {"seed": 7}, "seed (checksum): "),
    ],
)
def test_what_differs_is_said_in_one_line(first, second, says, tmp_path):
    run(tmp_path, **first)
    result, line = run(tmp_path, **({"epochs": 2} | second))
    assert says in line
    assert (says == "") == (line == "")
    assert line.count(" before, ") == (says != "")
    holds = 0.1 if line.startswith("resumed with other arguments: lr") else result.history[0]["lr"]
    assert result.history[-1]["lr"] == holds


def test_what_the_checkpoint_holds_is_said_again_what_is_new_only_once(tmp_path):
    run(tmp_path)
    other = {"optimizer": optim.SGD(lr=0.5, momentum=0.9), "data": (X * 2, Y)}
    assert "data" in run(tmp_path, epochs=2, **other)[1]
    line = run(tmp_path, epochs=3, **other)[1]
    assert "lr: 0.1 before, 0.5 now" in line
    assert "data" not in line


def test_a_schedule_that_grows_longer_goes_on(tmp_path):
    def cosine(steps):
        return optim.scheduled(SGD, optim.CosineAnnealingLR(SGD, steps), steps)

    run(tmp_path, cosine(3))
    result, line = run(tmp_path, cosine(6), epochs=2)
    assert "schedule (checksum): " in line
    assert "(the new one holds)" in line
    assert result.history[-1]["lr"] == pytest.approx(optim.CosineAnnealingLR(SGD, 6).lr(5)[0])


def test_another_monitor_would_compare_different_metrics(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="monitor: 'loss' before, 'val_loss' now"):
        run(tmp_path, **(EVAL | {"monitor": None}))


def test_a_run_that_a_callback_ended_goes_on_when_more_epochs_are_asked_for(tmp_path):
    def stop(report):
        return report.stop("enough") if report.epoch == 2 else None

    whole, _ = run(tmp_path / "whole", epochs=4)
    options = {"callbacks": [stop]}
    assert run(tmp_path / "a", epochs=3, **options)[0].reason == "enough"
    again, _ = run(tmp_path / "a", epochs=3, **options)
    assert (again.reason, len(again.history)) == ("enough", 2)
    result, _ = run(tmp_path / "a", epochs=4, **options)
    assert (result.reason, result.history) == ("done", whole.history)


def test_records_of_another_run_are_not_overwritten_by_a_new_one(tmp_path):
    records, old = tmp_path / "records", tmp_path / "old"
    run(old, epochs=2, records=records)
    before = (records / "history.jsonl").read_text()
    with pytest.raises(ValueError, match="holds another run; give another folder"):
        run(tmp_path / "new", records=records)
    assert (records / "history.jsonl").read_text() == before
    run(old, epochs=3, records=records)
    assert (records / "history.jsonl").read_text().startswith(before)
    # A run that was killed before its first checkpoint begins its records anew.
    with Checkpoints(tmp_path / "killed") as killed:
        killed.claim()
    run(tmp_path / "killed", records=records)
    assert len((records / "history.jsonl").read_text().splitlines()) == 1


class Rows:
    """A data set that is no TensorDataset: between epochs nothing tells its rows from others."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], Y[i]


HALF = range(0, 24, 2)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: data.TensorDataset(x, Y), True),
        (lambda x: data.Subset(data.TensorDataset(x, Y), HALF), True),
        (Rows, False),
    ],
)
def test_other_data_of_a_loader_is_said_where_it_can_be_told(make, told, tmp_path):
    def loader(x):
        return {"data": data.DataLoader(make(x), 8), "batch_size": None}

    run(tmp_path, **loader(X))
    assert run(tmp_path, epochs=2, **loader(X))[1] == ""
    line = run(tmp_path, epochs=3, **loader(X * 2))[1]
    assert ("data (checksum): " in line) == told
    assert ("(the new one holds)" in line) == told


@pytest.mark.torch
def test_other_data_of_torchs_loader_is_said(tmp_path):
    import torch

    def loader(x):
        rows = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(Y))
        return {"data": torch.utils.data.DataLoader(rows, 8), "batch_size": None}

    run(tmp_path, **loader(X))
    assert run(tmp_path, epochs=2, **loader(X))[1] == ""
    assert "data (checksum): " in run(tmp_path, epochs=3, **loader(X * 2))[1]


def test_records_and_checkpoints_of_two_runs_are_not_mixed(tmp_path):
    """Given one run's records and the other's checkpoints, in both ways."""
    names, texts = ("a", "b"), {}
    for name, scale in zip(names, (1, 2), strict=True):
        run(tmp_path / name, data=(X * scale, Y), epochs=2, records=tmp_path / f"{name}.records")
        texts[name] = (tmp_path / f"{name}.records" / "history.jsonl").read_text()
    for mine, others in (names, names[::-1]):
        with pytest.raises(
            ValueError, match=r"records: .*another run than the checkpoints: in epoch 1 loss is"
        ):
            run(tmp_path / mine, epochs=3, records=tmp_path / f"{others}.records")
        assert (tmp_path / f"{others}.records" / "history.jsonl").read_text() == texts[others]
        assert len(Checkpoints(tmp_path / mine).steps()) == 2
    run(tmp_path / "a", epochs=3, records=tmp_path / "a.records")
    assert (tmp_path / "a.records" / "history.jsonl").read_text().startswith(texts["a"])


def test_epochs_that_no_checkpoint_has_are_kept_beside(tmp_path):
    """Of a run that was killed before its first checkpoint, or of another: nothing tells."""
    records = tmp_path / "records"
    run(tmp_path / "old", epochs=2, records=records)
    before = (records / "history.jsonl").read_text()
    for number in (1, 2):
        with Checkpoints(tmp_path / f"killed{number}") as killed:
            killed.claim()
        run(tmp_path / f"killed{number}", records=records)
    assert (records / "history-1.jsonl").read_text() == before
    assert len((records / "history-2.jsonl").read_text().splitlines()) == 1
    assert len((records / "history.jsonl").read_text().splitlines()) == 1
