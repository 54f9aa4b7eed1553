"""Modules that contain other modules: Sequential, ModuleList and ModuleDict."""

import operator
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import chain
from typing import Any, Self

from flax import nnx

from jaxnet._names import members
from jaxnet.nn._module import Module, printed


class _Container(Module):
    """Modules under names, and the operations that all containers share."""

    def _children(self) -> dict[str, nnx.Module]:
        return {name: m for name, m in members(self) if isinstance(m, nnx.Module)}

    def _replace_children(self, children: Mapping[str, nnx.Module]) -> None:
        for name in self._children():
            delattr(self, name)
        for name, module in children.items():
            self.add_module(name, module)

    def __len__(self) -> int:
        return len(self._children())


class _Numbered(_Container):
    """Sequential's and ModuleList's common part: children by position, named "0", "1", ..."""

    def __iter__(self) -> Iterator[Any]:
        return iter(self._children().values())

    def _name_at(self, index: int) -> str:
        names = list(self._children())
        position = operator.index(index)
        if not -len(names) <= position < len(names):
            raise IndexError(
                f"{type(self).__name__}: index {position} is out of range; it has {len(names)}"
            )
        return names[position]

    def __setitem__(self, index: int, module: nnx.Module) -> None:
        self.add_module(self._name_at(index), module)

    def __delitem__(self, index: int | slice) -> None:
        """Removes one module or several. The remaining modules are numbered anew."""
        children = self._children()
        gone = list(children)[index] if isinstance(index, slice) else [self._name_at(index)]
        kept = [module for name, module in children.items() if name not in gone]
        self._replace_children({str(i): module for i, module in enumerate(kept)})

    def pop(self, key: int | slice) -> Any:
        """Removes one module, or a container of several, and returns it."""
        module = self[key]  # type: ignore[index]
        del self[key]
        return module

    def append(self, module: nnx.Module) -> Self:
        """Adds a module at the end, under the next number, and returns this container."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[nnx.Module]) -> Self:
        """Adds modules at the end and returns this container.

        Raises:
            TypeError: The argument is not an iterable.
        """
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{type(self).__name__}.extend: {type(modules).__name__} is no list of modules"
            )
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: nnx.Module) -> Self:
        """Inserts a module before the one at `index` and returns this container.

        Raises:
            IndexError: The index is out of range.
        """
        children = self._children()
        n = len(children)
        if not -n <= index <= n:
            raise IndexError(f"{type(self).__name__}: index {index} is out of range; it has {n}")
        start = index % n if index < 0 else index
        # As in torch, the modules behind move to the next number, even if they had names.
        for i in range(n, start, -1):
            children[str(i)] = children[str(i - 1)]
        children[str(start)] = module
        self._replace_children(children)
        return self


class Sequential(_Numbered):
    """Runs its modules one after the other: torch.nn.Sequential.

    A module that occurs several times shares its weights between all occurrences.

    Args:
        *args: The modules, which are named "0", "1", and so on; or one OrderedDict from names
            to modules.

    >>> from collections import OrderedDict
    >>> from jaxnet.nn import Linear, Tanh
    >>> from jaxnet.random import Generator
    >>> g = Generator(0)
    >>> Sequential(OrderedDict(hidden=Linear(1, 2, rngs=g), act=Tanh()))
    Sequential(
      (hidden): Linear(in_features=1, out_features=2, bias=True)
      (act): Tanh()
    )
    """

    def __init__(self, *args: Any) -> None:
        if len(args) == 1 and isinstance(args[0], dict):
            items: Iterable[tuple[str, Any]] = args[0].items()
        else:
            items = ((str(i), module) for i, module in enumerate(args))
        for name, module in items:
            self.add_module(name, module)

    def __call__(self, input: Any) -> Any:
        """Calls the first module with the input, the second with the first's output, and so on."""
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, index: int | slice) -> Any:
        """Returns one module by position, or for a slice a Sequential that shares the modules."""
        if isinstance(index, slice):
            return type(self)(dict(list(self._children().items())[index]))
        return self._children()[self._name_at(index)]

    def __add__(self, other: "Sequential") -> "Sequential":
        """Returns a Sequential of the modules of both."""
        return Sequential(*self, *_sequential(other))

    def __iadd__(self, other: "Sequential") -> Self:
        return self.extend(_sequential(other))

    def __mul__(self, other: int) -> "Sequential":
        """Returns a Sequential that runs the same modules several times, with shared weights."""
        return Sequential(*(list(self) * _times(other)))

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        return self.extend(list(self) * (_times(other) - 1))


