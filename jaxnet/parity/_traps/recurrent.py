"""Faults of recurrent layers."""

from jaxnet.parity._traps._trap import Trap

TRAPS: tuple[Trap, ...] = ()
