"""What the README shows, run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_program_runs(capsys):
    program = PROGRAMS[0]
    names: dict = {}
    exec(program, names)
    assert names["metrics"]["loss"].shape == (2,)  # 100 rows in batches of 64
    assert not names["model"].training
    assert int(names["state"].step) == 2


@pytest.mark.long
def test_the_long_run_goes_on_where_it_was(tmp_path):
    env = os.environ | {"JAXNET_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    (program,) = (text for text in PROGRAMS if "train.fit" in text)
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "epoch 5/5" in said[0]
    assert "resumed after epoch 5" in said[1]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
