"""The Markdown page that a measured run leaves: its command, its machine, its table."""

import dataclasses
import datetime
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments import ledger
from experiments.settings import Settings
from jaxnet import train

__all__ = ["command", "mean_and_spread", "save_ledger", "save_table", "seeds_in_words"]


def command(name: str, config: Settings) -> str:
    """The command line of an experiment with these settings, less the folders.

    >>> command("cifar10_stats", Settings(seed=3, out=Path("elsewhere")))
    'python -m experiments cifar10_stats --seed 3'
    """
    words = ["python -m experiments", name]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name in ("data_dir", "out"):
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            several = isinstance(value, tuple)
            words += [f"--{flag}", *map(str, value if several else [value])]
    return " ".join(words)


def mean_and_spread(values: Sequence[float] | np.ndarray, digits: int = 3) -> str:
    """Mean ± standard deviation over seeds; the value alone if there is one.

    >>> mean_and_spread([0.25, 0.75])
    '0.500 ± 0.354'
    """
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def seeds_in_words(first: int, count: int) -> str:
    """Which seeds a run had.

    >>> seeds_in_words(0, 5)
    'seeds 0 to 4'
    """
    return f"seed {first}" if count == 1 else f"seeds {first} to {first + count - 1}"


def save_ledger(
    run: train.Run, config: Settings, rows: Sequence[ledger.Row], notes: Sequence[str] = ()
) -> None:
    """Prints the figures with their verdicts, and keeps them: in the record and as result.md.

    Args:
        run: whose record and folder they go to.
        config: of the run.
        rows: from `ledger.compare`; without any there is nothing to keep.
        notes: lines above the table.
    """
    run.metrics["ledger"] = [dataclasses.asdict(row) for row in rows]
    if not rows:
        return
    ledger.show(rows)
    if any(row.verdict == "-" for row in rows):
        print("fewer than 3 runs have no spread to judge by; --seeds 3 or more gives verdicts")
    title = run.name
    if seeds := getattr(config, "seeds", None):
        title += f", {seeds_in_words(config.seed, seeds)}"
    header = [field.name for field in dataclasses.fields(ledger.Row)]
    cells = [dataclasses.astuple(row) for row in rows]
    made_by = command(run.name, config)
    save_table(run.folder / "result.md", title, made_by, header, cells, notes)


def save_table(
    path: str | os.PathLike[str],
    title: str,
    made_by: str,
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    notes: Sequence[str] = (),
) -> None:
    """Writes a page with one table.

    Args:
        path: of the file.
        title: of the page.
        made_by: the command.
        header: names of the columns.
        rows: what stands in them.
        notes: lines between the machine's and the table.
    """
    about = train.environment()
    versions = ", ".join(f"{name} {about[name]}" for name in ("jax", "flax", "optax", "numpy"))
    processor, backend = about["processor"], about["backend"]
    hardware = about["device"] if backend != "cpu" else f"{processor}, {about['cores']} cores, CPU"
    machine = f"{hardware}; Python {about['python']}, {versions}; {datetime.date.today()}."
    lines = [f"# {title}", "", f"    {made_by}", "", machine, *notes, ""]
    for row in [header, ["---"] * len(header), *rows]:
        lines.append(f"| {' | '.join(map(str, row))} |")
    Path(path).write_text("\n".join(lines) + "\n")
