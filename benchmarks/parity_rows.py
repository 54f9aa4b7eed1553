"""The rows of the trials of jaxnet.parity, and the page that is made of them."""

import json
from pathlib import Path
from typing import Any

from benchmarks.timing import machine
from experiments.harness.record import environment
from jaxnet._files import cache_folder

Row = dict[str, Any]
FILE = cache_folder() / "parity_rows.jsonl"


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
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        found = [row for row in map(json.loads, lines) if row["table"] == table]
        return {row["name"]: row for row in found}

    def has(self, table: str, name: str, keep: bool) -> bool:
        """Whether a trial has a row of this commit, or with `keep` of any at which it was well."""
        row = self.newest(table).get(name)
        return row is not None and (row["commit"] == self.commit or (keep and row["well"]))

    def add(self, table: str, row: Row) -> None:
        """Writes a row behind the others."""
        line = json.dumps({"table": table, "commit": self.commit, "machine": machine(), **row})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def write(rows: Rows) -> None:
    """Makes PARITY.md of the newest rows."""
    raise NotImplementedError
