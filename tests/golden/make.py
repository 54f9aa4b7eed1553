"""Writes the golden arrays of the tables, with torch: python -m tests.golden.make [FAMILY ...]

Run it when a row is added or changed. Each family is one compressed file.
"""

import importlib
import sys
from pathlib import Path

import numpy as np

from tests.table import GOLDEN, TABLES, torch_results


def main(families: list[str]) -> None:
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("test_*.py")):
        importlib.import_module(".".join(("tests", *path.relative_to(root).with_suffix("").parts)))
    unknown = set(families) - set(TABLES)
    if unknown:
        sys.exit(f"no table {sorted(unknown)}; there are {sorted(TABLES)}")
    for family in families or sorted(TABLES):
        arrays = {
            f"{case}|{name}": value
            for case in TABLES[family]
            for name, value in torch_results(case).items()
        }
        np.savez_compressed(GOLDEN / f"{family}.npz", **arrays)  # type: ignore[arg-type]
        size = (GOLDEN / f"{family}.npz").stat().st_size
        print(f"{family}: {len(TABLES[family])} rows, {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
