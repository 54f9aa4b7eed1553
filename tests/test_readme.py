"""What the README shows, run, and what its readers and CI rely on. Links: test_docs.py."""

import ast
import os
import re
from pathlib import Path

import pytest

from tests import forked

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
    env = os.environ | {"JAXNET_CACHE": str(tmp_path / "cache")}
    (program,) = PROGRAMS
    said = []
    for _ in range(2):
        done = forked.run("-c", program, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    assert "epoch 5/5" in said[0]
    assert "resumed after epoch 5" in said[1]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]


CLOCKS = {"perf_counter", "process_time", "monotonic", "time.time", "thread_time"}
FILES = sorted((ROOT / "tests").rglob("test_*.py"))


def marks(node: ast.AST) -> str:
    return " ".join(ast.unparse(each) for each in getattr(node, "decorator_list", ()))


def imports_torch(node: ast.AST) -> bool:
    names = [
        name
        for each in ast.walk(node)
        if isinstance(each, ast.Import | ast.ImportFrom)
        for name in [getattr(each, "module", None), *(alias.name for alias in each.names)]
    ]
    return any(str(name).split(".")[0] == "torch" for name in names)


def reads_a_clock(node: ast.AST) -> bool:
    return any(is_clock(each) for each in ast.walk(node))


def is_clock(node: ast.AST) -> bool:
    called = f".{ast.unparse(node.func)}" if isinstance(node, ast.Call) else ""
    return any(called.endswith(f".{clock}") for clock in CLOCKS)


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda p: p.name)
def test_tests_promise_nothing_of_torch_or_of_the_machines_speed(folder):
    """Without torch its tests are skipped, by their mark; a busy machine fails no test."""
    unmarked, timed = [], []
    for path in folder.glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        where = path.relative_to(ROOT)
        everywhere = "mark.torch" in " ".join(
            ast.unparse(each)
            for each in tree.body
            if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "pytestmark"
        )
        for node in tree.body:
            tests = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            if tests and imports_torch(node) and not (everywhere or "torch" in marks(node)):
                unmarked.append(f"{where}::{node.name}")
        taken = {  # the names of times
            ast.unparse(target)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and (isinstance(node.value, ast.BinOp) or is_clock(node.value))
            and reads_a_clock(node.value)
            for target in node.targets
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert | ast.Compare):
                names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                if reads_a_clock(node) or names & taken:
                    timed.append(f"{where}:{node.lineno}")
    assert (unmarked, timed) == ([], [])
