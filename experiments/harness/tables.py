"""Tables in the terminal and in Markdown, and result.md, the Markdown page of a run."""

import dataclasses
import datetime
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.harness import ledger
from experiments.harness.settings import Settings

if TYPE_CHECKING:
    from experiments.harness.record import Run


_NARROWEST = 10  # characters of a column of text


def show(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    title: str = "",
    widest: Mapping[str, int] | None = None,
) -> None:
    """Prints a table that fits the terminal; long cells are broken into several lines.

    A terminal that is too narrow for its columns gets the cells of a row one below another.

    Args:
        header: The names of the columns; a column of numbers is right-aligned.
        rows: The cells, of any type.
        title: A line above the table.
        widest: The largest widths of columns in characters, by name of the column.
    """
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table

    cells = [[str(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False,
                  title=title or None, title_justify="left", title_style="")  # fmt: skip
    # Without markup, brackets in a cell are printed and not read as rich's styles.
    console = Console(markup=False, highlight=False, emoji=False)
    needed = 0
    for i, name in enumerate(header):
        numbers = all(_is_number(row[i]) for row in cells)
        # Names are not broken, since a user types them and searches for them.
        whole = numbers or (i == 0 and all(len(row[0]) <= 30 for row in cells))
        longest = max((len(row[i]) for row in cells), default=0)
        needed += longest + 1 if whole else min(longest, _NARROWEST) + 1
        table.add_column(
            name,
            justify="right" if numbers else "left",
            no_wrap=whole,
            overflow="fold",
            min_width=longest if whole else None,
            max_width=(widest or {}).get(name),
        )
    for row in cells:
        table.add_row(*row)
    if needed - 1 <= console.width:
        console.print(table)
        return
    if title:
        console.print(title)
    for row in cells:
        console.print(row[0])
        for name, cell in zip(header[1:], row[1:], strict=True):
            console.print(Padding(f"{name}: {cell}", (0, 0, 0, 2)))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return text in ("", "-")
    return True


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown.

    Args:
        header: The names of the columns.
        rows: The cells, of any type.

    >>> print(markdown(["net", "loss"], [["wide", 0.5]]))
    | net | loss |
    | --- | --- |
    | wide | 0.5 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def command(name: str, config: Settings) -> str:
    """The command line of an experiment with some settings, without the folders.

    Args:
        name: The name of the experiment.
        config: The settings.

    >>> from pathlib import Path
    >>> from experiments.harness.settings import Training
    >>> command("cifar10_stats", Training(seed=3, out=Path("elsewhere")))
    'python -m experiments cifar10_stats --seed 3'
    """
    words = ["python -m experiments", name]
    for key, value in config.changed().items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            several = isinstance(value, tuple)
            words += [f"--{flag}", *map(str, value if several else [value])]
    return " ".join(words)


def mean_and_spread(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """The mean ± standard deviation over seeds; a single value without a deviation.

    Args:
        values: The values, one for each seed.
        digits: The number of digits after the point.

    >>> mean_and_spread([0.25, 0.75])
    '0.500 ± 0.354'
    """
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def count(n: int, thing: str) -> str:
    """A number of things in words.

    Args:
        n: The number.
        thing: The word for one of them.

    >>> count(1, "epoch"), count(5, "seed")
    ('1 epoch', '5 seeds')
    """
    return f"{n} {thing}{'' if n == 1 else 's'}"


def seeds_in_words(first: int, count: int) -> str:
    """The seeds of a run in words.

    Args:
        first: The first seed.
        count: The number of seeds.

    >>> seeds_in_words(0, 5)
    'seeds 0 to 4'
    """
    return f"seed {first}" if count == 1 else f"seeds {first} to {first + count - 1}"


def shared_prefix(names: Sequence[str]) -> str:
    """The beginning that all dotted names share, with its last dot.

    Args:
        names: The names.

    >>> shared_prefix(["wine.rows.bad", "wine.means.0"])
    'wine.'
    """
    if not names:
        return ""
    ends = [name.split(".")[:-1] for name in (min(names), max(names))]
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
    return "".join(f"{word}." for word, _ in pairs)


def show_ledger(rows: Sequence[ledger.Row]) -> None:
    """Prints a line for each group of figures, the rows that are off, and how many hold.

    The terminal shows no more; result.md and the page have all rows.

    Args:
        rows: The rows of `ledger.compare`.
    """
    prefix = shared_prefix([row.figure for row in rows])
    parts: dict[str, list[ledger.Row]] = {}
    for row in rows:
        parts.setdefault(row.figure.removeprefix(prefix).split(".")[0], []).append(row)
    show((f"figures of {prefix.rstrip('.')}" if prefix else "figures", "outcome"),
         [(name, outcome(part)) for name, part in parts.items()])  # fmt: skip
    off = [row for row in rows if row.verdict == "OFF"]
    if off:
        header = ["figure", "documented", "ours", "difference", "allowed"]
        cells = [[getattr(row, name) for name in header] for row in off]
        show(header, cells, title="These are OFF:")
    print(outcome(rows, "figures "))


UNJUDGED = {"no power": "without power", "not run": "not run", "-": "of too few seeds"}
"""The verdicts that judge nothing, with their words."""


def outcome(rows: Sequence[ledger.Row], what: str = "") -> str:
    """How many figures hold, to which part of their value, and how many were not judged and why.

    Args:
        rows: The figures.
        what: A word for them, with a space behind it.

    >>> row = ledger.Row("loss", "0.5", "0.51", "+1.0e-02", "0.4 to 0.6", "ok", "", 0.2)
    >>> outcome([row, ledger.Row("grad", "0.1", "-", "-", "-", "not run")], "figures ")
    '1 of 1 figures hold, to 20 % or less; 1 not judged: 1 not run'
    """
    verdicts = [row.verdict for row in rows]
    hold, off = verdicts.count("ok"), verdicts.count("OFF")
    words = []
    if hold or off:
        known = [row.within for row in rows if row.verdict == "ok" and row.within is not None]
        words = [f"{hold} of {hold + off} {what}hold"]
        if known:
            words[0] += f", to {part(max(known))} or less" if max(known) else ", exactly"
    left = {word: verdicts.count(verdict) for verdict, word in UNJUDGED.items()}
    if count := sum(left.values()):
        reasons = ", ".join(f"{n} {word}" for word, n in left.items() if n)
        words.append(f"{count} not judged: {reasons}")
    return "; ".join(words)


def part(of_one: float | None) -> str:
    """A part of one in percent; empty for None.

    >>> part(0.1234)
    '12 %'
    """
    if of_one is None:
        return ""
    percent = 100 * of_one
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1g} %"


def save_ledger(run: "Run", rows: Sequence[ledger.Row], notes: Sequence[str] = ()) -> None:
    """Prints the figures with their verdicts, and writes them to the record and to result.md.

    Args:
        run: The run whose record and folder are written to.
        rows: The rows of `ledger.compare`; without rows, no result.md is written.
        notes: Lines above the table.
    """
    run.metrics["ledger"] = [dataclasses.asdict(row) for row in rows]
    if not rows:
        return
    show_ledger(rows)
    verdicts = {row.verdict for row in rows}
    if "-" in verdicts:
        print("fewer than 3 runs have no spread to judge by; --seeds 3 or more gives verdicts")
    if "no power" in verdicts:
        notes = [ledger.POWER, *notes]
    title = run.name
    asked = dataclasses.asdict(run.config)
    if "seeds" in asked:
        title += f", {seeds_in_words(asked['seed'], asked['seeds'])}"
    header = [field.name for field in dataclasses.fields(ledger.Row)]
    cells = [(*dataclasses.astuple(row)[:-1], part(row.within)) for row in rows]
    save_table(run, title, header, cells, [outcome(rows, "figures ") + ".", *notes])


def save_table(
    run: "Run",
    title: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    notes: Sequence[str] = (),
) -> None:
    """Writes result.md with the command, the machine and a table.

    Args:
        run: The run, into whose folder the file is written.
        title: The title of the page.
        header: The names of the columns.
        rows: The cells, of any type.
        notes: Lines between the line of the machine and the table.
    """
    from experiments.harness.record import environment  # imports jax

    about = environment()
    versions = ", ".join(f"{name} {about[name]}" for name in ("jax", "flax", "optax", "numpy"))
    processor, backend = about["processor"], about["backend"]
    hardware = about["device"] if backend != "cpu" else f"{processor}, {about['cores']} cores, CPU"
    machine = f"{hardware}; Python {about['python']}, {versions}; {datetime.date.today()}."
    lines = [f"# {title}", "", f"    {command(run.name, run.config)}", "", machine, *notes, ""]
    text = "\n".join([*lines, markdown(header, rows)]) + "\n"
    (run.folder / "result.md").write_text(text, encoding="utf-8")


def save_checks(run: "Run", checks: Sequence[Mapping[str, str]]) -> None:
    """Prints statements with their verdicts, and writes them to the record.

    Args:
        run: The run whose record is written to.
        checks: The rows of `ledger.check`.
    """
    run.metrics["checks"] = list(checks)
    show(("has to hold", "found", "verdict"), [tuple(check.values()) for check in checks])
