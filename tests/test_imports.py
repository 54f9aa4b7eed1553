"""The order of imports that the design gives, held."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from tiers above its own (earlier here) and from itself.
TIERS = [
    {"arrays", "checks", "command_texts", "hints", "names"},
    {"extras", "files", "intercept", "keys", "launch", "memory", "precision", "processes"},
    {"random", "state_dict"},
    {"batch_parts", "losses", "mixed_precision"},
    {"kernels"},
    {"backend"},
    {"nn", "metrics", "optim", "data", "checkpoint", "plots"},
    {"model_file", "ops", "weights", "train"},
    {"parity", "port"},
    {"command_texts", "predict_command", "predict_inputs", "weights_command"},
    {"predict"},
    {"main__", "pytest"},  # the command line, and the fixture
    {"harness"},  # experiments/harness, which is not about any experiment
    {"experiments", "tests", "benchmarks"},
]
TIER = {name: i for i, tier in enumerate(TIERS) for name in tier}
HEAVY = {
    "matplotlib": {"plots"},
    "torch": {"parity"},
}


def part_of(parts: tuple[str, ...]) -> str:
    """The part of the project that a dotted name, in words, or a path belongs to."""
    if parts[:1] == ("jaxnet",) or parts[:2] == ("experiments", "harness"):
        return parts[1].lstrip("_") if len(parts) > 1 else ""
    return parts[0]


def part_of_file(path: Path) -> str:
    return part_of(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(name, line, whether at the top of the file) of every import."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        top = node in tree.body
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found.append((str(node.module), node.lineno, top))
            found += [(f"{node.module}.{alias.name}", node.lineno, top) for alias in node.names]
    return found


def product_files() -> list[Path]:
    files = [p for folder in ("jaxnet", "experiments") for p in (ROOT / folder).rglob("*.py")]
    return [p for p in files if p != ROOT / "jaxnet" / "__init__.py"]


def test_imports_run_one_way():
    wrong = []
    for path in product_files():
        own = part_of_file(path)
        assert own in TIER, f"{path.name}: give {own} a tier"
        for name, line, _ in imports(path):
            words = tuple(name.split("."))
            if words[0] not in ("jaxnet", "experiments", "tests", "benchmarks"):
                continue
            target = part_of(words)
            if target in TIER and target != own and TIER[target] >= TIER[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_stay_where_they_belong():
    wrong = []
    for path in product_files():
        for name, line, top in imports(path):
            library = name.split(".")[0]
            if library in HEAVY and (part_of_file(path) not in HEAVY[library] or top):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_drawer_for_everything():
    drawers = {"utils.py", "common.py", "base.py", "helpers.py"}
    assert not [p for p in product_files() if p.name in drawers]


@pytest.mark.parametrize("module", ["jaxnet", "jaxnet.nn", "jaxnet.train", "jaxnet.data"])
def test_import_brings_nothing_heavy(module):
    heavy = ["torch", "matplotlib", "tensorflow_datasets", "pooch", "tyro", "sklearn"]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_command_line_waits_for_no_library_of_arrays():
    code = "import sys, jaxnet.__main__; print([m for m in ('numpy', 'jax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
