"""Checkpoints of a training run: whole or not there, written while training goes on."""

from jaxnet.checkpoint.arrays import DamagedError, named_arrays
from jaxnet.checkpoint.checkpoints import Checkpoints, Restored

__all__ = ["Checkpoints", "DamagedError", "Restored", "named_arrays"]
