"""Whether data goes to the device at once: its size against the memory that is free."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["choose_place", "free_bytes"]

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def choose_place(data: Any, forced: str, name: str = "data") -> tuple[bool, str]:
    """Whether arrays are put on the device at once, and why, in a line to print.

    Args:
        data: a pytree of arrays.
        forced: "device" or "host"; "auto" puts them there if they take less than half of
            what is free, since a training step needs memory too.
        name: of the argument.
    """
    leaves = jax.tree.leaves(data)
    size = _mib(sum(leaf.nbytes for leaf in leaves))
    if forced != "auto":
        where = "put on the device" if forced == "device" else "fed from the host"
        return forced == "device", f"{name} ({size}) {where}, as asked for"
    needed = sum(leaf.nbytes for leaf in leaves if not isinstance(leaf, jax.Array))
    if needed == 0:
        return True, f"{name} ({size}) stays on the device, where it is"
    free = free_bytes()
    if free is None:
        return True, f"{name} ({size}) put on the device: its free memory is not known"
    fits = needed < free / 2
    where = "put on the device" if fits else "fed from the host in pieces"
    return fits, f"{name} ({size}) {where}: {_mib(free)} are free there"


def free_bytes() -> int | None:
    """Free memory of the default device, in bytes; None where it cannot be known."""
    device = next(iter(jnp.zeros(()).devices()))
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return _free_on_the_host() if device.platform == "cpu" else None


def _free_on_the_host() -> int | None:
    """What the system has, and what a container's limit leaves of it."""
    found = [_of_the_system()]
    for limit, used in _LIMITS:
        try:
            most = (_CGROUP / limit).read_text().strip()
            if most.isdigit():
                found.append(int(most) - int((_CGROUP / used).read_text()))
        except (OSError, ValueError):
            continue
    known = [value for value in found if value is not None]
    return max(0, min(known)) if known else None


def _of_the_system() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
