"""Compiles the C code of the kernels on this machine and registers it with XLA."""

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
_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fPIC")
# For the processor at hand: of the first flag that a compiler knows, at worst for any processor
# of the kind. Some compilers for ARM know only the second.
_MACHINES = (("-march=native",), ("-mcpu=native",), ())
_NAMES = ("cc", "gcc", "clang")
_TARGETS = (
    "jaxnet_batch_moments",
    "jaxnet_batch_norm_gradient",
    "jaxnet_correlate2d",
    "jaxnet_correlate2d_gradient",
    "jaxnet_few_rows",
    "jaxnet_group_moments",
    "jaxnet_group_norm_gradient",
    "jaxnet_max_pool2d_pick",
    "jaxnet_max_pool2d_spread",
    "jaxnet_recurrent",
    "jaxnet_recurrent_gradient",
    "jaxnet_spread2d",
    "jaxnet_winograd",
    "jaxnet_winograd_gradient",
)


_SECONDS = 300  # the limit for one compiler run, which takes about ten seconds
_loading = threading.Lock()


@functools.cache
def available() -> bool:
    """Whether the kernels are loaded. The first call compiles and loads them.

    The kernels are not available if the environment variable JAXNET_KERNELS is "off", or if
    no compiler can compile them. A line in the log then gives the reason.

    Returns:
        True if the kernels are loaded.

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
    """Compiles the kernels, unless they are in the cache, and registers them with XLA.

    Returns:
        The command of the compiler that compiled the kernels.

    Raises:
        RuntimeError: There is no C compiler, or every compiler failed. The text contains the
            compilers' messages.
    """
    with _loading:  # functools.cache runs the function twice if two threads call it at once
        functions, command = _loaded()
        for name in _TARGETS:
            jax.ffi.register_ffi_target(
                name, jax.ffi.pycapsule(getattr(functions, name)), platform="cpu"
            )
    return command


def _loaded() -> tuple[ctypes.CDLL, str]:
    """Returns the library from the first compiler that succeeds, and the compiler's command."""
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
    """Returns the compilers to try, each once even if it has several names."""
    named = os.environ.get("CC", "").strip()
    known = {os.path.realpath(path): name for name in _NAMES[::-1] if (path := shutil.which(name))}
    others = [name for name in _NAMES if name in known.values()]
    if not named and not others:
        raise RuntimeError("no C compiler (install gcc)")
    return [*([named] if named else []), *(name for name in others if name != named)]


def _by_compiler(compiler: list[str]) -> ctypes.CDLL:
    """Returns the library of a compiler, from the first folder that it can be stored in."""
    if shutil.which(compiler[0]) is None:
        raise RuntimeError("there is no such compiler")
    version = _run([[*compiler, "--version"]])
    for machine in _MACHINES[:-1]:
        try:
            return _found(compiler, [*_FLAGS, *machine], version)
        except RuntimeError:
            if _knows(compiler, machine):
                raise
    return _found(compiler, [*_FLAGS, *_MACHINES[-1]], version)


def _knows(compiler: list[str], machine: tuple[str, ...]) -> bool:
    """Whether a compiler takes the flags, with nothing to compile."""
    nothing = ["-x", "c", "-c", os.devnull, "-o", os.devnull]
    try:
        _run([[*compiler, *machine, *nothing]])
    except RuntimeError:
        return False
    return True


def _found(compiler: list[str], flags: list[str], version: str) -> ctypes.CDLL:
    """Returns the library that was compiled before with these flags, or compiles it."""
    texts = [source.read_text(encoding="utf-8") for source in (*_HEADERS, *_SOURCES)]
    # Everything that the library depends on is part of its name, so a change of any of it
    # compiles a new library and never loads an old one.
    parts = [*texts, jaxlib.version.__version__, *flags, *compiler, version, _processor()]
    name = f"kernels-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.so"
    # If the cache folder cannot be written, a folder for temporary files avoids compiling the
    # kernels at every start.
    user = os.getuid() if hasattr(os, "getuid") else "user"
    for folder in (
        files.cache_folder() / "kernels",
        Path(tempfile.gettempdir()) / f"jaxnet-kernels-{user}",
    ):
        try:
            with _locked(folder):
                return _kept(folder / name) or _made(compiler, flags, folder / name)
        except OSError as error:
            _log.info("%s: cannot keep the kernels (%s)", folder, error)
    with tempfile.TemporaryDirectory(prefix="jaxnet-") as last:
        return _made(compiler, flags, Path(last) / name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Creates a folder of the user's own and locks it against compilation by other processes.

    Raises:
        OSError: The folder cannot be created or locked, or other users could write a library
            into it, which this process would run.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _is_own(folder):
        folder.chmod(0o700)
    _check_own(folder)
    handle = files.lock(folder / ".lock", wait=True)
    try:
        # A process that was killed while it compiled leaves a hidden folder.
        for left in folder.glob(".*/"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _is_own(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()


def _check_own(path: Path) -> None:
    """Raises a PermissionError if another user could have written the file, as ssh does."""
    if not hasattr(os, "getuid"):  # on Windows every user has a cache folder of their own
        return
    state = path.lstat()
    if stat.S_ISLNK(state.st_mode) or state.st_uid not in (os.getuid(), 0) or state.st_mode & 0o022:
        raise PermissionError(f"{path} belongs to another user, or others may write it")


def _kept(library: Path) -> ctypes.CDLL | None:
    """Returns a library that was compiled before, if it exists and is undamaged."""
    sums = library.with_suffix(".sha256")
    if not library.exists():
        return None
    try:
        _check_own(library)
        _check_own(sums)
        # A damaged library would crash or compute wrong numbers, at every start from now on.
        if sums.read_bytes() != _digest(library):
            raise ValueError("not as it was written")
        return ctypes.CDLL(str(library))
    except (OSError, ValueError) as error:
        _log.warning("%s: damaged (%s); compiling again", library, error)
        return None


def _digest(library: Path) -> bytes:
    return hashlib.sha256(library.read_bytes()).hexdigest().encode()


def _made(compiler: list[str], flags: list[str], library: Path) -> ctypes.CDLL:
    """Compiles and loads the library, and stores it with its checksum."""
    flags = [*flags, f"-I{jax.ffi.include_dir()}"]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".") as scratch:
        # The scratch folder is in the same folder, so that os.replace is a rename.
        objects = {source: Path(scratch) / f"{source.stem}.o" for source in _SOURCES}
        _run([[*compiler, *flags, "-c", str(c), "-o", str(o)] for c, o in objects.items()])
        made = Path(scratch) / library.name
        _run([[*compiler, *map(str, objects.values()), "-shared", "-lm", "-o", str(made)]])
        made.chmod(0o700)
        files.flush(made)
        functions = ctypes.CDLL(str(made))
        # The checksum is written first. If the process is killed before the library follows,
        # the checksum does not match, and the next start compiles again.
        files.write_bytes(library.with_suffix(".sha256"), _digest(made))
        os.replace(made, library)
        files.flush_names(library.parent)
    return functions


def _run(commands: list[list[str]]) -> str:
    """Runs commands at the same time and returns their output.

    Raises:
        RuntimeError: A command failed or exceeded the time limit.
    """
    running = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a process group, so that a compiler's children end with it
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
    """Returns the processor's features, on which the result of `-march=native` depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
