"""The memory that is free for data."""

import os
from pathlib import Path

import jax.numpy as jnp

__all__ = ["free_bytes"]

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


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
