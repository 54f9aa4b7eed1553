"""Run folders as they lie on disk: a record, pictures, and what is wrong with them."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MOST_SECONDS = 1e10  # three centuries
_MOST_LEVELS = 50


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file.

    Attributes:
        name: The name of the file.
        data: The bytes of the file.
        width, height: The size in pixels.
        title: A caption, as the file says; empty if it does not.
        description: What it shows in words, as the file says; empty if it does not.
    """

    name: str
    data: bytes
    width: int
    height: int
    title: str
    description: str


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """What a run left.

    Attributes:
        folder: The folder.
        began: Date and time of the beginning, as written.
        seconds: How long the run took; None if unknown.
        command: The command line.
        config: What was asked for.
        changed: Of that, what differs from the experiment's own settings.
        environment: Versions and machine.
        result: The result in a few words; empty if the run states none.
        metrics: What was measured.
        judged: Of the metrics, the tables whose rows have a "verdict": "ledger" and others.
        pictures: The PNG files, by name.
        problems: One line for each thing that is missing or damaged.
    """

    folder: Path
    began: str
    seconds: float | None
    command: tuple[str, ...]
    config: Mapping[str, Any]
    changed: Mapping[str, Any]
    environment: Mapping[str, Any]
    result: str
    metrics: Mapping[str, Any]
    judged: Mapping[str, list[dict[str, Any]]]
    pictures: tuple[Picture, ...]
    problems: tuple[str, ...]


def newest_runs(out: Path) -> dict[str, Path]:
    """The last run folder of each name in OUT/NAME/DATE_TIME.

    Raises:
        FileNotFoundError: there is no such folder, or no run in it.
    """
    if not out.is_dir():
        raise FileNotFoundError(f"{out}: there is no such folder; give one that holds runs")
    found: dict[str, Path] = {}
    for folder in sorted(out.glob("*/*/"), key=_age):
        if folder.name.startswith(".") or folder.parent.name.startswith("."):
            continue  # a run that is not done
        if (folder / "record.json").is_file():
            found[folder.parent.name] = folder
    if not found:
        raise FileNotFoundError(
            f"{out}: no runs in it; a run is a folder {out / 'NAME' / 'DATE_TIME'} with record.json"
        )
    return found


def _age(folder: Path) -> tuple[bool, str]:
    """Sorts by the date in the name; a copy with a name of its own is older than all."""
    return bool(re.match(r"\d{4}-\d\d-\d\d", folder.name)), folder.name


def read_run(folder: Path) -> RunFolder:
    """Reads what is there; what is not becomes a problem, not an error."""
    problems: list[str] = []
    record = _record(folder / "record.json", problems)

    def part(name: str, kind: type, default: Any) -> Any:
        value = record.get(name, default)
        if isinstance(value, kind) and not isinstance(value, bool):
            return value
        problems.append(f"record.json: {name!r} is {_short(value)}; left out")
        return default

    seconds = part("seconds", (int, float), None) if "seconds" in record else None  # type: ignore[arg-type]
    if seconds is not None and not 0 <= seconds < _MOST_SECONDS:
        problems.append(f"record.json: 'seconds' is {_short(seconds)}; left out")
        seconds = None
    metrics = part("metrics", dict, {})
    judged = {name: rows for name, rows in metrics.items() if _is_judged(rows)}
    if metrics.get("ledger") and "ledger" not in judged:
        ledger = _short(metrics["ledger"])
        problems.append(f"record.json: 'ledger' is {ledger}, no rows with a verdict; left out")
    return RunFolder(
        folder=folder,
        began=part("began", str, ""),
        seconds=seconds,
        command=tuple(map(str, part("command", list, []))),
        config=part("config", dict, {}),
        changed=part("changed", dict, {}),
        environment=part("environment", dict, {}),
        result=part("result", str, ""),
        metrics={name: value for name, value in metrics.items() if name not in judged},
        judged=judged,
        pictures=_pictures(folder, problems),
        problems=tuple(problems),
    )


def _record(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        record = json.loads(file.read_bytes())
    except FileNotFoundError:
        problems.append("record.json: not there")
    except OSError as error:
        problems.append(f"record.json: {error.strerror}")
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        problems.append(f"record.json: damaged, {where}: {error.msg}")
    except (ValueError, RecursionError) as error:  # bytes that are not UTF-8; too deep
        problems.append(f"record.json: damaged: {error}")
    else:
        if not isinstance(record, dict):
            problems.append(f"record.json: damaged: {_short(record)} instead of an object")
        elif _deeper(record, _MOST_LEVELS):
            problems.append(f"record.json: damaged: nested more than {_MOST_LEVELS} deep")
        else:
            return record
    return {}


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie further within one another."""
    layer = [value]
    for _ in range(levels):
        layer = [
            item
            for outer in layer
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(layer)


def _is_judged(rows: Any) -> bool:
    return (
        isinstance(rows, list)
        and bool(rows)
        and all(isinstance(row, dict) and isinstance(row.get("verdict"), str) for row in rows)
    )


def _pictures(folder: Path, problems: list[str]) -> tuple[Picture, ...]:
    from PIL import Image

    pictures = []
    for file in sorted(folder.glob("*.png")):
        try:
            with Image.open(file) as image:
                image.load()  # reads to the end: half a file is an error
                width, height = image.size
                words = [str(image.info.get(key, "")) for key in ("Title", "Description")]
            pictures.append(Picture(file.name, file.read_bytes(), width, height, *words))
        # Pillow's, for a broken file
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            problems.append(f"{file.name}: damaged: {str(error).replace(str(file), 'it')}")
    return tuple(pictures)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
