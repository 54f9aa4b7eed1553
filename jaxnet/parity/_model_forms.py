"""The forms in which models of other libraries are given, told without importing any of them."""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

FORMS = (
    "a flax.nnx module, (module, variables) of flax.linen, an equinox module or (module, state), "
    "(transformed, params) or (transformed, params, state) of haiku, and (function, params) or "
    "(function, params, state) of a plain function(params, inputs)"
)


def library_name(given: Any) -> str:
    """The library that a model, or the first of what is given for it, comes from; "" for none."""
    first = parts_of(given)[0]
    if is_of(first, "flax.linen", "Module"):
        return "flax.linen"
    if is_of(first, "equinox", "Module"):
        return "equinox"
    if is_of(first, "haiku", "Transformed", "TransformedWithState"):
        return "haiku"
    routine = inspect.isroutine(first) or hasattr(first, "__wrapped__") or hasattr(first, "func")
    return "function" if routine and len(parts_of(given)) in (2, 3) else ""


def is_model(given: Any) -> bool:
    """Whether what is given is a model of another library, and not a training state with one."""
    name, (_, *rest) = library_name(given), parts_of(given)
    if name == "flax.linen":
        return len(rest) == 1 and isinstance(rest[0], Mapping)
    if name == "equinox":
        return all(is_of(one, "equinox.nn", "State") for one in rest)
    return bool(name) and not any(map(callable, rest))


def parts_of(given: Any) -> tuple[Any, ...]:
    """What is given for a model: the model, and its parameters and state."""
    plain = isinstance(given, tuple) and not hasattr(given, "_fields")
    return given if plain and given else (given,)


def code_of(given: Any) -> Any:
    """The class or the function of a model of another library; any other object as it is."""
    name, first = library_name(given), parts_of(given)[0]
    if name in ("flax.linen", "equinox"):
        return type(first)
    if name == "haiku":
        return getattr(first.apply, "_original_fn", first.apply)
    return first if name else given


def is_of(x: Any, module: str, *names: str) -> bool:
    """Whether an object is of one of these classes of a library that the program has imported."""
    home = sys.modules.get(module)
    return home is not None and isinstance(x, tuple(getattr(home, name) for name in names))
