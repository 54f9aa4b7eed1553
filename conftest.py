"""Strict settings for every test: what is sloppy in JAX is an error here."""

import functools
import gc
import importlib.metadata
import os
import threading
from collections.abc import Iterator
from pathlib import Path

# Before anything imports matplotlib or starts a backend.
os.environ.setdefault("MPLBACKEND", "agg")

import jax
import jaxlib.version
import psutil
import pytest
from jax._src.interpreters import mlir

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# What a test needs beyond requirements.txt: marker -> distribution. .ci/requirements.txt has the
# versions that are tested; .ci/run installs them, and runs the tests that carry one of these.
PACKAGES = {
    "build": "build",
    "equinox": "equinox",
    "flatbuffers": "flatbuffers",
    "haiku": "dm-haiku",
    "libcst": "libcst",
    "onnx": "jax2onnx",
    "optuna": "optuna",
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


# pytest imports every module to look for examples. These are programs that train, and what
# cannot be imported without another library.
ROOT = Path(__file__).parent
collect_ignore = [*map(str, (ROOT / "tests" / "port" / "loops").glob("*.py"))]
collect_ignore += [
    str(ROOT / "tests" / "train" / f"{name}.py") for name in ("ddp", "processes_program")
]
if not installed("libcst"):
    port = ROOT / "jaxnet" / "port"
    needing = [*port.glob("_[!_]*.py"), *port.glob("_flax/*.py")]
    collect_ignore += [str(path) for path in needing if path.name != "_port.py"]
for library in ("equinox", "haiku"):
    if not installed(PACKAGES[library]):
        collect_ignore.append(str(ROOT / "jaxnet" / "parity" / f"_{library}.py"))


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


# Most of a test's time is XLA's compiling. By default programs are compiled quickly, without
# most optimisations, which checks the same arithmetic in half of the time; with --optimize
# they are compiled as a user's are. CI does both: training in comparison with PyTorch, and on
# the newest Python, runs optimised. Processes that a test starts do likewise.
QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS"
# The first alone saves a third of all that the tests compute; the second, one part of code
# instead of up to 32, an eighth of what a compiled row costs. Later versions of XLA end the
# process at a flag that they do not know, and the first is gone there.
QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def pytest_configure(config: pytest.Config) -> None:
    quick = not config.getoption("--optimize")
    os.environ[QUICK] = str(int(quick))
    jax.config.update(QUICK.lower(), quick)
    if quick and jaxlib.version.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_FLAGS}".strip()


# A program is written down in an MLIR context. To make one takes a quarter of a small program's
# compiling and half of the memory. Newer versions of JAX let the programs of a thread share one;
# here those of a file do. What is compiled is the same.
make_context = mlir.make_ir_context
context_of = functools.cache(lambda thread: make_context())
if jaxlib.version.__version_info__ < (0, 11):
    mlir.make_ir_context = lambda: context_of(threading.get_ident())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Spares most searches for garbage: a tenth of what tests that trace large programs compute.

    The thousands of collected tests are none, and the equations of a trace, which are as many
    objects, are dropped as a whole by their last reference.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    optimize = "compile programs with all optimisations, as a user's are"
    parser.addoption("--optimize", action="store_true", help=optimize)
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = missing()
    if not config.getoption("--slow"):
        reasons["slow"] = "slow; run with --slow"
    for item in items:
        for name, reason in reasons.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="module")
def programs_do_not_pile_up() -> Iterator[None]:
    """Drops what was compiled where it fills the memory: all tests together would keep 7 GB.

    What JAX keeps of a file's programs is millions of objects, through which every later search
    for garbage would go, and every search of a recording for the optimizers of its program.
    """
    yield
    context_of.cache_clear()
    if psutil.Process().memory_info().rss > 2e9:
        gc.unfreeze()
        jax.clear_caches()
        gc.collect()
    gc.freeze()
