"""Weights that a module computes anew from other arrays: the way of all parametrizations.

The arrays that are trained are members of the module as any others. The weight itself is not
stored: reading it computes it. So it takes part in jit and in gradients, and a model that is
split, merged, saved or loaded has the trained arrays only.

Python looks `__call__` and attributes of this kind up on the class, so the module gets a class of
its own, a subclass of the one that it had, as in torch.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import jax
from flax import nnx

from jaxnet.nn._module import Module, Parameter


class Rule(Protocol):
    """How one weight is computed; hashable, since it belongs to the structure of a model."""

    def compute(self, module: Any, calling: bool) -> jax.Array:
        """Returns the weight.

        Args:
            module: The module.
            calling: Whether the module is being called, or the weight is only looked at.
        """
        ...

    def assign(self, module: Any, value: Any) -> None:
        """Makes the weight a given array, for `module.weight = value`."""
        ...

    def other_names(self, module: Any) -> dict[str, str]:
        """The names of the module's arrays in torch's other form, by the names of this one."""
        ...


Key = tuple[int, str]  # the id of a module and the name of its weight

# The weights of the modules that are being called in this thread. They are computed when a call
# begins: a layer may read its weight several times, also within a loop of JAX's, and reading a
# weight can change buffers.
_in_call: ContextVar[dict[Key, jax.Array]] = ContextVar("jaxnet_weights_in_call")

# What `parametrize.cached` keeps, with the modules, so that no id is used again.
Cache = dict[Key, tuple[Any, jax.Array]]
cache: ContextVar[Cache | None] = ContextVar("jaxnet_weights_cached", default=None)


class _Deriving(Module):
    """The behaviour of a module with such weights, which `_class` puts before its own class."""

    _rules: tuple[tuple[str, Rule], ...] = ()

    def __getattr__(self, name: str) -> Any:
        if (rule := rules(self).get(name)) is None:
            return super().__getattr__(name)
        known = _in_call.get({}).get((id(self), name))
        return _computed(self, name, rule, calling=False) if known is None else known

    def __setattr__(self, name: str, value: Any) -> None:
        if (rule := rules(self).get(name)) is not None:
            rule.assign(self, value[...] if isinstance(value, nnx.Variable) else value)
        else:
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle finds classes by their names, and this one has none in its module.
        return _blank, (original_class(self), type(self).__name__), self.__getstate__()

    def _other_names(self) -> list[dict[str, str]]:
        # Read by `weights.load_state_dict`.
        return [rule.other_names(self) for rule in rules(self).values()]


def _computed(module: Any, name: str, rule: Rule, calling: bool) -> jax.Array:
    kept = cache.get()
    if kept is None or not getattr(rule, "parametrizes", False):
        return rule.compute(module, calling)
    if (id(module), name) not in kept:
        kept[id(module), name] = module, rule.compute(module, calling)
    return kept[id(module), name][1]


@contextmanager
def _calling(module: Any) -> Iterator[None]:
    found = {
        (id(module), name): _computed(module, name, rule, calling=True)
        for name, rule in rules(module).items()
    }
    token = _in_call.set({**_in_call.get({}), **found})
    try:
        yield
    finally:
        _in_call.reset(token)


@functools.cache
def _class(original: type[Module], name: str) -> Any:
    """The class of a module whose class was `original`, always the same one.

    Two models that were built alike are equal for JAX only if their classes are the same objects.
    """

    @functools.wraps(original.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _calling(self):
            return original.__call__(self, *args, **kwargs)

    attributes = {
        "__call__": call,
        "__module__": original.__module__,
        "__qualname__": name,
        "__doc__": original.__doc__,
    }
    metaclass: Any = type(original)
    return metaclass(name, (_Deriving, original), attributes)


def _blank(original: type[Module], name: str) -> Any:
    return object.__new__(_class(original, name))


def rules(module: Any) -> dict[str, Rule]:
    """The rules of a module's computed weights, by name."""
    return dict(getattr(module, "_rules", ()))


def original_class(module: Any) -> type:
    """The class that a module had before its weights were computed."""
    return type(module).__bases__[1] if isinstance(module, _Deriving) else type(module)


def add_rule(module: Any, name: str, rule: Rule) -> None:
    """Makes a module compute a weight, which must not be one of its members any more."""
    _set_rules(module, {**rules(module), name: rule})


def remove_rule(module: Any, name: str) -> None:
    """Undoes `add_rule`; the module then has no attribute of this name."""
    _set_rules(module, {n: rule for n, rule in rules(module).items() if n != name})


def _set_rules(module: Any, now: dict[str, Rule]) -> None:
    # Attributes of this kind skip the checks of __setattr__, which are for those of a model.
    own = original_class(module)
    parametrized = any(getattr(rule, "parametrizes", False) for rule in now.values())
    name = f"Parametrized{own.__name__}" if parametrized else own.__name__
    object.__setattr__(module, "__class__", _class(own, name) if now else own)
    if now:
        object.__setattr__(module, "_rules", tuple(now.items()))
    else:
        object.__delattr__(module, "_rules")


def undo(what: str, module: Any, name: str, kind: Any, suffixes: Sequence[str]) -> None:
    """Makes a weight a parameter again, for the functions `remove_...`.

    Args:
        what: The function that made it computed, for errors.
        module: The module.
        name: The name of the weight.
        kind: The class of its rule.
        suffixes: What follows the name in those of the arrays, which are deleted.

    Raises:
        ValueError: The weight has no such rule.
    """
    rule = rules(module).get(name)
    if not isinstance(rule, kind):
        raise ValueError(f"remove_{what}: {what} of {name!r} not found in {module!r}")
    value = rule.compute(module, calling=False)
    for suffix in suffixes:
        delattr(module, name + suffix)
    remove_rule(module, name)
    setattr(module, name, Parameter(value))


def own_variable(what: str, module: Any, name: str) -> nnx.Variable[Any]:
    """The parameter or buffer of a module under a name.

    Raises:
        TypeError: The module is no module of jaxnet.
        ValueError: It has no such array, or the array is computed already.
    """
    if not isinstance(module, Module):
        raise TypeError(
            f"{what}: module: {type(module).__name__}; accepted is a jaxnet.nn.Module, such as a "
            "layer of jaxnet.nn"
        )
    found = vars(module).get(name)
    if not isinstance(found, nnx.Variable):
        there = [n for n, value in vars(module).items() if isinstance(value, nnx.Variable)]
        computed = " is computed from other arrays already" if name in rules(module) else ""
        raise ValueError(
            f"{what}: name: {name!r}{computed or f' is no array of {type(module).__name__}'}; "
            f"accepted are {there or 'names of its own parameters and buffers'}"
        )
    return found
