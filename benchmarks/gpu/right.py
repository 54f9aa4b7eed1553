"""Whether jaxnet computes the right numbers on the device that JAX takes by default.

Every row of the tables (tests/rows) runs in float32, compiled, on that device, with the
precision of products that jaxnet chooses by itself (full float32, no TF32). It is compared
with the same row in float64 on the host's CPU, in the same process, and with the golden
arrays that torch wrote in float64, by the tolerances of tests/tolerances.py. The
float64 results are compared with torch's as well, so that no wrong reference passes a wrong row.
On a machine whose device is a CPU the same runs, and must pass just as well.

    python -m benchmarks.gpu.right                  # all tasks, one JSON line each
    python -m benchmarks.gpu.right optim dropout    # two of them
    python -m benchmarks.gpu.right --tiny           # less of each
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import repeated
from jaxnet import precision
from jaxnet.nn import functional as F
from tests.optim.runs import Row, run_ours
from tests.rows import optim as optimizers
from tests.table import Case, distances, families, golden_arrays, golden_results, our_results
from tests.tolerances import distance, tolerance

__all__ = ["Gap", "check_optimizers", "check_table", "judged", "main", "rounding", "tasks"]

EXACT = "float64 on the CPU"
GOLDEN = "torch's golden arrays"


@dataclasses.dataclass(frozen=True)
class Gap:
    """One array of a row beside another's.

    Attributes:
        row, array: The names of the row and the array.
        ours: The result of ours, "float32" (the device's) or "float64" (the CPU's).
        against: The result that it is compared with.
        distance, allowed: The distance and the tolerance, as `tests.tolerances` has them.
    """

    row: str
    array: str
    ours: str
    against: str
    distance: float
    allowed: float

    def written(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "distance": repeated.finite(self.distance)}


def tasks(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Task name -> function that gives a dict for JSON with "ok" in it.

    Args:
        tiny: every third row of the tables, and smaller runs, for a machine without a card.
    """
    every = slice(None, None, 3 if tiny else 1)
    tables = {name: partial(check_table, name, cases[every]) for name, cases in families().items()}
    others: dict[str, Callable[[], dict[str, Any]]] = {
        "rounding": partial(rounding, 64 if tiny else 1024),
        "dropout": partial(repeated.dropout, 10_000 if tiny else 1_000_000),
        "running statistics": repeated.running_statistics,
        "resume": partial(repeated.resume, tiny),
        "resume, deterministic": partial(repeated.resume_deterministic, tiny),
    }
    return {**tables, "optim": partial(check_optimizers, optimizers.ROWS[every]), **others}


