"""A run that is killed with SIGKILL, again and again, ends with the bits of one that was not."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def start(folder: Path, epochs: int, *moments: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    env = os.environ | {"JAXNET_CACHE": str(folder.parent / "cache"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.train.killed", str(folder), str(epochs), *moments]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, cwd=root, env=env, text=True, stdout=-1, stderr=subprocess.STDOUT
    )


def finished(folder: Path, epochs: int, *moments: str) -> str:
    out, _ = start(folder, epochs, *moments).communicate()
    assert "digest" in out, out
    return out


def digest(out: str) -> str:
    return re.findall(r"digest (\d+)", out)[-1]


def history(folder: Path) -> str:
    lines = (folder / "records" / "history.jsonl").read_text()
    return re.sub(r'"(seconds|samples_per_second)": [^,}]+,? ?', "", lines)


def check_killed_while_saving(tmp_path: Path, epochs: int, moments: list[str]) -> str:
    whole = finished(tmp_path / "whole", epochs)
    out = finished(tmp_path / "killed", epochs, *moments, "0")
    ended = re.findall(r"^ended (.*)$", out, re.MULTILINE)
    assert [line.split()[0] for line in ended] == ["-9"] * len(moments) + ["0"], out
    assert digest(out) == digest(whole)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    return "\n".join(ended)


@pytest.mark.long
def test_killed_while_it_saves_it_ends_with_the_same_bits(tmp_path):
    """A save makes about 21 operations on files; the moments lie in the first few saves."""
    ended = check_killed_while_saving(tmp_path, 3, ["8", "52+2"])
    assert ".partial" in ended


@pytest.mark.slow
def test_killed_at_every_operation_of_a_save(tmp_path):
    moments = [str(number) for number in range(4, 130)]
    numbers = random.Random(0)
    moments += [f"{numbers.randrange(4, 130)}+{numbers.uniform(0, 20):.1f}" for _ in range(40)]
    # In any order: one after another, each run would leave a checkpoint more, whose reading
    # puts off the operations that delete old ones for ever.
    numbers.shuffle(moments)
    ended = check_killed_while_saving(tmp_path, 80, moments)
    assert ended.count(".partial") > 20
    assert ".gone" in ended


def killed_and_not(tmp_path: Path, epochs: int, kills: int, longest: float) -> None:
    whole = finished(tmp_path / "whole", epochs)
    moments = random.Random(0)
    killed = 0
    while killed < kills:
        run = start(tmp_path / "killed", epochs)
        assert run.stdout is not None
        for line in run.stdout:  # up to where it trains and saves
            if line.startswith(("compiled training", "digest")):
                break
        time.sleep(moments.uniform(0, longest))
        if run.poll() is None:
            killed += 1
        else:  # it was done sooner: nothing is left to kill
            kills = killed
        run.kill()
        run.communicate()
    assert killed > 0
    assert digest(finished(tmp_path / "killed", epochs)) == digest(whole)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path):
    killed_and_not(tmp_path, epochs=4, kills=2, longest=0.3)


@pytest.mark.slow
def test_killed_many_times(tmp_path):
    killed_and_not(tmp_path, epochs=30, kills=20, longest=2.0)
