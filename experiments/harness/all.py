"""The commands `all`, which runs every experiment, and `report`, which writes their page."""

import dataclasses
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.harness import ledger, page, registry, tables
from experiments.harness.record import environment
from experiments.harness.runs import newest_runs
from experiments.harness.settings import Count, Seed, Settings
from jaxnet import _files as files
from jaxnet.train._values import plain

_ALL = """Runs every experiment whose data is here, one after another; the others are skipped.

Each leaves its record and plots in OUT/NAME/DATE_TIME, as it does alone. One that fails
does not stop the others. Settings that are left out are each experiment's own, which for
some means hours on a CPU; --epochs 2 is a look, in seconds to a few minutes for each on two
free cores, and says of the figures that it did not reach: not run. Experiments without epochs
or random numbers do without these settings. What only some experiments have (--seeds, --lr)
is given to one of them: python -m experiments NAME --help.

    python -m experiments                            lists them, and which have their data
    python -m experiments all --report               the whole of it, and a page
    python -m experiments all --report --epochs 2    a look

A command that was stopped or killed goes on: the same command takes the experiments that were
finished as they are, also those whose figures are off, and runs the others.

Exits with 0 if every figure holds, 1 if one is off, 2 if an experiment failed.
"""

_REPORT = """Writes the page of runs that are on disk, without running anything.

Of each experiment below RUNS the newest run is taken.

    python -m experiments report runs
"""

_INTRO = (
    """The programs of the documents on JAX, each figure that they print beside ours.

A figure holds if it lies within half of its last printed digit and 1e-6 of its value
(float32's rounding), or within 1e-5 of its value. Where the document's seed is unknown, ours
is the mean and spread of several seeds, and the document's figure has to lie within their
99 % prediction interval. """
    + ledger.POWER
    + """ What is allowed stands beside each figure, and
as a part of it under "Within"."""
)


def _own(metavar: str, default: str = "each experiment's own") -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclasses.dataclass(frozen=True)
class All(Settings):
    """Settings of the command `all`."""

    seed: Annotated[Seed | None, _own("INT")] = None
    """Seed of all random numbers, for every experiment that draws any."""
    epochs: Annotated[Count | None, _own("INT")] = None
    """Passes over the data, for every experiment that trains."""
    report: bool = False
    """Also write OUT/report.html: one page with all figures, plots, settings and versions."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Settings of the command `report`."""

    runs: tyro.conf.Positional[Path] = Path("runs")
    """Folder of run folders, RUNS/NAME/DATE_TIME."""
    page: Annotated[Path | None, _own("PATH", "RUNS/report.html")] = None
    """The HTML file to write."""


def run_all(arguments: Sequence[str]) -> int:
    """The command `python -m experiments all`.

    Args:
        arguments: The words of the command line after `all`.

    Returns:
        The exit code: the largest of the experiments' exit codes.
    """
    chosen = _settings(All, "all", _ALL, arguments)
    chosen.validate()
    chosen.out.mkdir(parents=True, exist_ok=True)
    todo, entries, codes = registry.names(), [], []
    began, finished = time.perf_counter(), _Finished(chosen)
    for i, name in enumerate(todo, start=1):
        passed = time.perf_counter() - began
        print(f"\n== {name} ({i} of {len(todo)}, {passed:.0f} s so far)", flush=True)
        try:
            if (done := finished.of(name)) is not None:
                folder, code = done
                print(f"finished before this command was stopped: {folder}")
                entry = page.Entry(name, _about(name), folder)
            else:
                entry, code = _run_one(name, chosen)
                finished.add(entry, code)
        except KeyboardInterrupt as stop:
            print(f"\n{registry.stopped(stop)}", file=sys.stderr)
            stopped = [page.Entry(left, _about(left), skipped="stopped") for left in todo[i - 1 :]]
            entries += stopped
            codes.append(130)
            break
        entries.append(entry)
        codes.append(code)
    else:
        finished.path.unlink(missing_ok=True)
    print()
    _show(entries, codes)
    if chosen.report:
        _write_page(chosen.out / "report.html", entries)
    return max(codes, default=0)


