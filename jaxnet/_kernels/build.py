"""The kernels' C, compiled where it runs and made known to XLA."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib.version

from jaxnet import _files as files

_log = logging.getLogger(__name__)
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
_SOURCES = sorted(Path(__file__).parent.glob("*.c"))
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC")
_NAMES = ("cc", "gcc", "clang")
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


_SECONDS = 300  # that a compiler may take; it takes about ten
_loading = threading.Lock()


@functools.cache
def available() -> bool:
    """Whether the kernels are loaded; compiles and loads them at the first call.

    They are not where the environment variable JAXNET_KERNELS is "off", or where nothing
    here can compile them; a warning in the log then says why.

    Raises:
        ValueError: JAXNET_KERNELS is neither "on" nor "off".
    """
    asked = os.environ.get("JAXNET_KERNELS") or "on"
    if asked not in ("on", "off"):
        raise ValueError(f"JAXNET_KERNELS: {asked!r}; accepted are 'on' and 'off'")
    if asked == "off":
        _log.info("images and sequences run in plain XLA: JAXNET_KERNELS is off")
        return False
    try:
        load()
    except (OSError, RuntimeError) as error:
        _log.warning(
            "images and sequences run in plain XLA, 1.5 to 4 times slower on a CPU: %s", error
        )
        return False
    return True


@functools.cache
def load() -> str:
    """Compiles the kernels, unless that was done, and makes XLA know them.

    Returns:
        The command of the compiler that made them.

    Raises:
        RuntimeError: There is no C compiler, or each failed; the text says what they said.
    """
    with _loading:  # the cache of functools lets two threads in
        functions, command = _loaded()
        for name in _TARGETS:
            jax.ffi.register_ffi_target(
                name, jax.ffi.pycapsule(getattr(functions, name)), platform="cpu"
            )
    return command


def _loaded() -> tuple[ctypes.CDLL, str]:
    """The library by the first compiler that makes one, and its command."""
    faults = []
    for command in _commands():
        try:
            library = _by_compiler(shlex.split(command))
        except (OSError, RuntimeError, ValueError) as error:
            faults.append(f"{command}: {error}")
            continue
        if faults:
            _log.warning("the kernels are compiled by %s, since %s", command, "; ".join(faults))
        return library, command
    raise RuntimeError("; ".join(faults))


def _commands() -> list[str]:
    """The compilers to try, each once though it may have several names."""
    named = os.environ.get("CC", "").strip()
    known = {os.path.realpath(path): name for name in _NAMES[::-1] if (path := shutil.which(name))}
    others = [name for name in _NAMES if name in known.values()]
    if not named and not others:
        raise RuntimeError("no C compiler (install gcc)")
    return [*([named] if named else []), *(name for name in others if name != named)]


def _by_compiler(compiler: list[str]) -> ctypes.CDLL:
    """The library that a compiler makes, from the first folder that can keep it."""
    if shutil.which(compiler[0]) is None:
        raise RuntimeError("there is no such compiler")
    version = _run([[*compiler, "--version"]])
    texts = [source.read_text(encoding="utf-8") for source in (*_HEADERS, *_SOURCES)]
    parts = [*texts, jaxlib.version.__version__, *_FLAGS, *compiler, version, _processor()]
    name = f"kernels-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.so"
    # A cache that cannot be written must not cost the compiling of each start.
    user = os.getuid() if hasattr(os, "getuid") else "user"
    for folder in (
        files.cache_folder() / "kernels",
        Path(tempfile.gettempdir()) / f"jaxnet-kernels-{user}",
    ):
        try:
            with _locked(folder):
                return _kept(folder / name) or _made(compiler, folder / name)
        except OSError as error:
            _log.info("%s: cannot keep the kernels (%s)", folder, error)
    with tempfile.TemporaryDirectory(prefix="jaxnet-") as last:
        return _made(compiler, Path(last) / name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Makes a folder of the user's own, and keeps other processes from compiling there too.

    Raises:
        OSError: It cannot be made or locked, or others could put a library there, which
            would be run.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_own(folder):
        folder.chmod(0o700)
    _check_own(folder)
    handle = files.lock(folder / ".lock", wait=True)
    try:
        for left in folder.glob(".*/"):  # what a process killed while it compiled left here
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _is_own(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()


def _check_own(path: Path) -> None:
    """Raises PermissionError if somebody else could have written a file, as ssh does."""
    if not hasattr(os, "getuid"):  # Windows gives every user a cache of his own
        return
    state = path.lstat()
    if stat.S_ISLNK(state.st_mode) or state.st_uid not in (os.getuid(), 0) or state.st_mode & 0o022:
        raise PermissionError(f"{path} belongs to another user, or others may write it")


def _kept(library: Path) -> ctypes.CDLL | None:
    """A library that was made before, if it is there as it was written."""
    sums = library.with_suffix(".sha256")
    if not library.exists():
        return None
    try:
        _check_own(library)
        _check_own(sums)
        # What is loaded damaged crashes, or computes wrong numbers, and for ever.
        if sums.read_bytes() != _digest(library):
            raise ValueError("not as it was written")
        return ctypes.CDLL(str(library))
    except (OSError, ValueError) as error:
        _log.warning("%s: damaged (%s); compiling again", library, error)
        return None


def _digest(library: Path) -> bytes:
    return hashlib.sha256(library.read_bytes()).hexdigest().encode()


def _made(compiler: list[str], library: Path) -> ctypes.CDLL:
    """Compiles and loads the library, and keeps it with its checksum."""
    flags = [*_FLAGS, f"-I{jax.ffi.include_dir()}"]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".") as scratch:
        objects = {source: Path(scratch) / f"{source.stem}.o" for source in _SOURCES}
        _run([[*compiler, *flags, "-c", str(c), "-o", str(o)] for c, o in objects.items()])
        made = Path(scratch) / library.name
        _run([[*compiler, *map(str, objects.values()), "-shared", "-lm", "-o", str(made)]])
        made.chmod(0o700)
        files.flush(made)
        functions = ctypes.CDLL(str(made))
        # The checksum comes first: killed between the two, the next start compiles again.
        files.write_bytes(library.with_suffix(".sha256"), _digest(made))
        os.replace(made, library)
        files.flush_names(library.parent)
    return functions


def _run(commands: list[list[str]]) -> str:
    """Runs commands side by side and gives what they said.

    Raises:
        RuntimeError: One of them failed, or took too long.
    """
    running = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a group of its own, so that its helpers end with it
        )
        for command in commands
    ]
    said = []
    try:
        for command, process in zip(commands, running, strict=True):
            said.append(process.communicate(timeout=_SECONDS)[0])
            if process.returncode:
                raise RuntimeError(f"{shlex.join(command)} failed: {said[-1].strip()[:1000]}")
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{shlex.join(command)} took over {_SECONDS} seconds") from error
    finally:
        for process in running[len(said) :]:
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.communicate()
    return "".join(said)


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
