"""python -m experiments: lists the experiments; python -m experiments NAME: runs one."""

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import experiments

_PLUMBING = {"__main__", "ledger", "result_table", "settings", "unfinished"}


def names() -> list[str]:
    """The experiments that are here: every module of the package that is one."""
    found = pkgutil.iter_modules(experiments.__path__)
    return sorted(m.name for m in found if m.name not in _PLUMBING)


def load(name: str) -> ModuleType:
    return importlib.import_module(f"experiments.{name}")


def missing_data(module: ModuleType, data_dir: Any = None) -> list[str]:
    from jaxnet import data

    return [name for name in module.DATA if data.available(name, data_dir) is None]


def list_all() -> None:
    from jaxnet import data

    lines = []
    for name in names():
        module = load(name)
        claim = (module.__doc__ or "").strip().split("\n")[0]
        if not module.DATA:
            need = "embedded data"
        elif missing := missing_data(module):
            fetched = all(data.fetchable(name) for name in missing)
            need = f"{', '.join(missing)}: not here{', will be fetched' if fetched else ''}"
        else:
            need = f"{', '.join(module.DATA)}: here"
        lines.append((name, need, claim))
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    for name, need, claim in lines:
        print(f"{name.ljust(widths[0])}  [{need}]".ljust(sum(widths) + 4) + f"  {claim}")
    print("\nRun one:           python -m experiments NAME")
    print("Its settings:      python -m experiments NAME --help")
    print("All with data:     python -m experiments all")


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
    except (ValueError, OSError) as error:
        if os.environ.get("JAXNET_TRACEBACK"):
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        kept = str(stop) or "nothing was kept of this run"
        print(f"\nstopped; {kept}", file=sys.stderr)
        return 130


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def run_all(arguments: Sequence[str]) -> int:
    results = {}
    for name in names():
        if missing := missing_data(load(name)):
            print(f"\n== {name}: skipped, {', '.join(missing)} is not here")
            continue
        print(f"\n== {name}")
        results[name] = run(name, arguments)
    print()
    words = {0: "ok", 1: "a figure is off", 2: "error"}
    for name, code in results.items():
        print(f"{name}: {words.get(code, 'stopped')}")
    return max(results.values(), default=0)


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        list_all()
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in ("-h", "--help"):
        print("usage: python -m experiments [NAME | all] [settings]\n")
        list_all()
        return 0
    if name == "all":
        return run_all(rest)
    if name not in names():
        near = difflib.get_close_matches(name, [*names(), "all"], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names())}"
        print(f"error: no experiment {name!r}; {hint}", file=sys.stderr)
        return 2
    return run(name, rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
