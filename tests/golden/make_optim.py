"""Writes the golden arrays of the optimizers, with torch: python -m tests.golden.make_optim"""

import numpy as np

from tests.optim.runs import run_torch
from tests.optim.test_optimizers import ROWS, SHOWN
from tests.table import GOLDEN


def main() -> None:
    arrays = {
        f"{row}|{dtype}|{name}": value[list(SHOWN)]
        for row in ROWS
        for dtype in ("float32", "float64")
        for name, value in run_torch(row, dtype).items()
    }
    path = GOLDEN / "optim.npz"
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    print(f"optim: {len(ROWS)} rows, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
