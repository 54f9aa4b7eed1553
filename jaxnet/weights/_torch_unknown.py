"""The tensors of a pickle that also holds objects of classes which are not known.

Such an object is not built. What its pickle says of it is kept as plain values, and the arrays
among them are found again under the names that they have there.
"""

import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from jaxnet.weights._errors import FileError
from jaxnet.weights._torch_types import Global, kind
from jaxnet.weights._torch_unpickler import Unpickler

_DEEPEST = 200  # levels of a value; what people save has fewer than twenty


def _free(name: Any, taken: Mapping[Any, Any]) -> Any:
    """A name that is not taken: the name itself, or with a number."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} #{number}"
    return free


class Unknown:
    """An object of a class that is not known.

    Args:
        name: The module and name of its class, or of the function that would make it.
        arguments: The arguments of that call.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.arguments = arguments
        self.members: dict[Any, Any] = {}  # of a class that is a list or a dict
        self.attributes: dict[Any, Any] = {}

    @property
    def parts(self) -> dict[Any, Any]:
        """All that belongs to it: attributes by name, members by key, arguments by position."""
        found: dict[Any, Any] = {}
        for each in (dict(enumerate(self.arguments)), self.members, self.attributes):
            found.update({_free(key, found): value for key, value in each.items()})
        return found

    @property
    def is_module(self) -> bool:
        """Whether it is a torch.nn.Module."""
        return {"_parameters", "_buffers", "_modules"} <= self.attributes.keys()


