"""The list of all experiments, and the function that runs one of them."""

import ast
import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from experiments.harness import tables
from experiments.harness.files import available
from experiments.harness.record import Run
from jaxnet import data, train
from jaxnet._processes import is_first

USERS_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, OverflowError, MemoryError)
"""The errors that a user can correct, and that are shown in one line: of settings, of files, of
packages that are not installed, of a loss that is not finite, and of too little memory.
JAXNET_TRACEBACK=1 shows their traceback."""


@functools.cache
def _found() -> tuple[str, ...]:
    """The modules beside this package that define `Config` and `main`, found without an import."""
    found = []
    for path in sorted(Path(__file__).parents[1].glob("[!_]*.py")):
        defined = {
            getattr(node, "name", "") for node in ast.parse(path.read_text(encoding="utf-8")).body
        }
        if {"Config", "main"} <= defined:
            found.append(path.stem)
    return tuple(found)


def names() -> list[str]:
    """The names of all experiments, in alphabetical order."""
    return list(_found())


def load(name: str) -> ModuleType:
    """The module of an experiment: its docstring, DATA, Config and main."""
    return importlib.import_module(f"experiments.{name}")


def missing_data(module: ModuleType, data_dir: Path | None = None) -> list[str]:
    """The names of the data sets that an experiment needs and this machine does not have.

    Args:
        module: The module of the experiment.
        data_dir: Path of a folder that is searched first.
    """
    return [name for name in module.DATA if available(name, data_dir) is None]


def list_all(data_dir: Path | None = None) -> None:
    """Prints the name, the data and the claim of each experiment."""
    rows = []
    for name in names():
        module = load(name)
        claim = (module.__doc__ or "").strip().split("\n")[0]
        if not module.DATA:
            need = "embedded data"
        elif missing := missing_data(module, data_dir):
            fetched = all(data.fetchable(name) for name in missing)
            need = f"{', '.join(missing)}: not here{', will be fetched' if fetched else ''}"
        else:
            need = f"{', '.join(module.DATA)}: here"
        rows.append((name, need, claim))
    tables.show(("experiment", "data", "what it shows"), rows, widest={"data": 20})


def execute(name: str, config: Any) -> int:
    """Runs one experiment with its settings; every other function that runs one calls this one.

    Args:
        name: The name of the experiment.
        config: The settings, an instance of the experiment's `Config`.

    Returns:
        The number of judged figures that are off.

    Raises:
        ValueError: The settings cannot be run, or the experiment refuses its data.
        KeyboardInterrupt: The user pressed Ctrl-C; the message says what was saved.
    """
    config.validate()
    if getattr(config, "mesh", None) is not None:
        train.init_processes()
        train.make_mesh(config.mesh)  # raises what is wrong with it, before data is read
    with jax.default_device(_device(config.device)), Run(config.out, name, config) as run:
        load(name).main(config, run)
    if is_first():
        print(f"record and everything else of this run: {run.folder}")
    return run.failed()


def _device(asked: str | None) -> jax.Device:
    """The device that is asked for: the first of a kind, or one by its number, as "gpu:1"."""
    kind, colon, number = (asked or "").partition(":")
    if (colon and not number.isdecimal()) or (asked is not None and not kind.isalpha()):
        raise ValueError(
            f"--device: {asked!r}; accepted is a kind of device (cpu, gpu, cuda, rocm, tpu), or "
            "one of several by its number from 0, such as gpu:1"
        )
    try:
        found = jax.local_devices(backend=kind or None)
    except RuntimeError as error:
        there = ", ".join(sorted({device.platform for device in jax.devices()}))
        raise ValueError(f"--device: {kind}; JAX finds none here, only {there}") from error
    if int(number or 0) >= len(found):
        raise ValueError(f"--device: {asked}; there are {len(found)}, numbered from 0")
    device = found[int(number or 0)]
    print(f"device: {device.platform}:{device.id}")
    return device


def run(name: str, arguments: Sequence[str]) -> int:
    """Runs one experiment from its command line.

    Args:
        name: The name of the experiment.
        arguments: The words of the command line after the name.

    Returns:
        The exit code: 0 if every figure holds, 1 if one is off, 2 for bad input, 130 after
        Ctrl-C.
    """

    def chosen() -> int:
        import tyro

        module = load(name)
        config = tyro.cli(
            module.Config,
            prog=f"python -m experiments {name}",
            description=module.__doc__,
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        return 1 if execute(name, config) else 0

    return told(chosen)


def told(command: Callable[[], int]) -> int:
    """Runs a command and shows its errors to the user.

    Args:
        command: A function without arguments that returns the exit code.

    Returns:
        The exit code of the command, 2 after one of `USERS_ERRORS`, 130 after Ctrl-C.
    """
    try:
        return command()
    except USERS_ERRORS as error:
        if os.environ.get("JAXNET_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\n{stopped(stop)}", file=sys.stderr)
        return 130


def stopped(stop: KeyboardInterrupt) -> str:
    """The line that a user sees after Ctrl-C."""
    return f"stopped; {str(stop) or 'nothing was kept of this run'}"


def one_line(error: Exception) -> str:
    """The line that a user sees for one of `USERS_ERRORS`."""
    if isinstance(error, OSError) and error.strerror:
        # An error of writing, such as a full disk, has no file name.
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
