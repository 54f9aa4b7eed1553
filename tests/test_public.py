"""The rule of what is public: modules without an underscore, and the names that they list."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "jaxnet").rglob("*.py")
)


def is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


def lists_names(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    targets = [node.targets[0] for node in body if isinstance(node, ast.Assign)]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def test_public_modules_list_their_names_and_private_ones_do_not():
    assert [m for m in MODULES if is_public(m) and not lists_names(m)] == ["jaxnet"]
    # The lists of private packages say what the backend, and what parity, calls of them.
    private = [m for m in MODULES if not is_public(m) and lists_names(m)]
    assert private == ["jaxnet._kernels", "jaxnet.parity._traps"]


@pytest.mark.parametrize("module", [m for m in MODULES if is_public(m) and m != "jaxnet"])
def test_what_is_listed_is_there_once_and_public(module):
    names = importlib.import_module(module).__all__
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("_")]
    assert not [name for name in names if not hasattr(importlib.import_module(module), name)]
