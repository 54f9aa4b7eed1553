"""experiments/harness/unfinished.py, and what a user is told of errors"""

import errno

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import registry
from experiments.harness.unfinished import Unfinished, checksum
from jaxnet import train


def test_folders_go_when_all_is_done(tmp_path):
    with Unfinished(tmp_path, "long") as kept:
        folder = kept.folder("net", 100, "seed0")
        folder.mkdir(parents=True)
        (folder / "state").write_text("x")
    assert not (tmp_path / "long" / "unfinished").exists()


def test_folders_of_other_settings_stay(tmp_path):
    other = Unfinished(tmp_path, "long").folder("net", 50, "seed0")
    other.mkdir(parents=True)
    with Unfinished(tmp_path, "long") as kept:
        kept.folder("net", 100, "seed0").mkdir()
    assert list((tmp_path / "long" / "unfinished").iterdir()) == [other]


def stopped(kept: Unfinished, error: BaseException) -> None:
    with kept:
        kept.folder("net").mkdir(parents=True, exist_ok=True)
        raise error


@pytest.mark.parametrize(
    ("error", "says"),
    [(KeyboardInterrupt(), "the same command goes on from"), (ValueError("broken"), "^broken$")],
)
def test_folders_stay_when_it_is_stopped(error, says, tmp_path):
    with pytest.raises(type(error), match=says):
        stopped(Unfinished(tmp_path, "long"), error)
    assert (tmp_path / "long" / "unfinished" / "net").exists()


def test_other_data_have_another_checksum():
    images, labels = np.arange(12, dtype=np.uint8).reshape(3, 4), jnp.array([1, 2, 3])
    first = checksum(images, labels)
    assert first == checksum(images.copy(), np.asarray(labels))
    assert first == checksum(np.asfortranarray(images), labels)
    assert first != checksum(images, labels.at[1].set(5))
    assert len(first) == 8


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("no"), "error: no"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.csv"), "error: a.csv: No such file"),
        (ImportError("it needs a package"), "error: it needs a package"),
        (FloatingPointError("loss is nan"), "error: loss is nan"),
        (OverflowError("too large"), "error: too large"),
        (MemoryError(), "error: MemoryError"),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, says, tmp_path, monkeypatch, capsys):
    def fail(config, run):
        raise error

    monkeypatch.setattr("experiments.autograd.main", fail)
    assert registry.run("autograd", ["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{says}\n"
    assert issubclass(train.NonFiniteError, registry.USERS_ERRORS)


@pytest.mark.parametrize(
    ("words", "says"),
    [("the same command goes on from here", "goes on from here"), ("", "nothing was kept")],
)
def test_ctrl_c_says_what_is_left(words, says, tmp_path, monkeypatch, capsys):
    def stop(config, run):
        raise KeyboardInterrupt(*filter(None, [words]))

    monkeypatch.setattr("experiments.autograd.main", stop)
    assert registry.run("autograd", ["--out", str(tmp_path)]) == 130
    assert says in capsys.readouterr().err
