"""Walks through modules, as torch.nn.Module has them as methods."""

from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx


def children(module: Any) -> Iterator[Any]:
    """The modules in a module; those of a list, too, each for itself."""
    values = list(module) if isinstance(module, nnx.List) else list(vars(module).values())
    for value in values:
        if isinstance(value, nnx.Module):
            yield value


def modules(module: Any) -> Iterator[Any]:
    """A module and all that are in it, each once."""
    seen: set[int] = set()

    def found(one: Any) -> Iterator[Any]:
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            for child in children(one):
                yield from found(child)

    yield from found(module)


def apply(module: Any, function: Callable[[Any], Any]) -> Any:
    """Calls a function with all modules in a module, and then with itself."""
    for child in children(module):
        apply(child, function)
    function(module)
    return module


def parameters(module: Any) -> Iterator[Any]:
    """The parameters in a module, each once; those of a layer in PyTorch's layout."""
    seen: set[int] = set()
    for one in modules(module):
        values = vars(one).values() if not isinstance(one, nnx.List) else one
        for value in values:
            if isinstance(value, nnx.Param) and id(value) not in seen:
                seen.add(id(value))
                weight = getattr(one, "weight", value)
                yield weight if getattr(weight, "param", None) is value else value
