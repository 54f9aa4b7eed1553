"""What figures depend on: card, driver, processor, versions. Imports neither jax nor torch."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["facts", "notes"]

_PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax", "numpy"),
    *("torch", "triton", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cublas"),
)
_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "sve")
_QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm"


def facts() -> dict[str, Any]:
    """The card, the processor, the system and the versions, without asking JAX."""
    processor, sets = _processor()
    return {
        "card": _card(),
        "processor": processor,
        "instruction sets": ", ".join(sets) or "unknown",
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "source": _source(Path(__file__).parents[2]),
    }


def notes(device: Mapping[str, Any], found: Mapping[str, Any], tiny: bool) -> list[str]:
    """What is left out on this machine, and why.

    Args:
        device: JAX's, as the worker describes it.
        found: `facts()`.
        tiny: whether sizes are small.
    """
    said = []
    if device["platform"] == "cpu":
        said.append(
            'JAX sees no card (pip install "jax[cuda13]"): all runs on the CPU, without CUDA '
            "graphs, and no figure is one of a card"
        )
        if not tiny:
            said.append("the full sizes take a CPU hours: give --tiny to try the program")
    if "torch" not in found["versions"]:
        said.append("PyTorch is not installed (pip install torch): jaxnet is measured alone")
    return said


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _source(root: Path) -> str:
    """A hash over the names and the text of what is measured and what measures it."""
    files = [file for folder in ("jaxnet", "benchmarks") for file in (root / folder).rglob("*.py")]
    found = hashlib.sha256()
    for file in sorted(files):
        text = file.read_bytes()
        found.update(f"{file.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return found.hexdigest()[:16]


def _card() -> str:
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__} of nvidia-smi)"
    return f"{done.stdout.strip()} ({_QUERY})"


def _processor() -> tuple[str, list[str]]:
    """Its name, and those of the instruction sets that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    told = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = (told.get("flags") or told.get("Features") or "").split()
    return told.get("model name", platform.machine()), [x for x in _SETS if x in flags]
