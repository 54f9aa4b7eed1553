"""The base class of all layers, with the methods of torch.nn.Module that read a model."""

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.module import ModuleMeta

from jaxnet import _hints as hints
from jaxnet._arrays import is_tensor
from jaxnet._names import members, named_modules, named_variables
from jaxnet.nn._methods import Methods
from jaxnet.nn._traces import change
from jaxnet.precision import check_x64


class Parameter(nnx.Param[Any]):
    """A trainable array: torch.nn.Parameter.

    The class is flax's `nnx.Param`. Attributes that exist only in torch, such as
    `requires_grad`, raise an error that says what to write instead.

    Args:
        value: The array.
        **metadata: Metadata of the flax variable.

    Raises:
        TypeError: The value is a number, a list or a torch tensor.
    """

    def __init__(self, value: Any, **metadata: Any) -> None:
        _check_value("Parameter", value)
        super().__init__(value, **metadata)

    def __getattr__(self, name: str) -> Any:
        if name in hints.PARAMETER:
            raise hints.missing_attribute(self, name, hints.PARAMETER)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in hints.PARAMETER:
            raise hints.missing_attribute(self, name, hints.PARAMETER)
        change(self, name, lambda: super(Parameter, self).__setattr__(name, value), value)


class Buffer(nnx.Variable[Any]):
    """An array that belongs to a model but is not trained: torch.nn.Buffer.

    Args:
        value: The array.
        persistent: Whether the buffer is part of the state_dict.
        **metadata: Metadata of the flax variable.

    Raises:
        TypeError: The value is a number, a list or a torch tensor.
    """

    def __init__(self, value: Any, *, persistent: bool = True, **metadata: Any) -> None:
        _check_value("Buffer", value)
        super().__init__(value, persistent=persistent, **metadata)

    def __setattr__(self, name: str, value: Any) -> None:
        change(self, name, lambda: super(Buffer, self).__setattr__(name, value), value)


class _ModuleMeta(ModuleMeta):
    """The metaclass of `Module`: flax's, with a check of the arguments `rngs` and `dtype`."""

    if not TYPE_CHECKING:  # so that type checkers see the signature of __init__

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            # JAX would give float32 for float64, with a warning at most.
            if isinstance(wide := kwargs.get("dtype"), str | type | np.dtype):
                check_x64(f"{self.__name__}: dtype", wide)
            if "rngs" in kwargs:
                # A layer without random weights, such as ReLU, accepts rngs and ignores them.
                if self._ignores_rngs:
                    del kwargs["rngs"]
            elif self._needs_rngs:
                raise TypeError(_without_rngs(self, args, kwargs))
            return super().__call__(*args, **kwargs)