def _sequential(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(f"Sequential: {type(other).__name__} cannot be added; give a Sequential")
    return other


def _times(other: Any) -> int:
    if not isinstance(other, int):
        raise TypeError(f"Sequential: times {type(other).__name__}; give a whole number")
    if other <= 0:
        raise ValueError(f"Sequential: times {other}; give a number above 0")
    return other


class ModuleList(_Numbered):
    """A list of modules that are part of the model: torch.nn.ModuleList.

    A plain Python list would hide the modules from the model. The list is printed as in torch,
    where equal neighbours share one line.

    Args:
        modules: An iterable of modules.

    >>> from jaxnet.nn import Linear
    >>> from jaxnet.random import Generator
    >>> g = Generator(0)
    >>> ModuleList(Linear(2, 2, rngs=g) for _ in range(3))
    ModuleList(
      (0-2): 3 x Linear(in_features=2, out_features=2, bias=True)
    )
    """

    def __init__(self, modules: Iterable[nnx.Module] | None = None) -> None:
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, index: int | slice) -> Any:
        """Returns one module by position, or for a slice a ModuleList that shares the modules."""
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self._children()[self._name_at(index)]

    def __add__(self, other: Iterable[nnx.Module]) -> "ModuleList":
        """Returns a ModuleList of the modules of both."""
        return ModuleList(chain(self, other))

    def __iadd__(self, other: Iterable[nnx.Module]) -> Self:
        return self.extend(other)

    def __repr__(self) -> str:
        runs: list[tuple[int, list[str]]] = []  # (first position, equal texts) of each run
        for i, text in enumerate(map(repr, self)):
            if runs and runs[-1][1][0] == text:
                runs[-1][1].append(text)
            else:
                runs.append((i, [text]))
        lines = []
        for start, texts in runs:
            n, text = len(texts), texts[0].replace("\n", "\n  ")
            lines.append(
                f"({start}): {text}" if n == 1 else f"({start}-{start + n - 1}): {n} x {text}"
            )
        return printed(self, lines)

    __str__ = __repr__


class ModuleDict(_Container):
    """A dictionary of modules that are part of the model: torch.nn.ModuleDict.

    Args:
        modules: A mapping from names to modules, or pairs of a name and a module. The order
            is preserved.

    >>> from jaxnet.nn import ReLU, Tanh
    >>> acts = ModuleDict({"relu": ReLU(), "tanh": Tanh()})
    >>> list(acts), acts["tanh"]
    (['relu', 'tanh'], Tanh())
    """

    def __init__(self, modules: Any = None) -> None:
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._children()[key]

    def __setitem__(self, key: str, module: nnx.Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]  # raises KeyError for an attribute that is not a module
        delattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._children())

    def __contains__(self, key: object) -> bool:
        return key in self._children()

    def keys(self) -> KeysView[str]:
        """Returns the names, in order."""
        return self._children().keys()

    def items(self) -> ItemsView[str, Any]:
        """Returns pairs of a name and a module, in order."""
        return self._children().items()

    def values(self) -> ValuesView[Any]:
        """Returns the modules, in order."""
        return self._children().values()

    def clear(self) -> None:
        """Removes every module."""
        self._replace_children({})

    def pop(self, key: str) -> Any:
        """Removes one module and returns it."""
        module = self[key]
        del self[key]
        return module

    def update(self, modules: Any) -> None:
        """Adds modules from a mapping or from pairs; an existing name gets the new module.

        Raises:
            TypeError: The argument is neither a mapping nor an iterable of pairs.
        """
        if isinstance(modules, ModuleDict | Mapping):
            modules = modules.items()
        try:
            pairs = [(name, module) for name, module in modules]
        except (TypeError, ValueError):
            raise TypeError(
                f"ModuleDict.update: {type(modules).__name__}; "
                "give a mapping, or pairs of name and module"
            ) from None
        for name, module in pairs:
            self[name] = module
