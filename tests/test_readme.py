"""What the README shows, run."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_program_runs(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(program, names)
    assert names["metrics"]["loss"].shape == (2,)  # 100 rows in batches of 64
    assert not names["model"].training
    assert int(names["state"].step) == 2
