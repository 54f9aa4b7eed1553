"""What the README shows, run, and what its readers and CI rely on. Links: test_docs.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def test_the_first_commands_are_those_that_ci_runs():
    install = "python -m pip install -r requirements.txt && "
    assert COMMANDS[0] == f"{install}python -m experiments thermometer\n"
    assert COMMANDS[1] == f"{install}python -m pytest\n"


@pytest.mark.long
def test_the_first_run_goes_on_where_it_was(tmp_path):
    env = os.environ | {"JAXNET_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    (program,) = PROGRAMS
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    assert "epoch 5/5" in said[0]
    assert "resumed after epoch 5" in said[1]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
