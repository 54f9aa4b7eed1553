"""Weights in and out under torch's names."""

from jaxnet.weights.model import load_state_dict, state_dict

__all__ = ["load_state_dict", "state_dict"]
