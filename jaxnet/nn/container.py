"""Modules made of modules."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from flax import nnx

from jaxnet.nn.module import Module

__all__ = ["ModuleList", "Sequential"]


class Sequential(Module):
    """Runs its modules one after the other: torch.nn.Sequential.

    Args:
        *args: modules, named "0", "1", ...; or one OrderedDict of named modules.

    A module that stands at several places shares its weights between them.

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
            items = list(args[0].items())
        else:
            items = [(str(i), module) for i, module in enumerate(args)]
        for name, module in items:
            if not isinstance(module, nnx.Module):
                raise TypeError(
                    f"Sequential: {name!r} is {type(module).__name__}, not a module; "
                    "write an activation as nn.Tanh(), not nn.Tanh or jnp.tanh"
                )
            setattr(self, name, module)

    def _items(self) -> list[tuple[str, nnx.Module]]:
        return [(name, m) for name, m in vars(self).items() if isinstance(m, nnx.Module)]

    def __call__(self, input: Any) -> Any:
        for _, module in self._items():
            input = module(input)
        return input

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[nnx.Module]:
        return (module for _, module in self._items())

    def __getitem__(self, index: int | slice) -> Any:
        """One module by position, or a Sequential of a slice that shares the modules."""
        items = self._items()
        if isinstance(index, slice):
            return Sequential(OrderedDict(items[index]))
        if not -len(items) <= index < len(items):
            raise IndexError(f"Sequential: index {index} is out of range; it has {len(items)}")
        return items[index][1]

    def append(self, module: nnx.Module) -> "Sequential":
        """Adds a module at the end, under the next number, and returns self."""
        setattr(self, str(len(self)), module)
        return self


class ModuleList(Module):
    """A list of modules that belong to the model: torch.nn.ModuleList.

    Args:
        modules: any iterable of modules.

    Neighbours that read alike are printed on one line.
    """

    def __init__(self, modules: Iterable[nnx.Module] = ()) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __iter__(self) -> Iterator[Any]:
        return (m for m in vars(self).values() if isinstance(m, nnx.Module))

    def __len__(self) -> int:
        return len(list(self))

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]

    def __repr__(self) -> str:
        runs: list[tuple[str, int]] = []
        for text in map(repr, self):
            if runs and runs[-1][0] == text:
                runs[-1] = (text, runs[-1][1] + 1)
            else:
                runs.append((text, 1))
        lines, start = [], 0
        for text, n in runs:
            text = text.replace("\n", "\n  ")
            name = f"({start}): " if n == 1 else f"({start}-{start + n - 1}): {n} x "
            lines.append(f"  {name}{text}\n")
            start += n
        return "ModuleList(" + ("\n" if lines else "") + "".join(lines) + ")"

    __str__ = __repr__
