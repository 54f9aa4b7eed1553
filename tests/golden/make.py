"""Writes the golden arrays of the tables, with torch: python -m tests.golden.make [FAMILY ...]

Run it when a row is added or changed. Each family is one compressed file.
"""

import importlib
import sys
from pathlib import Path

import numpy as np

from tests.table import GOLDEN, MAKERS, families, torch_results


def main(asked: list[str]) -> None:
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("test_*.py")):  # which fill MAKERS
        importlib.import_module(".".join(("tests", *path.relative_to(root).with_suffix("").parts)))
    known = sorted({*families(), *MAKERS})
    unknown = set(asked) - set(known)
    if unknown:
        sys.exit(f"no family {sorted(unknown)}; there are {known}")
    for family in asked or known:
        arrays = MAKERS[family]() if family in MAKERS else _table_arrays(family)
        np.savez_compressed(GOLDEN / f"{family}.npz", **arrays)  # type: ignore[arg-type]
        size = (GOLDEN / f"{family}.npz").stat().st_size
        print(f"{family}: {len(arrays)} arrays, {size / 1024:.0f} KiB")


def _table_arrays(family: str) -> dict[str, np.ndarray]:
    return {
        f"{case}|{name}": value
        for case in families()[family]
        for name, value in torch_results(case).items()
    }


if __name__ == "__main__":
    main(sys.argv[1:])
