"""One HTML page of many runs, self-contained: pictures and style are in the file."""

import base64
import dataclasses
import datetime
import importlib.resources
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnet.report.markup import Element, element, fragment
from jaxnet.report.runs import Picture, RunFolder, read_run
from jaxnet.report.values import flat_values, number

__all__ = ["Entry", "save_page"]

_WORDS = {"ok": ("✓ holds", "good"), "OFF": ("✗ off", "bad"), "not run": ("not run", "none")}
_HEADS = {"allowed": "Allowed difference"}
_ROWS_SHOWN = 15  # longer tables are folded


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the page says about one experiment.

    Attributes:
        name: unique on the page.
        about: its docstring: the first line is the claim, indented lines are commands.
        folder: of its run; None if there is none.
        skipped: why it was not run.
        error: what stopped it; the first line says it in short.
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

    What is missing or damaged in a run folder is named on the page.

    Args:
        path: of the HTML file; appears whole or not at all.
        entries: in the order of the page.
        title: of the page.
        intro: paragraphs below the title, with an empty line between them.
        command: the command that asked for the page.

    Raises:
        ValueError: no entries, or two of one name.
        OSError: the file cannot be written.
    """
    names = [entry.name for entry in entries]
    if not names or len({*names}) < len(names):
        raise ValueError(f"entries: {names}; accepted is at least one, each name once")
    runs = {entry.name: read_run(entry.folder) for entry in entries if entry.folder is not None}
    parts = [_Part(entry, runs.get(entry.name)) for entry in entries]
    common = _common([run.environment for run in runs.values() if run.environment])
    now = datetime.datetime.now().astimezone()
    style = importlib.resources.files("jaxnet.report").joinpath("style.css").read_text()
    body = fragment(
        element("header", element("h1", title), _paragraphs(intro), _cards(parts)),
        element(
            "main",
            element("h2", "All experiments", id="all"),
            _overview(parts),
            _facts("Machine and versions of all runs", common) if common else None,
            [_article(part, common) for part in parts],
        ),
        element(
            "footer",
            element("p", f"Written {now:%Y-%m-%d %H:%M %Z}", _by(command)),
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Element(style)),
    )
    _write(
        Path(path), f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """An entry and its run, and what follows from both."""

    entry: Entry
    run: RunFolder | None

    def counts(self, ledger: bool) -> tuple[int, int, int]:
        """Rows that hold, are off, and are not judged: of the ledger, or of other tables."""
        verdicts = [
            row["verdict"]
            for name, rows in (self.run.judged if self.run else {}).items()
            if ledger == (name == "ledger")
            for row in rows
        ]
        hold, off = verdicts.count("ok"), verdicts.count("OFF")
        return hold, off, len(verdicts) - hold - off

    @property
    def status(self) -> tuple[str, str]:
        """A word and its class."""
        if self.entry.error:
            return "✗ failed", "bad"
        if self.run is None:
            return "skipped", "none"
        hold, off, _ = map(sum, zip(self.counts(True), self.counts(False), strict=True))
        if off:
            return "✗ off", "bad"
        if self.run.problems:
            return "✗ damaged", "bad"
        return ("✓ holds", "good") if hold else ("ran", "none")

    @property
    def tally(self) -> str:
        """How many of its figures hold, in words."""
        words, unjudged = [], 0
        for ledger, what in ((True, ""), (False, "checks ")):
            hold, off, rest = self.counts(ledger)
            words += [f"{what}{hold} of {hold + off}"] if hold or off else []
            unjudged += rest
        words += [f"{unjudged} not judged"] if unjudged else []
        return ", ".join(words) or "-"


def _cards(parts: Sequence[_Part]) -> Element:
    def card(name: str, value: str, small: str = "") -> Element:
        note = element("small", small) if small else None
        return element("div", element("dt", name), element("dd", value, note))

    words = [part.status[0] for part in parts]
    skipped, failed = words.count("skipped"), words.count("✗ failed")
    damaged = words.count("✗ damaged")
    cards = []
    for ledger, title in ((True, "Figures that hold"), (False, "Further checks that hold")):
        hold, off, rest = map(sum, zip(*(part.counts(ledger) for part in parts), strict=True))
        if ledger or hold or off or rest:
            note = f"{rest} not judged" if rest else ""
            cards.append(card(title, f"{hold} of {hold + off}", note))
    other = [f"{n} {word}" for n, word in ((skipped, "skipped"), (failed, "failed"),
                                           (damaged, "damaged")) if n]  # fmt: skip
    ran = len(parts) - skipped - failed
    cards.append(card("Experiments that ran", f"{ran} of {len(parts)}", ", ".join(other)))
    seconds = [part.run.seconds for part in parts if part.run and part.run.seconds is not None]
    if seconds:
        cards.append(card("Time of all runs", _time(sum(seconds))))
    return element("dl", cards, class_="cards")


def _overview(parts: Sequence[_Part]) -> Element:
    rows = []
    for part in parts:
        word, kind = part.status
        claim = part.entry.about.strip().split("\n")[0]
        why = part.entry.skipped or part.entry.error.strip().split("\n")[0]
        seconds = part.run.seconds if part.run else None
        rows.append(
            element(
                "tr",
                element(
                    "th",
                    element("a", part.entry.name, href=f"#{_anchor(part.entry.name)}"),
                    scope="row",
                    class_="mono short",
                ),
                element("td", _status(word, kind)),
                element("td", part.tally, class_="short"),
                element("td", "-" if seconds is None else _time(seconds), class_="number"),
                element("td", claim, f" ({why})" if why else None, class_="wide"),
                class_="off" if kind == "bad" else None,
            )
        )
    heads = [element("th", head, scope="col") for head in ("Experiment", "Outcome", "Figures")]
    heads += [
        element("th", "Time", scope="col", class_="number"),
        element("th", "What it shows", scope="col"),
    ]
    return _table("All experiments", heads, rows)


def _article(part: _Part, common: Mapping[str, Any]) -> Element:
    entry, run = part.entry, part.run
    claim, _, rest = entry.about.strip().partition("\n")
    parts: list[Element | None] = [
        element(
            "div",
            element("h2", entry.name, id=_anchor(entry.name)),
            _status(*part.status),
            element("a", "to the summary", href="#all", class_="up"),
            class_="head",
        ),
        element("p", claim) if claim else None,
    ]
    if entry.skipped:
        parts.append(element("p", f"Skipped: {entry.skipped}."))
    if entry.error:
        parts += [element("h3", "Error"), element("pre", entry.error.strip(), class_="error")]
    if rest.strip():
        parts.append(element("details", element("summary", "About it"), _paragraphs(rest)))
    if run is not None:
        parts.append(_run(run, common))
    return element("article", parts, aria_labelledby=_anchor(entry.name))


def _run(run: RunFolder, common: Mapping[str, Any]) -> Element:
    """Figures and pictures, and beside them what was asked for, when and where."""
    problems = None
    if run.problems:
        problems = fragment(
            element("h3", f"Missing or damaged in {run.folder}"),
            element("ul", [element("li", text) for text in run.problems], class_="problems"),
        )
    facts = {"began": run.began.replace("T", " ")} if run.began else {}
    if run.seconds is not None:
        facts["time"] = _time(run.seconds)
    if run.command:
        facts["command"] = shlex.join(run.command)
    facts["folder"] = str(run.folder)
    own = {k: v for k, v in run.environment.items() if k not in common or common[k] != v}
    return element(
        "div",
        element(
            "div",
            problems,
            [_judged(name, rows) for name, rows in run.judged.items()],
            [_figure(picture) for picture in run.pictures],
            _values(flat_values(run.metrics)),
        ),
        element(
            "div",
            _facts("Settings", run.config) if run.config else None,
            _facts("Run", facts),
            _facts("Machine and versions", own) if own else None,
            class_="aside",
        ),
        class_="run",
    )


def _judged(name: str, rows: Sequence[Mapping[str, Any]]) -> Element:
    """A table of figures with verdicts; the verdict and the figure's name come first."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    keys.remove("verdict")
    title = "Documented figures" if name == "ledger" else name.replace("_", " ").capitalize()
    prefix = _prefix([str(row.get("figure", "")) for row in rows]) if keys[:1] == ["figure"] else ""
    heads = [element("th", "Verdict", scope="col")]
    for key in keys:
        head = _HEADS.get(key, key.replace("_", " ").capitalize())
        heads.append(element("th", head, scope="col", class_=_kind(key, rows)))
    lines = []
    for row in rows:
        word, kind = _WORDS.get(row["verdict"], ("not judged", "none"))
        cells = [element("td", _status(word, kind))]
        for i, key in enumerate(keys):
            text = number(row.get(key, ""))
            if i == 0:
                text = text.removeprefix(prefix)
                cells.append(element("th", text, scope="row", class_="mono short"))
            else:
                cells.append(element("td", text, class_=_kind(key, rows)))
        lines.append(element("tr", cells, class_="off" if kind == "bad" else None))
    hold, off = (sum(row["verdict"] == v for row in rows) for v in ("ok", "OFF"))
    rest = len(rows) - hold - off
    counts = [f"{hold} of {hold + off} hold"] if hold or off else []
    counts += [f"{rest} not judged"] if rest else []
    return element(
        "details",
        element("summary", f"{title}: {', '.join(counts)}"),
        element("p", "Each name begins with ", element("code", prefix)) if prefix else None,
        _table(title, heads, lines),
        open=len(rows) <= _ROWS_SHOWN or off > 0,
    )