class TensorsUnpickler(Unpickler):
    """Reads the arrays of a pickle, whatever else it holds, and runs nothing that it names."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[int] = set()  # the values, by id, within which the one at hand is

    def load(self) -> Any:
        """The arrays of the next pickle, in the dicts and lists in which they are.

        Returns:
            See `jaxnet.weights.load`. {} if the pickle has no array.

        Raises:
            FileError: The pickle is damaged.
        """
        found = self._arrays_of(self._load_value(), 0)
        return {} if found is None else found

    # what is not known

    def _unknown(self, name: str) -> Global:
        return Global(name, lambda arguments: Unknown(name, arguments))

    def _reduce(self) -> None:
        called, arguments = self._pop_many(2)
        self._make(called, arguments)

    def _new_with_names(self) -> None:
        called, arguments, by_name = self._pop_many(3)
        self._make(called, arguments)
        if type(by_name) is dict and isinstance(self._stack[-1], Unknown):
            self._stack[-1].members.update(by_name)

    def _make(self, called: Any, arguments: Any) -> None:
        if not isinstance(called, Global) or type(arguments) is not tuple:
            raise FileError(f"its pickle calls {kind(called)}, which is not to be called")
        if called.call is None:
            self._push(Unknown(called.name, arguments))
        elif called.name in self._known:  # a tensor that cannot be made is damage
            self._push(called.call(arguments))
        else:
            try:
                self._push(called.call(arguments))
            except FileError:  # a form of it that is not known, as an array of texts
                self._spend(0)
                self._push(Unknown(called.name, arguments))

    def _build(self) -> None:
        state = self._pop()
        if not self._stack:
            raise FileError("its pickle fills nothing as if it were OrderedDict")
        target = self._stack[-1]
        if not isinstance(target, Unknown):
            try:
                self._foreign.set_state(target, state)
                return
            except FileError:
                self._spend(0)
                target = self._replaced_by_unknown()
        # A class with __slots__ has a pair of dicts as its state.
        for each in state if type(state) is tuple and len(state) == 2 else (state,):
            if type(each) is dict:
                self._spend(len(each))
                target.attributes.update(each)
            elif each is not None:
                target.attributes["state"] = each

    def _replaced_by_unknown(self) -> Unknown:
        known, unknown = self._stack[-1], Unknown(kind(self._stack[-1]))
        self._stack[-1] = unknown
        self._memo = {i: unknown if each is known else each for i, each in self._memo.items()}
        return unknown

    def _persistent(self) -> None:
        match self._stack:
            # Before torch 1.6 a class of modules came with its source.
            case [*_, (str("module"), Global() as called, *_)]:
                self._pop()
                self._push(called)
            case _:
                super()._persistent()

    def _append(self) -> None:
        if len(self._stack) > 1 and isinstance(self._stack[-2], Unknown):
            value = self._pop()
            self._add(self._stack[-1], [value])
        else:
            super()._append()

    def _extend(self) -> None:
        items = self._pop_mark()
        if self._stack and isinstance(self._stack[-1], Unknown):
            self._add(self._stack[-1], items)
        else:
            self._top(list).extend(items)

    def _add(self, target: Unknown, items: list[Any]) -> None:
        start = len(target.members)
        target.members.update(enumerate(items, start))

    def _set_item(self) -> None:
        key, value = self._pop_many(2)
        self._set(key, value)

    def _set_items(self) -> None:
        items = self._pop_mark()
        if len(items) % 2:
            raise FileError("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        unknown = self._stack and isinstance(self._stack[-1], Unknown)
        target = self._stack[-1].members if unknown else self._top(*self._dicts)
        name = self._key(key)
        # Two objects may be one name here.
        self._fill(target, [(_free(name, target) if name is not key else name, value)])

    def _add_items(self) -> None:
        items = self._pop_mark()
        if self._stack and isinstance(self._stack[-1], Unknown):
            self._add(self._stack[-1], items)
        else:
            self._fill_set(self._top(set), [self._key(item) for item in items])

    def _frozen(self) -> None:
        self._push(tuple(self._pop_mark()))

    def _key(self, key: Any) -> Any:
        """A key, or for an object its class and numbers, such as those of an enumeration."""
        if isinstance(key, Unknown):
            plain = (str(a) for a in key.arguments if type(a) in (bool, int, str))
            return f"{key.name}({', '.join(plain)})"
        if type(key) is tuple and len(key) <= 64:
            parts = tuple(part if type(part) is tuple else self._key(part) for part in key)
            return key if all(a is b for a, b in zip(parts, key, strict=True)) else parts
        return key.name if isinstance(key, Global) else key

    steps: ClassVar[dict[bytes, Callable[[Any], Any]]] = Unpickler.steps | {
        pickle.REDUCE: _reduce,
        pickle.NEWOBJ: _reduce,
        pickle.NEWOBJ_EX: _new_with_names,
        pickle.BUILD: _build,
        pickle.BINPERSID: _persistent,
        pickle.APPEND: _append,
        pickle.APPENDS: _extend,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.ADDITEMS: _add_items,
        pickle.FROZENSET: _frozen,
    }

    # the arrays

    def _arrays_of(self, value: Any, depth: int) -> Any:
        """The arrays of a value in its dicts and lists; None if there are none."""
        if isinstance(value, np.ndarray):
            return value
        if depth > _DEEPEST:
            raise FileError(f"it is nested more than {_DEEPEST} deep")
        if id(value) in self._open:  # as the parent of a child
            return None
        self._open.add(id(value))
        try:
            return self._arrays_within(value, depth)
        finally:
            self._open.discard(id(value))

    def _arrays_within(self, value: Any, depth: int) -> Any:
        if isinstance(value, Unknown) and value.is_module:
            return dict(self._state_dict(value, "", depth)) or None
        if isinstance(value, list | tuple):
            items = [self._arrays_of(each, depth + 1) for each in self._counted(value)]
            return None if all(each is None for each in items) else items
        if isinstance(value, Unknown):
            value = value.parts
        elif isinstance(value, Namespace | SimpleNamespace):
            value = vars(value)
        if not isinstance(value, dict):
            return None
        found = {key: self._arrays_of(value[key], depth + 1) for key in self._counted(value)}
        found = {key: arrays for key, arrays in found.items() if arrays is not None}
        if not found or not isinstance(value, OrderedDict):
            return found or None
        state_dict = OrderedDict(found)
        if type(versions := getattr(value, "_metadata", None)) is OrderedDict:
            state_dict._metadata = versions  # type: ignore[attr-defined]
        return state_dict

    def _state_dict(self, module: Unknown, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        """What the state_dict of a pickled module holds, by name."""
        if depth > _DEEPEST:
            raise FileError(f"it is nested more than {_DEEPEST} deep")
        own = module.attributes
        passing = own.get("_non_persistent_buffers_set", ())
        for kept in (own["_parameters"], own["_buffers"]):
            for name in self._counted(kept if isinstance(kept, dict) else {}):
                if isinstance(kept[name], np.ndarray) and name not in passing:
                    yield f"{prefix}{name}", kept[name]
        children = own["_modules"] if isinstance(own["_modules"], dict) else {}
        for name in self._counted(children):
            if isinstance(child := children[name], Unknown) and child.is_module:
                yield from self._state_dict(child, f"{prefix}{name}.", depth + 1)

    def _counted(self, items: Any) -> list[Any]:
        # A short pickle can ask for one value again and again, each time within another.
        self._spend(len(items) + 1)
        return list(items)
