"""One HTML page of many runs, self-contained: pictures and style are in the file."""

import base64
import dataclasses
import datetime
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.harness.runs import Picture, RunFolder, read_run
from experiments.harness.tables import part, shared_prefix
from experiments.harness.values import flat_values, number
from jaxnet import _files as files

# HTML does not allow these characters; an error's text may hold a terminal's colours.
_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127], "\N{REPLACEMENT CHARACTER}")
_WORDS = {"ok": ("✓ holds", "good"), "OFF": ("✗ off", "bad"), "not run": ("not run", "none"),
          "no power": ("not judged: no power", "none")}  # fmt: skip
_ROWS_SHOWN = 15  # longer tables are folded


@dataclasses.dataclass(frozen=True)
class Entry:
    """The content of the page for one experiment.

    Attributes:
        name: The name of the experiment, unique on the page.
        about: The docstring of the experiment: the first line is the claim, indented lines
            are commands.
        folder: The folder of the run; None if there is no run.
        skipped: The reason why the experiment was not run; empty if it was.
        error: The error that stopped the experiment, with a summary in the first line; empty
            if there was none.
    """

    name: str
    about: str = ""
    folder: Path | None = None
    skipped: str = ""
    error: str = ""


def save_page(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    title: str = "Experiments",
    intro: str = "",
    command: Sequence[str] = (),
) -> None:
    """Writes the page: a summary, then each experiment with its figures and pictures.

    The page names the files of a run folder that are missing or damaged.

    Args:
        path: Path of the HTML file, which is written completely or not at all.
        entries: The experiments, in the order of the page.
        title: The title of the page.
        intro: Paragraphs below the title, with an empty line between them.
        command: The command line that asked for the page.

    Raises:
        ValueError: There are no entries, or two entries have the same name.
        OSError: The file cannot be written.
    """
    names = [entry.name for entry in entries]
    if not names or len({*names}) < len(names):
        raise ValueError(f"entries: {names}; accepted is at least one, each name once")
    parts = [_Part(entry, read_run(entry.folder) if entry.folder else None) for entry in entries]
    text = _environment().get_template("page.html.j2").render(
        title=title,
        intro=intro,
        style=Markup(Path(__file__).with_name("style.css").read_text(encoding="utf-8")),
        parts=parts,
        cards=_cards(parts),
        common=_common([part.run.environment for part in parts if part.run]),
        now=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        command=command,
    )  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, text.encode(errors="replace"))  # JSON can hold half a character


def _environment() -> jinja2.Environment:
    """The environment of the template, which escapes all text, so that none becomes markup."""

    def printable(value: Any) -> Any:
        if value is None:
            return ""
        return value.translate(_CONTROLS) if isinstance(value, str) else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "blocks": _blocks,
        "duration": _duration,
        "flat_values": flat_values,
        "number": number,
        "shell": shlex.join,
        "image": lambda picture: Markup(base64.b64encode(picture.data).decode()),
    }
    return environment


@dataclasses.dataclass(frozen=True)
class _Table:
    """Figures with their verdicts, ready for the page.

    Attributes:
        title: The title of the table.
        counts: The number of figures that hold, in words.
        prefix: The beginning that all names share, which the rows leave out.
        columns: The names and CSS classes of the columns after the verdict's.
        rows: For each figure the verdict (its word and class) and the cells.
        open: Whether the rows are shown at once, or folded.
    """

    title: str
    counts: str
    prefix: str
    columns: list[tuple[str, str]]
    rows: list[tuple[tuple[str, str], list[str]]]
    open: bool

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]]) -> "_Table":
        keys = list(dict.fromkeys(key for row in rows for key in row))
        keys.remove("verdict")
        prefix = ""
        if keys[:1] == ["figure"]:
            prefix = shared_prefix([str(row.get("figure", "")) for row in rows])
        lines = []
        for row in rows:
            cells = [
                part(row.get(key)) if key == "within" else number(row.get(key, "")) for key in keys
            ]
            lines.append(
                (
                    _WORDS.get(row["verdict"], ("not judged", "none")),
                    [cells[0].removeprefix(prefix), *cells[1:]] if cells else [],
                )
            )
        hold, off, rest = _counts(row["verdict"] for row in rows)
        counts = [f"{hold} of {hold + off} hold"] if hold or off else []
        counts += [f"{rest} not judged"] if rest else []
        return cls(
            "Documented figures" if name == "ledger" else name.replace("_", " ").capitalize(),
            ", ".join(counts),
            prefix,
            [(key.replace("_", " ").capitalize(), _kind(key, rows)) for key in keys],
            lines,
            len(rows) <= _ROWS_SHOWN or off > 0,
        )


