"""The module that everything in `jaxnet.nn` is: torch.nn.Module's reading side on flax.nnx."""

import inspect
from collections.abc import Iterator
from typing import Any, Self

import jax
from flax import nnx

__all__ = ["Buffer", "Module", "Parameter"]

Parameter = nnx.Param
"""A trainable array: torch.nn.Parameter. It is flax's own type."""


class Buffer(nnx.Variable):
    """An array that belongs to a model but is not trained: torch's registered buffer."""


class Module(nnx.Module):
    """A flax.nnx module that answers torch.nn.Module's questions.

    Subclasses build their layers in `__init__` and compute in `__call__`, which
    takes the place of `forward`. Names and order are torch's: a module's own
    parameters first, then its children's, in the order of assignment.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> model = nn.Linear(3, 2, rngs=Generator(0))
    >>> [(name, p.shape) for name, p in model.named_parameters()]
    [('weight', (2, 3)), ('bias', (2,))]
    """

    training: bool = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # flax's metaclass hides the constructor's arguments from help() and editors.
        own = inspect.signature(cls.__init__)
        cls.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])  # type: ignore[attr-defined]

    def train(self, mode: bool = True) -> Self:  # type: ignore[override]
        """Puts this module and all below it in training mode (or not), and returns it.

        Layers of plain flax below are told in flax's words.
        """
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
        seen = set()
        for name, value in vars(self).items():
            if isinstance(value, nnx.Module) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def children(self) -> Iterator[nnx.Module]:
        """The modules assigned to this one, each once."""
        return (child for _, child in self.named_children())

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nnx.Module]]:
        """This module and all below it, parents first, under their dotted names."""
        yield from _walk(self, prefix, set() if remove_duplicate else None)

    def modules(self) -> Iterator[nnx.Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nnx.Param]]:
        """The trainable arrays under their dotted names, in torch's order."""
        return self._named(nnx.Param, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[nnx.Param]:
        """The trainable arrays, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """The arrays that are kept but not trained, under their dotted names."""
        return self._named(Buffer, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """The arrays that are kept but not trained, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def _named(self, kind: type, prefix: str, recurse: bool, remove_duplicate: bool) -> Any:
        owners = [(prefix, self)]
        if recurse:
            owners = list(self.named_modules(prefix, remove_duplicate))  # type: ignore[arg-type]
        seen = set()
        for owner_name, owner in owners:
            for name, value in vars(owner).items():
                if isinstance(value, kind) and id(value) not in seen:
                    if remove_duplicate:
                        seen.add(id(value))
                    yield _join(owner_name, name), value

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers there are; shared ones count once."""
        return sum(parameter.size for parameter in self.parameters())

    def extra_repr(self) -> str:
        """What stands between the brackets when the module is printed."""
        return ""

    def __repr__(self) -> str:
        lines = []
        for name, value in vars(self).items():
            if isinstance(value, nnx.Module):
                lines.append(f"({name}): " + repr(value).replace("\n", "\n  "))
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        head = [extra] if extra else []
        return f"{type(self).__name__}(\n  " + "\n  ".join(head + lines) + "\n)"

    __str__ = __repr__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __call__")


def _walk(
    module: nnx.Module, prefix: str, seen: set[int] | None
) -> Iterator[tuple[str, nnx.Module]]:
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield prefix, module
    for name, value in vars(module).items():
        if isinstance(value, nnx.Module):
            yield from _walk(value, _join(prefix, name), seen)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def wrong_shape(module: nnx.Module, expected: str, given: jax.Array) -> ValueError:
    """The error for an input whose shape a layer cannot take."""
    return ValueError(f"{module!r} expects an input of shape {expected}; it got {given.shape}")
