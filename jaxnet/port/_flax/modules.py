"""Walks through modules, as torch.nn.Module has them as methods."""

from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx


def named_children(module: Any) -> Iterator[tuple[str, Any]]:
    """The modules in a module, each once, by PyTorch's names."""
    pairs: Any = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    if isinstance(module, nnx.Sequential):
        pairs = zip(module.names, module.layers, strict=True)  # type: ignore[attr-defined]
    seen = set()
    for name, value in pairs:
        if isinstance(value, nnx.Module) and id(value) not in seen:
            seen.add(id(value))
            yield str(name), value


def named_modules(module: Any, prefix: str = "", seen: Any = None) -> Iterator[tuple[str, Any]]:
    """A module and all that are in it, each once, by PyTorch's names."""
    seen = set() if seen is None else seen
    if id(module) not in seen:
        seen.add(id(module))
        yield prefix, module
        for name, child in named_children(module):
            yield from named_modules(child, f"{prefix}.{name}" if prefix else name, seen)


def children(module: Any) -> Iterator[Any]:
    """The modules in a module."""
    return (child for _, child in named_children(module))


def modules(module: Any) -> Iterator[Any]:
    """A module and all that are in it, each once."""
    return (one for _, one in named_modules(module))


def apply(module: Any, function: Callable[[Any], Any]) -> Any:
    """Calls a function with all modules in a module, and then with itself."""
    for child in children(module):
        apply(child, function)
    function(module)
    return module


def named_parameters(module: Any) -> Iterator[tuple[str, Any]]:
    """The parameters in a module, each once, by PyTorch's names and in PyTorch's layout."""
    seen: set[int] = set()
    for path, one in named_modules(module):
        if isinstance(one, nnx.MultiHeadAttention | nnx.RNN | nnx.RNNCellBase):
            raise NotImplementedError(
                f"{path}: flax keeps the parameters of {type(one).__name__} in other parts than "
                "PyTorch; write what is done with them by their own names"
            )
        for key, value in vars(one).items() if not isinstance(one, nnx.List) else enumerate(one):
            if isinstance(value, nnx.Param) and id(value) not in seen:
                seen.add(id(value))
                name = "weight" if key in ("kernel", "embedding", "scale") else str(key)
                weight = getattr(one, "weight", value) if name == "weight" else value
                yield f"{path}.{name}" if path else name, weight


def parameters(module: Any) -> Iterator[Any]:
    """The parameters in a module, each once, in PyTorch's layout."""
    return (parameter for _, parameter in named_parameters(module))
