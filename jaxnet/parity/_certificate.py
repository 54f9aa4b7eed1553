"""Certificates: a report as files that can be read, checked and repeated later."""

import dataclasses
import json
from pathlib import Path

from jaxnet._files import write_text
from jaxnet.parity._result import Report


def save(report: Report, folder: Path) -> Path:
    """Writes a report's certificate into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "certificate.json", json.dumps(dataclasses.asdict(report)))
    return folder
