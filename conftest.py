"""Strict settings for every test: what is sloppy in JAX is an error here."""

import importlib.util
import os

# Before anything imports matplotlib or starts a backend.
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# What a test needs beyond requirements.txt: the marker says which, and how to get it.
PACKAGES = {
    "torch": "pip install torch==2.13.0",
    "tensorboard": "pip install tensorboard==2.21.0",
    "visdom": "pip install 'setuptools<81' wheel, then visdom==0.2.4 --no-build-isolation",
}


def missing() -> dict[str, str]:
    """Marker -> why its tests are skipped here."""
    reasons = {
        name: f"needs {name}: {how}"
        for name, how in PACKAGES.items()
        if importlib.util.find_spec(name) is None
    }
    if not os.environ.get("JAXNET_DATA"):
        reasons["data"] = "needs data: set JAXNET_DATA to the folder of the data sets"
    return reasons


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
