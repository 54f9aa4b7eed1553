"""The module that everything in `jaxnet.nn` is: torch.nn.Module's reading side on flax.nnx."""

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.module import ModuleMeta

from jaxnet import _hints as hints
from jaxnet._names import members, named_modules, named_variables


class Parameter(nnx.Param[Any]):
    """A trainable array: torch.nn.Parameter.

    It is flax's `nnx.Param`; attributes that torch's has and this does not have, such as
    `requires_grad`, are errors that say what to write.
    """

    def __getattr__(self, name: str) -> Any:
        if name in hints.PARAMETER:
            raise hints.missing_attribute(self, name, hints.PARAMETER)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in hints.PARAMETER:
            raise hints.missing_attribute(self, name, hints.PARAMETER)
        super().__setattr__(name, value)


class Buffer(nnx.Variable[Any]):
    """An array that belongs to a model but is not trained: torch.nn.Buffer.

    Args:
        value: the array.
        persistent: whether it is part of the state_dict.
    """

    def __init__(self, value: Any, *, persistent: bool = True, **metadata: Any) -> None:
        super().__init__(value, persistent=persistent, **metadata)


class _ModuleMeta(ModuleMeta):
    """Looks at `rngs` before a module is built; everything else is flax's."""

    if not TYPE_CHECKING:  # the signature that type checkers see is that of __init__

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if "rngs" in kwargs:
                if self._ignores_rngs:
                    del kwargs["rngs"]
            elif self._needs_rngs:
                raise TypeError(_without_rngs(self, args, kwargs))
            return super().__call__(*args, **kwargs)


