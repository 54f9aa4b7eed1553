"""The rows of the trials of jaxnet.parity, and the page that is made of them."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.timing import machine, markdown
from experiments.harness.record import environment
from jaxnet._files import cache_folder, write_text

Row = dict[str, Any]
FILE = cache_folder() / "parity_rows.jsonl"
PAGE = Path(__file__).with_name("PARITY.md")
KINDS = {
    "document": "networks of the documents",
    "program": "programs of tests/programs",
    "random": "random architectures",
}

_SPEED = "## Time and memory"

# Why a trial is not well: what the page says of it, by name.
_TWICE = "placed and named, with a second finding for the same fault: "
CAUSES = {
    "LayerNorm, no affine": f"{_TWICE}the loss of a later step as a whole.",
    "one parameter's update only": f"{_TWICE}the learning rate and the update that it makes.",
    "flax: ConvTranspose": "placed and named; its output has another shape, and the gradients that "
    "therefore cannot pass are listed as further findings.",
    "norm after the sum": "one rearrangement, which is listed where it shows: at the inputs of "
    "both parts and at their sum.",
    **dict.fromkeys(
        (
            f"{library}: {name}"
            for library in ("flax", "linen")
            for name in (
                "ResNet-18, momentum 0.99",
                "ResNet-18, eps 1e-3",
                "ResNet-18, biased variance",
                "ResNet-18, leaky",
                "GPT, eps 1e-6",
                "GPT, exact gelu",
                "GPT, attention unscaled",
                "BERT, eps 1e-6",
                "BERT, tanh gelu",
                "BERT, dropout 0.2",
                "BERT, padding seen",
            )
        ),
        "placed and named; the mistake stands in several layers of the model, and each has a "
        "finding.",
    ),
    **dict.fromkeys(
        (
            f"{library}: {name}"
            for library in ("flax", "linen")
            for name in ("GPT, sum", "BERT, Adam for AdamW")
        ),
        "placed and named, with one further finding that was not looked into.",
    ),
}


class Rows:
    """A file of rows, the newest last.

    Args:
        path: The file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commit = environment().get("commit", "unknown")
        path.parent.mkdir(parents=True, exist_ok=True)

    def newest(self, table: str) -> dict[str, Row]:
        """The newest row of each trial of a table, by name."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        found = [row for row in map(json.loads, lines) if row["table"] == table]
        return {row["name"]: row for row in found}

    def has(self, table: str, name: str, keep: bool) -> bool:
        """Whether a trial has a row of this commit, or with `keep` of any at which it was well."""
        row = self.newest(table).get(name)
        return row is not None and (row["commit"] == self.commit or (keep and row["well"]))

    def add(self, table: str, row: Row) -> None:
        """Writes a row behind the others."""
        about = {
            "table": table,
            "commit": self.commit,
            "machine": f"{machine()}; {_instructions()}",
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(about | row) + "\n")


def _instructions() -> str:
    """The widest vector instructions of the processor, which decide what float32 rounds."""
    try:
        flags = re.search(
            r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M
        )
    except OSError:
        return "unknown instructions"
    known = ("avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "avx2", "fma", "asimd", "sve")
    return ", ".join(name for name in known if flags and name in flags[1].split())


def write(rows: Rows, order: dict[str, Sequence[str]]) -> None:
    """Makes PARITY.md of the newest rows.

    Args:
        rows: The rows.
        order: The names of all trials of each table, in the table's order.
    """
    newest = {table: rows.newest(table) for table in order}
    found = {
        table: [newest[table][name] for name in names if name in newest[table]]
        for table, names in order.items()
    }
    absent = [name for table, names in order.items() for name in names if name not in newest[table]]
    everything = [row for some in found.values() for row in some]
    machines = "\n".join(dict.fromkeys(row["machine"] for row in everything))
    commits = ", ".join(sorted({row["commit"] for row in everything}))
    parts = [
        _HEAD.format(machines=machines, commits=commits, python=Path(sys.executable).name),
        _clean(found["clean"]),
        _planted(found["planted"]),
    ]
    if absent:
        parts.append(f"## Not run\n\n{'; '.join(absent)}.\n")
    # What `parity_speed` printed stays.
    before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    _, heading, speed = before.partition(_SPEED)
    write_text(PAGE, "\n".join(parts) + f"\n{heading}{speed}".rstrip() + "\n")


_CLEAN_TEXT = (
    '"steps" are those recorded and checked. "arrays" is the number of arrays that were judged in '
    'all of them, "float64" the largest difference of the two float64 results as a part of the '
    "array's scale, \"floors\" the same in units of what float64 leaves of float32's rounding, and "
    '"horizon" the first step after which the program\'s own free run in float32 is more than a '
    'hundredth of the way from its run in float64 ("-" if no step is). Each step is judged from '
    "torch's state before it, so that the horizon is no limit of the other columns. The seconds "
    "are those of recording and of checking."
)

_PLANTED_TEXT = (
    '"found": the verdict is "different"; "placed": there is a finding at the layer and the step '
    'of the fault; "named": with its cause, or with several of which the evidence cannot tell it '
    'apart; "-" where no row of the catalogue is expected. "others" are findings besides. The '
    'kinds: "partial" are faults in some of the numbers only, "two" are two faults in one run, '
    '"invented" are faults that no catalogue has, "flax" are modules of plain flax with flax\'s '
    'defaults, "flax model" and "linen model" are whole models of plain flax, and "flax row" are '
    "rows of the catalogue in programs of plain flax and optax, each of which is there without a "
    "fault too. "
    'Where the name ends with "nothing" nothing was planted, and the verdict "same" is what should '
    "be found."
)

_HEAD = """# Trials of jaxnet.parity

    {python} -m benchmarks.parity --clean --planted
    {python} -m benchmarks.parity --write
    {python} -m benchmarks.parity_speed Net
    {python} -m benchmarks.parity_speed --check

