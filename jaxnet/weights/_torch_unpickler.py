"""Reads a pickle of plain values and tensors, and runs nothing that it names.

Python's own unpickler imports what a pickle names and calls it. Here each opcode
is carried out by hand on a list, and a name is looked up in a fixed table of functions
that only build values. Work and memory stay in proportion to the pickle's length.
"""

import pickle
import struct
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, BinaryIO, ClassVar

import numpy as np

from jaxnet.weights._errors import FileError
from jaxnet.weights._torch_foreign import NAMES, Foreign, refuse_call
from jaxnet.weights._torch_types import Global, kind

_U1, _U2, _U4, _U8 = (struct.Struct(f"<{code}") for code in "BHIQ")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_KEYS = frozenset({str, bytes, bool, int, float, complex, type(None)})


class Unpickler:
    """Reads pickles of protocols 2 to 5 from a stream.

    Args:
        file: The file, open for reading in binary mode. Reading stops behind the last byte
            of a pickle.
        size: The number of bytes that are left in the file.
        known: The meaning of each accepted name; the name of a dtype means the np.dtype.
        load_storage: The function that returns the storage of a persistent id.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        known: Mapping[str, Global | np.dtype],
        load_storage: Callable[[tuple[Any, ...]], np.ndarray] | None = None,
    ) -> None:
        self._file = file
        self._left = size
        self._known = known
        self._load_storage = load_storage
        self._copies = 1000 + 2 * size  # how many items builders may still copy; see `_spend`
        self._hashes: dict[int, list[Any]] = {}
        self._foreign = Foreign(self._spend)
        self._builders: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            **self._foreign.builders(),
            "builtins.set": self._build_set,
            "builtins.bytearray": self._build_bytearray,
            "_codecs.encode": self._build_bytes,
            "collections.OrderedDict": self._build_ordered,
            "collections.Counter": self._build_counter,
        }

    def load(self) -> Any:
        """The value of the next pickle.

        Raises:
            FileError: The pickle is damaged, or names something outside the accepted set.
        """
        value = self._load_value()
        _refuse_strays(value)
        return value

    def _load_value(self) -> Any:
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        while (code := self._take(1)) != pickle.STOP:
            step = self.steps.get(code)
            if step is None:
                raise FileError(f"its pickle has opcode {code!r}, which no weights file needs")
            step(self)
        if len(self._stack) != 1 or self._marks:
            raise FileError("its pickle does not end in one value")
        return self._stack[0]

    # bytes and stack

    def _take(self, n: int) -> bytes:
        if n > self._left:
            raise FileError("its pickle is cut short")
        self._left -= n
        data = self._file.read(n)
        if len(data) != n:
            raise FileError("its pickle is cut short")
        return data

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._take(layout.size))[0]

    def _text(self, n: int) -> str:
        try:
            return self._take(n).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise FileError("its pickle has a text that is not UTF-8") from None

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise FileError("its pickle takes a value where there is none")
        return self._stack.pop()

    def _pop_many(self, n: int) -> tuple[Any, ...]:
        return tuple(reversed([self._pop() for _ in range(n)]))

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise FileError("its pickle takes values where there are none")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _top(self, *accepted: type) -> Any:
        if not self._stack or type(self._stack[-1]) not in accepted:
            given = kind(self._stack[-1]) if self._stack else "nothing"
            names = " or ".join(t.__name__ for t in accepted)
            raise FileError(f"its pickle fills {given} as if it were {names}")
        return self._stack[-1]

    def _spend(self, copies: int) -> None:
        # A short pickle can ask again and again for a copy of one long value.
        self._copies -= copies
        if self._copies < 0:
            raise FileError("its pickle unfolds into far more than its length")

    # opcodes

    _dicts = (dict, OrderedDict, Counter, defaultdict)

    def _proto(self) -> None:
        if (protocol := self._take(1)[0]) > 5:
            raise FileError(f"its pickle has protocol {protocol}; known are those up to 5")

    def _put(self, index: int) -> None:
        if not self._stack:
            raise FileError("its pickle remembers a value where there is none")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise FileError(f"its pickle recalls value {index}, which it never made")
        self._push(self._memo[index])

    def _mark(self) -> None:
        # The values after a mark get a stack of their own, so no opcode can reach below it.
        self._marks.append(self._stack)
        self._stack = []

    def _long(self) -> None:
        self._push(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def _name_lines(self) -> None:
        module, name = (self._line() for _ in range(2))
        self._push_global(module, name)

    def _line(self) -> str:
        line = self._file.readline(min(self._left, 500))
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise FileError("its pickle has a name that does not end")
        return line[:-1].decode("utf-8", "backslashreplace")

    def _name_stack(self) -> None:
        module, name = self._pop_many(2)
        if type(module) is not str or type(name) is not str:
            raise FileError("its pickle has a name that is no text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        # Protocol 2 writes Python 2's name for builtins.
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        found = self._known.get(full)
        if found is None:
            build = self._builders.get(full)
            found = NAMES.get(full) if build is None else Global(full, build)
        self._push(self._unknown(full) if found is None else found)

    def _unknown(self, name: str) -> Global:
        """The meaning of a name that is not known."""
        raise FileError(
            f"it names {ascii(name[:200])[1:-1]}, which is not in the set of names that are "
            'accepted; nothing of it was run. load(path, only="tensors") reads the tensors alone'
        )

    def _reduce(self) -> None:
        called, arguments = self._pop_many(2)
        if not isinstance(called, Global) or called.call is None or type(arguments) is not tuple:
            raise FileError(f"its pickle calls {kind(called)}, which is not to be called")
        self._push(called.call(arguments))

    def _new(self) -> None:
        called, arguments = self._pop_many(2)
        if not isinstance(called, Global) or called.name != "argparse.Namespace":
            raise FileError(f"its pickle makes a new {kind(called)}, which is not accepted")
        self._push(self._builders[called.name](arguments))

    def _build(self) -> None:
        state = self._pop()
        if not self._stack:
            raise FileError("its pickle fills nothing as if it were OrderedDict")
        self._foreign.set_state(self._stack[-1], state)

    def _persistent(self) -> None:
        identity = self._pop()
        if self._load_storage is None or type(identity) is not tuple:
            raise FileError(f"its pickle has a persistent id of kind {kind(identity)}")
        self._push(self._load_storage(identity))

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _extend(self) -> None:
        items = self._pop_mark()
        self._top(list).extend(items)

    def _empty_set(self) -> None:
        # An opcode of one byte for an object of 200. Python writes at least two bytes for each,
        # so that this refuses no file of its own.
        self._spend(4)
        self._push(set())

    def _add_items(self) -> None:
        items = self._pop_mark()
        self._fill_set(self._top(set), items)

    def _set_item(self) -> None:
        key, value = self._pop_many(2)
        self._fill(self._top(*self._dicts), [(key, value)])

    def _set_items(self) -> None:
        items = self._pop_mark()
        if len(items) % 2:
            raise FileError("its pickle has a key without a value")
        target = self._top(*self._dicts)
        self._fill(target, zip(items[::2], items[1::2], strict=True))

    # builders: each takes the arguments of a call

    def _fill(self, target: dict[Any, Any], pairs: Any) -> None:
        for key, value in pairs:
            self._check_key(key)
            target[key] = value

    def _fill_set(self, target: set[Any], items: list[Any]) -> None:
        for item in items:
            self._check_key(item)
            target.add(item)

    def _check_key(self, key: Any) -> None:
        """Refuses keys that cannot be hashed, or that were made to be slow to hash."""
        if type(key) in (str, bytes):
            return
        parts, seen = [key], 0
        while parts:
            part = parts.pop()
            seen += 1
            if type(part) is tuple and len(part) <= 64 and seen <= 64:
                parts.extend(part)
            elif type(part) not in _KEYS:
                raise FileError(f"its pickle has a key or member of kind {kind(part)}")
        alike = self._hashes.setdefault(hash(key), [])
        if key not in alike:
            if len(alike) == 64:
                raise FileError("its pickle has more keys with one hash than chance gives")
            alike.append(key)

    def _build_set(self, arguments: tuple[Any, ...]) -> set[Any]:
        made: set[Any] = set()
        match arguments:
            case ():
                pass
            case (list(items),):
                self._spend(len(items))
                self._fill_set(made, items)
            case _:
                refuse_call("set", arguments)
        return made

    def _build_bytes(self, arguments: tuple[Any, ...]) -> bytes:
        match arguments:
            case (str(text), str("latin1" | "latin-1")):
                self._spend(len(text))
                try:
                    return text.encode("latin1")
                except UnicodeEncodeError:
                    raise FileError("its pickle has bytes above 255") from None
        refuse_call("_codecs.encode", arguments)

    def _build_bytearray(self, arguments: tuple[Any, ...]) -> bytearray:
        match arguments:
            case ():
                return bytearray()
            case (bytes(data),):
                self._spend(len(data))
                return bytearray(data)
        return bytearray(self._build_bytes(arguments))

    def _build_ordered(self, arguments: tuple[Any, ...]) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()
        match arguments:
            case ():
                pass
            case (list(pairs),):  # as Python 2 pickles an OrderedDict
                self._spend(len(pairs))
                if any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in pairs):
                    refuse_call("OrderedDict", arguments)
                self._fill(made, pairs)
            case _:
                refuse_call("OrderedDict", arguments)
        return made

    def _build_counter(self, arguments: tuple[Any, ...]) -> Counter[Any]:
        made: Counter[Any] = Counter()
        match arguments:
            case ():
                pass
            case (dict(counts),):
                self._spend(len(counts))
                self._fill(made, counts.items())
            case _:
                refuse_call("Counter", arguments)
        return made

    steps: ClassVar[dict[bytes, Callable[["Unpickler"], Any]]] = {
        pickle.PROTO: _proto,
        pickle.FRAME: lambda u: u._take(8),
        pickle.MARK: _mark,
        pickle.POP: lambda u: u._pop(),
        pickle.POP_MARK: lambda u: u._pop_mark(),
        pickle.NONE: lambda u: u._push(None),
        pickle.NEWTRUE: lambda u: u._push(True),
        pickle.NEWFALSE: lambda u: u._push(False),
        pickle.BININT: lambda u: u._push(u._number(_I4)),
        pickle.BININT1: lambda u: u._push(u._number(_U1)),
        pickle.BININT2: lambda u: u._push(u._number(_U2)),
        pickle.LONG1: _long,
        pickle.BINFLOAT: lambda u: u._push(u._number(_F8)),
        pickle.BINUNICODE: lambda u: u._push(u._text(u._number(_U4))),
        pickle.SHORT_BINUNICODE: lambda u: u._push(u._text(u._number(_U1))),
        pickle.BINUNICODE8: lambda u: u._push(u._text(u._number(_U8))),
        # Strings of Python 2, which torch reads as UTF-8 too.
        pickle.BINSTRING: lambda u: u._push(u._text(u._number(_U4))),
        pickle.SHORT_BINSTRING: lambda u: u._push(u._text(u._number(_U1))),
        pickle.BINBYTES: lambda u: u._push(u._take(u._number(_U4))),
        pickle.SHORT_BINBYTES: lambda u: u._push(u._take(u._number(_U1))),
        pickle.BINBYTES8: lambda u: u._push(u._take(u._number(_U8))),
        pickle.BYTEARRAY8: lambda u: u._push(bytearray(u._take(u._number(_U8)))),
        pickle.EMPTY_LIST: lambda u: u._push([]),
        pickle.EMPTY_DICT: lambda u: u._push({}),
        pickle.EMPTY_SET: _empty_set,
        pickle.EMPTY_TUPLE: lambda u: u._push(()),
        pickle.TUPLE: lambda u: u._push(tuple(u._pop_mark())),
        pickle.TUPLE1: lambda u: u._push(u._pop_many(1)),
        pickle.TUPLE2: lambda u: u._push(u._pop_many(2)),
        pickle.TUPLE3: lambda u: u._push(u._pop_many(3)),
        pickle.APPEND: _append,
        pickle.APPENDS: _extend,
        pickle.ADDITEMS: _add_items,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.BINPUT: lambda u: u._put(u._number(_U1)),
        pickle.LONG_BINPUT: lambda u: u._put(u._number(_U4)),
        pickle.MEMOIZE: lambda u: u._put(len(u._memo)),
        pickle.BINGET: lambda u: u._get(u._number(_U1)),
        pickle.LONG_BINGET: lambda u: u._get(u._number(_U4)),
        pickle.GLOBAL: _name_lines,
        pickle.STACK_GLOBAL: _name_stack,
        pickle.REDUCE: _reduce,
        pickle.NEWOBJ: _new,
        pickle.BUILD: _build,
        pickle.BINPERSID: _persistent,
    }


def _build_complex(arguments: tuple[Any, ...]) -> complex:
    match arguments:
        case (float(real), float(imaginary)):
            return complex(real, imaginary)
    refuse_call("complex", arguments)


def _build_empty_bytes(arguments: tuple[Any, ...]) -> bytes:
    return b"" if arguments == () else refuse_call("bytes", arguments)


def _build_size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    match arguments:
        case (tuple(sizes),) if len(sizes) <= 64 and all(type(n) is int for n in sizes):
            return sizes
    refuse_call("torch.Size", arguments)


def _build_device(arguments: tuple[Any, ...]) -> str:
    match arguments:
        case (str(name),):
            return name
        case (str(name), int(index)):
            return f"{name}:{index}"
    refuse_call("torch.device", arguments)


PLAIN_GLOBALS: dict[str, Global | np.dtype] = {
    name: Global(name, call)
    for name, call in {
        "builtins.complex": _build_complex,
        "builtins.bytes": _build_empty_bytes,
        "torch.Size": _build_size,
        "torch.device": _build_device,
    }.items()
}
"""The names whose calls give plain values; `Unpickler` has those that fill containers."""


def _refuse_strays(result: Any) -> None:
    """Refuses a result that contains a name itself, such as a class, instead of a value."""
    waiting, seen = [result], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Global):
            raise FileError(f"it holds {value.name} itself, which is no plain value")
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
        if isinstance(value, OrderedDict | Namespace | SimpleNamespace):
            waiting.extend(vars(value).values())
