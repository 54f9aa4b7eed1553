"""What objects hold, as a checksum by which a change shows."""

import hashlib
import pickle
import sys
import types
from typing import Any

import jax
import numpy as np

_MOST = 8_000_000  # bytes of pickle that are looked at
_SMALL = 4096  # bytes of an array that are looked at; of a larger one only which it is


def state_of(objects: list[Any], kept: list[Any]) -> bytes | None:
    """A checksum of what objects hold, by their pickle, of which nothing else is kept.

    Args:
        objects: The objects.
        kept: Takes those of which it is only seen which they are: large arrays, tensors, classes.
            As long as they are there, no other object gets their identity.

    Returns:
        The checksum, which is the same as long as nothing has changed; None if something cannot
        be pickled, or if it is too much.
    """
    sink = _Sink()
    try:
        _Pickler(sink, kept).dump(objects)
    except Exception:  # also what code of the user's raises
        return None
    return sink.sum.digest()


class _Sink:
    def __init__(self) -> None:
        self.sum, self._size = hashlib.blake2b(), 0

    def write(self, part: Any) -> None:
        self._size += memoryview(part).nbytes
        if self._size > _MOST:
            raise OverflowError
        self.sum.update(part)


class _Pickler(pickle.Pickler):
    def __init__(self, sink: _Sink, kept: list[Any]) -> None:
        super().__init__(sink, 5)
        self._kept = kept

    def reducer_override(self, x: Any) -> Any:
        """What stands for an object that pickle refuses, or whose content is not compared."""
        torch = sys.modules.get("torch")
        if isinstance(x, types.FunctionType):
            cells = [cell.cell_contents for cell in x.__closure__ or ()]
            own = x.__defaults__, x.__kwdefaults__, x.__dict__, cells
            return str, (x.__module__, x.__qualname__, *own)
        if torch is not None and isinstance(x, torch.Generator):
            return str, (x.get_state().numpy().tobytes(),)
        shown = None
        if torch is not None and isinstance(x, torch.Tensor):
            shown = x._version  # torch counts what is done in place
        elif isinstance(x, np.ndarray):
            # Python looks into an array of objects, and into a class of the user's.
            if x.nbytes <= _SMALL or x.dtype.hasobject or type(x) not in (np.ndarray, np.memmap):
                return NotImplemented
            shown = x.shape
        elif not isinstance(x, type | types.ModuleType | jax.Array):
            return NotImplemented
        self._kept.append(x)
        return id, (id(x), shown)
