"""Weights in and out under torch's names, and their files."""

from jaxnet._state_dict import IncompatibleKeys, load_state_dict, state_dict
from jaxnet.weights._errors import FileError
from jaxnet.weights._files import load, save

__all__ = [
    "FileError",
    "IncompatibleKeys",
    "load",
    "load_state_dict",
    "save",
    "state_dict",
]
