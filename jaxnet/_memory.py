"""How much memory is free on the device that JAX computes on."""

from pathlib import Path

import jax.numpy as jnp
import psutil

_CGROUP = Path("/sys/fs/cgroup")
# A container's limit and what is used of it, for the second and the first kind of cgroups.
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_bytes() -> int | None:
    """Free memory of the default device, in bytes.

    On a CPU it is what programs can still take without swapping, and within a container
    not more than its limit leaves.

    Returns:
        The number, or None where it cannot be known.
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