class Module(nnx.Module, metaclass=_ModuleMeta):
    """A flax.nnx module that answers torch.nn.Module's questions.

    Subclasses build their layers in `__init__` and compute in `__call__`, which
    takes the place of `forward`. Names and order are torch's: a module's own
    parameters first, then its children's, in the order of assignment.

    Every layer of `jaxnet.nn` takes `rngs=`, where its initial weights come from. Those
    that draw none, such as BatchNorm2d or ReLU, accept it and leave it alone.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> model = nn.Linear(3, 2, rngs=Generator(0))
    >>> [(name, p.shape) for name, p in model.named_parameters()]
    [('weight', (2, 3)), ('bias', (2,))]
    """

    training: bool = True
    _needs_rngs: ClassVar[bool] = False
    _ignores_rngs: ClassVar[bool] = False
    _members: tuple[str, ...] = ()  # flax sorts attributes by name; torch's order is kept here

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # flax's metaclass hides the constructor's arguments from help() and editors.
        own = inspect.signature(cls.__init__)
        cls.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])  # type: ignore[attr-defined]
        # A layer of jaxnet.nn leaves alone what it has no use for; a constructor of the user's
        # own that takes no rngs refuses them, as Python does. A class without either inherits.
        ours = cls.__module__.startswith("jaxnet.nn.")
        if ours or "__init__" in vars(cls):
            rngs = own.parameters.get("rngs")
            by_keyword = rngs is not None and rngs.kind is rngs.KEYWORD_ONLY
            cls._needs_rngs = by_keyword and rngs.default is rngs.empty  # type: ignore[union-attr]
            takes_any = any(p.kind is p.VAR_KEYWORD for p in own.parameters.values())
            takes_any = takes_any and cls.__init__ is not object.__init__
            cls._ignores_rngs = ours and rngs is None and not takes_any

    def __getattr__(self, name: str) -> Any:
        # runs only when there is no such attribute
        raise hints.missing_attribute(self, name, hints.MODULE)

    def __setattr__(self, name: str, value: Any) -> None:
        old = vars(self).get(name)
        kind = _kind(value)
        if kind is None:
            value = _checked(self, name, old, value)
        elif old is None and name in vars(self):
            value = nnx.data(value)  # flax refuses an array where there was a plain None
        super().__setattr__(name, value)
        if kind is not None and (name not in self._members or kind is not (_kind(old) or kind)):
            self._set_members([*(n for n in self._members if n != name), name])

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._set_members([n for n in self._members if n != name])

    def _set_members(self, names: list[str]) -> None:
        object.__setattr__(self, "_members", tuple(names))

    def register_parameter(self, name: str, param: nnx.Param[jax.Array] | None) -> None:
        """Adds a trainable array under a name; None keeps its place in the order."""
        self._check_new_name("parameter", name, nnx.Param)
        if param is not None and not isinstance(param, nnx.Param):
            raise TypeError(
                f"parameter {name!r}: {type(param).__name__} is no Parameter; "
                "give nn.Parameter(array) or None"
            )
        self._register(name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Adds an array that is kept but not trained.

        Args:
            name: the attribute that will hold it, as a `Buffer`.
            tensor: an array, or None for none yet.
            persistent: whether it is part of the state_dict.
        """
        self._check_new_name("buffer", name, Buffer)
        if isinstance(tensor, Buffer):
            tensor = tensor[...]
        if tensor is not None and not isinstance(tensor, jax.Array | np.ndarray):
            raise TypeError(
                f"buffer {name!r}: {type(tensor).__name__} is no array; give an array or None"
            )
        self._register(
            name, None if tensor is None else Buffer(jnp.asarray(tensor), persistent=persistent)
        )

    def add_module(self, name: str, module: nnx.Module | None) -> None:
        """Adds a child under a name that need not be a Python one, such as "0"."""
        self._check_new_name("module", name, nnx.Module)
        if module is not None and not isinstance(module, nnx.Module):
            raise TypeError(
                f"{type(self).__name__}: {name!r} is {_described(module)}, not a module; "
                "write an activation as nn.Tanh(), not nn.Tanh or jnp.tanh"
            )
        self._register(name, module)

    def _check_new_name(self, what: str, name: str, kind: type) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name: {name!r} is not a string")
        if name == "" or "." in name:
            raise KeyError(f"{what} name: {name!r}; it must not be empty or hold a dot")
        known = name in self._members and isinstance(vars(self)[name], kind | None)
        if hasattr(self, name) and not known:
            raise KeyError(f"{what} name: {type(self).__name__} already has an attribute {name!r}")

    def _register(self, name: str, value: Any) -> None:
        setattr(self, name, value)
        if name not in self._members:
            self._set_members([*self._members, name])

    def get_submodule(self, target: str) -> nnx.Module:
        """The module under a dotted name such as "net.0.conv"; "" is this one."""
        module: Any = self
        for name in target.split(".") if target else ():
            module = _member(module, name, nnx.Module, target)
        return module

    def get_parameter(self, target: str) -> nnx.Param[jax.Array]:
        """The trainable array under a dotted name such as "net.0.weight"."""
        path, _, name = target.rpartition(".")
        return _member(self.get_submodule(path), name, nnx.Param, target)

    def get_buffer(self, target: str) -> Buffer:
        """The buffer under a dotted name such as "net.1.running_mean"."""
        path, _, name = target.rpartition(".")
        return _member(self.get_submodule(path), name, Buffer, target)

    def apply(self, fn: Callable[[Any], Any]) -> Self:
        """Calls fn on every module below, then on this one, and returns this one.

        >>> from jaxnet import nn
        >>> from jaxnet.random import Generator
        >>> def zero_bias(module):
        ...     if isinstance(module, nn.Linear):
        ...         nn.init.zeros_(module.bias)
        >>> net = nn.Sequential(nn.Linear(2, 2, rngs=Generator(0)), nn.Tanh()).apply(zero_bias)
        >>> net[0].bias[...]
        Array([0., 0.], dtype=float32)
        """
        _apply(self, fn)
        return self

    def train(self, mode: bool = True) -> Self:  # type: ignore[override]
        """Puts this module and all below it in training mode (or not), and returns it.

        Layers of plain flax below are told in flax's words.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"mode: {mode!r}; accepted are True and False")
        for module in self.modules():
            if isinstance(module, Module):
                module.training = mode
            else:
                module.set_attributes(
                    deterministic=not mode, use_running_average=not mode, raise_if_not_found=False
                )
        return self

    def eval(self) -> Self:  # type: ignore[override]
        """Puts this module and all below it in evaluation mode, and returns it."""
        return self.train(False)

    def named_children(self) -> Iterator[tuple[str, nnx.Module]]:
        """The modules assigned to this one, each once, with their names."""
        return _children(self)

    def children(self) -> Iterator[nnx.Module]:
        """The modules assigned to this one, each once."""
        return (child for _, child in self.named_children())

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nnx.Module]]:
        """This module and all below it, parents first, under their dotted names."""
        return named_modules(self, prefix, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[nnx.Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nnx.Param[jax.Array]]]:
        """The trainable arrays under their dotted names, in torch's order."""
        return named_variables(self, nnx.Param, prefix, recurse, remove_duplicate)  # type: ignore[return-value]

    def parameters(self, recurse: bool = True) -> Iterator[nnx.Param[jax.Array]]:
        """The trainable arrays, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """The arrays that are kept but not trained, under their dotted names."""
        return named_variables(self, Buffer, prefix, recurse, remove_duplicate)  # type: ignore[return-value]

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """The arrays that are kept but not trained, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers there are; shared ones count once."""
        return sum(parameter.size for parameter in self.parameters())

    def extra_repr(self) -> str:
        """What stands between the brackets when the module is printed."""
        return ""

    def __repr__(self) -> str:
        lines = [
            f"({name}): " + repr(value).replace("\n", "\n  ")
            for name, value in members(self)
            if isinstance(value, nnx.Module)
        ]
        return printed(self, lines)

    __str__ = __repr__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kind = type(self)
        way_out = "rename its forward to __call__" if hasattr(kind, "forward") else "define it"
        raise NotImplementedError(f"{kind.__name__} defines no __call__; {way_out}")


def _kind(value: Any) -> type | None:
    for kind in (nnx.Module, nnx.Param, nnx.Variable):
        if isinstance(value, kind):
            return kind
    return None


def _children(module: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    seen = set()
    for name, value in members(module):
        if isinstance(value, nnx.Module) and id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _apply(module: nnx.Module, fn: Callable[[Any], Any]) -> None:
    for _, child in _children(module):
        _apply(child, fn)
    fn(module)


def _checked(module: nnx.Module, name: str, old: Any, value: Any) -> Any:
    """A plain value for an attribute, unless it would fall out of the model unseen."""
    where = f"{type(module).__name__}.{name}"
    is_array = isinstance(value, jax.Array | np.ndarray)
    if is_array and isinstance(old, nnx.Param):
        raise TypeError(
            f"{where}: an array cannot take the place of a Parameter; "
            f"write .{name}[...] = array, or assign nn.Parameter(array)"
        )
    if is_array and isinstance(old, Buffer):
        return Buffer(jnp.asarray(value), persistent=old.get_metadata("persistent", True))
    held = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple) and any(_kind(item) is not None for item in held):
        raise TypeError(
            f"{where}: a plain {type(value).__name__} hides the modules and parameters in it; "
            "use nn.ModuleList, nn.ModuleDict or nn.Sequential, or nnx.List for parameters"
        )
    return value


def _member(module: Any, name: str, kind: type, target: str) -> Any:
    value = vars(module).get(name)
    if not isinstance(value, kind):
        has = ", ".join(n for n, v in members(module) if isinstance(v, kind)) or "none"
        raise AttributeError(
            f"{target!r}: {type(module).__name__} has no {kind.__name__} {name!r}; it has {has}"
        )
    return value


def _without_rngs(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a constructor says that has got no random numbers, with the call that it takes."""
    given = [repr(value) if isinstance(value, int | float | str) else "..." for value in args]
    given += [f"{name}=..." for name in kwargs]
    call = ", ".join([*given, "rngs=Generator(0)"])
    return (
        f"{cls.__name__}: rngs is missing, where the initial weights come from; write "
        f"{cls.__name__}({call}) with `from jaxnet.random import Generator`, whose seed 0 gives "
        "the weights of torch.manual_seed(0)"
    )


def _described(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def printed(module: Module, children: list[str]) -> str:
    extra = module.extra_repr()
    lines = (extra.split("\n") if extra else []) + children
    name = type(module).__name__
    if not children and len(lines) < 2:
        return f"{name}({extra})"
    return f"{name}(\n  " + "\n  ".join(lines) + "\n)"


def wrong_shape(module: nnx.Module, expected: str, given: jax.Array) -> ValueError:
    """The error for an input whose shape a layer cannot take."""
    return ValueError(f"{module!r} expects an input of shape {expected}; it got {given.shape}")
