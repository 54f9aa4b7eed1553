"""Writes the golden arrays of optimizers and schedules, with torch.

Run it when a row is added or changed: python -m tests.golden.make_optim
"""

import numpy as np

from tests.optim import schedules
from tests.optim.runs import run_torch
from tests.optim.test_schedules import PLATEAUS, torch_plateau_rates
from tests.rows.optim import ROWS, SHOWN
from tests.table import GOLDEN


def main() -> None:
    arrays = {
        f"{row}|{dtype}|{name}": value[list(SHOWN)]
        for row in ROWS
        for dtype in ("float32", "float64")
        for name, value in run_torch(row, dtype).items()
    }
    _write("optim", arrays)
    arrays = {name: schedules.torch_values(name)[schedules.SHOWN] for name in schedules.ROWS}
    arrays |= {f"plateau {i}": torch_plateau_rates(row) for i, row in enumerate(PLATEAUS)}
    _write("optim_schedules", arrays)


def _write(family: str, arrays: dict[str, np.ndarray]) -> None:
    path = GOLDEN / f"{family}.npz"
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    print(f"{family}: {len(arrays)} arrays, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
