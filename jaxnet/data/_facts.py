"""What reading a row may change: all that the code of a data set reaches, noted for comparison.

A row that depends on nothing but its number can be read without the rows before it. One that
draws random numbers, or counts, or keeps something, cannot.
"""

import collections
import contextlib
import dis
import functools
import io
import itertools
import random
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import jax
import numpy as np

from jaxnet.data._dataset import ConcatDataset, StackDataset, Subset, TensorDataset
from jaxnet.random import Generator

_MOST = 20_000  # things that are looked at
_SMALL = 4096  # bytes of an array that are compared; of a larger one only which it is
_ATOMS = (
    *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, PurePath),
    *(np.generic, np.dtype),
)
_GENERATORS = (
    *(Generator, random.Random),
    *(np.random.Generator, np.random.RandomState, np.random.BitGenerator),
)
_THEIRS = ("Generator", "Rngs", "RngStream")  # torch's and flax's, by name
_SETS_UP = ("__init__", "__new__", "__post_init__", "__init_subclass__", "__len__")
_PLAIN = (list, tuple, range, str, np.ndarray, TensorDataset)


class _UnknownError(Exception):
    """Something draws random numbers, goes on from call to call, or there is too much of it."""


def facts_of(code: Iterable[Any]) -> list[Any] | None:
    """What there is to compare before and after rows are read.

    Args:
        code: The objects and functions that read rows; what they reach is looked at too, by
            their attributes and by the names in functions of the user's own.

    Returns:
        The facts, which are equal as long as nothing has changed; None if rows cannot be read by
        number: a random generator or an iterator is reached, or too much to look at.
    """
    try:
        return _Walk(code).facts
    except Exception:  # also what an attribute of the user's raises
        return None


def readers_of(dataset: Any) -> list[Any] | None:
    """What of a data set is code of the user's: its parts that are more than arrays and lists.

    Returns:
        The objects that read its rows; None if a part reads the rows of a batch together, by
        `__getitems__`, so that a row may depend on the others.
    """
    kind = type(dataset)
    torchs = kind.__module__.startswith("torch.utils.data")
    if kind in _PLAIN or (torchs and kind.__name__ == "TensorDataset"):
        return []
    if kind in (Subset, ConcatDataset, StackDataset) or (
        torchs and kind.__name__ in ("Subset", "ConcatDataset", "StackDataset")
    ):
        parts = getattr(dataset, "datasets", None)
        if parts is None:
            parts = [dataset.dataset]
        found: list[Any] = []
        for part in parts.values() if isinstance(parts, Mapping) else parts:
            inner = readers_of(part)
            if inner is None:
                return None
            found += inner
        return found
    return None if callable(getattr(dataset, "__getitems__", None)) else [dataset]