def check_table(family: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Runs a family's rows; see the top of the file.

    Each row is compared in its outputs, the gradients of inputs and parameters, and the
    buffers after the call.

    Returns:
        As `judged`.
    """
    golden_arrays(family)  # read once, before the threads ask for it
    return judged({str(case): partial(_table_row, family, case) for case in cases})


def _table_row(family: str, case: Case) -> list[Gap]:
    with jax.default_device(repeated.host()), jax.enable_x64(True):
        exact = our_results(case, jnp.float64, jit=True)
    ours = our_results(case, jnp.float32, jit=True)
    golden = golden_results(family, case)
    return [
        Gap(str(case), array, dtype, against, *found)
        for dtype, results, against, expected in (
            ("float32", ours, EXACT, exact),
            ("float32", ours, GOLDEN, golden),
            ("float64", exact, GOLDEN, golden),
        )
        for array, found in distances(case, results, expected, dtype).items()
    ]


def check_optimizers(rows: Sequence[Row]) -> dict[str, Any]:
    """Runs 100 steps of every row of the optimizers' table.

    Float32 cannot give the results of float64: a step rounds, the next steps start from
    there, and Rprop or Adam near a zero gradient turn a rounding into a whole update. So the
    device's float32 is compared, as in the tests of the CPU, with torch's own float32 run at
    the steps of the golden arrays: two programs of the same arithmetic. Its distance
    from float64 on the CPU may be that of torch's float32 from torch's float64, and the
    tolerance on top; so an error that both float32 runs shared would show. The float64 run
    is compared with torch's.

    Returns:
        As `judged`.
    """
    golden_arrays("optim")
    return judged({str(row): partial(_optimizer_row, row) for row in rows})


def _optimizer_row(row: Row) -> list[Gap]:
    kind = "muon" if row.name == "Muon" else "optimizer"
    with jax.default_device(repeated.host()):
        exact = run_ours(row, np.float64)
    ours = run_ours(row, np.float32)
    shown, gaps = list(optimizers.SHOWN), []
    for name in row.shapes:
        single, double = (golden_arrays("optim")[f"{row}|{d}|{name}"] for d in _DTYPES)
        rounded = distance(kind, single, double)
        for dtype, value, against, expected, more in (
            ("float32", ours[name], GOLDEN, single, 0.0),
            ("float32", ours[name], EXACT, exact[name][shown], rounded),
            ("float64", exact[name], GOLDEN, double, 0.0),
        ):
            if value.dtype != dtype:
                raise TypeError(f"{row}: {name} is {value.dtype}, not {dtype}")
            found = distance(kind, value[shown], expected)
            allowed = tolerance(kind, dtype) + more
            gaps.append(Gap(str(row), name, dtype, against, found, allowed))
    return gaps


_DTYPES = ("float32", "float64")


def judged(rows: Mapping[str, Callable[[], list[Gap]]]) -> dict[str, Any]:
    """Runs rows side by side, for most of their time goes into compiling, and counts.

    Returns:
        "ok", "device", "rows", how many of them "hold", the "worst" gap of the device's
        results, and "failures": every gap that is too wide, and every row that ended with
        an error, in words.
    """
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        results = list(pool.map(_run, rows.values()))
    gaps = [gap for found in results if isinstance(found, list) for gap in found]
    wide = [gap for gap in gaps if not gap.distance <= gap.allowed]
    failures: list[dict[str, Any]] = [
        {"row": row, "error": found}
        for row, found in zip(rows, results, strict=True)
        if isinstance(found, str)
    ]
    failures += [gap.written() for gap in wide]
    off = {failure["row"] for failure in failures}
    ours = [gap for gap in gaps if gap.ours == "float32"]
    worst = max(ours, key=lambda gap: gap.distance / gap.allowed, default=None)
    return {
        "ok": not failures,
        "device": repeated.device_name(),
        "rows": len(rows),
        "hold": len(rows) - len(off),
        "worst": worst.written() if worst else None,
        "failures": failures,
    }


def _run(row: Callable[[], list[Gap]]) -> list[Gap] | str:
    try:
        return row()
    except Exception as error:  # one row's fault is that row's result; the others go on
        return f"{type(error).__name__}: {error}"


def rounding(size: int) -> dict[str, Any]:
    """Whether float32 products keep float32, and are rounded to TF32 where that is asked for.

    A linear layer of `size` inputs and a convolution of `size` numbers a window, in each
    precision that `set_float32_matmul_precision` takes, and in the one that is set now, which
    is "highest" unless someone chose. TF32 keeps 10 bits of a factor, so its sums are off by
    some 1e-4 of the largest; if the linear layer's are not, the setting does nothing. (For a
    convolution the fastest algorithm may be one without TF32, so that is told and not judged.)
    On a CPU, and on a card before Ampere, there is no TF32: "applicable" is false.

    Returns:
        "ok", "applicable", "precision" (the one in use, "set" below), and for each product
        and precision ("linear high") its distance from float64.
    """
    applicable = _has_tf32()
    kept, used = jax.config.values["jax_default_matmul_precision"], precision.matmul_precision()
    allowed = tolerance("gradient", "float32")
    found: dict[str, float] = {}
    ok = True
    for name, (product, arrays) in _products(size).items():
        with jax.default_device(repeated.host()), jax.enable_x64(True):
            exact = np.asarray(jax.jit(product)(*(jnp.asarray(a, jnp.float64) for a in arrays)))
        results = {"set": np.asarray(jax.jit(product)(*arrays))}
        try:
            for word in ("highest", "high", "medium"):
                precision.set_float32_matmul_precision(word)
                results[word] = np.asarray(jax.jit(product)(*arrays))
        finally:
            jax.config.update("jax_default_matmul_precision", kept)
        for word, y in results.items():
            found[f"{name} {word}"] = repeated.finite(distance("gradient", y, exact))
        ok &= all(found[f"{name} {word}"] <= allowed for word in ("highest", "set"))
    if applicable:
        ok &= all(allowed < found[f"linear {word}"] < 1e-2 for word in ("high", "medium"))
    return {
        "ok": ok,
        "device": repeated.device_name(),
        "applicable": applicable,
        "precision": used,
        **found,
    }


def _has_tf32() -> bool:
    """Whether the device is an NVIDIA card of compute capability 8 or newer."""
    device = jax.local_devices()[0]
    major = str(getattr(device, "compute_capability", "")).split(".")[0]
    return device.platform == "gpu" and major.isdigit() and int(major) >= 8


def _products(size: int) -> dict[str, tuple[Callable[..., jax.Array], list[np.ndarray]]]:
    rng = np.random.RandomState(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    channels = max(size // 16, 1)  # of a window of 4 x 4
    image, kernel = normal(8, channels, 32, 32), normal(channels, channels, 4, 4)
    return {
        "linear": (F.linear, [normal(size, size), normal(size, size)]),
        "convolution": (F.conv2d, [image, kernel]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the named tasks, or all; 1 if one of them is not right."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.right", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("task", nargs="*", help="by default all")
    parser.add_argument("--tiny", action="store_true", help="small runs, for a CPU")
    given = parser.parse_args(arguments)
    known = tasks(given.tiny)
    unknown = set(given.task) - set(known)
    if unknown:
        parser.error(f"no task {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    ok = True
    for name in given.task or known:
        result = known[name]()
        ok &= result["ok"]
        print(json.dumps({"task": name, **result}), flush=True)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
