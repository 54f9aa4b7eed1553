"""Trials of jaxnet.parity: python -m benchmarks.parity --clean | --planted | --write

--clean checks pairs of programs that are the same: the documents' networks, whole programs and
random architectures. --planted checks pairs of which the second has a fault, and says whether the
fault was found, at its place and step, and with its cause. Names after the option choose single
trials: they are names, parts of names, or kinds. Both need torch.

Each trial is a row that is added to a file at once, so that a run that was stopped goes on where
it was. --write makes benchmarks/PARITY.md of the newest row of each trial; a row says of which
commit it is.
"""

import argparse
import dataclasses
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import parity_rows
from benchmarks.parity_rows import Row, Rows
from jaxnet import parity
from jaxnet.parity._text import floors
from jaxnet.train import use_compilation_cache
from tests.parity import pairs, plants, programs

ARCHITECTURES = 50


@dataclasses.dataclass
class Outcome:
    """What one trial gave.

    Attributes:
        report: The report; None after an error.
        error: The error, "" for none.
        recorded: The seconds of the recorded program, of the processor.
        checked: Those of the check.
        clock: The seconds of both, of the clock.
    """

    report: parity.Report | None = None
    error: str = ""
    recorded: float = 0.0
    checked: float = 0.0
    clock: float = 0.0

    @property
    def verdict(self) -> str:
        return self.report.verdict if self.report else "error"


def trial(pair: pairs.Pair, steps: int, full: Sequence[int] = (0, 1, -1)) -> Outcome:
    """Records the pair's PyTorch program and checks jaxnet's."""
    outcome = Outcome()
    clock = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        try:
            start = time.process_time()
            with parity.recording(path, steps=steps, full=full):
                pair.train(steps)
            outcome.recorded = time.process_time() - start
            start = time.process_time()
            trace = pairs.read(path)
            outcome.report = parity.check(trace, **pair.subject(trace))
            outcome.checked = time.process_time() - start
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {str(error)[:300]}"
            outcome.error += "\n" + "".join(traceback.format_exc(limit=-4))
    outcome.clock = time.perf_counter() - clock
    return outcome


def every_clean() -> dict[str, tuple[str, pairs.Pair]]:
    """All pairs without a fault with their kinds, by name."""
    found = {name: ("document", pairs.document(name)) for name in pairs.DOCUMENTS}
    found |= {name: ("program", programs.program(name)) for name in programs.SUBJECTS}
    random = map(pairs.architecture, range(ARCHITECTURES))
    return found | {pair.name: ("random", pair) for pair in random}


def chosen(kinds: dict[str, str], asked: Sequence[str]) -> Iterable[str]:
    """The names that are asked for, of those with the given kinds."""
    for name, kind in kinds.items():
        parts = [each for each in asked if each not in kinds]
        if not asked or name in asked or kind in parts or any(each in name for each in parts):
            yield name


def clean(name: str, kind: str, pair: pairs.Pair, steps: int) -> tuple[Row, Outcome]:
    """The row of a pair that is the same."""
    outcome = trial(pair, steps)
    row = {"kind": kind, "name": name, "steps": steps, "verdict": outcome.verdict}
    row |= {"record": outcome.recorded, "check": outcome.checked, "clock": outcome.clock}
    row["well"] = outcome.verdict == "same"
    if outcome.report is None:
        return row, outcome
    judged = [
        result
        for result in outcome.report.results
        # Initial weights are float32, and a gradient that is rounding alone is no part of it.
        if result.level != "preflight" and result.judgement.label != "null gradient"
    ]
    scaled = [r.judgement.double / r.judgement.scale for r in judged if r.judgement.scale > 0]
    measured = [floors(result) for result in judged if result.judgement.floor > 0]
    horizon = outcome.report.horizon
    row |= {
        "done": 1 + max((result.step for result in judged), default=-1),
        "findings": len(outcome.report.findings),
        "arrays": len(judged),
        "float64": max(scaled, default=0.0),
        "floors": max(measured, default=0.0),
        "equal": horizon.equal_to if horizon else None,
        "horizon": horizon.horizon if horizon else None,
    }
    row["well"] &= not row["findings"] and row["float64"] <= 1e-10
    return row, outcome


@dataclasses.dataclass(frozen=True)
class Found:
    """What a report says of the planted faults.

    Attributes:
        found: Whether the verdict is "different", or "same" where nothing was planted.
        placed: Whether there is a finding for each fault, at its place and step.
        named: Whether their causes are the planted ones, as far as they have any, or where the
            evidence cannot tell several apart, one of these.
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
        named &= bool(named_ones) or not fault.says
        # One finding may have the causes of two faults, as those of one update.
        used.update(map(id, (named_ones or fits)[:1]))
    others = len(report.findings) - len(used)
    expected = "different" if plant.faults else "same"
    return Found(report.verdict == expected, placed, named, others)


def planted(plant: plants.Plant) -> tuple[Row, Outcome]:
    """The row of a pair with planted faults."""
    outcome = trial(plant.pair, plant.steps)
    said = judged(plant, outcome.report) if outcome.report else Found(False, False, False, 0)
    marks: dict[str, Any] = dataclasses.asdict(said)
    if not any(fault.says for fault in plant.faults):
        marks["named"] = None  # no row of the catalogue is expected
    row = {"kind": plant.kind, "name": plant.name, "steps": plant.steps, **marks}
    row |= {"record": outcome.recorded, "check": outcome.checked, "clock": outcome.clock}
    row["well"] = said.found and said.placed and marks["named"] is not False and not said.others
    return row, outcome


def run(rows: Rows, table: str, kinds: dict[str, str], asked: argparse.Namespace,
        one: Callable[[str], tuple[Row, Outcome]]) -> None:  # fmt: skip
    """Makes the rows of a table that are not there yet."""
    use_compilation_cache()
    for number, name in enumerate(chosen(kinds, asked.names)):
        if rows.has(table, name, asked.keep):
            continue
        row, outcome = one(name)
        if not row["well"]:
            row["said"] = _said(outcome)
        rows.add(table, row)
        print(*(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
              sep=" | ", flush=True)  # fmt: skip
        if not row["well"]:
            print(outcome.error or outcome.report, flush=True)
        if number % 10 == 9:
            jax.clear_caches()  # of programs that no other trial has


def _said(outcome: Outcome) -> str:
    """What went wrong, in a line."""
    if outcome.report is None:
        return outcome.error.splitlines()[0]
    findings = outcome.report.findings
    return "; ".join(f"{f.message} ({f.cause or 'no cause'})" for f in findings[:4])


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--write", action="store_true", help="make PARITY.md of the rows")
    parser.add_argument("--steps", type=int, default=100, help="steps of each pair of --clean")
    parser.add_argument("--rows", type=Path, default=parity_rows.FILE, help="the file of the rows")
    parser.add_argument(
        "--keep", action="store_true", help="repeat no row that was well at an earlier commit"
    )
    parser.add_argument("names", nargs="*", help="names of trials, parts of them, or kinds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(asked.rows)
    if asked.clean:
        pair = every_clean()
        kinds = {name: kind for name, (kind, _) in pair.items()}
        run(rows, "clean", kinds, asked, lambda name: clean(name, *pair[name], asked.steps))
    if asked.planted:
        plant = {each.name: each for each in plants.every()}
        kinds = {name: each.kind for name, each in plant.items()}
        run(rows, "planted", kinds, asked, lambda name: planted(plant[name]))
    if asked.write:
        planted_names = [each.name for each in plants.every()]
        parity_rows.write(rows, {"clean": [*every_clean()], "planted": planted_names})


if __name__ == "__main__":
    main()
