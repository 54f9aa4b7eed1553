"""Weights in and out under torch's names."""

from jaxnet.weights.model import load_state_dict, state_dict
from jaxnet.weights.optimizer import load_optimizer_state_dict, optimizer_state_dict

__all__ = [
    "load_optimizer_state_dict",
    "load_state_dict",
    "optimizer_state_dict",
    "state_dict",
]
