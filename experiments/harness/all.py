"""All experiments in one go, and the page of what they found."""

import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.registry import USERS_ERRORS, load, missing_data, names, one_line
from experiments.settings import Settings
from jaxnet import report

__all__ = ["COMMANDS"]

_ALL = """Runs every experiment whose data is here, one after another; the others are skipped.

Each leaves its record and plots in OUT/NAME/DATE_TIME, as it does alone. One that fails
does not stop the others. Settings that are left out are each experiment's own, which for
some means hours on a CPU; --epochs 2 is a look at all of them in minutes, and says of the
figures that it did not reach: not run. What only some experiments have (--seeds, --lr) is
given to one of them: python -m experiments NAME --help.

    python -m experiments                            lists them, and which have their data
    python -m experiments all --report               the whole of it, and a page
    python -m experiments all --report --epochs 2    a look

Exits with 0 if every figure holds, 1 if one is off, 2 if an experiment failed.
"""

_REPORT = """Writes the page of runs that are on disk, without running anything.

Of each experiment below RUNS the newest run is taken.

    python -m experiments report runs
"""

_INTRO = """The programs of the documents on JAX, each figure that they print beside ours.

A figure holds if it lies within half of its last printed digit and 1e-6 of its value
(float32's rounding), or within 1e-5 of its value. Where the document's seed is unknown, ours
is the mean and spread of several seeds, and the document's figure has to lie within their
99 % prediction interval."""


def _own(metavar: str, default: str = "each experiment's own") -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclasses.dataclass(frozen=True)
class All:
    """Settings of all experiments."""

    seed: Annotated[int | None, _own("INT")] = None
    """Seed of all random numbers, for every experiment."""
    epochs: Annotated[int | None, _own("INT")] = None
    """Passes over the data, for every experiment."""
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder to look for data sets in first (then JAXNET_DATA, then the user's cache)."""
    out: Path = Path("runs")
    """Folder of run folders; each run adds OUT/NAME/DATE_TIME with record and pictures."""
    report: bool = False
    """Also write OUT/report.html: one page with all figures, plots, settings and versions."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Settings of a page."""

    runs: tyro.conf.Positional[Path] = Path("runs")
    """Folder of run folders, RUNS/NAME/DATE_TIME."""
    page: Annotated[Path | None, _own("PATH", "RUNS/report.html")] = None
    """The HTML file to write."""


def run_all(arguments: Sequence[str]) -> int:
    """`python -m experiments all`."""
    chosen = _settings(All, "all", _ALL, arguments)
    given = {name: value for name, value in _shared(chosen).items() if value is not None}
    Settings(**given).validate()
    chosen.out.mkdir(parents=True, exist_ok=True)
    todo, entries, codes = names(), [], []
    began = time.perf_counter()
    for i, name in enumerate(todo, start=1):
        passed = time.perf_counter() - began
        print(f"\n== {name} ({i} of {len(todo)}, {passed:.0f} s so far)", flush=True)
        try:
            entry, code = _run_one(name, given, chosen.out)
        except KeyboardInterrupt as stop:
            print(f"\nstopped; {str(stop) or 'nothing was kept of this run'}", file=sys.stderr)
            stopped = [
                report.Entry(left, _about(left), skipped="stopped") for left in todo[i - 1 :]
            ]
            entries += stopped
            codes.append(130)
            break
        entries.append(entry)
        codes.append(code)
    print()
    _show(entries, codes)
    if chosen.report:
        _write_page(chosen.out / "report.html", entries)
    return max(codes, default=0)


def _run_one(name: str, given: dict[str, Any], out: Path) -> tuple[report.Entry, int]:
    """Runs one experiment and says what came of it."""
    about, error, code = "", "", 0
    before = _folders(out / name)
    try:
        module = load(name)
        about = module.__doc__ or ""
        if missing := missing_data(module, given.get("data_dir")):
            reason = f"{', '.join(missing)} is not here"
            print(f"skipped: {reason}")
            return report.Entry(name, about, skipped=reason), 0
        code = 1 if module.main(module.Config(**given)) else 0
    except USERS_ERRORS as failure:
        error, code = one_line(failure), 2
    except Exception as fault:  # one experiment's fault is not the end of the others
        error, code = f"{type(fault).__name__}: {fault}\n\n{traceback.format_exc()}", 2
    if error:
        print(f"error: {error}", file=sys.stderr)
    new = sorted(_folders(out / name) - before)
    return report.Entry(name, about, new[-1] if new else None, error=error), code


def _folders(home: Path) -> set[Path]:
    """Finished runs: neither hidden ones nor the checkpoints of an unfinished one."""
    return {file.parent for file in home.glob("[!.]*/record.json")}


def _about(name: str) -> str:
    return load(name).__doc__ or ""


def _show(entries: Sequence[report.Entry], codes: Sequence[int]) -> None:
    words = {0: "ok", 1: "a figure is off", 2: "error", 130: "stopped"}
    width = max(len(entry.name) for entry in entries)
    for entry, code in zip(entries, codes, strict=False):
        why = entry.skipped or entry.error.split("\n")[0]
        word = "skipped" if entry.skipped and code == 0 else words[code]
        print(f"{entry.name.ljust(width)}  {word}{f': {why}' if why and code != 130 else ''}")


def write_report(arguments: Sequence[str]) -> int:
    """`python -m experiments report`."""
    chosen = _settings(Report, "report", _REPORT, arguments)
    found = report.newest_runs(chosen.runs)
    known = names()
    entries = [
        report.Entry(name, _about(name), found.get(name), "" if name in found else "no run of it")
        for name in known
    ]
    entries += [report.Entry(name, folder=found[name]) for name in sorted(found.keys() - {*known})]
    _write_page(chosen.page or chosen.runs / "report.html", entries)
    return 0


def _write_page(path: Path, entries: Sequence[report.Entry]) -> None:
    command = ["python", *sys.orig_argv[1:]]
    report.save_page(path, entries, "jaxnet: all experiments", _INTRO, command)
    print(f"page: {path}")


def _settings(kind: Any, name: str, description: str, arguments: Sequence[str]) -> Any:
    chosen, unknown = tyro.cli(
        kind,
        prog=f"python -m experiments {name}",
        description=description,
        args=arguments,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if unknown:
        raise ValueError(_unknown(name, kind, unknown[0].split("=")[0]))
    return chosen


def _unknown(command: str, kind: Any, word: str) -> str:
    flags = ", ".join("--" + field.name.replace("_", "-") for field in dataclasses.fields(kind))
    text = f"{word}: not a setting of `{command}`, which takes {flags}"
    field = word.removeprefix("--").replace("-", "_")
    owners = [name for name in names() if hasattr(load(name).Config, field)]
    if word in names():
        text += f"; one experiment alone: python -m experiments {word}"
    elif command == "all" and owners:
        text += f"; give {word} to one experiment ({', '.join(owners)} have it)"
    return text


def _shared(chosen: All) -> dict[str, Any]:
    return {field.name: getattr(chosen, field.name) for field in dataclasses.fields(Settings)}


def _guarded(command: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """One line for a user's error, as `run` has it for one experiment."""

    def guarded(arguments: Sequence[str]) -> int:
        try:
            return command(arguments)
        except USERS_ERRORS as error:
            if os.environ.get("JAXNET_TRACEBACK"):
                raise
            print(f"error: {one_line(error)}", file=sys.stderr)
            return 2

    return guarded


COMMANDS = {"all": _guarded(run_all), "report": _guarded(write_report)}
