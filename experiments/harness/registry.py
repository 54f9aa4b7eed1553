"""Which experiments there are, and how one is run."""

import ast
import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.harness import tables
from experiments.harness.files import available
from experiments.harness.record import Run
from jaxnet import data

USERS_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, OverflowError, MemoryError)
"""What is the user's to mend and told in a line: settings, files, packages that are not there,
a loss that is not finite, more than the memory holds. JAXNET_TRACEBACK=1 shows where it was."""


@functools.cache
def _found() -> tuple[str, ...]:
    """Modules beside this package that define `Config` and `main`, read without importing them."""
    found = []
    for path in sorted(Path(__file__).parents[1].glob("[!_]*.py")):
        defined = {getattr(node, "name", "") for node in ast.parse(path.read_text()).body}
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
    """The data sets that an experiment needs and that are not on this machine."""
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
    """Runs one experiment with its settings; every way to run one comes through here.

    Args:
        name: The name of the experiment.
        config: Its settings, an instance of its `Config`.

    Returns:
        How many of the figures that it judged are off.

    Raises:
        ValueError: The settings cannot be run, or what the experiment says of its data.
        KeyboardInterrupt: Ctrl-C; the message says what was kept.
    """
    config.validate()
    with Run(config.out, name, config) as run:
        load(name).main(config, run)
    print(f"record and everything else of this run: {run.folder}")
    return run.failed()


def run(name: str, arguments: Sequence[str]) -> int:
    """Runs one experiment from its command line.

    Returns:
        0 if every figure holds, 1 if one is off, 2 for bad input, 130 after Ctrl-C.
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
    """Runs a command; the user's errors become one line and exit code 2, Ctrl-C becomes 130."""
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
    """What a user is told after Ctrl-C."""
    return f"stopped; {str(stop) or 'nothing was kept of this run'}"


def one_line(error: Exception) -> str:
    """What a user is told of an error that is theirs to mend."""
    if isinstance(error, OSError) and error.strerror:
        # Writing does not know the file's name; that of a full disk goes for all of them.
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
