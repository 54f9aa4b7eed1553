"""Checkpoints of a training run: complete or absent, written while training goes on."""

from jaxnet.checkpoint._arrays import DamagedError
from jaxnet.checkpoint._checkpoints import Checkpoints, Restored

__all__ = ["Checkpoints", "DamagedError", "Restored"]