def _kind(key: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Columns of numbers are set flush right, code in its own face, prose wide."""
    if key in ("documented", "ours", "difference", "allowed"):
        return "number"
    longest = max(len(str(row.get(key, ""))) for row in rows)
    if key in ("torch", "jax", "got", "result"):
        return "mono short" if longest <= 40 else "mono wide"
    return "wide" if longest > 30 else "short"


def _prefix(names: Sequence[str]) -> str:
    """The dotted beginning that all names share."""
    ends = [name.split(".")[:-1] for name in (min(names), max(names))]
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
    return "".join(f"{word}." for word, _ in pairs)


def _figure(picture: Picture) -> Element:
    data = base64.b64encode(picture.data).decode()
    image = element(
        "img",
        src=f"data:image/png;base64,{data}",
        alt=picture.description or f"Plot {picture.name}, without a description",
        width=picture.width,
        height=picture.height,
        class_="broad" if picture.width > 1000 else None,
    )
    frame = element("div", image, class_="frame", tabindex=0, role="group", aria_label=picture.name)
    return element("figure", frame, element("figcaption", picture.name))


def _facts(title: str, values: Mapping[str, Any]) -> Element:
    """Names and values side by side, in as many columns as there is room for."""
    pairs = []
    for name, value in values.items():
        text = number(value)
        size = "long" if len(name) + len(text) > 32 else None
        pairs.append(element("div", element("dt", name), element("dd", text), class_=size))
    return element("section", element("h3", title), element("dl", pairs, class_="facts"))


def _values(values: Sequence[tuple[str, str]]) -> Element | None:
    if not values:
        return None
    rows = [
        element("tr", element("th", name, scope="row", class_="mono short"), element("td", text))
        for name, text in values
    ]
    heads = [element("th", head, scope="col") for head in ("Name", "Value")]
    summary = element("summary", f"Other recorded values ({len(values)})")
    return element("details", summary, _table("Recorded values", heads, rows))


def _table(title: str, heads: Sequence[Element], rows: Sequence[Element]) -> Element:
    """A table that scrolls in a box of its own where it is too wide."""
    table = element(
        "table",
        element("thead", element("tr", heads)),
        element("tbody", rows),
        aria_label=title,
    )
    return element("div", table, class_="box", tabindex=0, role="group", aria_label=title)


def _status(word: str, kind: str) -> Element:
    return element("span", word, class_=f"status {kind}")


def _paragraphs(text: str) -> Element:
    """Paragraphs; indented ones are code."""
    parts = []
    for block in text.strip("\n").split("\n\n"):
        if not block.strip():
            continue
        lines = block.strip("\n").split("\n")
        if all(line.startswith("    ") for line in lines):
            parts.append(element("pre", "\n".join(line[4:] for line in lines)))
        else:
            parts.append(element("p", " ".join(line.strip() for line in lines)))
    return fragment(parts)


def _by(command: Sequence[str]) -> Element:
    return fragment(" by ", element("code", shlex.join(command)), ".") if command else fragment(".")


def _common(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all environments agree on."""
    if not environments:
        return {}
    first, *others = environments
    return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}


def _anchor(name: str) -> str:
    return f"experiment-{'-'.join(name.split())}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{seconds / 60:.1f} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        hidden.write_bytes(text.encode(errors="replace"))  # JSON can hold half a character
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
