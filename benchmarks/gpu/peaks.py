"""What a card can do at most: matrix products by precision, and bytes a second.

Measured here by jaxnet's and PyTorch's own libraries, beside the maker's figures. A product is
of two square matrices of normal numbers (the power that a card draws, and so its clock, depends
on them); the bandwidth is that of reading an array and writing another. A workload's share of a
peak is set against the measured one.

The makers' figures are of dense matrices, at the boost clock, from NVIDIA's data sheets and
white papers: "H100 Tensor Core GPU" (SXM, PCIe, NVL; 2022-2024), "H200 Tensor Core GPU" (2024),
"A100 Tensor Core GPU" (2021), "L4" and "L40S" (2023), "Ada GPU Architecture" (RTX 4090, 2022).
They print the double, with half of the numbers zero ("sparsity"), for TF32 and bfloat16.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu import task
from benchmarks.gpu.fast import or_left_out, torch_device
from benchmarks.gpu.plan import PRECISIONS, Precision
from benchmarks.gpu.workloads import MATMUL

__all__ = ["DATASHEET", "datasheet", "tasks"]

DATASHEET: dict[str, dict[str, float]] = {
    # float32, TF32 and bfloat16: 10^12 operations a second. bytes: 10^12 a second.
    "NVIDIA H100 80GB HBM3": {"float32": 67, "tf32": 494.7, "bfloat16": 989.4, "bytes": 3.35},
    "NVIDIA H100 PCIe": {"float32": 51.2, "tf32": 378, "bfloat16": 756, "bytes": 2.0},
    "NVIDIA H100 NVL": {"float32": 60, "tf32": 417.5, "bfloat16": 835.5, "bytes": 3.9},
    "NVIDIA H200": {"float32": 67, "tf32": 494.7, "bfloat16": 989.4, "bytes": 4.8},
    "NVIDIA H200 NVL": {"float32": 60, "tf32": 417.5, "bfloat16": 835.5, "bytes": 4.8},
    "NVIDIA A100-SXM4-40GB": {"float32": 19.5, "tf32": 156, "bfloat16": 312, "bytes": 1.555},
    "NVIDIA A100-SXM4-80GB": {"float32": 19.5, "tf32": 156, "bfloat16": 312, "bytes": 2.039},
    "NVIDIA A100-PCIE-40GB": {"float32": 19.5, "tf32": 156, "bfloat16": 312, "bytes": 1.555},
    "NVIDIA A100 80GB PCIe": {"float32": 19.5, "tf32": 156, "bfloat16": 312, "bytes": 1.935},
    "NVIDIA L4": {"float32": 30.3, "tf32": 60, "bfloat16": 121, "bytes": 0.3},
    "NVIDIA L40S": {"float32": 91.6, "tf32": 183, "bfloat16": 362, "bytes": 0.864},
    "NVIDIA GeForce RTX 4090": {"float32": 82.6, "tf32": 82.6, "bfloat16": 165.2, "bytes": 1.008},
}

_SIZES = {"float32": (8192,), "tf32": (8192,), "bfloat16": (8192, 16384)}
_SECONDS = 0.25  # of one sample, about
_SAMPLES = 5
_MOST_QUEUED = 50  # calls at once; each may hold a result of its own


def datasheet(kind: str) -> dict[str, float] | None:
    """The maker's figures for a card, by JAX's `device_kind`; None if it is not listed."""
    return DATASHEET.get(kind)


def tasks(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Matrix products in each precision, and the bandwidth."""
    return {
        **{f"matrix, {precision}": partial(matrix, precision, tiny) for precision in PRECISIONS},
        "bandwidth": partial(bandwidth, tiny),
    }