class Module(Methods, metaclass=_ModuleMeta):
    """A flax.nnx module with the methods of torch.nn.Module.

    Subclasses build their layers in `__init__` and compute in `__call__`, which replaces
    torch's `forward`. Names and order are torch's: first the parameters of a module, then
    those of its children, in the order of assignment.

    Every layer of `jaxnet.nn` accepts the argument `rngs`, the source of its initial weights.
    Layers without random weights, such as BatchNorm2d or ReLU, ignore this argument.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> model = nn.Linear(3, 2, rngs=Generator(0))
    >>> [(name, p.shape) for name, p in model.named_parameters()]
    [('weight', (2, 3)), ('bias', (2,))]
    """

    training: bool = True
    _needs_rngs: ClassVar[bool] = False
    _ignores_rngs: ClassVar[bool] = False
    _members: tuple[str, ...] = ()  # the names in torch's order; flax sorts attributes by name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # flax's metaclass hides the constructor's arguments from help() and from editors.
        own = inspect.signature(cls.__init__)
        cls.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])  # type: ignore[attr-defined]
        # A layer of jaxnet.nn ignores rngs that it has no use for. A constructor of the user's
        # own without rngs refuses them, as Python does. A class without a constructor of its
        # own inherits the behaviour.
        ours = cls.__module__.startswith("jaxnet.nn.")
        if ours or "__init__" in vars(cls):
            rngs = own.parameters.get("rngs")
            by_keyword = rngs is not None and rngs.kind is rngs.KEYWORD_ONLY
            cls._needs_rngs = by_keyword and rngs.default is rngs.empty  # type: ignore[union-attr]
            takes_any = any(p.kind is p.VAR_KEYWORD for p in own.parameters.values())
            takes_any = takes_any and cls.__init__ is not object.__init__
            cls._ignores_rngs = ours and rngs is None and not takes_any

    def __getattr__(self, name: str) -> Any:
        # Python calls this method only for an attribute that does not exist.
        raise hints.missing_attribute(self, name, hints.MODULE)

    def __setattr__(self, name: str, value: Any) -> None:
        old = vars(self).get(name)
        kind = _kind(value)
        if kind is None:
            value = _checked(self, name, old, value)
        elif old is None and name in vars(self):
            value = nnx.data(value)  # flax refuses an array for an attribute that was None

        def store() -> None:
            is_new = isinstance(old, Buffer) and _is_array(value)  # a new value of the buffer
            new = _buffer_like(old, value) if is_new else value  # type: ignore[arg-type]
            super(Module, self).__setattr__(name, new)

        change(self, name, store, value)
        # A new member, or one that changes between parameter, buffer and module, goes to the
        # end of the order, as it does in torch.
        if kind is not None and (name not in self._members or kind is not (_kind(old) or kind)):
            self._set_members([*(n for n in self._members if n != name), name])

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._set_members([n for n in self._members if n != name])

    def _set_members(self, names: list[str]) -> None:
        # This skips the checks of __setattr__, which are for the attributes of a model.
        object.__setattr__(self, "_members", tuple(names))

    def register_parameter(self, name: str, param: nnx.Param[jax.Array] | None) -> None:
        """Adds a trainable array under a name.

        Args:
            name: The name of the attribute.
            param: The parameter, or None for an empty entry in the order of parameters.

        Raises:
            KeyError: The name is empty, contains a dot, or is the name of another attribute.
            TypeError: The argument param is neither a parameter nor None.
        """
        self._check_new_name("parameter", name, nnx.Param)
        if param is not None and not isinstance(param, nnx.Param):
            raise TypeError(
                f"parameter {name!r}: {type(param).__name__} is no Parameter; "
                "give nn.Parameter(array) or None"
            )
        self._register(name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Adds an array that is part of the model but not trained.

        Args:
            name: The name of the attribute, which becomes a `Buffer`.
            tensor: An array, or None for an array that is assigned later.
            persistent: Whether the buffer is part of the state_dict.

        Raises:
            KeyError: The name is empty, contains a dot, or is the name of another attribute.
            TypeError: The argument tensor is neither an array nor None.
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
        """Adds a child module under a name, which may be any string without a dot, such as "0".

        Raises:
            KeyError: The name is empty, contains a dot, or is the name of another attribute.
            TypeError: The argument module is neither a module nor None.
        """
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
        """Returns the module under a dotted name such as "net.0.conv"; "" is this module.

        Raises:
            AttributeError: There is no such module.
        """
        module: Any = self
        for name in target.split(".") if target else ():
            module = _member(module, name, nnx.Module, target)
        return module

    def get_parameter(self, target: str) -> nnx.Param[jax.Array]:
        """Returns the trainable array under a dotted name such as "net.0.weight".

        Raises:
            AttributeError: There is no such parameter.
        """
        path, _, name = target.rpartition(".")
        return _member(self.get_submodule(path), name, nnx.Param, target)

    def get_buffer(self, target: str) -> Buffer:
        """Returns the buffer under a dotted name such as "net.1.running_mean".

        Raises:
            AttributeError: There is no such buffer.
        """
        path, _, name = target.rpartition(".")
        return _member(self.get_submodule(path), name, Buffer, target)

    def apply(self, fn: Callable[[Any], Any]) -> Self:
        """Calls `fn` with every module below this one, then with this one, and returns this one.

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
        """Sets this module and all modules below it to training mode, and returns this module.

        Plain flax layers below get `deterministic` and `use_running_average` instead.

        Args:
            mode: True for training mode, False for evaluation mode.

        Raises:
            ValueError: The mode is not a bool.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"mode: {mode!r}; accepted are True and False")
        for module in self.modules():
            if isinstance(module, Module):
                if module.training is not mode:
                    module.training = mode
            else:
                module.set_attributes(
                    deterministic=not mode, use_running_average=not mode, raise_if_not_found=False
                )
        return self

    def eval(self) -> Self:  # type: ignore[override]
        """Sets this module and all modules below it to evaluation mode, and returns this module."""
        return self.train(False)

    @property
    def deterministic(self) -> bool:
        """Whether this module is in evaluation mode, in flax's word.

        `train` and `eval` of a plain flax module set it of all modules below that have it, so
        that they reach jaxnet's layers too.
        """
        return not self.training

    @deterministic.setter
    def deterministic(self, mode: bool) -> None:
        if self.training is bool(mode):
            self.training = not mode

    def named_children(self) -> Iterator[tuple[str, nnx.Module]]:
        """Yields names and modules of the direct children, each module once."""
        return _children(self)

    def children(self) -> Iterator[nnx.Module]:
        """Yields the modules that are direct children, each once."""
        return (child for _, child in self.named_children())

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nnx.Module]]:
        """Yields dotted names and modules of this module and all below it, parents first."""
        return named_modules(self, prefix, remove_duplicate)

    def modules(self, remove_duplicate: bool = True) -> Iterator[nnx.Module]:
        """Yields this module and all modules below it, each once."""
        return (module for _, module in self.named_modules(remove_duplicate=remove_duplicate))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nnx.Param[jax.Array]]]:
        """Yields dotted names and trainable arrays, in torch's order."""
        return named_variables(self, nnx.Param, prefix, recurse, remove_duplicate)  # type: ignore[return-value]

    def parameters(self, recurse: bool = True) -> Iterator[nnx.Param[jax.Array]]:
        """Yields the trainable arrays, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """Yields dotted names and buffers, which are not trained, in torch's order."""
        return named_variables(self, Buffer, prefix, recurse, remove_duplicate)  # type: ignore[return-value]

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """Yields the buffers, which are not trained, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    @property
    def num_parameters(self) -> int:
        """The number of trainable numbers, where shared ones count once."""
        return sum(parameter.size for parameter in self.parameters())

    def extra_repr(self) -> str:
        """Returns the text between the brackets of the module's printed form."""
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
    """Returns a plain attribute's value, or raises if an array or module in it would be lost."""
    where = f"{type(module).__name__}.{name}"
    if _is_array(value) and isinstance(old, nnx.Param):
        raise TypeError(
            f"{where}: an array cannot take the place of a Parameter; "
            f"write .{name}[...] = array, or assign nn.Parameter(array)"
        )
    held = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list | tuple) and any(_kind(item) is not None for item in held):
        raise TypeError(
            f"{where}: a plain {type(value).__name__} hides the modules and parameters in it; "
            "use nn.ModuleList, nn.ModuleDict or nn.Sequential, or nnx.List for parameters"
        )
    return value


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def _check_value(kind: str, value: Any) -> None:
    plain = isinstance(value, bool | int | float | complex | list | tuple)
    if (plain and not isinstance(value, np.generic)) or is_tensor(value):
        raise TypeError(
            f"{kind}: {type(value).__name__} is no array of JAX; give jnp.asarray(value)"
        )


def _buffer_like(old: Buffer, value: Any) -> Buffer:
    return Buffer(jnp.asarray(value), persistent=old.get_metadata("persistent", True))


def _member(module: Any, name: str, kind: type, target: str) -> Any:
    value = vars(module).get(name)
    if not isinstance(value, kind):
        has = ", ".join(n for n, v in members(module) if isinstance(v, kind)) or "none"
        raise AttributeError(
            f"{target!r}: {type(module).__name__} has no {kind.__name__} {name!r}; it has {has}"
        )
    return value


def _without_rngs(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The error text for a constructor call without rngs, with the call to write instead."""
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
    """A module in torch's printed form, with one text for each child."""
    extra = module.extra_repr()
    lines = (extra.split("\n") if extra else []) + children
    name = type(module).__name__
    if not children and len(lines) < 2:
        return f"{name}({extra})"
    return f"{name}(\n  " + "\n  ".join(lines) + "\n)"


def wrong_shape(module: nnx.Module, expected: str, given: jax.Array) -> ValueError:
    """Returns the error for an input whose shape a layer does not accept."""
    return ValueError(f"{module!r} expects an input of shape {expected}; it got {given.shape}")
