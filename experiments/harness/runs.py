"""Run folders on the disk: their records, their pictures, and their faults."""

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
        title: The caption in the file's metadata; empty if there is none.
        description: The description in the file's metadata; empty if there is none.
    """

    name: str
    data: bytes
    width: int
    height: int
    title: str
    description: str


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The content of the folder of a run.

    Attributes:
        folder: Path of the folder.
        began: The date and time of the beginning, as the record has them.
        seconds: The duration of the run; None if it is unknown.
        command: The command line.
        config: The settings.
        changed: The settings that differ from the experiment's defaults.
        environment: The versions of packages, and the machine.
        result: The result in a few words; empty if the record has none.
        metrics: The measurements, without the judged tables.
        judged: The tables whose rows have a "verdict", by name: "ledger" and others.
        pictures: The PNG files, in the order of their names.
        problems: A line for each file or value that is missing or damaged.
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
    """The newest run folder of each experiment, OUT/NAME/DATE_TIME, by the experiment's name.

    Args:
        out: Path of the folder of all runs.

    Raises:
        FileNotFoundError: There is no such folder, or no run in it.
    """
    if not out.is_dir():
        raise FileNotFoundError(f"{out}: there is no such folder; give one that holds runs")
    found: dict[str, Path] = {}
    for folder in sorted(out.glob("*/*/"), key=_age):
        if folder.name.startswith(".") or folder.parent.name.startswith("."):
            continue  # a run that is not finished
        if (folder / "record.json").is_file():
            found[folder.parent.name] = folder
    if not found:
        raise FileNotFoundError(
            f"{out}: no runs in it; a run is a folder {out / 'NAME' / 'DATE_TIME'} with record.json"
        )
    return found


def _age(folder: Path) -> tuple[bool, str]:
    """A key to sort run folders by date; a copy under another name counts as older than all."""
    return bool(re.match(r"\d{4}-\d\d-\d\d", folder.name)), folder.name


def read_run(folder: Path) -> RunFolder:
    """Reads the folder of a run. A missing or damaged file is a line in `problems`, no error.

    Args:
        folder: Path of the folder.
    """
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
    """Whether lists and objects are nested deeper than a number of levels."""
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
            with Image.open(file, formats=("PNG",)) as image:
                image.load()  # reads to the end, so that a truncated file is found
                width, height = image.size
                words = [str(image.info.get(key, "")) for key in ("Title", "Description")]
            pictures.append(Picture(file.name, file.read_bytes(), width, height, *words))
        # the errors that Pillow raises for a broken file
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            problems.append(f"{file.name}: damaged: {str(error).replace(str(file), 'it')}")
    return tuple(pictures)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
