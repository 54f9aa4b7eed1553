"""Strict settings for every test: what is sloppy in JAX is an error here."""

import contextlib
import importlib.metadata
import os
import shutil
import tempfile
import time
from pathlib import Path

# Before anything imports matplotlib or starts a backend.
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


# What a test needs beyond requirements.txt: marker -> distribution. .ci/requirements.txt has the
# versions that are tested; .ci/run installs them, and runs the tests that carry one of these.
PACKAGES = {
    "build": "build",
    "pandas": "pandas",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "torch": "torch",
    "visdom": "visdom",
}


def installed(distribution: str) -> bool:
    """Whether pip has installed it; a folder of that name, as build/, does not count."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def missing() -> dict[str, str]:
    """Marker -> why its tests are skipped here."""
    reasons = {
        marker: f"needs {distribution}, in the version of .ci/requirements.txt"
        for marker, distribution in PACKAGES.items()
        if not installed(distribution)
    }
    if not os.environ.get("JAXNET_DATA"):
        reasons["data"] = "needs data: set JAXNET_DATA to the folder of the data sets"
    return reasons


# Most of a test's time is XLA's compiling. Every program is compiled as a user's is, with all
# optimisations, but one that an earlier run has compiled is read from pytest's cache, where JAX
# finds it by its text, its options and jaxlib's version. `pytest --cache-clear` forgets them, and
# `-p no:cacheprovider` runs without. What a test starts as a process of its own compiles anew.
OWN_PROGRAMS = pytest.StashKey[Path]()
A_DAY = 24 * 3600.0


def programs_of(config: pytest.Config) -> Path | None:
    """The folder of the compiled programs, if this process runs tests and may keep them."""
    runs_tests = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    # With --cache-clear each process empties the folder as it starts, the others' links included.
    if not runs_tests or not hasattr(config, "cache") or config.getoption("cacheclear"):
        return None
    return Path(config.cache.mkdir("programs"))


def pytest_configure(config: pytest.Config) -> None:
    shared = programs_of(config)
    if shared is None:
        return
    # JAX writes its files in place, so one that is being written, or was when its process was
    # killed, must not be read. Each process has a folder of its own, with links to what is there.
    own = Path(tempfile.mkdtemp(dir=shared))
    for path in shared.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another run's, which has just ended
            age = time.time() - path.stat().st_mtime
            if path.is_dir():
                if age > A_DAY:  # of a run that was killed
                    shutil.rmtree(path, ignore_errors=True)
            elif age < 30 * A_DAY:
                os.link(path, own / path.name)
            else:
                path.unlink()
    config.stash[OWN_PROGRAMS] = own
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # XLA's own caches for GPUs: their folder would be among a program's options, and no two runs
    # would find the same program.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def pytest_sessionfinish(session: pytest.Session) -> None:
    own = session.config.stash.get(OWN_PROGRAMS, None)
    if own is None:
        return
    for path in own.iterdir():
        if not (own.parent / path.name).exists():
            path.replace(own.parent / path.name)
    shutil.rmtree(own, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = missing()
    if not config.getoption("--slow"):
        reasons["slow"] = "slow; run with --slow"
    for item in items:
        for name, reason in reasons.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
