"""Convolutions in C for the CPU, compiled where they run.

XLA's own convolutions reach a third to a half of what PyTorch's vendor library does on
a CPU. As torch.compile does, jaxnet compiles its kernels with the system's C compiler,
once a machine: `cc`, or what the variable CC names. The library lies in the user's
cache. Where there is no compiler the plain XLA forms run, and a log line says so once.
"""

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
import numpy as np

from jaxnet.cache import cache_folder
from jaxnet.kernels.recurrent import Layer, recurrent

__all__ = [
    "Layer",
    "available",
    "correlate2d",
    "correlate2d_weight_gradient",
    "load",
    "recurrent",
]

_SOURCES = sorted(Path(__file__).parent.glob("*.c"))
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC")
_TARGETS = (
    "jaxnet_correlate2d",
    "jaxnet_correlate2d_gradient",
    "jaxnet_recurrent",
    "jaxnet_recurrent_gradient",
)


@functools.cache
def available() -> bool:
    """Whether the kernels are loaded; compiles and loads them at the first call."""
    try:
        load()
    except (OSError, RuntimeError) as error:
        logging.getLogger("jaxnet").warning(
            "convolutions run in plain XLA, 2 to 4 times slower on a CPU: %s", error
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
    command = [*compiler, *_FLAGS, f"-I{jax.ffi.include_dir()}", *map(str, _SOURCES), "-o"]
    try:
        made = subprocess.run([*command, str(library)], capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed: {made.stderr.strip()[:1000]}")
        os.replace(library, kept)  # whole or not at all, also with others doing the same
    finally:
        if kept.parent != folder:
            shutil.rmtree(folder, ignore_errors=True)
    return kept


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()} {platform.node()}"


def correlate2d(
    x: jax.Array, w: jax.Array, pads: tuple[tuple[int, int], tuple[int, int]]
) -> jax.Array:
    """y[o, h, w, n] = sum over c, i, j of x[c, h + i - top, w + j - left, n] w[o, c, i, j].

    Args:
        x: (C, H, W, N) float32, the batch innermost.
        w: (O, C, kh, kw) float32.
        pads: zeros (top, bottom) and (left, right); negative ones cut off.

    Returns:
        (O, H', W', N).
    """
    sizes = [
        n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[1:3], pads, w.shape[2:], strict=True)
    ]
    result = jax.ShapeDtypeStruct((w.shape[0], *sizes, x.shape[3]), x.dtype)
    call = jax.ffi.ffi_call("jaxnet_correlate2d", result, vmap_method="sequential")
    return call(x, w, top=np.int64(pads[0][0]), left=np.int64(pads[1][0]))


def correlate2d_weight_gradient(
    x: jax.Array,
    dy: jax.Array,
    window: tuple[int, int],
    pads: tuple[tuple[int, int], tuple[int, int]],
) -> jax.Array:
    """dw[o, c, i, j] = sum over h, w, n of x[c, h + i - top, w + j - left, n] dy[o, h, w, n].

    Args:
        x: (C, H, W, N) float32.
        dy: (O, H', W', N) float32.
        window: (kh, kw).
        pads: as in `correlate2d`.

    Returns:
        (O, C, kh, kw).
    """
    result = jax.ShapeDtypeStruct((dy.shape[0], x.shape[0], *window), x.dtype)
    call = jax.ffi.ffi_call("jaxnet_correlate2d_gradient", result, vmap_method="sequential")
    return call(x, dy, top=np.int64(pads[0][0]), left=np.int64(pads[1][0]))
