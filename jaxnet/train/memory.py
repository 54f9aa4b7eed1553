"""Whether data goes to the device at once: its size against the memory that is free."""

from typing import Any

import jax

from jaxnet.memory import free_bytes

__all__ = ["choose_place", "free_bytes"]


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


def _mib(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
