"""The kernels' C, compiled where it runs and made known to XLA."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib

from jaxnet.files import cache_folder

__all__ = ["available", "load"]

_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
_SOURCES = sorted(Path(__file__).parent.glob("*.c"))
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC")
_TARGETS = (
    "jaxnet_batch_moments",
    "jaxnet_batch_norm_gradient",
    "jaxnet_correlate2d",
    "jaxnet_correlate2d_gradient",
    "jaxnet_few_rows",
    "jaxnet_max_pool2d_pick",
    "jaxnet_max_pool2d_spread",
    "jaxnet_recurrent",
    "jaxnet_recurrent_gradient",
    "jaxnet_winograd",
    "jaxnet_winograd_gradient",
)


@functools.cache
def available() -> bool:
    """Whether the kernels are loaded; compiles and loads them at the first call."""
    try:
        load()
    except (OSError, RuntimeError) as error:
        logging.getLogger("jaxnet").warning(
            "images and sequences run in plain XLA, 1.5 to 4 times slower on a CPU: %s", error
        )
        return False
    return True


@functools.cache
def load() -> Path:
    """Compiles the kernels, unless that was done, and makes XLA know them.

    Returns:
        The library.

    Raises:
        RuntimeError: there is no C compiler, or it failed; the text says what it said.
        OSError: the library cannot be loaded.
    """
    library = _compiled(_compiler())
    functions = ctypes.CDLL(str(library))
    for name in _TARGETS:
        jax.ffi.register_ffi_target(
            name, jax.ffi.pycapsule(getattr(functions, name)), platform="cpu"
        )
    return library


def _compiler() -> list[str]:
    asked = os.environ.get("CC")
    for command in [asked] if asked else ["cc", "gcc", "clang"]:
        words = shlex.split(command)
        if shutil.which(words[0]):
            return words
    raise RuntimeError(
        f"no C compiler {asked!r}, which CC names" if asked else "no C compiler (install gcc)"
    )


def _compiled(compiler: list[str]) -> Path:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    texts = [source.read_text() for source in (*_HEADERS, *_SOURCES)]
    facts = [*texts, jaxlib.__version__, *_FLAGS, *compiler, version, _processor()]
    name = f"kernels-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    kept = cache_folder() / "kernels" / name
    if kept.exists():
        return kept
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=kept.parent, prefix="."))
    except OSError:  # a cache that cannot be written costs the compiling of each start
        folder = Path(tempfile.mkdtemp(prefix="jaxnet-"))
        kept = folder / name
    library = folder / "new.so"
    flags = [*_FLAGS, f"-I{jax.ffi.include_dir()}"]
    objects = {source: folder / f"{source.stem}.o" for source in _SOURCES}
    try:
        _run([[*compiler, *flags, "-c", str(c), "-o", str(o)] for c, o in objects.items()])
        _run([[*compiler, *map(str, objects.values()), "-shared", "-lm", "-o", str(library)]])
        os.replace(library, kept)  # whole or not at all, also with others doing the same
    finally:
        if kept.parent != folder:
            shutil.rmtree(folder, ignore_errors=True)
    return kept


def _run(commands: list[list[str]]) -> None:
    """Runs commands side by side."""
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    said = [process.communicate()[0] for process in running]
    for command, process, text in zip(commands, running, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed: {text.strip()[:1000]}")


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
