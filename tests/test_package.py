"""The wheel and the source distribution: what they hold, that they install and run elsewhere."""

import email
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import jaxnet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What setuptools writes into a source distribution besides the files of the repository.
WRITTEN = {"PKG-INFO", "setup.cfg"}


def run(*words: str | Path, cwd: Path, **env: str) -> str:
    """What a command prints; its output is the message where it fails."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=os.environ | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository_files() -> list[str]:
    """What git has, and what it would take: the files of this checkout without its by-products."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs git's list of files, which an unpacked source distribution has not")
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = run(*words, cwd=ROOT).split("\0")
    return sorted(name for name in set(names) if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from a copy: the wheel from the source distribution."""
    folder = tmp_path_factory.mktemp("package")
    for name in repository_files():
        copy = folder / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    # The setuptools that is installed, so that nothing is fetched.
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"),
        cwd=folder / "source",
    )
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def source(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    (path,) = built.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_changelog_begins_with_this_version():
    lines = (ROOT / "docs" / "changelog.md").read_text().splitlines()
    first = next(line for line in lines if line.startswith("## "))
    assert first.startswith(f"## {jaxnet.__version__}, "), first


@pytest.mark.build
def test_the_source_distribution_holds_the_repository(source):
    names = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert {n for n in names if ".egg-info/" not in n} - WRITTEN == set(repository_files())


@pytest.mark.build
def test_the_wheel_holds_the_package_and_its_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = sorted(n for n in names if ".dist-info/" not in n)
    assert package == [n for n in repository_files() if n.startswith("jaxnet/")]
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)


@pytest.mark.build
def test_its_metadata(wheel):
    about = metadata(wheel)
    assert about["Name"] == PROJECT["name"]
    assert about["Version"] == jaxnet.__version__
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_all("Provides-Extra") == list(PROJECT["optional-dependencies"])
    twine = (sys.executable, "-m", "twine", "check", "--strict")
    run(*twine, *wheel.parent.iterdir(), cwd=wheel.parent)


@pytest.mark.build
def test_an_installed_wheel_trains(wheel, tmp_path):
    """In another folder, from the wheel's files alone, with this environment's libraries."""
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    run(*pip, "--target", site, wheel, cwd=tmp_path)
    program = """
import importlib.metadata, pathlib
import jax.numpy as jnp
import jaxnet
from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator

optimizer = optim.SGD(lr=0.1)
state = train.create(nn.Linear(1, 1, rngs=Generator(0)), optimizer)
step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
x = jnp.linspace(-1, 1, 8).reshape(8, 1)
for _ in range(200):
    state, metrics = step(state, (x, 2 * x + 1))
assert metrics["loss"] < 1e-6, metrics
print(importlib.metadata.version("jaxnet-parity"), jaxnet.__version__)
print(pathlib.Path(jaxnet.__file__).parents[1].resolve())
"""
    said = run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(site))
    assert said.splitlines() == [f"{jaxnet.__version__} {jaxnet.__version__}", str(site.resolve())]


@pytest.mark.slow
@pytest.mark.build
def test_the_source_distributions_tests_and_experiments_run(source):
    """Tests that need the rows, their golden arrays and the shared settings."""
    words = ("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider")
    assert " passed" in run(sys.executable, *words, "tests/nn/test_linear.py", cwd=source)
    assert "thermometer" in run(sys.executable, "-m", "experiments", cwd=source)