@dataclasses.dataclass(frozen=True)
class _Part:
    """An entry and its run, with the texts that the template takes from them."""

    entry: Entry
    run: RunFolder | None

    @property
    def anchor(self) -> str:
        return f"experiment-{'-'.join(self.entry.name.split())}"

    @property
    def claim(self) -> str:
        return self.entry.about.strip().split("\n")[0]

    @property
    def rest(self) -> str:
        return self.entry.about.strip().partition("\n")[2]

    @property
    def why(self) -> str:
        return self.entry.skipped or self.entry.error.strip().split("\n")[0]

    @property
    def tables(self) -> list[_Table]:
        return [
            _Table.of(name, rows) for name, rows in (self.run.judged if self.run else {}).items()
        ]

    def counts(self, ledger: bool) -> tuple[int, int, int]:
        """The numbers of rows that hold, are off, and are not judged.

        Args:
            ledger: Whether to count the rows of the ledger, or those of all other tables.
        """
        return _counts(
            row["verdict"]
            for name, rows in (self.run.judged if self.run else {}).items()
            if ledger == (name == "ledger")
            for row in rows
        )

    @property
    def exact(self) -> int:
        """The number of figures in the ledger that hold as equal: shapes, counts and texts."""
        rows = self.run.judged.get("ledger", []) if self.run else []
        return sum(row["verdict"] == "ok" and row.get("rule") == "equal" for row in rows)

    @property
    def status(self) -> tuple[str, str]:
        """The outcome of the experiment in a word, and the CSS class of the word."""
        if self.entry.error:
            return "✗ failed", "bad"
        if self.run is None:
            return "skipped", "none"
        hold, off, rest = map(sum, zip(self.counts(True), self.counts(False), strict=True))
        if off:
            return "✗ off", "bad"
        if self.run.problems:
            return "✗ damaged", "bad"
        if hold and rest:
            return f"◐ partly judged {hold}/{hold + rest}", "part"
        return ("✓ holds", "good") if hold else ("ran", "none")

    @property
    def tally(self) -> str:
        """The number of the experiment's figures that hold, in words."""
        words, unjudged = [], 0
        for ledger, what in ((True, ""), (False, "checks ")):
            hold, off, rest = self.counts(ledger)
            words += [f"{what}{hold} of {hold + off}"] if hold or off else []
            unjudged += rest
        words += [f"{unjudged} not judged"] if unjudged else []
        return ", ".join(words) or "-"

    @property
    def details(self) -> dict[str, str]:
        """The run's date, duration, command and folder, by name."""
        run = self.run
        assert run is not None
        details = {"began": run.began.replace("T", " ")} if run.began else {}
        if run.seconds is not None:
            details["time"] = _duration(run.seconds)
        if run.command:
            details["command"] = shlex.join(run.command)
        return details | {"folder": str(run.folder)}

    def own(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """The machine and versions of the run, without those that all runs share."""
        assert self.run is not None
        environment = self.run.environment.items()
        return {k: v for k, v in environment if k not in common or common[k] != v}

    def caption(self, picture: Picture) -> str:
        """The title in the file's metadata, or the name of the file in words."""
        return picture.title or picture.name.removesuffix(".png").replace("_", " ")


def _counts(verdicts: Any) -> tuple[int, int, int]:
    verdicts = list(verdicts)
    hold, off = verdicts.count("ok"), verdicts.count("OFF")
    return hold, off, len(verdicts) - hold - off


def _cards(parts: Sequence[_Part]) -> list[tuple[str, str, str]]:
    """The cards of the summary: a name, a value and a note each."""
    cards = []
    for ledger, title in ((True, "Figures that hold"), (False, "Further checks that hold")):
        hold, off, rest = map(sum, zip(*(part.counts(ledger) for part in parts), strict=True))
        notes = []
        if ledger and (exact := sum(part.exact for part in parts)):
            notes.append(f"{exact} of them shapes, counts and texts")
        if rest:
            notes.append(f"{rest} not judged")
        if ledger or hold or off or rest:
            cards.append((title, f"{hold} of {hold + off}", ", ".join(notes)))
    words = [part.status[0] for part in parts]
    counts = {word: words.count(mark + word)
              for mark, word in (("", "skipped"), ("✗ ", "failed"), ("✗ ", "damaged"))}  # fmt: skip
    ran = len(parts) - counts["skipped"] - counts["failed"]
    other = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    cards.append(("Experiments that ran", f"{ran} of {len(parts)}", other))
    seconds = [part.run.seconds for part in parts if part.run and part.run.seconds is not None]
    if seconds:
        cards.append(("Time of all runs", _duration(sum(seconds)), ""))
    return cards


def _kind(key: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The CSS class of a column: numbers are right-aligned, code is monospaced, prose is wide."""
    if key in ("documented", "ours", "difference", "allowed", "within"):
        return "number"
    longest = max(len(str(row.get(key, ""))) for row in rows)
    if key in ("torch", "jax", "got", "result"):
        return "mono short" if longest <= 40 else "mono wide"
    return "wide" if longest > 30 else "short"


def _blocks(text: str) -> list[tuple[str, Any]]:
    """The blocks of a text: ("code", lines) if indented, ("text", parts) for a paragraph.

    The parts of a paragraph are in turn plain text and code, which stood between backticks.
    """
    blocks: list[tuple[str, Any]] = []
    for block in text.strip("\n").split("\n\n"):
        lines = block.strip("\n").split("\n")
        if not block.strip():
            continue
        if all(line.startswith("    ") for line in lines):
            blocks.append(("code", "\n".join(line[4:] for line in lines)))
        else:
            joined = " ".join(line.strip() for line in lines)
            blocks.append(("text", re.split(r"`([^`]+)`", joined)))
    return blocks


def _common(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The machine and versions that all runs share; a damaged record counts for none."""
    known = [environment for environment in environments if environment]
    if not known:
        return {}
    first, *others = known
    return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
