"""Which experiments there are, and how one is run."""

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import experiments

__all__ = ["USERS_ERRORS", "list_all", "load", "missing_data", "names", "one_line", "run"]

_PLUMBING = {
    "__main__",
    "every",
    "ledger",
    "mnist_nets",
    "mnist_plots",
    "registry",
    "result_table",
    "settings",
    "unfinished",
}


USERS_ERRORS = (ValueError, OSError, ImportError, FloatingPointError, OverflowError, MemoryError)
"""What is the user's to mend and told in a line: settings, files, packages that are not there,
a loss that is not finite, more than the memory holds. JAXNET_TRACEBACK=1 shows where it was."""


def names() -> list[str]:
    """The experiments that are here: every module of the package that is one."""
    found = pkgutil.iter_modules(experiments.__path__)
    return sorted(m.name for m in found if m.name not in _PLUMBING)


def load(name: str) -> ModuleType:
    """The module of an experiment: its docstring, DATA, Config and main."""
    return importlib.import_module(f"experiments.{name}")


def missing_data(module: ModuleType, data_dir: Path | None = None) -> list[str]:
    """The data sets that an experiment needs and that are not on this machine."""
    from jaxnet import data

    return [name for name in module.DATA if data.available(name, data_dir) is None]


def list_all(data_dir: Path | None = None) -> str:
    """A line for each experiment: its name, what data it needs, its claim."""
    from jaxnet import data

    lines = []
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
        lines.append((name, need, claim))
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    return "\n".join(
        f"{name.ljust(widths[0])}  [{need}]".ljust(sum(widths) + 4) + f"  {claim}"
        for name, need, claim in lines
    )


def run(name: str, arguments: Sequence[str]) -> int:
    """Runs one experiment; 0 if every figure holds, 1 if one is off, 2 for bad input."""
    import tyro

    module = load(name)
    try:
        config = tyro.cli(
            module.Config,
            prog=f"python -m experiments {name}",
            description=module.__doc__,
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        return 1 if module.main(config) else 0
    except USERS_ERRORS as error:
        if os.environ.get("JAXNET_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"\nstopped; {str(stop) or 'nothing was kept of this run'}", file=sys.stderr)
        return 130


def one_line(error: Exception) -> str:
    """What a user is told of an error that is theirs to mend."""
    if isinstance(error, OSError) and error.strerror:
        # Writing does not know the file's name; that of a full disk goes for all of them.
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