def matrix(precision: Precision, tiny: bool) -> dict[str, Any]:
    """The best rate of square products.

    Returns:
        "peaks": operations a second of "jaxnet" and, where it is, "torch"; "size" of the
        best; "rounding": a product's relative distance from float64's, some 1e-7 in float32
        (and in bfloat16, of factors that are rounded already) and 1e-4 in TF32, which says
        whether the precision is the one that was asked for; and the "datasheet"'s rate.
    """
    peaks: dict[str, float] = {}
    left_out: dict[str, str] = {}
    best = 0
    for n in (256,) if tiny else _SIZES[precision]:
        a, b = _matrices(n, precision)

        @jax.jit
        def product(a: jax.Array, b: jax.Array) -> jax.Array:
            with jax.default_matmul_precision(MATMUL[precision]):
                return a @ b

        rate = 2 * n**3 / _seconds(partial(product, a, b), jax.block_until_ready, tiny)
        if rate > peaks.get("jaxnet", 0):
            peaks["jaxnet"], best = rate, n
        device = torch_device(left_out)
        if device is not None:
            with or_left_out("torch", left_out):
                torch_rate = _torch_matrix(precision, n, tiny, device)
                peaks["torch"] = max(torch_rate, peaks.get("torch", 0))
    found = {"ok": True, "peaks": peaks, "size": best, "rounding": _rounding(precision)}
    return found | {"datasheet": _sheet(precision), "left_out": left_out}


def bandwidth(tiny: bool) -> dict[str, Any]:
    """Bytes read and written a second, by x + 1 over an array far larger than any cache."""
    n = 2**20 if tiny else 2**28  # float32: 1 GiB
    held = [jnp.zeros(n, jnp.float32)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    moved = 2 * held[0].nbytes

    def add_in_place() -> jax.Array:
        held[0] = add(held[0])
        return held[0]

    peaks = {"jaxnet": moved / _seconds(add_in_place, jax.block_until_ready, tiny)}
    held.clear()
    left_out: dict[str, str] = {}
    device = torch_device(left_out)
    if device is not None:
        with or_left_out("torch", left_out):
            peaks["torch"] = moved / _torch_addition(n, tiny, device)
    return {"ok": True, "peaks": peaks, "datasheet": _sheet("bytes"), "left_out": left_out}


def _matrices(n: int, precision: Precision) -> tuple[jax.Array, jax.Array]:
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    keys = jax.random.split(jax.random.key(0))
    return tuple(jax.random.normal(key, (n, n), dtype) for key in keys)  # type: ignore[return-value]


def _rounding(precision: Precision) -> float:
    """Largest distance of a product from the host's in float64, over the largest number there."""
    a, b = _matrices(512, precision)
    with jax.default_matmul_precision(MATMUL[precision]):
        rounded = jnp.matmul(a, b, preferred_element_type=jnp.float32)
    exact = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    distance = np.abs(np.asarray(rounded, np.float64) - exact).max()
    return float(distance / np.abs(exact).max())


def _torch_addition(n: int, tiny: bool, device: str) -> float:
    import torch

    a = torch.zeros(n, device=device)
    b = torch.empty_like(a)
    add_there = partial(torch.add, a, 1, out=b)
    seconds = _seconds(add_there, _wait(device), tiny)
    del a, b, add_there
    _emptied(device)
    return seconds


def _torch_matrix(precision: Precision, n: int, tiny: bool, device: str) -> float:
    import torch

    from benchmarks.gpu.torch_forms import precision_of

    with precision_of(precision):
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        multiply = partial(torch.matmul, a, b, out=out)
        rate = 2 * n**3 / _seconds(multiply, _wait(device), tiny)
    del a, b, out, multiply
    _emptied(device)
    return rate


def _wait(device: str) -> Callable[[Any], Any]:
    import torch

    return lambda result: torch.cuda.synchronize() if device == "cuda" else None


def _emptied(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()


def _seconds(call: Callable[[], Any], wait: Callable[[Any], Any], tiny: bool) -> float:
    """The least seconds of a call among the samples, each of many calls that are queued."""
    wait(call())
    began = time.perf_counter()
    wait(call())
    once = time.perf_counter() - began
    repeats = 1 if tiny else max(1, min(_MOST_QUEUED, int(_SECONDS / max(once, 1e-6))))
    least = float("inf")
    for _ in range(_SAMPLES):
        began = time.perf_counter()
        for _ in range(repeats):
            result = call()
        wait(result)
        least = min(least, (time.perf_counter() - began) / repeats)
        if task.seconds_left() < 2:
            break
    return least


def _sheet(name: str) -> float | None:
    """The maker's figure in operations or bytes a second."""
    known = datasheet(jax.devices()[0].device_kind)
    return None if known is None else known[name] * 1e12
