"""Modules made of modules."""

import operator
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import chain
from typing import Any, Self

from flax import nnx

from jaxnet._names import members
from jaxnet.nn._module import Module, printed


class _Container(Module):
    """Modules under names, with what all containers do with them."""

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
    """What Sequential and ModuleList share: children by position, named "0", "1", ..."""

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
        """Takes out one module or several; those that stay are numbered anew."""
        children = self._children()
        gone = list(children)[index] if isinstance(index, slice) else [self._name_at(index)]
        kept = [module for name, module in children.items() if name not in gone]
        self._replace_children({str(i): module for i, module in enumerate(kept)})

    def pop(self, key: int | slice) -> Any:
        """Takes out one module, or a container of several, and returns it."""
        module = self[key]  # type: ignore[index]
        del self[key]
        return module

    def append(self, module: nnx.Module) -> Self:
        """Adds a module at the end, under the next number, and returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[nnx.Module]) -> Self:
        """Adds modules at the end and returns self."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{type(self).__name__}.extend: {type(modules).__name__} is no list of modules"
            )
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: nnx.Module) -> Self:
        """Puts a module before the one at `index` and returns self."""
        children = self._children()
        n = len(children)
        if not -n <= index <= n:
            raise IndexError(f"{type(self).__name__}: index {index} is out of range; it has {n}")
        start = index % n if index < 0 else index
        # As in torch, what stands behind moves to the next number, whatever it was called.
        for i in range(n, start, -1):
            children[str(i)] = children[str(i - 1)]
        children[str(start)] = module
        self._replace_children(children)
        return self


class Sequential(_Numbered):
    """Runs its modules one after the other: torch.nn.Sequential.

    Args:
        *args: modules, named "0", "1", ...; or one OrderedDict of named modules.

    A module that stands at several places shares its weights between them.

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
        """Gives the input to the first module, its output to the second, and so on."""
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, index: int | slice) -> Any:
        """One module by position, or a Sequential of a slice that shares the modules."""
        if isinstance(index, slice):
            return type(self)(dict(list(self._children().items())[index]))
        return self._children()[self._name_at(index)]

    def __add__(self, other: "Sequential") -> "Sequential":
        """A Sequential of the modules of both."""
        return Sequential(*self, *_sequential(other))

    def __iadd__(self, other: "Sequential") -> Self:
        return self.extend(_sequential(other))

    def __mul__(self, other: int) -> "Sequential":
        """A Sequential that runs the same modules several times, with shared weights."""
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
    """A list of modules that belong to the model: torch.nn.ModuleList.

    Args:
        modules: any iterable of modules.

    A plain Python list would hide them. It is printed as torch prints it, with
    neighbours that read alike on one line.

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
        """One module by position, or a ModuleList of a slice that shares the modules."""
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self._children()[self._name_at(index)]

    def __add__(self, other: Iterable[nnx.Module]) -> "ModuleList":
        """A ModuleList of these modules and of those."""
        return ModuleList(chain(self, other))

    def __iadd__(self, other: Iterable[nnx.Module]) -> Self:
        return self.extend(other)

    def __repr__(self) -> str:
        runs: list[tuple[int, list[str]]] = []  # where a run of equal texts starts, and the run
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
    """Modules by name that belong to the model: torch.nn.ModuleDict.

    Args:
        modules: a mapping, or pairs of name and module; their order is kept.

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
        self[key]  # a KeyError for what is no module of this one
        delattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._children())

    def __contains__(self, key: object) -> bool:
        return key in self._children()

    def keys(self) -> KeysView[str]:
        """The names, in order."""
        return self._children().keys()

    def items(self) -> ItemsView[str, Any]:
        """Names and modules, in order."""
        return self._children().items()

    def values(self) -> ValuesView[Any]:
        """The modules, in order."""
        return self._children().values()

    def clear(self) -> None:
        """Takes out every module."""
        self._replace_children({})

    def pop(self, key: str) -> Any:
        """Takes out one module and returns it."""
        module = self[key]
        del self[key]
        return module

    def update(self, modules: Any) -> None:
        """Adds modules from a mapping or from pairs; a known name gets the new module.

        Raises:
            TypeError: neither a mapping nor an iterable of pairs.
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