class _Finished:
    """The experiments that a stopped or killed `all` has finished, in OUT/unfinished_all.json.

    They count for a command with the same settings, code and packages only.

    Args:
        chosen: The settings of the command.
    """

    def __init__(self, chosen: All) -> None:
        self.path = chosen.out / "unfinished_all.json"
        settings = {key: str(value) for key, value in dataclasses.asdict(chosen).items()}
        del settings["report"]
        self._key = {**settings, **plain(environment())}
        self._done: dict[str, tuple[str, int]] = {}
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if kept["key"] == self._key:
                self._done = {name: (str(folder), int(code))
                              for name, (folder, code) in kept["done"].items()}  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none, or a damaged one: everything is run

    def of(self, name: str) -> tuple[Path, int] | None:
        """The folder and the exit code of a finished experiment; None if it is to be run.

        Args:
            name: The name of the experiment.
        """
        folder, code = self._done.get(name, ("", 0))
        return (Path(folder), code) if folder and Path(folder, "record.json").is_file() else None

    def add(self, entry: page.Entry, code: int) -> None:
        """Keeps the outcome of an experiment that ran to its end.

        Args:
            entry: The entry of the page.
            code: The exit code.
        """
        if entry.folder is not None and not entry.error:
            self._done[entry.name] = (str(entry.folder), code)
            text = json.dumps({"key": self._key, "done": self._done})
            files.write_bytes(self.path, text.encode())


def _run_one(name: str, chosen: All) -> tuple[page.Entry, int]:
    """Runs one experiment; returns its entry for the page and its exit code."""
    about, error, code = "", "", 0
    # The run's folder is the one that was not there before; a run that failed has none.
    before = _folders(chosen.out / name)
    try:
        module = registry.load(name)
        about = module.__doc__ or ""
        if missing := registry.missing_data(module, chosen.data_dir):
            reason = f"{', '.join(missing)} is not here"
            print(f"skipped: {reason}")
            return page.Entry(name, about, skipped=reason), 0
        own = {field.name for field in dataclasses.fields(module.Config)}
        given = {
            field.name: value
            for field in dataclasses.fields(chosen)
            if field.name in own and (value := getattr(chosen, field.name)) is not None
        }
        code = 1 if registry.execute(name, module.Config(**given)) else 0
    except registry.USERS_ERRORS as failure:
        error, code = registry.one_line(failure), 2
    except Exception as fault:  # an error in one experiment must not stop the others
        error, code = f"{type(fault).__name__}: {fault}\n\n{traceback.format_exc()}", 2
    if error:
        print(f"error: {error}", file=sys.stderr)
    new = sorted(_folders(chosen.out / name) - before)
    return page.Entry(name, about, new[-1] if new else None, error=error), code


def _folders(home: Path) -> set[Path]:
    """The finished runs: neither hidden folders nor the checkpoints of an unfinished run."""
    return {file.parent for file in home.glob("[!.]*/record.json")}


def _about(name: str) -> str:
    return registry.load(name).__doc__ or ""


def _show(entries: Sequence[page.Entry], codes: Sequence[int]) -> None:
    words = {0: "ok", 1: "a figure is off", 2: "error", 130: "stopped"}
    rows = []
    for entry, code in zip(entries, codes, strict=False):
        why = entry.skipped or entry.error.split("\n")[0]
        word = "skipped" if entry.skipped and code == 0 else words[code]
        rows.append((entry.name, f"{word}{f': {why}' if why and code != 130 else ''}"))
    tables.show(("experiment", "outcome"), rows)


def write_report(arguments: Sequence[str]) -> int:
    """The command `python -m experiments report`.

    Args:
        arguments: The words of the command line after `report`.

    Returns:
        The exit code, 0.
    """
    chosen = _settings(Report, "report", _REPORT, arguments)
    found = newest_runs(chosen.runs)
    known = registry.names()
    entries = []
    for name in known:
        waits = (chosen.runs / name / "unfinished").is_dir()
        why = "stopped; the same command goes on" if waits else "no run of it"
        skipped = "" if name in found else why
        entries.append(page.Entry(name, _about(name), found.get(name), skipped))
    entries += [page.Entry(name, folder=found[name]) for name in sorted(found.keys() - {*known})]
    _write_page(chosen.page or chosen.runs / "report.html", entries)
    return 0


def _write_page(path: Path, entries: Sequence[page.Entry]) -> None:
    command = ["python", *sys.orig_argv[1:]]
    page.save_page(path, entries, "jaxnet: all experiments", _INTRO, command)
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
    owners = [name for name in registry.names() if hasattr(registry.load(name).Config, field)]
    if word in registry.names():
        text += f"; one experiment alone: python -m experiments {word}"
    elif command == "all" and owners:
        text += f"; give {word} to one experiment ({', '.join(owners)} have it)"
    return text


COMMANDS = {
    "all": lambda arguments: registry.told(lambda: run_all(arguments)),
    "report": lambda arguments: registry.told(lambda: write_report(arguments)),
}
