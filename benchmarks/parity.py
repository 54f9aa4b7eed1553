"""Trials of jaxnet.parity: python -m benchmarks.parity --clean | --planted | --speed

--clean checks pairs of programs that are the same: the documents' networks, whole programs and
random architectures. --planted checks pairs of which the second has a fault, and says whether the
fault was found, at its place and step, and with its cause. --speed measures time and memory.
Names after the option choose single trials: they are parts of names, or kinds of faults. All of it
needs torch. The tables of benchmarks/PARITY.md are what this prints.
"""

import argparse
import dataclasses
import re
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import machine, markdown
from jaxnet import parity
from jaxnet.parity._text import floors
from tests.parity import pairs, plants, programs

ARCHITECTURES = 50


@dataclasses.dataclass
class Outcome:
    """What one trial gave.

    Attributes:
        report: The report; None after an error.
        error: The error, "" for none.
        recorded: The seconds of the recorded program.
        checked: Those of the check.
    """

    report: parity.Report | None = None
    error: str = ""
    recorded: float = 0.0
    checked: float = 0.0

    @property
    def verdict(self) -> str:
        return self.report.verdict if self.report else "error"


def trial(pair: pairs.Pair, steps: int, full: Sequence[int] = (0, 1, -1)) -> Outcome:
    """Records the pair's PyTorch program and checks jaxnet's."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        try:
            start = time.perf_counter()
            with parity.recording(path, steps=steps, full=full):
                pair.train(steps)
            outcome.recorded = time.perf_counter() - start
            start = time.perf_counter()
            trace = pairs.read(path)
            outcome.report = parity.check(trace, **pair.subject(trace))
            outcome.checked = time.perf_counter() - start
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {str(error)[:300]}"
            outcome.error += "\n" + "".join(traceback.format_exc(limit=-4))
    return outcome


def every_clean() -> dict[str, pairs.Pair]:
    """All pairs without a fault, by name."""
    found = {name: pairs.document(name) for name in pairs.DOCUMENTS}
    found |= {name: programs.program(name) for name in programs.SUBJECTS}
    found |= {pair.name: pair for pair in map(pairs.architecture, range(ARCHITECTURES))}
    return found


def _chosen(names: Iterable[str], asked: Sequence[str]) -> list[str]:
    return [name for name in names if not asked or any(each in name for each in asked)]


def clean(asked: Sequence[str], steps: int) -> list[list[Any]]:
    """The table of the pairs that are the same."""
    found = every_clean()
    rows = []
    for name in _chosen(found, asked):
        outcome = trial(found[name], steps)
        rows.append([name, outcome.verdict, *_numbers(outcome)])
        print(*rows[-1], sep=" | ", flush=True)
        if outcome.verdict != "same":
            print(outcome.error or outcome.report, flush=True)
    return rows


def _numbers(outcome: Outcome) -> list[str]:
    results = outcome.report.results if outcome.report else []
    measured = [floors(result) for result in results if result.judgement.floor > 0]
    largest = f"{max(measured):.1f}" if measured else "-"
    return [str(len(measured)), largest, f"{outcome.recorded:.1f}", f"{outcome.checked:.1f}"]


@dataclasses.dataclass(frozen=True)
class Found:
    """What a report says of the planted faults.

    Attributes:
        found: Whether the verdict is "different", or "same" where nothing was planted.
        placed: Whether there is a finding for each fault, at its place and step.
        named: Whether their causes are the planted ones, or where the evidence cannot tell
            several apart, one of these.
        others: The number of findings that no fault explains.
    """

    found: bool
    placed: bool
    named: bool
    others: int


def judged(plant: plants.Plant, report: parity.Report) -> Found:
    """Holds a report against the faults that were planted."""
    used: set[int] = set()
    placed = named = True
    for fault in plant.faults:
        fits = [
            finding
            for finding in report.findings
            if re.search(fault.where, f"{finding.origin} {finding.site}")
            and finding.step == fault.step
        ]
        named_ones = [
            f
            for f in fits
            if fault.says
            and any(re.search(fault.says, x) for x in (f.cause or "", *f.alternatives))
        ]
        placed &= bool(fits)
        named &= bool(named_ones)
        # One finding may have the causes of two faults, as those of one update.
        used.update(map(id, (named_ones or fits)[:1]))
    others = len(report.findings) - len(used)
    expected = "different" if plant.faults else "same"
    return Found(report.verdict == expected, placed, named, others)


def planted(asked: Sequence[str]) -> list[list[Any]]:
    """The table of the planted faults."""
    rows = []
    every = {plant.name: plant for plant in plants.every()}
    for name, plant in every.items():
        if asked and not any(each == plant.kind or each in name for each in asked):
            continue
        outcome = trial(plant.pair, plant.steps)
        said = judged(plant, outcome.report) if outcome.report else Found(False, False, False, 0)
        marks = ["yes" if each else "no" for each in (said.found, said.placed, said.named)]
        if not any(fault.says for fault in plant.faults):
            marks[2] = "-"  # no catalogue has it
        seconds = f"{outcome.recorded + outcome.checked:.1f}"
        rows.append([plant.kind, name, *marks, said.others, seconds])
        print(*rows[-1], sep=" | ", flush=True)
        if outcome.error or "no" in marks or said.others:
            print(outcome.error or outcome.report, flush=True)
    return rows


def _sums(rows: list[list[Any]]) -> list[list[Any]]:
    """How many faults of each kind were found, placed and named."""
    sums = []
    for kind in dict.fromkeys(row[0] for row in rows):
        some = [row for row in rows if row[0] == kind]
        counts = [sum(row[column] == "yes" for row in some) for column in (2, 3, 4)]
        sums.append([kind, len(some), *counts, sum(row[5] > 0 for row in some)])
    return sums


def speed() -> list[list[Any]]:
    """The table of times and of memory, with the document's Net."""
    steps = 50
    pair = pairs.document("Net", batch=64)
    trial(pair, 1)  # imports, and what is made once in a process
    start = _peak()
    bare = _cost(lambda: pair.train(steps))
    rows = []

    def note(name: str, cost: tuple[float, float], number: int) -> None:
        share = cost[1] / bare[1] * steps / number
        more = (_peak() - start) / 1024
        numbers = f"{cost[0]:.2f}", f"{cost[1]:.2f}", f"{share:.1f}", f"{more:.0f}"
        rows.append([name, *numbers])
        print(*rows[-1], sep=" | ", flush=True)

    note("the bare program, 50 steps", bare, steps)
    for number in (10, steps):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace"

            def record(path: Path = path, number: int = number) -> None:
                with parity.recording(path, steps=number):
                    pair.train(number)

            def check(path: Path = path) -> None:
                trace = pairs.read(path)
                parity.check(trace, **pair.subject(trace)).raise_for_difference()

            note(f"recording, {number} steps", _cost(record), number)
            note(f"checking, {number} steps", _cost(check), number)
    return rows


def _cost(run: Callable[[], None]) -> tuple[float, float]:
    """The seconds of a run: of the clock, and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - processor


def _peak() -> int:
    """The largest memory of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--steps", type=int, default=5, help="steps of each pair of --clean")
    parser.add_argument("names", nargs="*", help="parts of names of trials, or kinds of faults")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if asked.clean:
        rows = clean(asked.names, asked.steps)
        print(markdown(("pair", "verdict", "arrays", "floors", "record", "check"), rows))
    if asked.planted:
        rows = planted(asked.names)
        print(markdown(("kind", "fault", "found", "placed", "named", "others", "seconds"), rows))
        print(markdown(("kind", "faults", "found", "placed", "named", "with others"), _sums(rows)))
    if asked.speed:
        heads = ("what", "seconds", "of the processor", "times the bare run", "MiB more at peak")
        print(markdown(heads, speed()))


if __name__ == "__main__":
    main()
