"""The free memory of the device that JAX computes on."""

from pathlib import Path

import jax.numpy as jnp
import psutil

_CGROUP = Path("/sys/fs/cgroup")
# The files with a container's limit and its use, in version 2 and in version 1 of cgroups.
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_bytes() -> int | None:
    """The free memory of the default device, in bytes.

    On a CPU it is the memory that programs can still take without swapping, and in a
    container not more than its limit leaves.

    Returns:
        The number of bytes, or None on a device that does not report it.
    """
    device = next(iter(jnp.zeros(()).devices()))
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return _free_on_the_host() if device.platform == "cpu" else None


def _free_on_the_host() -> int:
    found = [int(psutil.virtual_memory().available)]
    for limit, used in _LIMITS:
        try:
            most = (_CGROUP / limit).read_text(encoding="ascii").strip()
            if most.isdigit():  # "max" where there is no limit
                found.append(int(most) - int((_CGROUP / used).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return max(0, min(found))