class _Walk:
    def __init__(self, code: Iterable[Any]) -> None:
        self.facts: list[Any] = []
        self._kept: list[Any] = []  # so that no identity is used again
        self._seen: set[int] = set()
        self._coming = collections.deque(code)
        while self._coming:
            self._look(self._coming.popleft())
        self.facts.append(_Kept(self._kept))

    def _look(self, x: Any) -> None:
        if isinstance(x, _ATOMS):
            self.facts.append(x)
            return
        self.facts.append(id(x))
        if id(x) in self._seen:
            return
        self._seen.add(id(x))
        self._kept.append(x)
        if len(self._kept) + len(self._coming) > _MOST:
            raise _UnknownError
        kind = type(x)
        if isinstance(x, _GENERATORS) or (
            kind.__name__ in _THEIRS and kind.__module__.partition(".")[0] in ("torch", "flax")
        ):
            raise _UnknownError
        if isinstance(x, np.ndarray) and x.dtype.kind != "O":
            self.facts.append((x.shape, x.tobytes() if x.nbytes <= _SMALL else None))
        elif isinstance(x, jax.Array):
            pass  # it never changes
        elif hasattr(x, "detach") and hasattr(x, "_version"):
            self.facts.append(x._version)  # torch counts what is done in place
        elif isinstance(x, types.FunctionType):
            self._function(x)
        elif isinstance(x, types.MethodType):
            self._coming += [x.__self__, x.__func__]
        elif isinstance(x, types.BuiltinFunctionType | types.MethodWrapperType):
            if not isinstance(x.__self__, types.ModuleType):
                self._coming.append(x.__self__)
        elif isinstance(x, functools.partial):
            self._coming += [x.func, x.args, x.keywords]
        elif isinstance(x, dict):
            self._many(list(x.keys()))
            self._many(list(x.values()))
            self._attributes(x)
        elif isinstance(x, np.ndarray):
            self._many(x.ravel().tolist())
        elif isinstance(x, list | tuple | set | frozenset | collections.deque):
            self._many(list(x))
            self._attributes(x)
        elif isinstance(x, type):
            self._class(x)
        elif isinstance(x, types.ModuleType):
            pass  # by the names in functions
        elif isinstance(x, io.IOBase):
            pass  # a file, which is read from where a row lies
        elif isinstance(x, Iterator):
            raise _UnknownError
        else:
            self._attributes(x)

    def _many(self, values: list[Any]) -> None:
        """The elements of a container; of many names and numbers at once what they are."""
        flat = values
        if set(map(type, values)) == {tuple}:
            flat = list(itertools.chain.from_iterable(values))
        if all(issubclass(kind, _ATOMS) for kind in set(map(type, flat))):
            try:
                self.facts.append((len(values), hash(tuple(values))))
                return
            except TypeError:
                pass
        if len(values) > _MOST:
            raise _UnknownError
        self._coming += values

    def _attributes(self, x: Any) -> None:
        kind = type(x)
        self._coming.append(kind)
        own = getattr(x, "__dict__", None)
        if isinstance(own, dict):
            self._many(list(own))
            self._coming += own.values()
        for each in kind.__mro__:
            names = vars(each).get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if isinstance(vars(each).get(name), types.MemberDescriptorType):
                    self._coming.append(getattr(x, name, None))
        if hasattr(x, "__wrapped__"):
            self._coming.append(x.__wrapped__)

    def _class(self, kind: type) -> None:
        for each in kind.__mro__:
            if not _is_own(getattr(sys.modules.get(each.__module__), "__file__", None), each):
                continue
            for name, value in vars(each).items():
                if name in _SETS_UP or isinstance(value, types.MemberDescriptorType):
                    continue
                if isinstance(value, staticmethod | classmethod):
                    value = value.__func__
                if isinstance(value, property):
                    value = value.fget
                # Python's own entries, such as the dictionary and the module's name, are nothing.
                if callable(value) or not (name.startswith("__") and name.endswith("__")):
                    self._coming.append(value)

    def _function(self, function: types.FunctionType) -> None:
        if not _is_own(function.__code__.co_filename, function):
            return
        self._coming += [function.__defaults__, function.__kwdefaults__]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # it is not filled yet
                self._coming.append(cell.cell_contents)
        self._coming += _globals_of(function.__code__, function.__globals__)


class _Kept:
    """Keeps objects as long as the facts about them; it is equal to any other."""

    def __init__(self, objects: list[Any]) -> None:
        self._objects = objects

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept)

    __hash__ = None  # type: ignore[assignment]


def _globals_of(code: types.CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """What a function has from its module, and from the modules there: `rng`, `np.random.rand`."""
    value: Any = None
    for one in dis.get_instructions(code):
        if one.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, types.ModuleType):
            value = vars(value).get(one.argval)
            continue
        yield value
        value = names.get(one.argval) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME") else None
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals_of(inner, names)


def _is_own(file: str | None, thing: Any) -> bool:
    """Whether code is the user's, and no library's, whose random numbers are the global ones."""
    root = (getattr(thing, "__module__", None) or "").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return False
    if root == "jaxnet":
        return False
    return not any(part in (file or "") for part in ("site-packages", "dist-packages"))
