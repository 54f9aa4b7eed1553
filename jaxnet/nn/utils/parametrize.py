"""Weights as functions of other weights: torch.nn.utils.parametrize."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet._hints import module_getattr
from jaxnet.nn._container import ModuleDict, ModuleList
from jaxnet.nn._module import Buffer, Module, Parameter
from jaxnet.nn.utils._derived import (
    add_rule,
    cache,
    original_class,
    own_variable,
    remove_rule,
    rules,
)

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "type_before_parametrizations",
]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.nn.utils.parametrize")
del TYPE_CHECKING, module_getattr

M = TypeVar("M")


class ParametrizationList(ModuleList):
    """The parametrizations of one weight, and the arrays that it is computed from.

    This is torch.nn.utils.parametrize.ParametrizationList. `register_parametrization` makes it;
    it is found under `module.parametrizations.weight`. Its call computes the weight. The trained
    array is `original`, or `original0`, `original1` and so on where `right_inverse` gives several.

    Args:
        modules: The parametrizations, in the order in which they are applied.
        original: The parameter or buffer that becomes computed.
        unsafe: Whether a parametrization may change shape and dtype.

    Raises:
        ValueError: There are no modules, or `right_inverse` or a parametrization gives something
            that does not fit the weight.
    """

    def __init__(
        self, modules: Sequence[Any], original: nnx.Variable[Any], unsafe: bool = False
    ) -> None:
        if len(modules) == 0:
            raise ValueError("ParametrizationList: modules: none given; give at least one")
        super().__init__(modules)
        self.unsafe = unsafe
        before = original[...]
        new: Any = before
        for module in reversed(list(self)):
            if hasattr(module, "right_inverse"):
                # As in torch, without an inverse the array stays, and the weight is another one.
                with suppress(NotImplementedError):
                    new = module.right_inverse(new)
        self.is_tensor = _is_array(new)
        self.ntensors = 1 if self.is_tensor else len(_several(new))
        if self.is_tensor:
            _check_like("right_inverse", new, before, shape=False)
            original.set_value(jnp.asarray(new))
            self.original = original
        else:
            kind = Parameter if isinstance(original, nnx.Param) else Buffer
            for i, array in enumerate(_several(new)):
                setattr(self, f"original{i}", kind(jnp.asarray(array)))
        if not unsafe:
            # As in torch the weight is computed here, which for spectral_norm in training mode is
            # another step of the power method.
            _check_like("a parametrization", self(), before)

    def _originals(self) -> list[nnx.Variable[Any]]:
        if self.is_tensor:
            return [self.original]
        return [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def right_inverse(self, value: Any) -> None:
        """Makes the weight a given array, as `module.weight = value` does.

        Args:
            value: The array.

        Raises:
            ValueError: A parametrization has no `right_inverse`, or gives arrays that do not fit.
        """
        for module in reversed(list(self)):
            if not hasattr(module, "right_inverse"):
                raise ValueError(
                    f"right_inverse: {type(module).__name__} defines none, so its weight cannot "
                    "be assigned; define it, or change parametrizations.weight.original"
                )
            value = module.right_inverse(value)
        arrays = [value] if self.is_tensor else _several(value)
        if len(arrays) != self.ntensors:
            raise ValueError(
                f"right_inverse: it gave {len(arrays)} arrays; the weight has {self.ntensors}"
            )
        for original, array in zip(self._originals(), arrays, strict=True):
            _check_like("right_inverse", array, original, shape=False)
            original.set_value(jnp.asarray(array))

    def __call__(self) -> jax.Array:
        """Computes the weight."""
        first, *others = self
        value = first(*(original[...] for original in self._originals()))
        for module in others:
            value = module(value)
        return value


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _several(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not all(map(_is_array, value)):
        raise ValueError(
            f"right_inverse: it gave {type(value).__name__}; accepted are an array and a list or "
            "tuple of arrays"
        )
    return value


def _check_like(what: str, value: Any, like: Any, shape: bool = True) -> None:
    """Raises a ValueError unless a value has the dtype, and the shape, of another array."""
    if not _is_array(value):
        raise ValueError(f"{what}: it gave {type(value).__name__}; accepted is an array")
    if value.dtype != like.dtype or (shape and value.shape != like.shape):
        raise ValueError(
            f"{what}: it gave {value.dtype}{list(value.shape)} in place of "
            f"{like.dtype}{list(like.shape)}; what is registered with unsafe=True may"
        )


@dataclasses.dataclass(frozen=True)
class _Rule:
    name: str
    parametrizes: ClassVar[bool] = True  # in torch's newer form

    def compute(self, module: Any, calling: bool) -> jax.Array:
        del calling
        return module.parametrizations[self.name]()

    def other_names(self, module: Any) -> dict[str, str]:
        # One parametrization alone may have an older form.
        (first, *others) = module.parametrizations[self.name]
        older = {} if others or not hasattr(first, "_older") else first._older(self.name)
        return {newer: name for name, newer in older.items()}

    def assign(self, module: Any, value: Any) -> None:
        module.parametrizations[self.name].right_inverse(value)


def register_parametrization(
    module: M, tensor_name: str, parametrization: Any, *, unsafe: bool = False
) -> M:
    """Makes a weight a function of other arrays, which are then trained in its place.

    This is torch.nn.utils.parametrize.register_parametrization. Afterwards `module.weight` is
    `parametrization(original)`, computed once for each call of the module and whenever it is read
    outside of a call, also inside jit and gradients. It is an array and no longer a Parameter;
    the Parameter is `module.parametrizations.weight.original`. Further parametrizations of the
    same weight are applied after those before.

    A parametrization may define `right_inverse(value)`, which gives the array, or a tuple of
    arrays, that its call turns into `value`. It sets what is trained at first, and it is what
    `module.weight = value` needs.

    A layer that reads its weight several times in a call sees one value here. In torch each read
    computes it again, so that `spectral_norm` of an nn.LSTM moves its vectors several times.

    Args:
        module: The module, which is changed in place.
        tensor_name: The name of its parameter or buffer.
        parametrization: The module, whose call takes the array and returns the weight.
        unsafe: Whether the parametrization may change the shape and the dtype of the weight.
            Then neither is checked.

    Returns:
        The module, whose class is a subclass of the one before.

    Raises:
        TypeError: The module or the parametrization is no module of jaxnet.
        ValueError: The module has no such array, or the results do not fit it.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> class Symmetric(nn.Module):
    ...     def __call__(self, x):
    ...         return jnp.triu(x) + jnp.triu(x, 1).T
    >>> layer = register_parametrization(
    ...     nn.Linear(3, 3, rngs=Generator(0)), "weight", Symmetric()
    ... )
    >>> bool((layer.weight == layer.weight.T).all())
    True
    """
    if not isinstance(parametrization, Module):
        raise TypeError(
            f"register_parametrization: parametrization: {parametrization!r}; accepted is an "
            "nn.Module, whose __call__ takes the array and returns the weight"
        )
    if is_parametrized(module, tensor_name):
        known: Any = module
        parametrization.train(known.training)
        if not unsafe:
            before = getattr(module, tensor_name)
            after = parametrization(before)
            _check_like("a parametrization", after, before)
            if hasattr(parametrization, "right_inverse"):
                with suppress(NotImplementedError):  # as in ParametrizationList
                    _check_like("right_inverse", parametrization.right_inverse(after), before)
        parametrizations = known.parametrizations[tensor_name]
        parametrizations.append(parametrization)
        parametrizations.unsafe |= unsafe
        return module
    original = own_variable("register_parametrization", module, tensor_name)
    target: Any = module
    parametrization.train(target.training)
    parametrizations = ParametrizationList([parametrization], original, unsafe)
    parametrizations.train(target.training)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        target.parametrizations = ModuleDict().train(target.training)
    target.parametrizations[tensor_name] = parametrizations
    add_rule(module, tensor_name, _Rule(tensor_name))
    return module


def is_parametrized(module: Any, tensor_name: str | None = None) -> bool:
    """Whether a weight is computed by `register_parametrization`.

    This is torch.nn.utils.parametrize.is_parametrized.

    Args:
        module: The module.
        tensor_name: The name of the weight; None asks for any weight of the module.
    """
    names = [name for name, rule in rules(module).items() if isinstance(rule, _Rule)]
    return bool(names) if tensor_name is None else tensor_name in names


def remove_parametrizations(module: M, tensor_name: str, leave_parametrized: bool = True) -> M:
    """Makes a computed weight a parameter or buffer again.

    This is torch.nn.utils.parametrize.remove_parametrizations.

    Args:
        module: The module, which is changed in place.
        tensor_name: The name of the weight.
        leave_parametrized: Whether the weight keeps its computed value. With False it is
            `original` again, which must be a single array.

    Returns:
        The module, of its former class if nothing else of it is computed.

    Raises:
        ValueError: The weight has no parametrization, or leave_parametrized is False and the
            weight is computed from several arrays.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"remove_parametrizations: {module!r} has none of {tensor_name!r}")
    owner: Any = module
    parametrizations = owner.parametrizations[tensor_name]
    originals = parametrizations._originals()
    if not (parametrizations.is_tensor or leave_parametrized):
        raise ValueError(
            f"leave_parametrized: False, but {tensor_name!r} is computed from {len(originals)} "
            "arrays, none of which is its original value; accepted is True"
        )
    variable = originals[0]
    if leave_parametrized:
        value = getattr(module, tensor_name)
        if parametrizations.is_tensor:
            variable.set_value(value)
        else:
            variable = type(variable)(value)
    remove_rule(module, tensor_name)
    del owner.parametrizations[tensor_name]
    if not is_parametrized(module):
        delattr(module, "parametrizations")
    setattr(module, tensor_name, variable)
    return module


def type_before_parametrizations(module: Any) -> type:
    """The class that a module had before its first parametrization.

    This is torch.nn.utils.parametrize.type_before_parametrizations.

    Args:
        module: The module.
    """
    return original_class(module)


@contextmanager
def cached() -> Iterator[None]:
    """Inside the context each computed weight is computed once: parametrize.cached.

    A module that is called several times, such as a discriminator for real and for made images,
    then uses the same value, and spectral_norm moves its vectors once. As in torch, a change of
    the trained arrays inside the context is not seen.

    Open it inside the function that JAX transforms (the loss, for `make_train_step`), not around
    a call of it: what is computed in a trace cannot be used outside of it.
    """
    token = cache.set({} if (kept := cache.get()) is None else kept)
    try:
        yield
    finally:
        cache.reset(token)