The second makes this page of the rows that the first left, the others print what stands in the last
section. Each row is of the commit in its last column ({commits}), on

{machines}

Seconds are of the processor. Programs that an earlier run of the same trial compiled are taken from
the compilation cache, so that a first run takes longer; the last section is without that cache.
"""


def _clean(rows: Sequence[Row]) -> str:
    sums = []
    for kind, words in KINDS.items():
        some = [row for row in rows if row["kind"] == kind]
        same = [row for row in some if row["verdict"] == "same"]
        well = [row for row in some if row["well"]]
        long = [row for row in same if row["done"] >= 100]
        most = max((row["float64"] for row in same), default=0.0)
        sums.append([words, len(some), len(same), len(well), len(long), f"{most:.1e}"])
    table = [
        [
            row["name"],
            row["verdict"],
            *_numbers(row),
            f"{row['record']:.1f}",
            f"{row['check']:.1f}",
            row["commit"],
        ]
        for row in rows
    ]
    heads = ("pairs", "n", "same", "within 1e-10 in float64", "of 100 steps", "float64 within")
    columns = ("pair", "verdict", "steps", "arrays", "float64", "floors", "horizon")
    return f"""## Programs that are the same

{markdown(heads, sums)}

{_CLEAN_TEXT}

{_failures(rows)}{markdown((*columns, "record s", "check s", "commit"), table)}
"""


def _numbers(row: Row) -> Iterable[str]:
    if "done" not in row:
        return ["-"] * 5
    horizon = "-" if row["horizon"] is None else str(row["horizon"])
    numbers = f"{row['float64']:.1e}", f"{row['floors']:.3g}"
    return [str(row["done"]), str(row["arrays"]), *numbers, horizon]


def _failures(rows: Sequence[Row]) -> str:
    lines = [
        f"- {row['name']}: {CAUSES.get(row['name'], row.get('said', 'no cause is known yet'))}"
        for row in rows
        if not row["well"]
    ]
    return "".join(["Not well:\n\n", *(f"{line}\n" for line in lines), "\n"]) if lines else ""


def _planted(rows: Sequence[Row]) -> str:
    sums = []
    for kind in [*dict.fromkeys(row["kind"] for row in rows), "all"]:
        some = [row for row in rows if kind in (row["kind"], "all")]
        nameable = [row for row in some if row["named"] is not None]
        counts = [sum(row[mark] is True for row in some) for mark in ("found", "placed", "named")]
        sums.append([kind, len(some), *counts, len(nameable), sum(r["others"] > 0 for r in some)])
    words = {True: "yes", False: "no", None: "-"}
    table = [
        [
            row["kind"],
            row["name"],
            *(words[row[mark]] for mark in ("found", "placed", "named")),
            row["others"],
            f"{row['record'] + row['check']:.1f}",
            row["commit"],
        ]
        for row in rows
    ]
    columns = ("kind", "fault", "found", "placed", "named", "others", "seconds", "commit")
    heads = ("kind", "faults", "found", "placed", "named", "of nameable", "with others")
    return f"""## Planted faults

{_PLANTED_TEXT}

{markdown(heads, sums)}

{_failures(rows)}{markdown(columns, table)}
"""
