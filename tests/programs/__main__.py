"""Measures programs and writes golden.npz and the page: python -m tests.programs [NAME ...]

It needs torch. Run it when a program is added or changed; without names all are measured.
"""

import sys

import numpy as np

from tests.programs import comparison
from tests.programs.comparison import GOLDEN, PAGE, PROGRAMS, distance


def measured(name: str) -> dict[str, np.ndarray]:
    """What the golden file has of a program."""
    program = PROGRAMS[name]
    theirs = comparison.of_torch(name, program.double)
    ours = comparison.of_jaxnet(name, theirs.masks, program.double)
    nudged = comparison.of_torch(name, program.double, nudged=True)
    float32, control = (distance(run.losses, theirs.losses) for run in (ours, nudged))
    float64 = float32
    if not program.double:
        doubled = comparison.of_torch(name, double=True)
        again = comparison.of_jaxnet(name, doubled.masks, double=True, like=doubled)
        float64 = distance(again.losses, doubled.losses)
    found = comparison.Distances(float32, control, float64)
    print(name, *(f"{x:.1e}" for x in found), theirs.losses[[0, -1]], flush=True)
    return comparison.golden_arrays(name, theirs, found)


def main(asked: list[str]) -> None:
    unknown = set(asked) - set(PROGRAMS)
    if unknown:
        sys.exit(f"no program {sorted(unknown)}; there are {sorted(PROGRAMS)}")
    arrays: dict[str, np.ndarray] = {}
    if asked:
        with np.load(GOLDEN) as file:
            arrays = {key: file[key] for key in file.files if key.split("|")[0] in PROGRAMS}
    for name in asked or PROGRAMS:
        arrays = {key: value for key, value in arrays.items() if key.split("|")[0] != name}
        arrays.update(measured(name))
    np.savez_compressed(GOLDEN, **arrays)  # type: ignore[arg-type]
    PAGE.write_text(comparison.page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
