"""Objects beside tensors that a checkpoint often contains, rebuilt without their own code.

These are numpy's arrays and numbers, `argparse.Namespace`, `types.SimpleNamespace`, `defaultdict`
and paths. In a pickle each is a call of a function and a state; here both are checked and the
value is made from them.
"""

import argparse
import math
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Never

import numpy as np

from jaxnet.weights._errors import FileError
from jaxnet.weights._torch_types import Global, kind

Builder = Callable[[tuple[Any, ...]], Any]

_NUMBERS = frozenset(
    {"?", "b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
)
_FACTORIES: dict[str, Any] = {
    f"builtins.{t.__name__}": t for t in (bool, dict, float, int, list, set, str, tuple)
}
_FACTORIES |= {"builtins.long": int, "builtins.unicode": str}  # as protocol 2 names them


class Foreign:
    """The builders of these objects for one pickle.

    Args:
        spend: The function that counts copied items, and refuses too many.
    """

    def __init__(self, spend: Callable[[int], None]) -> None:
        self._spend = spend
        # By id, what waits for its state. It is kept alive, so that no id is used again.
        self._waiting: dict[int, np.ndarray | np.dtype] = {}

    def builders(self) -> dict[str, Builder]:
        """The functions that the accepted names stand for; each takes the arguments of a call."""
        made: dict[str, Builder] = {
            "argparse.Namespace": _make_namespace,
            "types.SimpleNamespace": _make_simple_namespace,
            "collections.defaultdict": _make_defaultdict,
            "numpy.dtype": self._make_dtype,
        }
        for core in ("numpy.core", "numpy._core"):  # the latter since numpy 2
            made[f"{core}.multiarray.scalar"] = self._make_number
            made[f"{core}.multiarray._reconstruct"] = self._make_blank
            made[f"{core}.numeric._frombuffer"] = self._make_filled
        for module in ("pathlib", "pathlib._local"):  # the latter in Python 3.13
            made[f"{module}.PosixPath"] = made[f"{module}.PurePosixPath"] = _make_posix_path
            made[f"{module}.WindowsPath"] = made[f"{module}.PureWindowsPath"] = _make_windows_path
        return made

    def set_state(self, target: Any, state: Any) -> None:
        """Sets the state of a value that was made, as the opcode BUILD asks for it.

        Raises:
            FileError: The value takes no state, or not this one.
        """
        if self._waiting.pop(id(target), None) is not None:
            self._fill(target, state)
        elif type(target) in (OrderedDict, argparse.Namespace, types.SimpleNamespace):
            self._set_attributes(target, state)
        else:
            raise FileError(f"its pickle fills {kind(target)} as if it were OrderedDict")

    def _set_attributes(self, target: Any, state: Any) -> None:
        # Attributes are accepted, such as the _metadata of a state_dict; methods are not.
        names = list(state) if type(state) is dict else [None]
        for name in names:
            if type(name) is not str or hasattr(type(target), name):
                raise FileError(
                    f"its pickle sets up an {kind(target)} in a way that is not accepted"
                )
        self._spend(len(names))
        vars(target).update(state)

    # numpy's arrays and numbers

    def _make_number(self, arguments: tuple[Any, ...]) -> Any:
        match arguments:
            case (np.dtype() as dtype, bytes(data)) if len(data) == dtype.itemsize:
                return self._array(data, dtype, ())[()]
        refuse_call("a numpy number", arguments)

    def _make_blank(self, arguments: tuple[Any, ...]) -> np.ndarray:
        match arguments:
            case (Global(name="numpy.ndarray"), (0,), b"b"):
                array = np.empty(0, np.int8)
                self._waiting[id(array)] = array
                return array
        refuse_call("a numpy array", arguments)

    def _make_dtype(self, arguments: tuple[Any, ...]) -> np.dtype:
        match arguments:
            case (str(code), bool() | 0 | 1, bool() | 0 | 1) if code in _NUMBERS:
                # A copy, since the byte order that follows is set on it.
                dtype = np.dtype(code, False, True)
                self._waiting[id(dtype)] = dtype
                return dtype
        refuse_call("numpy.dtype", arguments)

    def _fill(self, target: Any, state: Any) -> None:
        # The state is set by numpy's own method, once it cannot be anything else than numbers.
        set_state: Any = target.__setstate__
        match target, state:
            case np.dtype(), (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
                set_state((3, order, None, None, None, -1, -1, 0))
            case np.ndarray(), (1, tuple(shape), np.dtype() as dtype, bool(columns), bytes(data)):
                # numpy would make the array of the same memory as the bytes, hence the copy.
                set_state((1, shape, dtype, columns, self._array(data, dtype, shape).tobytes()))
            case _:
                raise FileError(
                    f"its pickle sets up an {kind(target)} in a way that is not accepted"
                )

    def _make_filled(self, arguments: tuple[Any, ...]) -> np.ndarray:
        match arguments:
            case (bytes() | bytearray() as data, np.dtype() as dtype, tuple(shape), "C" | "F" as o):
                return self._array(data, dtype, shape, o)
        refuse_call("a numpy array", arguments)

    def _array(
        self, data: bytes | bytearray, dtype: np.dtype, shape: tuple[Any, ...], order: Any = "C"
    ) -> np.ndarray:
        if len(shape) > 64 or any(type(n) is not int or not 0 <= n < 2**63 for n in shape):
            raise FileError("it has a numpy array whose shape is not made of counts")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise FileError(f"it has {len(data)} bytes for a numpy array of another size")
        if math.prod(n for n in shape if n) * dtype.itemsize >= 2**63:
            raise FileError("it has a numpy array of more than 2**63 bytes")
        self._spend(len(data))
        if dtype == np.bool_ and data and max(data) > 1:
            raise FileError("a numpy array of bools holds bytes other than 0 and 1")
        return np.ndarray(shape, dtype, bytearray(data), order=order)


# the others


def _make_namespace(arguments: tuple[Any, ...]) -> argparse.Namespace:
    return argparse.Namespace() if arguments == () else refuse_call("Namespace", arguments)


def _make_simple_namespace(arguments: tuple[Any, ...]) -> types.SimpleNamespace:
    return types.SimpleNamespace() if arguments == () else refuse_call("Namespace", arguments)


def _make_defaultdict(arguments: tuple[Any, ...]) -> defaultdict[Any, Any]:
    match arguments:
        case () | (None,):
            return defaultdict()
        case (Global(name=name),) if name in _FACTORIES:
            return defaultdict(_FACTORIES[name])
    refuse_call("defaultdict", arguments)


def _make_posix_path(arguments: tuple[Any, ...]) -> Path:
    return Path(PurePosixPath(*_parts(arguments)))


def _make_windows_path(arguments: tuple[Any, ...]) -> Path:
    return Path(PureWindowsPath(*_parts(arguments)))


def _parts(arguments: tuple[Any, ...]) -> tuple[str, ...]:
    if any(type(part) is not str for part in arguments):
        refuse_call("a path", arguments)
    return arguments


def refuse_call(name: str, arguments: tuple[Any, ...]) -> Never:
    """Raises the FileError for arguments that a builder does not take."""
    given = ", ".join(kind(argument) for argument in arguments[:8])
    raise FileError(f"its pickle calls {name} with ({given}), which is not accepted")


NAMES = {name: Global(name) for name in ("numpy.ndarray", *_FACTORIES)}
"""The names that are arguments of these builders, and not to be called themselves."""
